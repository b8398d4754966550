"""Steps of answers at a few sizes, recorded and replayed: the states and tokens of the eager pass.

On a CPU a recording is a tape of operations that runs again at the same addresses (`recording.py`): what a GPU would
refuse to record it refuses, too."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qwenkit.errors import Notice
from qwenkit.inference import Engine, PromptLookup, SamplingParams, forward_pass
from qwenkit.inference.adapters import EngineAdapter, LowRankChange
from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.eager_forward import EagerForward, StepTokens
from qwenkit.inference.forward_pass import make_forward
from qwenkit.inference.graphed_forward import (
    MAX_ROWS,
    Bucket,
    CudaRecorder,
    GraphedForward,
    reason_against,
)
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import ContextExtension, MoEConfig, Yarn

from .conftest import GREEDY, SHAPE, Bytes, make_prompts
from .recording import Reads, TapeRecorder

BASE = ModelConfig(**SHAPE)  # type: ignore[arg-type]
CONFIGS = {
    "plain": BASE,
    "windows": replace(BASE, windows=(8, None)),
    "extended": replace(BASE, extension=ContextExtension(seq_length=16, dynamic_ntk=True, logn=True)),
    "yarn": replace(BASE, yarn=Yarn(factor=4.0, original_max_position_embeddings=32)),
    "head norms": replace(BASE, qk_norm=True, qkv_bias=False, num_key_value_heads=4),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: what is captured was not run")


def make(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=0, std=0.3).eval()


class Texts:
    """Some texts that grow in a cache of their own, and who computes them."""

    def __init__(self, model: Transformer, lengths: list[int], kind: str = "auto", device: str = "cpu") -> None:
        draw, each = random.Random(3), 12
        self.cache = PagedCache(model.config, each * len(lengths), torch.float32, device, kind)
        blocks = draw.sample(range(1, each * len(lengths) + 1), each * len(lengths))
        self.tables = [blocks[row * each : (row + 1) * each] for row in range(len(lengths))]
        self.prompts, self.lengths = lengths, list(lengths)
        self.eager = EagerForward(model, self.cache)
        pieces = [Segment(table, 0, length, length) for table, length in zip(self.tables, lengths)]
        self.eager.states(StepTokens([draw.randrange(256) for n in lengths for _ in range(n)], (), pieces, [0]))

    def step(self, rows: list[int]) -> StepTokens:
        """One more token of these texts, each of them a function of row and place."""
        ids = [(31 * row + 7 * self.lengths[row]) % 256 for row in rows]
        answers = [Segment(self.tables[row], self.lengths[row], self.lengths[row] + 1, self.prompts[row])
                   for row in rows]  # fmt: skip
        for row in rows:
            self.lengths[row] += 1
        return StepTokens(ids, answers, (), list(range(len(rows))))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("kind", KV_CACHE_DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_full_buckets_have_the_bits_of_the_eager_pass(name: str, kind: str) -> None:
    """16 and 32 rows, which cross from spans of 64 to 128 while they grow: no filling up, so the products are equal,
    and the keys that a mask hides change no bit."""
    model, draw = make(CONFIGS[name]), random.Random(5)
    lengths = [draw.choice((1, 40, 59, 62, 63, 64, 100)) for _ in range(32)]
    lengths[0] = 62
    plain, graphed = Texts(model, lengths, kind), Texts(model, lengths, kind)
    recorder = TapeRecorder()
    forward = GraphedForward(model, graphed.cache, recorder)
    short = [row for row in range(32) if lengths[row] < 64][:16]
    for number in range(8):
        rows = short if number < 4 else list(range(32))
        wanted_WD = plain.eager.states(plain.step(rows))
        assert torch.equal(forward.states(graphed.step(rows)), wanted_WD)
    assert forward.buckets == [Bucket(16, 64), Bucket(16, 128), Bucket(32, 128)]
    assert (recorder.recorded, recorder.replays) == (3, 8)
    for ours, others in zip((*graphed.cache.keys, *graphed.cache.values), (*plain.cache.keys, *plain.cache.values)):
        for one, other in zip(ours.tensors, others.tensors):
            assert torch.equal(one[:, BLOCK:], other[:, BLOCK:])


@pytest.mark.parametrize("kind", ["auto", "int8_per_token_head"])
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_that_fill_up_change_nothing(name: str, kind: str) -> None:
    """Any rows of any lengths, wanted in any order. Products of other sizes sum in another order: 2 layers of at most
    80 summands of float32 stay within 1e-4 of states of size 1."""
    model, draw = make(CONFIGS[name]), random.Random(11)
    lengths = [draw.randrange(1, 140) for _ in range(13)]
    plain, graphed = Texts(model, lengths, kind), Texts(model, lengths, kind)
    forward = GraphedForward(model, graphed.cache, TapeRecorder())
    for count in (1, 2, 3, 5, 8, 9, 13, 13, 5, 1, 2, 13):
        rows = draw.sample(range(13), count)
        wanted = draw.sample(range(count), draw.randint(1, count))
        ours, others = graphed.step(rows)._replace(wanted=wanted), plain.step(rows)._replace(wanted=wanted)
        h_WD, wanted_WD = forward.states(ours), plain.eager.states(others)
        assert h_WD.shape == wanted_WD.shape
        torch.testing.assert_close(h_WD, wanted_WD, atol=1e-4, rtol=1e-4)
        assert torch.equal(forward.head(h_WD).argmax(-1), plain.eager.head(wanted_WD).argmax(-1))
    assert {bucket.rows for bucket in forward.buckets} == {1, 2, 4, 8, 16}


def test_a_bucket_is_the_smallest_that_holds_the_answers() -> None:
    counts = (1, 2, 3, 4, 5, 8, 9, 16, 17, 250)
    assert [Bucket.of([Segment([1], 0, 1, 1)] * count).rows for count in counts] == [1, 2, 4, 4, 8, 8, 16, 16, 24, 256]
    stops = (1, 64, 65, 128, 129, 4096, 4097)
    spans = [Bucket.of([Segment([1], 0, 1, 1), Segment([1], stop - 1, stop, 1)]).span for stop in stops]
    assert spans == [64, 64, 128, 128, 256, 4096, 8192]


@pytest.mark.parametrize("params", [GREEDY, replace(GREEDY, temperature=0.9), replace(GREEDY, top_k=5, temperature=1)])
def test_the_engine_gives_the_same_answers(model: Transformer, params: SamplingParams) -> None:
    """Prompts in pieces beside answers, spans that are crossed, answers that end at different times; the host reads
    each step at once."""
    prompts = make_prompts(9, longest=120)
    asked = [replace(params, max_tokens=5 + 7 * row, seed=row) for row in range(9)]
    wanted = Engine(model, Bytes(), native=False).generate(prompts, asked)
    engine, recorder = Engine(model, Bytes(), native=False, step_tokens=100), TapeRecorder()
    forward = engine.runner.forward = GraphedForward(model, engine.runner.cache, recorder)
    engine.runner.sampler.at_once = True
    found = engine.generate(prompts, asked)
    assert [output.ids for output in found] == [output.ids for output in wanted]
    for one, other in zip(found, wanted):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert recorder.recorded == len(forward.buckets) < recorder.replays


@pytest.mark.parametrize("graphed", [True, False])
@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        replace(GREEDY, logprobs=3),
        replace(GREEDY, temperature=0.9),
        replace(GREEDY, temperature=0.9, top_p=0.8, top_k=7, min_p=0.01),
        [GREEDY, replace(GREEDY, temperature=0.7, top_p=0.9), replace(GREEDY, temperature=0.7)],
    ],
)
def test_the_host_reads_a_step_once(
    model: Transformer, params: SamplingParams | list[SamplingParams], graphed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model, Bytes(), native=False)
    if graphed:
        engine.runner.forward = GraphedForward(model, engine.runner.cache, TapeRecorder())
    engine.runner.sampler.at_once = True
    for row, prompt in enumerate(make_prompts(3, longest=30)):
        engine.submit(prompt, params[row] if isinstance(params, list) else params)
    for _ in range(3):
        engine.step()
    with Reads(monkeypatch) as reads:
        deltas = engine.step()
    assert len(deltas) == 3 and reads.names == ["tolist"]
    engine.runner.sampler.at_once = False
    with Reads(monkeypatch) as reads:
        engine.step()
    assert len(reads.names) > 1


def test_guesses_are_rows_of_an_answer(model: Transformer) -> None:
    prompts = [[*range(20)] * 3, [5, 6, 7] * 10]
    wanted = Engine(model, Bytes(), native=False).generate(prompts, GREEDY)
    engine = Engine(model, Bytes(), native=False, invariant=False, speculation=PromptLookup())
    engine.runner.forward = GraphedForward(model, engine.runner.cache, TapeRecorder())
    assert [output.ids for output in engine.generate(prompts, GREEDY)] == [output.ids for output in wanted]


def test_what_is_no_step_of_answers_goes_through_torch_as_ever() -> None:
    model, recorder = make(BASE), TapeRecorder()
    texts = Texts(model, [3] * 5)
    forward = GraphedForward(model, texts.cache, recorder, max_rows=4)
    piece = Segment(texts.tables[4], 3, 5, 5)
    forward.states(StepTokens([1, 2], (), [piece], [0, 1]))
    tokens = texts.step([0])
    forward.states(StepTokens([*tokens.ids, 1, 2], tokens.answers, [piece], [0, 1]))
    forward.states(texts.step([0, 1, 2, 3, 4]))
    vectors = model.embed(torch.tensor([1]))
    forward.states(texts.step([0])._replace(embeds_ND=vectors))
    assert recorder.recorded == 0
    forward.states(texts.step([0, 1, 2, 3]))
    assert recorder.recorded == 1


def test_mostly_hidden_keys_are_read_in_groups() -> None:
    """One text of 4,000 tokens among 63 of 64: the bucket would read 64 times 4,096 keys, 32 times what is needed."""
    forward = GraphedForward(make(BASE), PagedCache(BASE, 1, torch.float32, "cpu"), TapeRecorder())
    long, short = Segment([1] * 250, 3999, 4000, 10), Segment([1] * 4, 63, 64, 10)
    assert forward._bucket(StepTokens([0] * 64, [long, *[short] * 63], (), [])) is None
    assert forward._bucket(StepTokens([0] * 64, [long] * 64, (), [])) == Bucket(64, 4096)
    assert forward._bucket(StepTokens([0] * 9, [long, *[short] * 8], (), [])) == Bucket(16, 4096)
    assert forward._bucket(StepTokens([0] * (MAX_ROWS + 1), [short] * (MAX_ROWS + 1), (), [])) is None


def test_a_model_on_a_gpu_is_recorded_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_pass, "CudaRecorder", lambda device: TapeRecorder())
    model, cache = make(BASE), PagedCache(BASE, 1, torch.float32, "cpu")
    assert type(make_forward(model, cache, native=False)) is EagerForward
    cache.device = torch.device("cuda")
    for native in (None, False):
        assert type(make_forward(model, cache, native)) is GraphedForward
        assert type(make_forward(model, cache, native, graphs=False)) is EagerForward
    experts = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    with pytest.warns(Notice) as notices:
        assert type(make_forward(make(replace(BASE, experts=experts)), cache, native=None)) is EagerForward
    wanted = "steps are computed without CUDA graphs: a router's choice of experts is read by the host"
    assert str(notices[0].message) == wanted


def test_the_buckets_that_were_used_last_are_kept() -> None:
    model, recorder = make(BASE), TapeRecorder()
    texts = Texts(model, [3] * 4)
    forward = GraphedForward(model, texts.cache, recorder, max_graphs=2)
    for count in (1, 2, 1, 3):
        forward.states(texts.step(list(range(count))))
    assert forward.buckets == [Bucket(1, 64), Bucket(4, 64)] and recorder.recorded == 3
    forward.states(texts.step([0, 1]))
    assert forward.buckets == [Bucket(4, 64), Bucket(2, 64)] and recorder.recorded == 4


def test_without_room_for_a_recording_the_same_is_computed_and_a_notice_says_so() -> None:
    model = make(BASE)
    plain, graphed = Texts(model, [62] * 16), Texts(model, [62] * 16)
    forward = GraphedForward(model, graphed.cache, recorder := TapeRecorder(fails=2))
    rows, found = list(range(16)), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            found.append((forward.states(graphed.step(rows)), plain.eager.states(plain.step(rows))))
        found.append((forward.states(graphed.step(rows[:8])), None))
    assert all(torch.equal(ours, other) for ours, other in found[:-1] if other is not None)
    assert [str(warning.message) for warning in caught if warning.category is Notice] == [
        "steps are computed without CUDA graphs from here on, which is slower: one of 16 rows and 128 keys could not "
        "be recorded (CUDA out of memory. Tried to allocate 2 GiB.)"
    ]
    assert recorder.recorded == 2 and len(forward.buckets) == 3


def test_an_operation_that_asks_the_host_is_not_recorded() -> None:
    """A mixture of experts looks which of them were chosen: such models are not recorded at all, and one that is all
    the same is computed without."""
    config = replace(BASE, experts=MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16))
    model = make(config)
    assert reason_against(model) == "a router's choice of experts is read by the host"
    assert reason_against(make(BASE)) is None
    plain, graphed = Texts(model, [62] * 16), Texts(model, [62] * 16)
    forward = GraphedForward(model, graphed.cache, TapeRecorder())
    with pytest.warns(Notice, match=r"could not be recorded \(\w+ is not permitted when a stream is captured\)"):
        ours = forward.states(graphed.step(list(range(16))))
    assert torch.equal(ours, plain.eager.states(plain.step(list(range(16)))))


def test_new_weights_in_place_are_seen_and_moved_ones_are_recorded_anew() -> None:
    model = make(BASE)
    plain, graphed = Texts(model, [20] * 16), Texts(model, [20] * 16)
    forward = GraphedForward(model, graphed.cache, recorder := TapeRecorder())
    rows = list(range(16))

    def equal() -> bool:
        return torch.equal(forward.states(graphed.step(rows)), plain.eager.states(plain.step(rows)))

    weight = model.model.layers[0].mlp.gate_proj.weight
    assert equal()
    weight.mul_(2)
    forward.refresh()
    assert equal() and recorder.recorded == 1
    weight.data = weight.data.clone() * 2
    forward.follow()
    assert equal() and recorder.recorded == 2
    layer = model.model.layers[1].mlp
    layer.up_proj.weight = nn.Parameter(layer.up_proj.weight.detach() * 2)  # another tensor, or another part
    forward.follow()
    assert equal() and recorder.recorded == 3 and len(forward.buckets) == 1
    model.model.layers[0].mlp = layer
    forward.follow()
    assert equal() and recorder.recorded == 4 and len(forward.buckets) == 1


def test_hooks_are_obeyed_though_a_recording_knows_nothing_of_python() -> None:
    model, calls = make(BASE), list[int]()
    plain, graphed = Texts(model, [20] * 16), Texts(model, [20] * 16)
    forward = GraphedForward(model, graphed.cache, recorder := TapeRecorder())
    rows = list(range(16))
    forward.states(graphed.step(rows))
    plain.eager.states(plain.step(rows))
    hook = model.model.layers[1].register_forward_hook(lambda *given: calls.append(1) or given[-1] + 1)
    with pytest.warns(Notice) as told:
        for _ in range(2):
            forward.follow()
            assert torch.equal(forward.states(graphed.step(rows)), plain.eager.states(plain.step(rows)))
    assert len(calls) == 4 and recorder.replays == 1
    assert [str(one.message) for one in told] == ["steps are computed without CUDA graphs: model.layers.1 has a hook"]
    hook.remove()
    forward.follow()
    assert torch.equal(forward.states(graphed.step(rows)), plain.eager.states(plain.step(rows)))
    assert (recorder.recorded, recorder.replays) == (1, 2)


def test_rows_that_fill_up_spread_no_nan() -> None:
    """The token that fills up has a vector of NaN, and block 0 holds NaN after it; nobody else reads that."""
    model = make(BASE)
    plain, graphed = Texts(model, [30, 70, 5]), Texts(model, [30, 70, 5])
    model.model.embed_tokens.weight[0] = float("nan")
    forward = GraphedForward(model, graphed.cache, TapeRecorder())
    for _ in range(2):
        h_WD = forward.states(graphed.step([0, 1, 2]))
        torch.testing.assert_close(h_WD, plain.eager.states(plain.step([0, 1, 2])), atol=1e-4, rtol=1e-4)
    assert graphed.cache.keys[1].tensors[0][:, 0].isnan().any()
    h_WD = graphed.eager.states(graphed.step([0, 1, 2]))
    assert h_WD.isfinite().all()


@needs_cuda
@pytest.mark.parametrize("kind", KV_CACHE_DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_captured_step_is_the_eager_one_on_a_gpu(name: str, kind: str) -> None:
    """Within the rounding of float32 products, of which kernels of other sizes sum in another order; the first Qwen's
    8 bits are truncated, so that a last bit may move a value by a step of its range."""
    model = make(CONFIGS[name]).to("cuda")
    lengths = [random.Random(1).randrange(1, 140) for _ in range(16)]
    plain, graphed = Texts(model, lengths, kind, "cuda"), Texts(model, lengths, kind, "cuda")
    forward = GraphedForward(model, graphed.cache, CudaRecorder(graphed.cache.device))
    for count in (16, 16, 5, 1, 1, 13):
        h_WD = forward.states(graphed.step(list(range(count))))
        wanted_WD = plain.eager.states(plain.step(list(range(count))))
        tolerance = 0.1 if kind == "int8" else 1e-3
        torch.testing.assert_close(h_WD, wanted_WD, atol=tolerance, rtol=tolerance)
    assert forward.recorder is not None


@needs_cuda
def test_the_engine_waits_for_a_gpu_once_a_step() -> None:
    """torch raises at whatever else makes the host wait."""
    model = make(BASE).to("cuda")
    for params in (GREEDY, replace(GREEDY, temperature=0.9, top_p=0.8)):
        engine = Engine(model, Bytes())
        handles = [engine.submit(prompt, params) for prompt in make_prompts(4, longest=30)]
        for _ in range(4):
            engine.step()
        sampler, read = engine.runner.sampler, Tensor.tolist

        def tolist(tensor: Tensor, read: object = read) -> object:
            torch.cuda.set_sync_debug_mode("default")
            try:
                return read(tensor)  # type: ignore[operator]
            finally:
                torch.cuda.set_sync_debug_mode("error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "tolist", tolist)
            torch.cuda.set_sync_debug_mode("error")
            try:
                engine.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert sampler.at_once is None and len(handles) == 4


def test_steps_with_adapters_are_not_recorded() -> None:
    model = make(BASE)
    texts = Texts(model, [5, 9])
    graphed = GraphedForward(model, texts.cache, TapeRecorder())
    change = LowRankChange(torch.ones(1, BASE.intermediate_size), torch.ones(BASE.hidden_size, 1), 0.1)
    adapter = EngineAdapter("a", Path(), "", 1, {"model.layers.0.mlp.down_proj": change})
    tokens = texts.step([0, 1])
    mixed = tokens._replace(answers=[tokens.answers[0]._replace(adapter=adapter), tokens.answers[1]])
    found, bare = graphed.states(mixed), texts.eager.states(tokens)
    assert not graphed.buckets and torch.equal(found, texts.eager.states(mixed))
    assert torch.equal(found[1], bare[1]) and not torch.allclose(found[0], bare[0])
