"""What a config.json says: every key is understood, harmless, or refused by its name; two spellings of one thing agree
or are refused. transformers is the oracle for what folders compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit.errors import Notice, UserError
from qwenkit.model import Transformer, init_weights, load_model, save_model
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats import FORMATS
from qwenkit.model.formats.keys import accepting
from qwenkit.model.gptq import quantize
from qwenkit.model.quantized_linear import QuantConfig
from qwenkit.model.resize_token_embeddings import resize_token_embeddings
from tests.model.conftest import tiny

transformers = pytest.importorskip("transformers")
ABSENT = object()


def changed(folder: Path, **changes: Any) -> Path:
    """The folder with another config.json."""
    file = folder / "config.json"
    found = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not ABSENT}))
    return folder


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    save_model(init_weights(Transformer(tiny(max_position_embeddings=64)), seed=1, std=0.2), tmp_path / "m")
    return tmp_path / "m"


def logits(folder: Path, theirs: bool = False) -> torch.Tensor:
    ids = torch.randint(0, 96, (1, 120), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not theirs:
            return load_model(folder, "float32", "cpu")(ids)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        return model.eval()(ids).logits


REFUSED: dict[str, Any] = {
    "is_causal": False,
    "dual_chunk_attention_config": {"chunk_size": 262144, "local_size": 8192},
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.5,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "use_bidirectional_attention": True,
    "add_cross_attention": True,
    "partial_rotary_factor": 0.5,
    "use_mrope": True,
    "visual": {"width": 8},
    "quantization": {"bits": 4, "group_size": 64},
    "compression_config": {"format": "int-quantized"},
    "num_nextn_predict_layers": 1,
    "auto_map": {"AutoModelForCausalLM": "modeling.Mine"},
    "qkv_bias": False,
    "use_qk_norm": True,
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_may_change_what_is_computed_is_refused_by_its_name(key: str, folder: Path) -> None:
    changed(folder, **{key: REFUSED[key]})
    with pytest.raises(UserError, match=key) as refused:
        load_model(folder)
    assert f"--accept-unknown {key}" in refused.value.text()
    with pytest.warns(Notice, match=f"passed over as you say: {key}"):
        load_model(folder, accept_unknown=[key])
    with accepting([key]), pytest.warns(Notice, match=f"passed over as you say: {key}"):
        load_model(folder)
    with pytest.raises(UserError, match=key):
        load_model(folder)


@pytest.mark.parametrize("key", REFUSED)
def test_a_null_says_nothing(key: str, folder: Path) -> None:
    config = load_model(folder).config
    assert load_model(changed(folder, **{key: None})).config == config


STAMPS: dict[str, Any] = {
    "_name_or_path": "Qwen/Qwen2.5-0.5B",
    "_attn_implementation_autoset": True,
    "unsloth_fixed": True,
    "unsloth_version": "2025.5.1",
    "transformers_version": "5.1.0",
    "transformers.js_config": {},
    "use_cache": False,
    "attention_dropout": 0.1,
    "is_causal": True,
    "use_mrope": False,
    "partial_rotary_factor": 1,
    "pad_token_id": 3,
    "qkv_bias": True,
    "hidden_act": "swish",
    "chunk_size_feed_forward": 0,
    "is_decoder": True,
    "id2label": {"0": "LABEL_0"},
    "temperature": 0.7,
    "rotary_emb_base": 10000.0,
    "seq_length": 64,
    "auto_map": {"AutoTokenizer": ["tokenization.Mine", None]},
    "original_max_position_embeddings": 64,
    "layer_types": ["full_attention", "full_attention"],
}


def test_stamps_and_neutral_values_are_passed_over(folder: Path) -> None:
    wanted = logits(folder)
    assert torch.equal(logits(changed(folder, **STAMPS)), wanted)


PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen2": {"use_mrope": False, "max_window_layers": 28, "sliding_window": 131072, "use_sliding_window": False},
    "qwen3": {"attention_bias": False, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False},
    "qwen3_moe": {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0, "mlp_only_layers": []},
    "qwen": {"softmax_in_fp32": False, "use_cache_kernel": False, "use_flash_attn": "auto", "onnx_safe": None,
             "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}, "attn_dropout_prob": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("family", PUBLISHED)
def test_what_published_folders_say_is_known(family: str) -> None:
    """Of the later families also whatever transformers writes, with all defaults said."""
    said: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
                            "num_attention_heads": 4, "seq_length": 16}  # fmt: skip
    if family != "qwen":
        said["num_key_value_heads"] = 2
        name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}[family]
        said = getattr(transformers, f"{name}Config")(**said).to_dict()
        said |= json.loads(json.dumps(said, default=str))
    assert FORMATS[family].config_of({**said, **PUBLISHED[family]}).num_hidden_layers == 2


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
ALIKE: dict[str, dict[str, Any]] = {
    "rope_scaling over plain rope_parameters": {"rope_scaling": YARN, "rope_parameters": DEFAULT},
    "the same twice": {"rope_scaling": YARN, "rope_parameters": YARN},
    "the older type": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "two names of the type": {"rope_scaling": {**YARN, "type": "yarn"}},
    "its length outside": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": 16,
    },
    "no rotation said": {"rope_scaling": {}, "rope_theta": 500.0},
}


@pytest.mark.filterwarnings("ignore::qwenkit.errors.Notice")
@pytest.mark.parametrize("case", ALIKE)
def test_the_rotation_is_read_as_transformers_reads_it(case: str, folder: Path) -> None:
    changed(folder, **{"rope_theta": ABSENT, **ALIKE[case]})
    assert (logits(folder) - logits(folder, theirs=True)).abs().max() < 1e-3


ODD_ROPE: dict[str, tuple[dict[str, Any], str]] = {
    "two that differ": ({"rope_scaling": {**YARN, "factor": 2.0}, "rope_parameters": YARN}, "rope_scaling.*rope_param"),
    "yarn switched off": ({"rope_scaling": DEFAULT, "rope_parameters": YARN}, "rope_scaling and rope_parameters"),
    "two bases": ({"rope_theta": 1e6, "rope_parameters": DEFAULT}, r"rope_parameters\.rope_theta.*rope_theta"),
    "CodeQwen's base": ({"rope_theta": 1e6, "rotary_emb_base": 10000}, "rope_theta.*rotary_emb_base"),
    "a base that is lost": (
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_parameters": {**DEFAULT, "rope_theta": 1e6},
         "rope_theta": ABSENT}, "rope_scaling stands in the place"),
    "two types": ({"rope_scaling": {**YARN, "type": "linear"}}, "rope_scaling.rope_type.*rope_scaling.type"),
    "two lengths": ({"rope_scaling": YARN, "original_max_position_embeddings": 32}, "the length before YaRN"),
    "no type": ({"rope_scaling": {"factor": 4.0}}, "factor in rope_scaling"),
    "mrope": ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, "rope type 'mrope'"),
    "mrope in the newer spelling": ({"rope_parameters": {**DEFAULT, "mrope_section": [1, 1, 2]}}, "mrope_section"),
    "by kinds of layers": ({"rope_parameters": {"full_attention": DEFAULT}, "rope_theta": ABSENT}, "full_attention"),
    "half a head": ({"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    "a misspelt entry": ({"rope_scaling": {**YARN, "beta_fats": 32}}, "beta_fats"),
    "layers of another kind": ({"layer_types": ["linear_attention"] * 2}, "linear_attention"),
    "windows without a switch": ({"layer_types": ["sliding_attention"] * 2}, "layer_types and use_sliding_window"),
    "experts twice": ({"model_type": "qwen3_moe", "num_experts": 4, "num_local_experts": 8}, "num_experts.*num_local"),
    "a foreign head": ({"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
    "a class for tokens": ({"architectures": ["Qwen2ForTokenClassification"]}, "ForTokenClassification"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD_ROPE)
def test_two_meanings_at_once_are_refused_and_both_are_named(case: str, folder: Path) -> None:
    changes, message = ODD_ROPE[case]
    if case == "two bases":
        changes = {**changes, "rope_theta": 1e6}
    with pytest.raises(UserError, match=message) as refused:
        load_model(changed(folder, **changes))
    assert len(refused.value.text()) < 1000


def test_several_ends_stay_several(folder: Path, tmp_path: Path) -> None:
    model = load_model(changed(folder, eos_token_id=[5, 7]))
    assert model.config.eos_token_id == (5, 7)
    save_model(model, tmp_path / "again")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "again" / file).read_text())["eos_token_id"] == [5, 7]
    assert load_model(changed(folder, eos_token_id=[5])).config.eos_token_id == 5
    with pytest.raises(UserError, match="eos_token_id"):
        load_model(changed(folder, eos_token_id=["</s>"]))


def test_a_dtype_that_is_not_said_is_that_of_the_weights(folder: Path) -> None:
    save_model(load_model(folder).bfloat16(), folder)
    changed(folder, torch_dtype=ABSENT)
    assert load_model(folder).model.norm.weight.dtype == torch.bfloat16
    assert load_model(changed(folder, torch_dtype="auto")).model.norm.weight.dtype == torch.bfloat16
    assert load_model(changed(folder, torch_dtype="torch.float16")).model.norm.weight.dtype == torch.float16
    changed(folder, dtype="float32", torch_dtype="float16")
    with pytest.warns(Notice, match="dtype = 'float32' goes before torch_dtype"):
        assert load_model(folder).model.norm.weight.dtype == torch.float32


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
QUANTIZED: dict[str, Any] = {
    "dynamic": {"+:.*down_proj.*": {"bits": 8}},
    "lm_head": True,
    "checkpoint_format": "gptq_v2",
    "pack_dtype": "int16",
    "is_marlin_format": True,
    "bits": 3,
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
    "load_in_8bit": {"load_in_8bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors"},
    "something_new": 1,
}


@pytest.mark.parametrize("key", QUANTIZED)
def test_a_quantization_that_is_not_read_is_refused_by_its_name(key: str, folder: Path) -> None:
    value = QUANTIZED[key]
    said = value if key in ("awq", "fp8", "load_in_8bit", "compressed-tensors") else {**GPTQ, key: value}
    with pytest.raises(UserError, match=key):
        load_model(changed(folder, quantization_config=said))


def test_two_files_of_quantization_that_differ_are_refused(folder: Path) -> None:
    (folder / "quantize_config.json").write_text('{"bits": 8, "group_size": 32}')
    with pytest.raises(UserError, match=r"quantize_config\.json disagree on bits"):
        load_model(changed(folder, quantization_config=GPTQ))


def test_a_product_of_sizes_is_bounded_before_anything_is_built(folder: Path) -> None:
    said = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts_per_tok": 2,
            "moe_intermediate_size": 64, "head_dim": 8}  # fmt: skip
    for layers, experts, message in ((1024, 1024, "num_experts = 1024 in each of 1024"), (64, 1024, "weights in")):
        with pytest.raises(UserError, match=message):
            load_model(changed(folder, **said, num_hidden_layers=layers, num_experts=experts))


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        tiny(tie_word_embeddings=True, qkv_bias=False),
        tiny(qkv_bias=False, qk_norm=True, head_dim=24, num_key_value_heads=2),
    ],
)
def test_parameters_are_counted_without_building(config: ModelConfig) -> None:
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.parameters


def test_a_quantized_model_does_not_grow() -> None:
    model = init_weights(Transformer(tiny(hidden_size=64)), seed=0)
    quantize(model, QuantConfig(8, -1), None, True, lambda *_: None)
    with pytest.raises(UserError, match="a quantized model cannot be resized"):
        resize_token_embeddings(model, 96, [[1, 2]], 128)
