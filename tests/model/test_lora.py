"""Adapters beside peft: the same loss, gradients and logits, folders both ways, merged or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.model import ScalarModel, Transformer, init_weights, load_model, load_scalar, save_model
from qwenkit.model.adapter_folder import save_adapter, tensors_digest
from qwenkit.model.config import ContextExtension
from qwenkit.model.gptq import quantize
from qwenkit.model.lora import (
    LoRALinear,
    adapted_layers,
    adapter_parameters,
    add_adapter,
    merge_adapter,
    shared_copy,
)
from qwenkit.model.lora_config import LoRAConfig, read_settings, settings_table
from qwenkit.model.modes import set_activation_checkpointing
from qwenkit.model.prepacked import prepack
from qwenkit.model.quantized_linear import QuantConfig
from qwenkit.model.trainable import load_trainable_state, trainable_state
from qwenkit.training.optim import Muon, build_optimizer
from tests.model.conftest import tiny

IDS = torch.randint(0, 96, (3, 24), generator=torch.Generator().manual_seed(0))
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two-targets": {"targets": ("q_proj", "down_proj"), "alpha": 7.0},
    "regex": {"targets": r".*\.1\.mlp\..*_proj"},
    "rslora": {"rslora": True, "rank": 3},
    "dora": {"dora": True},
    "dropout": {"dropout": 0.3},
    "dora-dropout": {"dora": True, "dropout": 0.3},
    "embeddings": {"modules_to_save": ("embed_tokens", "lm_head")},
}


def base(**changes: object) -> Transformer:
    config = tiny(**{"num_key_value_heads": 2, "initializer_range": 0.2, **changes})
    return init_weights(Transformer(config), seed=1).eval()


def trained(model: Transformer, **settings: Any) -> Transformer:
    """A model with an adapter that has moved away from its first weights."""
    model = add_adapter(model, LoRAConfig(**{"rank": 4, "alpha": 8.0, **settings}), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in trainable_state(model).items():
            parameter += torch.randn(parameter.shape, generator=generator) * (0.02 if ".lora." not in name else 0.1)
    return model


def loss_of(logits_BTV: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


def peft_names(model: Any) -> dict[str, Tensor]:
    """Peft's trained parameters by our names."""
    names: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
            for theirs, ours in (("lora_A.default.weight", "lora.A"), ("lora_B.default.weight", "lora.B"),
                                 ("lora_magnitude_vector.default.weight", "lora.magnitude")):  # fmt: skip
                plain = plain.replace(theirs, ours)
            names[plain] = parameter
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    """Ours is written, peft opens it over transformers' model, and both learn from the same rows, with the same
    dropout."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    model = base()
    save_model(model, tmp_path / "base")
    digest = tensors_digest(model)
    model = trained(model, **KINDS[kind])
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"), digest=digest)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter", is_trainable=True)
    losses: list[Tensor] = []
    for each in (model, theirs):
        each.train()
        torch.manual_seed(7)
        out = each(IDS)
        losses.append(loss_of(out if isinstance(out, Tensor) else out.logits))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    ours, other = trainable_state(model), peft_names(theirs)
    assert ours.keys() == other.keys() and len(ours) > 4
    for name, parameter in ours.items():
        assert parameter.grad is not None and bool(parameter.grad.any())
        torch.testing.assert_close(parameter.grad, other[name].grad, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        again = load_model(tmp_path / "base", adapter=tmp_path / "adapter")
        wanted = theirs.eval()(IDS).logits
        torch.testing.assert_close(again(IDS), wanted, atol=1e-4, rtol=1e-4)
        merged = load_model(tmp_path / "base", adapter=tmp_path / "adapter", merged=True)
        torch.testing.assert_close(merged(IDS), wanted, atol=1e-4, rtol=1e-4)
        assert merged.adapter is None and not any(isinstance(part, LoRALinear) for part in merged.modules())


PEFT: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "all": {"target_modules": "all-linear", "lora_alpha": 3},
    "rslora": {"target_modules": ".*[qk]_proj", "use_rslora": True},
    "dora": {"target_modules": ["o_proj", "up_proj"], "use_dora": True},
    "patterns": {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"q_proj": 2, "1.self_attn.k_proj": 5},
                 "alpha_pattern": {"layers.0.self_attn.k_proj": 32}},
    "embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", PEFT)
def test_what_peft_wrote_is_read(kind: str, tied: bool, tmp_path: Path) -> None:
    """With the same logits, and written again it is the same adapter: three round trips change no bit."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    model = base(tie_word_embeddings=tied)
    save_model(model, tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.get_peft_model(
        theirs, peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, **PEFT[kind]})
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in peft_names(theirs).values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.05
    theirs.save_pretrained(tmp_path / "0")
    with torch.no_grad():
        wanted = theirs.eval()(IDS).logits
        for trip in range(3):
            ours = load_model(tmp_path / "base", adapter=tmp_path / str(trip))
            torch.testing.assert_close(ours(IDS), wanted, atol=1e-4, rtol=1e-4)
            if trip == 0:
                first = {name: tensor.clone() for name, tensor in trainable_state(ours).items()}
            assert all(torch.equal(tensor, first[name]) for name, tensor in trainable_state(ours).items())
            save_adapter(ours, tmp_path / str(trip + 1), str(tmp_path / "base"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "3")
    torch.testing.assert_close(again.eval()(IDS).logits.detach(), wanted, atol=1e-4, rtol=1e-4)


QWEN1 = {"num_key_value_heads": 4, "extension": ContextExtension(seq_length=256), "model_type": "qwen"}


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True}], ids=str)
def test_the_first_qwen_stores_three_layers_as_one(settings: dict[str, Any], tmp_path: Path) -> None:
    """c_attn has one adapter in the folder: three times the rank, along a diagonal, and the same product."""
    model = base(**QWEN1)
    save_model(model, tmp_path / "base")
    model = trained(model, targets=("c_attn", "w1"), **settings)
    names = [name.rpartition(".")[2] for name, _ in adapted_layers(model)]
    assert sorted(set(names)) == ["k_proj", "q_proj", "up_proj", "v_proj"]
    first = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    for trip in range(3):
        save_adapter(model, tmp_path / str(trip), "../base")
        stored = load_file(tmp_path / str(trip) / "adapter_model.safetensors")
        rank = 4
        prefix = "base_model.model.transformer.h.0."
        assert stored[f"{prefix}attn.c_attn.lora_A.weight"].shape == (3 * rank, 32)
        assert stored[f"{prefix}attn.c_attn.lora_B.weight"].shape == (96, 3 * rank)
        assert stored[f"{prefix}mlp.w1.lora_A.weight"].shape == (rank, 32)
        model = load_model(tmp_path / str(trip))
        assert all(torch.equal(tensor, first[name]) for name, tensor in trainable_state(model).items())


def test_one_adapter_of_a_packed_matrix_is_given_to_each_layer(tmp_path: Path) -> None:
    """As the official code trains c_attn: one A for queries, keys and values."""
    model = base(**QWEN1)
    save_model(model, tmp_path / "base")
    a, b = torch.randn(5, 32), torch.randn(96, 5)
    stem = "base_model.model.transformer.h.1.attn.c_attn"
    settings = {"peft_type": "LORA", "r": 5, "lora_alpha": 10, "base_model_name_or_path": "../base"}
    adapter(tmp_path / "adapter", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, **settings)
    with torch.no_grad():
        attention = load_model(tmp_path / "adapter").model.layers[1].self_attn
        x, plain = torch.randn(2, 32), model.model.layers[1].self_attn
        change = torch.cat([one - other for one, other in zip(attention.project(x), plain.project(x))], dim=-1)
    torch.testing.assert_close(change, x @ a.T @ b.T * 2, atol=1e-4, rtol=1e-4)


def adapter(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    """The folder of an adapter with these tensors and settings."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("settings", [{}, {"dora": True}], ids=str)
def test_in_front_of_quantized_layers_it_learns_as_in_front_of_the_dequantized_ones(bits: int, settings: Any) -> None:
    quantized = base(hidden_size=64, num_attention_heads=2)
    quantize(quantized, QuantConfig(bits, 16), None)
    plain = merge_adapter(add_adapter(shared_copy(quantized), LoRAConfig(rank=1)), dequantize=True)  # B is zero
    models = [trained(model, **settings).train() for model in (quantized, plain)]
    set_activation_checkpointing(models[0], "full")
    for model in models:
        loss_of(model(IDS)).backward()
    states = [trainable_state(model) for model in models]
    assert states[0].keys() == states[1].keys()
    for name, parameter in states[0].items():
        torch.testing.assert_close(parameter.grad, states[1][name].grad, atol=1e-5, rtol=1e-4)


def test_a_quantized_product_keeps_no_weights_for_the_backward_pass() -> None:
    quantized = base()
    quantize(quantized, QuantConfig(4, 16), None)
    model, kept = add_adapter(quantized, LoRAConfig(rank=1, targets=("down_proj",))).train(), []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model(IDS)).backward()
    matrices = {(80, 32), (32, 80), (32, 32), (16, 32)}
    assert kept and not matrices & {tuple(shape) for shape in kept}


def test_two_models_share_their_weights_and_nothing_else() -> None:
    """What PPO needs: policy, reference and value model are one trunk."""
    trunk = base()
    before = trunk(IDS)
    policy = trained(shared_copy(trunk))
    value = add_adapter(ScalarModel(shared_copy(trunk), seed=2), LoRAConfig(rank=2), seed=5)
    assert torch.equal(trunk(IDS), before) and not torch.allclose(policy(IDS), before)
    own = {parameter.data_ptr() for parameter in trunk.parameters()}
    for model in (policy, value):
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert len(frozen) == len(own) - isinstance(model, ScalarModel) and {p.data_ptr() for p in frozen} <= own
    assert "score_head.weight" in trainable_state(value)
    value(IDS).sum().backward()
    assert all(p.grad is None for p in trunk.parameters())


def test_what_is_trained_is_small_and_comes_back() -> None:
    model, other = trained(base()), add_adapter(base(), LoRAConfig(rank=4, alpha=8.0))
    state = trainable_state(model)
    assert all(".lora." in name for name in state) and len(state) == 2 * 14
    load_trainable_state(other, {name: tensor.clone() for name, tensor in state.items()})
    assert torch.equal(other(IDS), model(IDS))


def test_muon_never_gets_a_and_b() -> None:
    model = trained(base(), dora=True, modules_to_save=("embed_tokens", "norm"), targets=("q_proj",))
    optimizer = build_optimizer(model, "muon", 0.02, 1e-3, 0.1)
    assert not any(isinstance(each, Muon) for each in optimizer.optimizers)
    groups = {tuple(group["param_names"]): group for each in optimizer.optimizers for group in each.param_groups}
    adapters = set(adapter_parameters(model))
    rates = {
        (name in adapters, group["lr"], group["weight_decay"]) for names, group in groups.items() for name in names
    }
    assert rates == {(True, 1e-2, 0.1), (True, 1e-2, 0.0), (False, 1e-3, 0.0)}
    assert {name for names in groups for name in names} == trainable_state(model).keys()


@pytest.mark.parametrize("settings", [{}, {"dora": True}], ids=str)
def test_a_packed_product_adds_each_adapter_to_its_own_rows(settings: dict[str, Any]) -> None:
    model = trained(base(), targets=("q_proj", "v_proj", "up_proj", "o_proj"), **settings)
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        pytest.skip("this version of torch has no packed products")
    with torch.no_grad():
        wanted, packed = model(IDS), prepack(model)
        assert not hasattr(packed.model.layers[0].self_attn, "q_proj")
        torch.testing.assert_close(packed(IDS), wanted, atol=1e-4, rtol=1e-4)


def test_activation_checkpointing_gives_the_same_bits() -> None:
    grads: list[list[Tensor]] = []
    for mode in ("none", "full"):
        model = trained(base(), dropout=0.2).train()
        set_activation_checkpointing(model, mode)
        torch.manual_seed(1)
        loss_of(model(IDS)).backward()
        grads.append([parameter.grad.clone() for parameter in trainable_state(model).values()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_a_model_that_scores_has_an_adapter_with_a_head(tmp_path: Path) -> None:
    trunk = base()
    save_model(trunk, tmp_path / "base")
    model = add_adapter(ScalarModel(trunk, seed=2), LoRAConfig(rank=2))
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora.B.fill_(0.05)
    save_adapter(model, tmp_path / "scorer", "../base")
    again = load_scalar(tmp_path / "scorer")
    assert torch.equal(again(IDS), model(IDS))
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=1, pad_token_id=0
    )
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "scorer").eval()
    last = theirs(IDS.clamp(min=1)).logits.squeeze(-1)
    torch.testing.assert_close(last, again(IDS.clamp(min=1))[:, -1], atol=1e-4, rtol=1e-4)


# ---- what is refused ------------------------------------------------------------------------------------------------

NAMES = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"
SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "adapter: rank = 0\n  expected: an integer from 1 to 4096"),
    ({"rank": True}, "adapter: rank = True\n  expected: an integer from 1 to 4096"),
    ({"alpha": 0}, "adapter: alpha = 0\n  expected: a number above 0"),
    ({"dropout": 1}, "adapter: dropout = 1\n  expected: a number from 0 to below 1"),
    ({"dora": "yes"}, "adapter: dora = 'yes'\n  expected: true or false"),
    ({"targets": ()}, 'adapter: targets = []\n  expected: "all-linear", a list of names, or one regular expression'),
    ({"targets": "(q"}, "adapter: targets = '(q' is not a regular expression: missing ), unterminated subpattern at "
     "position 0"),
    ({"targets": ("q_prj",)}, f"adapter.targets: no linear layer is called `q_prj`\n  expected: {NAMES}\n"
     "  nearest: q_proj"),
    ({"targets": ("embed_tokens",)}, f"adapter.targets: no linear layer is called `embed_tokens`\n  expected: {NAMES}\n"
     "  hint: model.embed_tokens is not linear: modules_to_save trains it whole"),
    ({"targets": "x.*"}, "adapter.targets: the regular expression 'x.*' fits no linear layer\n"
     "  expected: one for whole names, such as model.layers.0.self_attn.q_proj"),
    ({"modules_to_save": ("embed_token",)}, "adapter: modules_to_save: no module is called `embed_token`\n"
     "  expected: a module of the model\n  nearest: embed_tokens"),
    ({"targets": ("lm_head",), "modules_to_save": ("lm_head",)}, "adapter: modules_to_save: lm_head has an adapter, "
     "and would be trained whole too\n  expected: one of the two"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), SETTINGS, ids=[str(settings) for settings, _ in SETTINGS])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    model = base()
    with pytest.raises(UserError) as caught:
        add_adapter(model, LoRAConfig(**settings))
    assert str(caught.value) == message and model.adapter is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_recipe_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        read_settings({"rnak": 8})
    assert str(caught.value) == (
        "adapter: unknown key `rnak`\n  expected: one of rank, alpha, dropout, targets, rslora, dora, modules_to_save, "
        "lr_scale\n  nearest: rank"
    )
    config = read_settings({"rank": 8, "targets": ["q_proj"]})
    assert config == LoRAConfig(rank=8, targets=("q_proj",))
    assert read_settings(settings_table(config)) == config


def test_a_second_adapter_and_a_quantized_merge_are_refused() -> None:
    model = trained(base())
    with pytest.raises(UserError) as caught:
        add_adapter(model, LoRAConfig())
    assert str(caught.value) == (
        "the model has an adapter already\n  hint: merge it first, or begin with the model without it"
    )
    quantized = base()
    quantize(quantized, QuantConfig(8, 16), None)
    with pytest.raises(UserError) as caught:
        merge_adapter(trained(quantized))
    assert str(caught.value) == (
        "model.layers.0.self_attn.q_proj is quantized to 8 bits, and has no room for an adapter\n"
        "  expected: an adapter over weights in 16 or 32 bits\n"
        "  hint: --dequantize merges it into weights of 16 bits"
    )
    with pytest.raises(UserError, match="a folder of weights has no place for it"):
        save_model(model, "nowhere")
    with pytest.raises(UserError, match="the model has no adapter to save"):
        save_adapter(base(), Path("nowhere"), None)
