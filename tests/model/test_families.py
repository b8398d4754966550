"""Every family, both ways: what transformers writes we read with equal logits, and what we write it reads so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenkit.errors import UserError
from qwenkit.model import ModelConfig, ScalarModel, Transformer, init_weights, load_model, save_model, save_scalar
from qwenkit.model.config import ContextExtension, Yarn
from qwenkit.model.rotary import doubling_windows

transformers = pytest.importorskip("transformers")

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2)  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)
WINDOW = dict(use_sliding_window=True, sliding_window=7, max_window_layers=2)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"rope_theta": 5e5}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN}),
    "qwen2-windows": ("Qwen2", WINDOW),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "qwen3-yarn-windows": ("Qwen3", {"head_dim": 24, "rope_parameters": {**YARN, "beta_fast": 20.0}, **WINDOW}),
    "llama": ("Llama", {}),
    "qwen2-moe": ("Qwen2Moe", {**MOE, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]}),
    "qwen2-moe-windows": ("Qwen2Moe", {**MOE, "shared_expert_intermediate_size": 40, "norm_topk_prob": True, **WINDOW}),
    "qwen2-moe-no-bias": ("Qwen2Moe", {**MOE, "shared_expert_intermediate_size": 40, "qkv_bias": False}),
    "qwen3-moe": ("Qwen3Moe", {**MOE, "head_dim": 16, "norm_topk_prob": True, "decoder_sparse_step": 2}),
    "qwen3-moe-windows": ("Qwen3Moe", {**MOE, "head_dim": 16, **WINDOW}),
}


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 96, shape, generator=torch.Generator().manual_seed(0))


def theirs(family: str) -> Any:
    """A random model of transformers."""
    torch.manual_seed(0)
    name, changes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **changes})
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for key, parameter in model.named_parameters():
        if key.endswith(("norm.weight", ".bias")):  # as they are not at the start of a training
            parameter.data += torch.randn_like(parameter) * 0.1
    return model


@torch.no_grad()
def equal(a: Any, b: Any, length: int = 48) -> None:
    """Equal logits of a batch; transformers' are in an object."""
    found = [out if isinstance(out := model(ids(2, length)), torch.Tensor) else out.logits for model in (a, b)]
    assert (found[0] - found[1]).abs().max().item() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_theirs_is_read_and_ours_is_read_by_them(family: str, tmp_path: Path) -> None:
    model = theirs(family)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    equal(model, ours)
    save_model(ours, tmp_path / "ours", shard_bytes=40_000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    equal(again.eval(), ours)
    assert load_model(tmp_path / "ours").config == ours.config


@pytest.mark.parametrize("family", ["qwen2-moe", "qwen3-moe"])
def test_experts_stored_as_blocks_are_read(family: str, tmp_path: Path) -> None:
    model = theirs(family)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    blocks = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in blocks)
    save_file(blocks, tmp_path / "model.safetensors")
    equal(model, load_model(tmp_path))


@pytest.mark.parametrize("family", ["qwen2-yarn", "qwen3-yarn-windows"])
def test_the_older_spelling_of_the_rotation_is_read(family: str, tmp_path: Path) -> None:
    model = theirs(family)
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    found = json.loads(file.read_text())
    rope = found.pop("rope_parameters")
    found["rope_theta"], found["rope_scaling"] = rope.pop("rope_theta"), {**rope, "type": rope.pop("rope_type")}
    file.write_text(json.dumps(found))
    equal(model, load_model(tmp_path))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen2-moe", "qwen3-moe", "llama"])
def test_reward_models_of_every_family_open_in_transformers(family: str, tmp_path: Path) -> None:
    theirs(family).save_pretrained(tmp_path / "base")
    model = ScalarModel(load_model(tmp_path / "base"), seed=3)
    save_scalar(model, tmp_path / "reward")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    with torch.no_grad():
        assert again(ids(1, 12)).logits.item() == pytest.approx(model.score(ids(1, 12))[0, -1].item(), abs=1e-4)


def first_qwen(**changes: Any) -> Transformer:
    """A random model of the first generation: trained at 16 tokens, with both tricks."""
    sizes = {
        **SIZES,
        "num_key_value_heads": 4,
        "extension": ContextExtension(seq_length=16, dynamic_ntk=True, logn=True),
    }
    return init_weights(Transformer(ModelConfig(**{**sizes, **changes})), seed=1).eval()


def test_the_first_qwen_leaves_in_the_form_it_came_in(tmp_path: Path) -> None:
    model = first_qwen(windows=(16, 32, None, None))
    save_model(model, tmp_path / "a", shard_bytes=30_000)
    read = load_model(tmp_path / "a")
    assert read.config == replace(model.config, model_type="qwen")
    equal(model, read)
    save_model(read, tmp_path / "b", shard_bytes=30_000)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    tensors = load_file(next((tmp_path / "a").glob("model-00001*")))
    assert "transformer.wte.weight" in tensors


def test_a_reward_model_of_the_first_qwen_ends_where_its_tricks_begin(tmp_path: Path) -> None:
    model = ScalarModel(first_qwen(), seed=2)
    save_scalar(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architectures"], config["max_position_embeddings"]) == (["Qwen2ForSequenceClassification"], 16)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert again(ids(1, 16)).logits.item() == pytest.approx(model.score(ids(1, 16))[0, -1].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "model_type", "reason"),
    [
        ({}, "qwen2", "dynamic NTK, LogN"),
        ({"extension": None, "windows": (8, 16, None, None)}, "qwen2", "windows of several sizes"),
        ({"extension": None, "qk_norm": True}, "qwen2", "norms of queries and keys"),
        ({"extension": None, "qkv_bias": False}, "qwen", "a model without biases on Q, K and V"),
        ({"extension": None, "yarn": Yarn(factor=2.0, original_max_position_embeddings=32)}, "qwen", "YaRN"),
        ({"extension": None, "tie_word_embeddings": True}, "qwen", "tied embeddings"),
        ({"extension": None, "num_key_value_heads": 2}, "qwen", "grouped queries"),
        ({"extension": None}, "qwen3_moe", "a model without experts"),
    ],
)
def test_a_form_that_cannot_say_it_is_refused(
    changes: dict[str, Any], model_type: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        save_model(first_qwen(**changes), tmp_path / "out", model_type=model_type)
    assert not (tmp_path / "out").exists()


def test_windows_read_few_keys_and_all_ways_agree() -> None:
    """Blocks of queries, packed documents and the cache give the same windows."""
    from qwenkit.model import attention

    model = first_qwen(extension=None, windows=(5, 9, None, 20))
    with torch.no_grad():
        whole = model(ids(2, 48))
        packed = model.head(model.hidden(ids(2, 48), documents_BT=torch.zeros(2, 48, dtype=torch.long)))
        blocks, attention._BLOCK = attention._BLOCK, 7
        try:
            small = model(ids(2, 48))
        finally:
            attention._BLOCK = blocks
    for other in (packed, small):
        assert torch.allclose(whole, other, atol=1e-5)


def test_illustrated_windows_are_the_maintainers_at_32_layers() -> None:
    sizes = doubling_windows(32, 2048)
    assert sizes[:12] == (2048,) * 4 + (4096,) * 4 + (8192,) * 4
    assert doubling_windows(4, 64) == (64, 256, 1024, 4096)


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "width", "heads", "vocabulary", "total", "inner"),
    [
        ("1.8B", 24, 2048, 5504, 16, 151936, 1_836_828_672, 1_214_498_816),
        ("7B", 32, 4096, 11008, 32, 151936, 7_721_324_544, 6_476_664_832),
        ("14B", 40, 5120, 13696, 40, 152064, 14_167_290_880, 12_610_155_520),
        ("72B", 80, 8192, 24576, 64, 152064, 72_287_920_128, 69_796_503_552),
    ],
)
def test_released_sizes_have_the_reports_parameters(
    name: str, layers: int, hidden: int, width: int, heads: int, vocabulary: int, total: int, inner: int
) -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=width,
                                        num_hidden_layers=layers, num_attention_heads=heads))  # fmt: skip
    counts = {key: parameter.numel() for key, parameter in model.named_parameters()}
    assert sum(counts.values()) == total
    assert total - counts["model.embed_tokens.weight"] - counts["lm_head.weight"] == inner


def test_windows_that_name_no_size_have_the_size_of_transformers(tmp_path: Path) -> None:
    save_model(init_weights(Transformer(ModelConfig(**SIZES)), seed=0), tmp_path)  # type: ignore[arg-type]
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, "use_sliding_window": True, "max_window_layers": 1}))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert load_model(tmp_path).config.windows == (None, 4096, 4096, 4096)
    assert theirs.sliding_window == 4096 and theirs.layer_types.count("sliding_attention") == 3


def test_a_cache_of_8_bits_is_kept_by_the_folder(tmp_path: Path) -> None:
    shape = {**SIZES, "num_key_value_heads": None}
    config = ModelConfig(**shape, extension=ContextExtension(seq_length=32), int8_cache=True, model_type="qwen")  # type: ignore[arg-type]
    save_model(init_weights(Transformer(config), seed=0), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["use_cache_quantization"] is True
    assert load_model(tmp_path).config.int8_cache
