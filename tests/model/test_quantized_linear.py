"""Weights in 4 and 8 bits: the layout to the bit, folders both ways, GPTQ against plain rounding, the kernels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.config import ContextExtension, MoEConfig
from qwenkit.model.gptq import gptq, quantize, round_to_nearest
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear, from_qvalues, join_words, split_words

SHAPE = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=64)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen": {"extension": ContextExtension(seq_length=16, dynamic_ntk=True, logn=True), "windows": (16, None)},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"qkv_bias": False, "qk_norm": True, "head_dim": 32},
    "qwen3_moe": {"qkv_bias": False, "qk_norm": True,
                  "experts": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)},
}  # fmt: skip
SCHEMES = [QuantConfig(4, 32), QuantConfig(4, -1), QuantConfig(8, 32), QuantConfig(8, -1)]


def make(family: str = "qwen2") -> Transformer:
    return init_weights(Transformer(ModelConfig(**{**SHAPE, **FAMILIES[family]})), seed=1, std=0.2).eval()


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 96, shape, generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([4, 8]), st.sampled_from([0, 1]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**30))
def test_words_hold_levels_lowest_first(bits: int, axis: int, words: int, other: int, seed: int) -> None:
    shape = [words * 32 // bits, other] if axis == 0 else [other, words * 32 // bits]
    levels = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed))
    joined = join_words(levels, bits, axis)
    assert joined.dtype == torch.int32 and joined.shape[axis] == words
    assert torch.equal(split_words(joined, bits, axis), levels)
    first = levels.select(axis, 0).long()
    assert torch.equal(joined.select(axis, 0).long() & (2**bits - 1), first)


@pytest.mark.parametrize("quant_config", SCHEMES, ids=str)
def test_a_layer_is_its_formula_and_its_kernel_is_near(quant_config: QuantConfig) -> None:
    torch.manual_seed(0)
    N, K = 128, 256
    size = K if quant_config.group_size == -1 else quant_config.group_size
    levels, scales = torch.randint(0, 2**quant_config.bits, (N, K)), torch.rand(N, K // size) * 0.1 + 0.01
    zeros = torch.full((N, K // size), 2 ** (quant_config.bits - 1))
    layer = from_qvalues(levels, scales, zeros, quant_config, bias=torch.randn(N))
    group = torch.arange(K) // size
    weight = (levels - zeros[:, group]) * scales.half().float()[:, group]
    assert torch.equal(layer.weight(), weight) and layer.in_order
    x = torch.randn(2, 3, K)
    assert torch.allclose(layer(x), torch.nn.functional.linear(x, weight, layer.bias), atol=1e-4)
    wanted = torch.nn.functional.linear(x.bfloat16().float(), weight, layer.bias)
    assert (layer(x.bfloat16()).float() - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_a_last_group_may_be_short() -> None:
    """136 columns are a group of 128 and one of 8, though they would also divide into two of 68."""
    levels, zeros = torch.randint(0, 16, (8, 136)), torch.full((8, 2), 8)
    scales = torch.tensor([0.5, 2.0]).expand(8, 2)
    layer = from_qvalues(levels, scales, zeros, QuantConfig(4, 128))
    assert torch.equal(layer.weight(), (levels - 8) * torch.tensor([0.5] * 128 + [2.0] * 8))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quant_config", SCHEMES[:1] + SCHEMES[2:], ids=str)
def test_folders_keep_every_bit(family: str, quant_config: QuantConfig, tmp_path: Path) -> None:
    model = quantize(make(family), quant_config, [ids(2, 24)])
    save_model(model, tmp_path / "a", shard_bytes=30_000)
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert config["quantization_config"]["bits"] == quant_config.bits and config["model_type"] == family
    read = load_model(tmp_path / "a", dtype="float32")
    with torch.no_grad():
        assert torch.equal(model(ids(2, 20)), read(ids(2, 20)))
    save_model(read, tmp_path / "b", shard_bytes=30_000)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_the_first_qwens_names_and_shapes_are_those_of_the_released_int4_models(tmp_path: Path) -> None:
    save_model(quantize(make("qwen"), QuantConfig(4, 32), None), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stem = "transformer.h.1.attn.c_attn"
    shapes = {part: tuple(tensors[f"{stem}.{part}"].shape) for part in ("qweight", "qzeros", "scales", "g_idx", "bias")}
    assert shapes == {"qweight": (8, 192), "qzeros": (2, 24), "scales": (2, 192), "g_idx": (64,), "bias": (192,)}
    assert tensors[f"{stem}.qzeros"].view(torch.int32).unique().tolist() == [0x77777777]  # 8 is kept as 7
    assert "transformer.h.1.mlp.w2.qweight" in tensors and "lm_head.weight" in tensors


def test_a_folder_of_other_tools_is_read(tmp_path: Path) -> None:
    """Columns in another order, zeros of any height, and biases of zeros on every layer."""
    model = make("qwen2")
    layer = model.model.layers[0].mlp.up_proj
    levels, scales, zeros = round_to_nearest(layer.weight.detach(), QuantConfig(4, 32), symmetric=False)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    group = (torch.arange(64) // 32)[order]
    save_model(quantize(model, QuantConfig(4, 32), None), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stem = "model.layers.0.mlp.up_proj"
    tensors[f"{stem}.qweight"] = join_words(levels[:, order].t().int(), 4, 0)
    tensors[f"{stem}.qzeros"] = join_words((zeros.t().int() - 1) & 15, 4, 1)
    tensors[f"{stem}.scales"], tensors[f"{stem}.g_idx"] = scales.t().half().contiguous(), group.int()
    tensors[f"{stem}.bias"] = torch.zeros(128).half()
    save_file(tensors, tmp_path / "model.safetensors")
    read = load_model(tmp_path, dtype="float32").model.layers[0].mlp.up_proj
    wanted = ((levels - zeros[:, torch.arange(64) // 32]) * scales[:, torch.arange(64) // 32])[:, order]
    assert torch.allclose(read.weight(), wanted, atol=1e-3) and not read.in_order and read.bias is None
    x = torch.randn(3, 64)
    assert torch.allclose(read(x.bfloat16()).float(), x @ wanted.t(), atol=0.2)


def test_gptq_loses_less_than_rounding() -> None:
    """On inputs that lie near few directions, where errors can be made up for."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(48, 64), torch.randn(500, 12) @ torch.randn(12, 64) + 0.1 * torch.randn(500, 64)
    for quant_config in (QuantConfig(4, 32), QuantConfig(4, -1), QuantConfig(8, -1)):
        lost = []
        for levels, scales, zeros in (
            round_to_nearest(weight, quant_config),
            gptq(weight, inputs.t() @ inputs, quant_config),
        ):
            made = from_qvalues(levels, scales, zeros, quant_config).weight()
            lost.append(((inputs @ (made - weight).t()) ** 2).sum().item())
        assert lost[1] < 0.5 * lost[0]


def test_a_quantized_model_writes_like_the_whole_one_and_is_not_trained() -> None:
    model = make("qwen2")
    with torch.no_grad():
        whole = model(ids(2, 30))
    quantize(model, QuantConfig(8, -1), [ids(2, 40)])
    assert all(isinstance(block.mlp.up_proj, QuantizedLinear) for block in model.model.layers)
    with torch.no_grad():
        assert (model(ids(2, 30)) - whole).abs().max() < 0.1 * whole.abs().max()
    (output,) = Engine(model).generate([[1, 2, 3]], SamplingParams.plain(max_tokens=5, temperature=0, ignore_eos=True))
    assert len(output.ids) == 5
    with pytest.raises(UserError, match="cannot be trained"):
        model.train()
    with pytest.raises(UserError, match="quantized already"):
        quantize(model, QuantConfig(8, -1), None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "awq", "bits": 4}, "quantized by 'awq'"),
        ({"quant_method": "gptq", "bits": 3}, "bits = 3"),
        ({"quant_method": "gptq", "bits": 4.0, "group_size": 32}, "bits = 4.0"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 12}, "group_size = 12"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, "qzeros is"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32}, "qweight is"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "marlin"}, "'marlin'"),
        (None, "unexpected"),
    ],
)
def test_other_schemes_are_refused(said: Any, message: str, tmp_path: Path) -> None:
    save_model(quantize(make("qwen2"), QuantConfig(4, 32), None), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": said}))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_folder_says_whether_its_levels_lie_around_zero(symmetric: bool, tmp_path: Path) -> None:
    """Engines that are told `sym` leave out the zeros."""
    save_model(quantize(make("qwen2"), QuantConfig(4, 32), None, symmetric), tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert said["sym"] is symmetric


@pytest.mark.parametrize("part", ["qzeros", "g_idx"])
def test_levels_of_another_type_are_named(part: str, tmp_path: Path) -> None:
    save_model(quantize(make("qwen2"), QuantConfig(4, 32), None), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"model.layers.0.mlp.up_proj.{part}"
    save_file({**tensors, name: tensors[name].float()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{part} is torch.float32"):
        load_model(tmp_path)


def test_sizes_that_do_not_divide_are_named_before_anything_is_changed() -> None:
    model = Transformer(replace(make("qwen2").config, intermediate_size=100))
    with pytest.raises(UserError, match="another group_size"):
        quantize(model, QuantConfig(4, 32), None)
    assert isinstance(model.model.layers[0].self_attn.q_proj, torch.nn.Linear)
