"""The native decoder computes what the eager model computes, each row as if it were alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from qwenkit.errors import Notice, UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.forward_pass import EagerForward
from qwenkit.inference.native import NativeDecoder, choose_ways
from qwenkit.inference.native.build import Unavailable
from qwenkit.inference.native.trial import fastest
from qwenkit.model.config import MoEConfig
from qwenkit.model.gptq import quantize
from qwenkit.model.gptq_checkpoint import quantized_layers
from qwenkit.model.quantized_linear import QuantConfig

from .conftest import FAMILIES, SCHEMES, Pages, bound, make, needs_compiler, random_ids

pytestmark = needs_compiler
HALVES = (torch.bfloat16, torch.float16)


@torch.no_grad()
def eager(model: torch.nn.Module, ids_T: torch.Tensor) -> torch.Tensor:
    return model(ids_T[None])[0].float()


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_the_eager_model(family: str) -> None:
    model, ids_T = make(family), random_ids(90)
    found = Pages(model).read(ids_T, [33, 1, 1, 20, 35])
    assert found.dtype == torch.float32 and far(found, eager(model, ids_T)) < bound(model)


@pytest.mark.parametrize("family", ["qwen2", "qwen2-odd", "windows", "qwen3"])
def test_long_contexts_over_many_blocks(family: str) -> None:
    model, ids_T = make(family), random_ids(700)
    found = Pages(model, threads=2).read(ids_T, [690, *[1] * 10])
    assert far(found, eager(model, ids_T)) < bound(model)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_16_bits_with_a_float32_cache_are_as_exact(family: str, dtype: torch.dtype) -> None:
    model, ids_T = make(family).to(dtype), random_ids(60)
    found = Pages(model, torch.float32).read(ids_T, [59, 1])
    assert far(found, eager(model.float(), ids_T)) < bound(model)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["qwen1", "qwen2", "qwen3", "qwen2-odd", "windows"])
def test_16_bits_are_nearer_to_float32_than_torchs(family: str, dtype: torch.dtype) -> None:
    model, ids_T = make(family).to(dtype), random_ids(60)
    found, rounded = Pages(model).read(ids_T, [60]), eager(model, ids_T)
    exact = eager(model.float(), ids_T)
    assert (found - exact).abs().mean() < (rounded - exact).abs().mean()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_cache_of_16_bits_holds_the_nearest_numbers(dtype: torch.dtype) -> None:
    """Values from far below the smallest float16 to far beyond the largest."""
    model = make("qwen3")
    projection = model.model.layers[0].self_attn.v_proj
    with torch.no_grad():
        projection.weight *= torch.logspace(-10, 7, projection.out_features)[:, None]
    whole, rounded = Pages(model), Pages(model, dtype)
    for pages in (whole, rounded):
        pages.read(random_ids(40), [40])
    for found, exact in ((rounded.keys[0], whole.keys[0]), (rounded.values[0], whole.values[0])):
        assert found.dtype == dtype and torch.equal(found.nan_to_num(-1.0), exact.to(dtype).nan_to_num(-1.0))
        assert torch.equal(found.isnan(), exact.isnan())


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_quantized_layers(scheme: QuantConfig, dtype: torch.dtype) -> None:
    """Inputs of 16 bits: at most 2^-16 of a block's largest, for each of its 32 or 64 columns."""
    model, ids_T = quantize(make(), scheme, None).to(dtype), random_ids(60)
    found = Pages(model, torch.float32).read(ids_T, [50, *[1] * 10])
    exact = eager(model.float(), ids_T)
    assert far(found, exact) < bound(model) + (4 * model.config.num_hidden_layers) * 64**0.5 * 2.0**-16


def test_a_model_in_training_has_no_context_extension_and_has_it_again_after() -> None:
    model, ids_T = make("logn"), random_ids(60)
    pages, wanted = Pages(model), Pages(model).read(ids_T, [60])
    model.train()
    assert far(pages.read(ids_T, [60]), eager(model, ids_T)) < bound(model)
    model.eval()
    assert torch.equal(pages.read(ids_T, [60]), wanted) and far(wanted, eager(model.train(), ids_T)) > bound(model)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_rows_of_several_sequences(rows: int) -> None:
    model = make("qwen3")
    pages, lengths = Pages(model), [20 + 7 * row for row in range(rows)]
    sequences = [random_ids(length, seed=length) for length in lengths]
    tables = [pages.table(length) for length in lengths]
    for ids_T, table in zip(sequences, tables):
        pages.read(ids_T[:-1], [len(ids_T) - 1], table)
    last_B, positions_B = torch.stack([ids_T[-1] for ids_T in sequences]), torch.tensor(lengths) - 1
    width = max(map(len, tables))
    tables_Bn = torch.tensor([table + [0] * (width - len(table)) for table in tables], dtype=torch.int32)
    found = pages.decoder.step(last_B, positions_B, tables_Bn)
    for ids_T, logits_V in zip(sequences, found):
        assert far(logits_V, eager(model, ids_T)[-1]) < bound(model)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "8 bits", "4 bits"])
@pytest.mark.parametrize("family", ["qwen1", "qwen2", "qwen3"])
def test_the_bits_of_a_row_are_its_own(kind: str, family: str) -> None:
    """Not another piece, another row, another thread or another block changes a bit."""
    model, ids_T = make(family), random_ids(300)
    if kind[0] in "84":
        model = quantize(model, QuantConfig(int(kind[0]), 32), None)
    model = model.to(getattr(torch, kind, torch.bfloat16))
    alone = Pages(model).read(ids_T, [1] * 300)
    for threads in (1, 2, 5):
        pages = Pages(model, threads=threads)
        pages.read(random_ids(40, seed=9), [40])
        for pieces in ([300], [2] * 150, [3, 4, 5, 13, 256, 19]):
            assert torch.equal(pages.read(ids_T, pieces), alone)


def test_wanted_rows_and_states() -> None:
    model, ids_T = make("qwen2"), random_ids(300)
    whole = Pages(model).read(ids_T, [300])
    wanted = torch.tensor([299, 3, 280])
    assert torch.equal(Pages(model).read(ids_T, [300], wanted_W=wanted), whole[wanted])
    states = Pages(model).read(ids_T, [300], wanted_W=wanted, logits=False)
    with torch.no_grad():
        assert far(model.head(states), whole[wanted]) < bound(model) and states.dtype == torch.float32
        assert far(states, model.hidden(ids_T[None])[0, wanted]) < bound(model)


def test_embeddings_in_place_of_ids() -> None:
    model, ids_T = make("qwen2").bfloat16(), random_ids(20)
    table_1n, first = torch.tensor([[3, 9]]), torch.zeros(20)
    pages = Pages(model)
    wanted = pages.decoder.step(ids_T, torch.arange(20), table_1n, sequences_N=first)
    with torch.no_grad():
        embeds = model.embed(ids_T[None])[0]
    found = pages.decoder.step(ids_T * 0, torch.arange(20), table_1n, sequences_N=first, embeds_NC=embeds)
    assert torch.equal(found, wanted)


def test_a_nan_stays_with_its_sequence() -> None:
    model = make("qwen2")
    pages, tables = Pages(model), [[5], [6]]
    for table in tables:
        pages.read(random_ids(9), [9], table)
    row = dict(ids_N=torch.tensor([1, 1]), positions_N=torch.tensor([9, 9]), tables_Bn=torch.tensor(tables))
    before = pages.decoder.step(**row)
    pages.keys[1][0, 5 * 16 + 4, 0] = float("nan")
    after = pages.decoder.step(**row)
    assert after[0].isnan().all() and torch.equal(after[1], before[1])


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_weights_that_are_not_finite_show(bits: int) -> None:
    model = make("qwen3", tie_word_embeddings=False)
    model = quantize(model, QuantConfig(bits, 32), None) if bits else model
    pages = Pages(model)
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 3] = float("inf")
    logits = pages.read(torch.tensor([1, 7]), [2])
    assert logits[0].isfinite().all() and not logits[1].isfinite().any()


def test_new_weights_are_followed() -> None:
    model, ids_T = make("qwen2"), random_ids(10)
    pages = Pages(model)
    before = pages.read(ids_T, [10])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    pages.decoder.refresh()
    after = pages.read(ids_T, [10])
    assert far(after, eager(model, ids_T)) < bound(model) < far(after, before)
    model.config = replace(model.config, windows=(3, 3))
    pages.decoder.refresh()
    assert far(pages.read(ids_T, [10]), eager(model, ids_T)) < bound(model)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(ids_N=[96]), "an id is not in the vocabulary"),
        (dict(ids_N=[-1]), "an id is not in the vocabulary"),
        (dict(positions_N=[-1]), "a position has no block"),
        (dict(positions_N=[32]), "a position has no block"),
        (dict(tables_Bn=[[0, 128]]), "a block is not in the cache"),
        (dict(tables_Bn=[[-1, 1]]), "a block is not in the cache"),
        (dict(sequences_N=[1]), "a row has no block table"),
        (dict(wanted_W=[1]), "a wanted row is not there"),
    ],
)
def test_what_does_not_exist_is_named(given: dict[str, list[int]], message: str) -> None:
    plain = dict(ids_N=[0], positions_N=[20], tables_Bn=[[0, 1]])
    with pytest.raises(IndexError, match=f"^{message}$"):
        Pages(make()).decoder.step(**{name: torch.tensor(value) for name, value in {**plain, **given}.items()})


@pytest.mark.parametrize("wanted", [-1, 300])
def test_a_wanted_row_that_a_long_piece_lacks(wanted: int) -> None:
    with pytest.raises(IndexError, match=r"^a wanted row is not there$"):
        Pages(make()).read(random_ids(300), [300], wanted_W=torch.tensor([wanted]))


def test_models_that_do_not_fit_say_why() -> None:
    experts = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    mixed = quantize(make(), QuantConfig(4, 32), None)
    mixed.model.layers[0].self_attn.q_proj = make().model.layers[0].self_attn.q_proj
    reasons = {
        "it has experts": make(experts=experts),
        "its weights are float64": make().double(),
        "q_proj, k_proj, v_proj are not quantized alike": mixed,
        "weights of 4 bits in groups of 16": quantize(make(), QuantConfig(4, 16), None),
        "it is in training, with dropout": make(dropout=0.1).train(),
    }
    assert {text: NativeDecoder.reason_against(model) for text, model in reasons.items()} == {t: t for t in reasons}
    assert NativeDecoder.reason_against(make()) is None
    with pytest.raises(UserError) as error:
        NativeDecoder(make(experts=experts), [], [])
    assert str(error.value) == "the model cannot be computed by native code: it has experts"


def test_a_cache_of_another_shape_is_refused() -> None:
    cache = [torch.zeros(2, 32, 16), torch.zeros(2, 32, 16)]
    NativeDecoder(make(), cache, cache)
    with pytest.raises(UserError) as error:
        NativeDecoder(make(), cache, [torch.zeros(2, 32, 8)] * 2)
    assert str(error.value) == (
        "keys and values of shapes [[2, 32, 8], [2, 32, 16]] in 2 layers\n"
        "  expected: 2 layers of contiguous float32, bf16 or float16 tensors [2, slots, 16], slots a multiple of 16"
    )


FORKED = """
import os, torch
from tests.inference.native.conftest import Pages, make, random_ids
pages = Pages(make(), threads=2)
table, ids = pages.table(40), random_ids(40)
before = pages.read(ids, [40], table)
child = os.fork()
again = pages.read(ids, [40], table)
assert torch.equal(again, before)
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("both")
"""


def test_a_fork_has_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "both\n", done.stderr


def test_the_fastest_way_is_found() -> None:
    calls = {"native": lambda: None, "eager": lambda: sum(range(10**6))}
    assert fastest(calls, 2) == "native"
    assert set(choose_ways(Pages(make()).decoder)) <= {"native", "eager"}
    experts = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    assert isinstance(Engine(make(experts=experts), invariant=False).runner.forward, EagerForward)


@pytest.mark.parametrize("chosen", ["native", "eager"])
def test_a_trial_leaves_the_forms_that_are_read(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(ways: dict[str, Callable[[], object]]) -> str:
        return [call() for call in ways.values()] and chosen

    monkeypatch.setattr("qwenkit.inference.native.trial.fastest", tried)
    model = quantize(make().bfloat16(), QuantConfig(4, 32), None)
    ways = choose_ways(Pages(model, dtype=torch.bfloat16).decoder)
    made = [layer for layer in quantized_layers(model).values() if layer._kernel is not None]
    assert ways == (chosen, chosen) and bool(made) == (chosen == "eager")


def test_a_decoder_over_another_cache_reads_the_same_weights() -> None:
    model = quantize(make("qwen3"), QuantConfig(8, 32), None)
    pages, other = Pages(model), Pages(model)
    ids_T, wanted = random_ids(40), pages.read(random_ids(40), [40])
    table = other.table(40)
    other.decoder = pages.decoder.over(other.keys, other.values)
    assert [layer.q.data for layer in other.decoder._layers] == [layer.q.data for layer in pages.decoder._layers]
    assert torch.equal(other.read(ids_T, [7, 33], table), wanted)
    assert torch.equal(pages.read(ids_T, [40]), wanted)
    with pytest.raises(UserError, match=r"keys and values of shapes \[\[1, 16, 24\]\] in 1 layers"):
        pages.decoder.over([torch.zeros(1, 16, 24)], [torch.zeros(1, 16, 24)])


def test_without_a_compiler_torch_computes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise Unavailable("there is no C++ compiler (c++, g++ or clang++)")

    model, params = make("qwen2"), SamplingParams.plain(temperature=0, max_tokens=5, ignore_eos=True)
    wanted = Engine(model, None, native=False).generate([[1, 2, 3]], params)[0].ids
    monkeypatch.setattr("qwenkit.inference.native.decoder.library", missing)
    with pytest.warns(Notice, match="answers are computed by torch, which is slower: there is no C"):
        engine = Engine(model, None)
    assert engine.generate([[1, 2, 3]], params)[0].ids == wanted
    with pytest.raises(UserError, match="native = True: there is no C"):
        Engine(model, None, native=True)
