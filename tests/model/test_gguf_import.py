"""Models from GGUF files: the weights and logits that were written, the bits that were quantized, and refusals."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwenkit.chat import load_tokenizer
from qwenkit.errors import Notice, UserError, visible
from qwenkit.gguf_file import KINDS
from qwenkit.hub import resolve
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.native.matrices import product, weights
from qwenkit.model import ModelConfig, Transformer, load_model, load_scalar, save_model, stored_dtype
from qwenkit.model.config import Yarn
from qwenkit.model.gguf_blocks import IN_BITS, as_floats, as_layer
from qwenkit.model.gguf_export import write_gguf
from qwenkit.model.gptq_checkpoint import quantized_layers
from tests.errors.desk import call
from tests.gguf_files import KIND_IDS, file_bytes, vocabulary
from tests.inference.native.conftest import needs_compiler
from tests.tiny_gguf import FAMILIES, gguf_name, permuted, settings_of, tensors_of, tiny_model, write_tiny

IDS = torch.randint(0, 264, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        yield


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(IDS).float()


# ---- what was written is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_floats_are_read_to_the_bit(family: str, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.gguf", family)
    read = load_model(tmp_path / "m.gguf", device="cpu")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in read.state_dict().items())
    assert len(read.state_dict()) == len(model.state_dict()) and torch.equal(logits(model), logits(read))
    assert not read.training and all(parameter.requires_grad for parameter in read.parameters())
    for name in ("rope_theta", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "head_dim"):
        assert getattr(read.config, name) == getattr(model.config, name)
    assert read.config.model_type == {"llama with biases": "qwen2"}.get(family, family)
    assert read.config.eos_token_id == 259 and read.config.bos_token_id is None


@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_half_precision_is_read_to_the_bit(family: str, kind: str, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.gguf", family, kind)
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    read = load_model(tmp_path / "m.gguf", device="cpu").state_dict()
    assert stored_dtype(tmp_path / "m.gguf") == dtype
    assert all(torch.equal(read[name], tensor.to(dtype)) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_our_own_export_comes_back(family: str, dtype: str, tmp_path: Path) -> None:
    yarn = Yarn(factor=2.0, original_max_position_embeddings=64)
    model = tiny_model(family, yarn=yarn).to(getattr(torch, dtype))
    write_gguf(model, tmp_path / "m.gguf", None)
    read = load_model(tmp_path / "m.gguf", device="cpu")
    assert read.config.yarn == yarn and read.config.qk_norm == model.config.qk_norm
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in read.state_dict().items())
    assert torch.equal(logits(model), logits(read))


def dequantized(model: Transformer, family: str, kind: str) -> dict[str, Tensor]:
    """The parameters as the package `gguf` reads them back, in float32 and our order of rows."""
    written, state = tensors_of(model, family, kind), {}
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.kv_heads}
    for name in model.state_dict():
        own, rows = written[gguf_name(name)]
        floats = torch.from_numpy(gguf.quants.dequantize(rows, getattr(gguf.GGMLQuantizationType, own)).copy())
        several = heads.get(gguf_name(name).split(".")[-2])
        if several and family.startswith("llama"):
            floats = floats.view(several, len(floats) // several // 2, 2, *floats.shape[1:]).transpose(1, 2)
        state[name] = floats.reshape(model.state_dict()[name].shape).float()
    return state


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_quantized_files_are_dequantized_exactly_in_float32(family: str, kind: str, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.gguf", family, kind)
    assert stored_dtype(tmp_path / "m.gguf") == torch.bfloat16
    read = load_model(tmp_path / "m.gguf", dtype="float32", device="cpu").state_dict()
    assert all(torch.equal(read[name], floats) for name, floats in dequantized(model, family, kind).items())


def blocks(kind: str, rows: int, count: int, seed: int) -> Tensor:
    """Random blocks of a type, [rows, bytes]; their scales are numbers of a size that weights have."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, count, KINDS[kind].size), dtype=np.uint8)
    halves = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]
    for at in halves:
        scales = (rng.standard_normal((rows, count)) / 50).astype(np.float16)
        data[..., at : at + 2] = scales[..., None].view(np.uint8)
    return torch.from_numpy(data.reshape(rows, -1))


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q8_0"])
def test_large_tensors_are_dequantized_in_slices(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = blocks(kind, 40, 3, seed=1)
    whole = gguf.quants.dequantize(data.numpy(), getattr(gguf.GGMLQuantizationType, kind))
    monkeypatch.setattr("qwenkit.model.gguf_blocks._SLICE", 7 * whole.shape[1])
    assert torch.equal(as_floats(data, kind, torch.float32), torch.from_numpy(whole))
    assert torch.equal(as_floats(data, kind, torch.bfloat16), torch.from_numpy(whole).bfloat16())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(IN_BITS)), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**30))
def test_a_layer_in_bits_has_the_weights_of_its_blocks(kind: str, rows: int, count: int, seed: int) -> None:
    data = blocks(kind, rows * 8, count, seed)
    layer = as_layer(data, kind)
    assert layer.quant_config == IN_BITS[kind] and layer.in_order and layer.symmetric == (kind != "Q4_1")
    moved = as_layer(data.to("meta"), kind)
    assert moved.zeros(slice(None)).device.type == moved.levels(slice(None)).device.type == "meta"
    wanted = gguf.quants.dequantize(data.numpy(), getattr(gguf.GGMLQuantizationType, kind))
    assert torch.equal(layer.weight(), torch.from_numpy(wanted))


# ---- quantized layers -------------------------------------------------------------------------------------------


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenkit.platform.compiler_path", lambda: None)


@pytest.fixture
def a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenkit.platform.compiler_path", lambda: "/usr/bin/c++")


@pytest.mark.usefixtures("no_compiler")
def test_four_bits_stay_where_a_kernel_fits(tmp_path: Path) -> None:
    """In bf16 on a CPU all matrices but tables and heads; k and v of 32 rows are too narrow for torch's kernel."""
    model = write_tiny(tmp_path / "m.gguf", "llama", "Q4_1")
    with pytest.warns(Notice) as told:
        read = load_model(tmp_path / "m.gguf", device="cpu")
    layers = quantized_layers(read)
    kept = {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert {name.split(".", 3)[3] for name in layers} == kept and len(layers) == 10
    assert [str(warning.message) for warning in told] == [
        "m.gguf: 6 tensors in Q4_1 become bfloat16; 10 tensors in Q4_1 stay in their bits"
    ]
    wanted = dequantized(model, "llama", "Q4_1")
    assert all(torch.equal(layer.weight(), wanted[f"{name}.weight"]) for name, layer in layers.items())
    model.load_state_dict(wanted)
    difference = (logits(read) - logits(model)).abs().max()
    assert difference < 0.05 * logits(model).abs().max()  # products in bf16: 8 bits, over two layers


def test_biases_of_layers_in_bits_are_kept(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.gguf", "qwen2", "Q4_0")
    read = load_model(tmp_path / "m.gguf", device="cpu")
    layer = quantized_layers(read)["model.layers.1.self_attn.q_proj"]
    assert layer.bias is not None
    assert torch.equal(layer.bias, model.state_dict()["model.layers.1.self_attn.q_proj.bias"].bfloat16())


@pytest.mark.usefixtures("a_compiler")
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_all_layers_stay_in_their_bits_for_native_code(family: str, kind: str, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.gguf", family, kind)
    layers = quantized_layers(load_model(tmp_path / "m.gguf", device="cpu"))
    wanted = dequantized(model, family, kind)
    assert len(layers) == 14
    for name, layer in layers.items():
        assert torch.equal(layer.weight(), wanted[f"{name}.weight"])
        assert torch.equal(layer.weight(slice(5, 9)), wanted[f"{name}.weight"][5:9])


@pytest.mark.usefixtures("no_compiler")
def test_eight_bits_in_groups_become_floats_without_a_compiler(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.gguf", "qwen3", "Q8_0")
    with pytest.warns(Notice) as told:
        assert not quantized_layers(load_model(tmp_path / "m.gguf", device="cpu"))
    assert [str(warning.message) for warning in told] == ["m.gguf: 16 tensors in Q8_0 become bfloat16"]


@pytest.mark.usefixtures("a_compiler")
def test_matrices_of_one_input_stay_in_their_bits_together(tmp_path: Path) -> None:
    """A layer whose v is of another type than q and k becomes floats as a whole; what has inputs of its own stays."""
    model = tiny_model("qwen3")
    tensors = tensors_of(model, "qwen3", "Q4_0")
    tensors["blk.1.attn_v.weight"] = tensors_of(model, "qwen3", "Q8_0")["blk.1.attn_v.weight"]
    found = settings_of(model.config, "qwen3") | vocabulary()
    (tmp_path / "m.gguf").write_bytes(file_bytes(found, tensors))
    layers = quantized_layers(load_model(tmp_path / "m.gguf", device="cpu"))
    floats = {f"model.layers.1.self_attn.{part}_proj" for part in "qkv"}
    assert len(layers) == 11 and not floats & layers.keys()


@needs_compiler
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_native_code_and_torch_compute_the_same_layer(kind: str) -> None:
    """Native code rounds inputs to 16 bits; torch multiplies float32 by the dequantized weight."""
    layer, x = as_layer(blocks(kind, 48, 5, seed=3), kind, torch.randn(48)), torch.randn(7, 160)
    steps = x.abs().max() / 65534 * layer.weight().abs().sum(-1)
    size = x.abs() @ (layer.weight().abs() + 0.2).t()
    assert ((product(weights(layer), x) - layer(x)).abs() <= steps + 160 * 2.0**-23 * size + 1e-6).all()


@pytest.mark.usefixtures("a_compiler")
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_layers_in_bits_become_a_gptq_folder(kind: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.gguf", "llama", kind)
    model = load_model(tmp_path / "m.gguf", device="cpu")
    save_model(model, tmp_path / "gptq")
    layers = quantized_layers(load_model(tmp_path / "gptq", device="cpu"))
    assert len(layers) == 14
    for name, layer in quantized_layers(model).items():
        assert torch.equal(layer.weight(), layers[name].weight())


@pytest.mark.usefixtures("a_compiler")
def test_a_state_of_layers_in_bits_is_taken_over(tmp_path: Path) -> None:
    """A kernel's own form follows, and what was written is never given back."""
    write_tiny(tmp_path / "a.gguf", "llama", "Q4_1")
    first, second = (load_model(tmp_path / "a.gguf", device="cpu") for _ in range(2))
    name, layer = next(iter(quantized_layers(first).items()))
    x, state = torch.randn(3, layer.in_features).bfloat16(), second.state_dict()
    before = layer(x)
    state = {key: tensor.clone() for key, tensor in state.items()}
    state[f"{name}.blocks"] = blocks("Q4_1", layer.out_features, layer.in_features // 32, seed=4)
    first.load_state_dict(state)
    after = layer(x)
    second.load_state_dict(state)
    assert not torch.equal(before, after) and torch.equal(after, quantized_layers(second)[name](x))
    layer.give_back()
    assert torch.equal(layer.weight(), quantized_layers(second)[name].weight())


def test_minimums_are_in_the_kernel_and_not_in_a_gptq_folder(tmp_path: Path) -> None:
    layer = as_layer(blocks("Q4_1", 64, 4, seed=2), "Q4_1")
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    wanted = x.float() @ layer.weight().t()
    assert (layer(x).float() - wanted).abs().max() < 0.02 * wanted.abs().max()  # scales and sums are bf16
    write_tiny(tmp_path / "m.gguf", "llama", "Q4_1")
    with pytest.raises(UserError) as caught:
        save_model(load_model(tmp_path / "m.gguf", device="cpu"), tmp_path / "out")
    assert str(caught.value) == (
        "the model to save: a GPTQ folder cannot hold layers of several kinds, or with minimums\n"
        '  hint: load the GGUF file with dtype="float32": it is dequantized then'
    )


# ---- the engine and the command line ------------------------------------------------------------------------------


def test_an_engine_takes_a_file_or_the_folder_of_one(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.gguf", "qwen2", "F32")
    tok = load_tokenizer(tmp_path)
    params = SamplingParams(temperature=0, max_tokens=6)
    chat = [{"role": "user", "content": "ab"}]
    answers = [Engine(path, tok).chat([chat], params)[0].ids for path in (tmp_path, str(tmp_path / "m.gguf"))]
    plain = Engine(load_model(tmp_path / "m.gguf"), tok).chat([chat], params)[0].ids
    assert answers[0] == answers[1] == plain
    assert resolve(tmp_path) == tmp_path / "m.gguf"


def test_the_command_line_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "m.gguf", "qwen2", "F32")
    monkeypatch.chdir(tmp_path)
    answer = Engine("m.gguf", load_tokenizer("m.gguf")).chat(
        [[{"role": "user", "content": "ab"}]], SamplingParams(temperature=0, max_tokens=4)
    )[0]
    code, out, _ = call("chat m.gguf -p ab --temperature 0 --max-tokens 4")
    assert (code, out) == (0, f"{visible(answer.text)}\n")
    assert (
        call("inspect tokens ab --tokenizer m.gguf")[1].splitlines()[-1]
        == "1 tokens, 2 characters, 2.00 bytes per token"
    )
    code, _, err = call("chat models/no.gguf -p ab")
    assert (code, err) == (2, "error: models/no.gguf: no such file\n  expected: a GGUF file\n")


def test_loading_takes_no_more_memory_than_the_model(tmp_path: Path) -> None:
    """24 MB in Q8_0 become 46 MB in bf16. With all pages of the file kept it would be 70, with float32 between 138."""
    config = ModelConfig(vocab_size=2048, hidden_size=512, intermediate_size=1536, num_hidden_layers=6,
                         num_attention_heads=4, qkv_bias=False)  # fmt: skip
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    for name, tensor in state.items():
        norm = tensor.dim() == 1
        rows = np.ones(tensor.shape, np.float32) if norm else blocks("Q8_0", len(tensor), tensor.shape[1] // 32, 0)
        tensors[gguf_name(name)] = ("F32" if norm else "Q8_0", np.asarray(rows))
    (tmp_path / "m.gguf").write_bytes(file_bytes(settings_of(config, "llama"), tensors))
    program = (
        "import resource, sys, torch, warnings; warnings.simplefilter('ignore')\n"
        "from qwenkit.model import load_model; from qwenkit.model.gguf_blocks import package; package().quants\n"
        "at = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = at(); model = load_model(sys.argv[1], device='cpu')\n"
        "print(at() - before, sum(p.nbytes for p in model.parameters()) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "m.gguf")], capture_output=True, text=True)
    taken, model = map(int, done.stdout.split())
    assert taken < 1.4 * model, done.stderr


# ---- refusals -----------------------------------------------------------------------------------------------------


def message(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], family: str = "qwen2") -> str:
    model, path = tiny_model(family), tmp_path / "m.gguf"
    found, tensors = settings_of(model.config, family) | vocabulary(), tensors_of(model, family)
    change(found, tensors)
    path.write_bytes(file_bytes(found, tensors))
    with pytest.raises(UserError) as caught:
        load_model(path, device="cpu")
    return str(caught.value).replace(str(path), "FILE")


def put(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda found, tensors: found.__setitem__(key, value)


def drop(key: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda found, tensors: (found if key in found else tensors).__delitem__(key)


def add(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda found, tensors: tensors.__setitem__(name, ("F32", np.ones(shape, np.float32)))


BAD: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "an unknown architecture": (
        put("general.architecture", "gemma3"),
        "FILE, general.architecture: the architecture 'gemma3' is not supported\n  expected: qwen2, qwen3, llama",
    ),
    "no architecture": (drop("general.architecture"), "FILE: general.architecture is missing"),
    "no layers": (drop("qwen2.block_count"), "FILE: qwen2.block_count is missing"),
    "no epsilon": (
        drop("qwen2.attention.layer_norm_rms_epsilon"),
        "FILE: qwen2.attention.layer_norm_rms_epsilon is missing",
    ),
    "layers in words": (put("qwen2.block_count", "2"), "FILE, qwen2.block_count: it is '2'\n  expected: an integer"),
    "a size for each layer": (
        put("qwen2.feed_forward_length", [128, 64]),
        "FILE, qwen2.feed_forward_length: it is an array of 2\n  expected: an integer",
    ),
    "too many layers": (
        put("qwen2.block_count", 2**31),
        "FILE, model configuration: num_hidden_layers = 2147483648 is beyond 1024\n"
        "  expected: a shape that can be built",
    ),
    "more layers than there are": (
        put("qwen2.block_count", 3),
        "FILE: the tensors do not fit the architecture: missing: blk.2.attn_q.bias, blk.2.attn_k.bias, "
        "blk.2.attn_v.bias, blk.2.attn_norm.weight, blk.2.attn_q.weight and 7 more",
    ),
    "no heads": (
        put("qwen2.attention.head_count", 0),
        "FILE, model configuration: num_attention_heads = 0 is not a positive integer\n"
        "  expected: a shape that can be built",
    ),
    "an unknown setting": (
        put("qwen2.attention.head_counts", 4),
        "FILE, qwen2.attention.head_counts: a setting that is not known here\n  nearest: attention.head_count\n"
        '  hint: if it changes nothing: accept_unknown = ["qwen2.attention.head_counts"]',
    ),
    "experts": (
        put("qwen2.expert_count", 8),
        "FILE, qwen2.expert_count: it is 8, which is not supported\n  expected: 0",
    ),
    "heads of two widths": (
        put("qwen2.attention.value_length", 32),
        "FILE: heads of 16 channels with values of 32, of which 16 are turned\n  expected: three times the same number",
    ),
    "a stretched rotation": (
        lambda found, tensors: found.update({"qwen2.rope.scaling.type": "linear", "qwen2.rope.scaling.factor": 4.0}),
        "FILE, qwen2.rope.scaling.type: it is 'linear' with a factor of 4\n  expected: none or yarn",
    ),
    "another vocabulary": (
        put("qwen2.vocab_size", 300),
        "FILE, qwen2.vocab_size: it is 300, and token_embd.weight has 264 rows",
    ),
    "no embeddings": (drop("token_embd.weight"), "FILE: missing: token_embd.weight"),
    "a lost tensor": (
        drop("blk.1.ffn_up.weight"),
        "FILE: the tensors do not fit the architecture: missing: blk.1.ffn_up.weight",
    ),
    "a strange tensor": (
        add("blk.0.extra.weight", (4, 4)),
        "FILE: the tensors do not fit the architecture: unexpected: blk.0.extra.weight",
    ),
    "a rotation by channel": (
        add("rope_freqs.weight", (8,)),
        "FILE: the tensors do not fit the architecture: unexpected: rope_freqs.weight\n"
        "  hint: rope_freqs scales the rotation by channel, which is not supported here",
    ),
    "another shape": (
        add("blk.0.ffn_up.weight", (64, 64)),
        "FILE: the tensors do not fit the settings: blk.0.ffn_up.weight is [64, 64], not [128, 64]",
    ),
    "a quantized norm": (
        lambda found, tensors: tensors.__setitem__("output_norm.weight", ("Q8_0", np.zeros(68, np.uint8))),
        "FILE, output_norm.weight: stored as Q8_0\n  expected: F32, F16, BF16",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    change, expected = BAD[name]
    assert message(tmp_path, change) == expected


def test_an_unknown_setting_can_be_accepted(tmp_path: Path) -> None:
    model, key = tiny_model(), "qwen2.mystery"
    found = settings_of(model.config, "qwen2") | {key: 1}
    (tmp_path / "m.gguf").write_bytes(file_bytes(found, tensors_of(model, "qwen2")))
    assert torch.equal(logits(load_model(tmp_path / "m.gguf", device="cpu", accept_unknown=[key])), logits(model))


def test_a_file_is_no_model_that_scores(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.gguf")
    with pytest.raises(UserError) as caught:
        load_scalar(tmp_path / "m.gguf")
    assert str(caught.value) == f"{tmp_path}/m.gguf: a GGUF file holds a language model, not one that scores"


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "m.gguf", "qwen2", "Q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "m.gguf", device="cpu")
    assert str(caught.value) == "the package `gguf` is not installed\n  hint: pip install 'qwenkit[gguf]'"


def test_types_have_the_numbers_and_blocks_of_the_package() -> None:
    for kind, block in KINDS.items():
        number = getattr(gguf.GGMLQuantizationType, kind)
        assert KIND_IDS[kind] == int(number) and tuple(block) == gguf.GGML_QUANT_SIZES[number]


def test_rows_of_a_llama_are_permuted_as_the_converter_does() -> None:
    """Guards the other tests, which write through `permuted`: two heads of four channels."""
    assert permuted(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
