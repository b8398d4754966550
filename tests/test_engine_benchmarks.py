"""What the benchmarks of the engine compute with: counts of operations, forms of a model, an equal model turned."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from qwenkit.model import ModelConfig, Transformer, init_weights, save_model

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from engine_models import Models, flops
from quantized_quality import rotate, there_and_back, windows_of

SHAPE = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2)  # fmt: skip


def model(tied: bool = True) -> Transformer:
    made = init_weights(Transformer(ModelConfig(**SHAPE, tie_word_embeddings=tied)), seed=1).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2.0)
    return made


def test_operations_are_those_that_torch_counts_and_of_attention_the_half_that_is_not_masked() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tokens, config = 24, model().config
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model()(torch.arange(tokens)[None])
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if "attention" not in str(operation))
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_size * 2 * tokens * (tokens + 1)
    assert flops(config, [(0, tokens, tokens)]) == products + attention
    assert flops(config, [(0, 10, 0), (10, tokens, tokens)]) == flops(config, [(0, tokens, tokens)])


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_rotated_model_computes_the_same(tied: bool) -> None:
    plain, ids = model(tied), torch.arange(40)[None]
    turned = rotate(plain)
    weight = plain.model.layers[0].mlp.gate_proj.weight
    assert not torch.allclose(turned.model.layers[0].mlp.gate_proj.weight, weight, atol=1e-2)
    torch.testing.assert_close(turned(ids), plain(ids), atol=1e-4, rtol=1e-4)


def test_a_weight_on_the_grid_of_a_format_comes_back_as_it_was() -> None:
    pytest.importorskip("gguf")
    grid = torch.arange(16).repeat(4, 2).float()  # both ends in every block of 32: the step is 1
    assert torch.equal(there_and_back(grid, "Q4_1"), grid)
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    blocks = weight.view(8, 2, 32)
    step = (blocks.amax(-1) - blocks.amin(-1)) / 15
    error = (there_and_back(weight, "Q4_1") - weight).view(8, 2, 32).abs().amax(-1)
    # Half a step, and float16 holds a block's step and its lowest value to 2 ** -11 of each.
    assert (error <= step / 2 + 2**-11 * (15 * step + blocks.amin(-1).abs())).all()


def test_forms_of_a_model_hold_its_weights_in_their_bits(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    save_model(model().to(torch.bfloat16), tmp_path / "bf16")
    models = Models(tmp_path / "bf16", tmp_path / "forms")
    bf16, q4 = (gguf.GGUFReader(models.gguf(kind)) for kind in ("BF16", "Q4_1"))
    there = {tensor.name: tensor for tensor in bf16.tensors}
    for tensor in q4.tensors:
        before = gguf.quants.dequantize(there[tensor.name].data, there[tensor.name].tensor_type)
        after = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = "Q8_0" if tensor.name == "token_embd.weight" else "Q4_1" if before.ndim == 2 else "F32"
        assert tensor.tensor_type.name == wanted
        assert abs(after - before).max() <= {"Q8_0": 1 / 127, "Q4_1": 1 / 15, "F32": 0}[wanted] * abs(before).max()
    fields = [{name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
              for reader in (bf16, q4)]  # fmt: skip
    assert fields[0] == fields[1] | {"general.file_type": fields[0]["general.file_type"]}


def test_windows_to_measure_on_are_others_than_those_to_calibrate_on() -> None:
    first, rest = windows_of(list(range(1010)), length=10, count=12)
    assert first == [list(range(i, i + 10)) for i in range(0, 640, 10)]
    assert len(rest) == 12 and rest[0][0] == 640 and all(len(window) == 10 for window in rest)
    with pytest.raises(SystemExit, match="a text of 65 windows of 10 tokens, 66 are needed"):
        windows_of(list(range(660)), length=10, count=2)
