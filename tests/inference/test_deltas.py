"""Submitted requests in deltas: whatever else happens, each request's add up to what it would have got alone."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.inference import Conversation, Delta, Engine, Output, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.platform import torch_threads
from qwenkit.prompt import Prompt

from .conftest import GREEDY, SHAPE, Bytes, alone, full_forward

MODEL = init_weights(Transformer(ModelConfig(**SHAPE)), seed=0, std=0.3).eval()  # type: ignore[arg-type]
WARM = SamplingParams.plain(max_tokens=14, temperature=1.5, seed=3, ignore_eos=True)
ASKED: list[tuple[Any, SamplingParams]] = [
    ("你好 hello", WARM),
    ([5, 6, 7], replace(WARM, n=3, max_tokens=6)),
    ("once", replace(WARM, stop=["a", "\ufffd\ufffd"], max_tokens=20)),
    ("once", replace(WARM, stop=[*"0123456789", "ab"], include_stop_str_in_output=True, n=2, max_tokens=15)),
    (Prompt((9, 8)), replace(WARM, max_tokens=0)),
    (
        Conversation([{"role": "user", "content": "hi"}]),
        SamplingParams.plain(max_tokens=12, temperature=2.0, n=2, logit_bias={257: 14.0}),
    ),
    ([1] * 60, replace(WARM, logprobs=False, max_tokens=3)),
    ("stop", replace(WARM, stop_words_ids=[[id] for id in range(32, 52)], max_tokens=25)),
]


with torch_threads(1):
    ALONE = [alone(MODEL, number, *ASKED[number]) for number in range(len(ASKED))]


def test_answers_of_every_end_are_among_them() -> None:
    ends = [sample.finish_reason for output in ALONE for sample in output.samples]
    assert ends.count("stop") >= 4 and ends.count("length") >= 4


def check_adds_up(deltas: list[Delta], output: Output) -> None:
    """Each sample's deltas are the sample: ids, text, log-probabilities, one end."""
    for number, sample in enumerate(output.samples):
        own = [delta for delta in deltas if delta.sample == number]
        assert [id for delta in own for id in delta.ids] == sample.ids
        assert "".join(delta.text or "" for delta in own) == sample.text
        logprobs = [x for delta in own for x in delta.logprobs or ()]
        assert (logprobs if sample.logprobs is not None else None) == sample.logprobs
        assert sample.logprobs is not None or all(delta.logprobs is None for delta in own)
        assert [delta.finish_reason for delta in own] == [*[None] * (len(own) - 1), sample.finish_reason]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, len(ASKED) - 1)),
        st.tuples(st.sampled_from(["step", "abort", "generate", "stream"]), st.integers(0, 5)),
    ),
    min_size=3, max_size=16,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(ACTIONS, st.sampled_from([1, 3, 64]))
def test_deltas_add_up_to_the_output(actions: list[tuple[str, int]], max_batch: int) -> None:
    """With requests that come, go and are aborted, and with other calls that step in between."""
    engine = Engine(MODEL, Bytes(), max_batch=max_batch)
    asked: dict[int, int] = {}
    aborted: set[int] = set()
    deltas: dict[int, list[Delta]] = defaultdict(list)

    def step() -> None:
        for delta in engine.step():
            assert delta.handle in asked and delta.handle not in aborted
            assert not deltas[delta.handle] or deltas[delta.handle][-1].output is None, "the output is the last"
            deltas[delta.handle].append(delta)

    for action, number in actions:
        if action == "submit":
            asked[engine.submit(*ASKED[number], rng_id=number)] = number
        elif action == "step":
            step()
        elif action == "generate":
            assert engine.generate([ASKED[0][0]], WARM, rng_ids=[0])[0].samples == ALONE[0].samples
        elif action == "stream":
            next(engine.stream("once", WARM))
        elif asked:
            handle = sorted(asked)[number % len(asked)]
            engine.abort(handle)
            if not deltas[handle] or deltas[handle][-1].output is None:
                aborted.add(handle)
    while engine.has_work:
        step()
    assert engine.step() == []
    for handle, number in asked.items():
        if handle not in aborted:
            last = deltas[handle][-1]
            assert last.output is not None and last.output.request == handle and last.error is None
            assert last.output.samples == ALONE[number].samples
            assert last.output.prompt_ids == ALONE[number].prompt_ids
            check_adds_up(deltas[handle], last.output)


def test_a_delta_is_never_half_a_character_and_never_a_part_of_a_stop_string() -> None:
    """Bytes of two characters of three bytes, then the stop string letter by letter."""
    spoken = [*"一二".encode(), *b"ab", *b"STOP"]
    engine = Engine(MODEL, Bytes())
    params = SamplingParams.plain(temperature=0, max_tokens=20, stop=["STOP"], ignore_eos=True)
    handle = engine.submit([65], params)
    (sequence,) = engine._requests.get(handle).sequences  # type: ignore[union-attr]
    texts = []
    for id in spoken:  # every step's token is dictated by a bias that holds for it alone
        sequence.request.params = replace(params, logit_bias={id: 100.0})
        (delta,) = engine.step()
        assert delta.ids == [id]
        texts.append(delta.text)
    assert texts == [*[""] * 7, "一", "二", "a", "b", ""], "three characters are held back"
    assert delta.output is not None and (delta.output.text, delta.finish_reason) == ("一二ab", "stop")


def test_every_running_answer_has_a_delta_a_step() -> None:
    engine = Engine(MODEL, Bytes(), max_batch=2)
    handles = [engine.submit([5, n], GREEDY) for n in range(3)]
    for _ in range(19):
        assert [(delta.handle, len(delta.ids)) for delta in engine.step()] == [(handles[0], 1), (handles[1], 1)]
    assert [delta.output is not None for delta in engine.step()] == [True, True]
    assert [delta.handle for delta in engine.step()] == [handles[2]]


def test_without_a_tokenizer_there_is_no_text() -> None:
    engine = Engine(MODEL, None)
    engine.submit([1, 2, 3], GREEDY)
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    assert {delta.text for delta in deltas} == {None}
    assert [id for delta in deltas for id in delta.ids] == full_forward(MODEL, [1, 2, 3], 20)


def test_has_work() -> None:
    engine = Engine(MODEL, Bytes())
    assert not engine.has_work and engine.step() == []
    engine.submit("a", replace(GREEDY, max_tokens=0))
    assert engine.has_work, "an answer of no token waits to be handed out"
    (delta,) = engine.step()
    assert (delta.ids, delta.text, delta.finish_reason) == ([], "", "length") and delta.output is not None
    assert not engine.has_work
    handle = engine.submit("a", GREEDY)
    engine.generate(["b"], GREEDY)  # completes both
    assert engine.has_work and engine.step()[-1].handle == handle and not engine.has_work
    stream = engine.stream("a", GREEDY)
    text = next(stream)
    assert engine.has_work, "a step would help the stream on"
    while engine.has_work:
        assert engine.step() == []
    assert text + "".join(stream) == "".join(Engine(MODEL, Bytes()).stream("a", GREEDY))


class Rendering(Bytes):
    """A chat template with tools in front, and a variable."""

    def render(self, messages: Any, tools: Any = None, add_generation_prompt: bool = False, **options: Any) -> Any:
        texts = [*(tool["name"] for tool in tools or ()), *(options.get("template_kwargs") or {}).values()]
        return super().render(messages, texts, add_generation_prompt)


def test_each_conversation_has_its_own_tools_and_variables() -> None:
    engine, chat = Engine(MODEL, Rendering()), [{"role": "user", "content": "hi"}]
    tools, variables = [{"name": "clock"}], {"mood": "calm"}
    asked = [Conversation(chat), Conversation(chat, tools), Conversation(chat, tools, template_kwargs=variables)]
    handles = [engine.submit(conversation, replace(GREEDY, max_tokens=2)) for conversation in asked]
    deltas = [delta for _ in range(2) for delta in engine.step()]
    outputs = {delta.handle: delta.output for delta in deltas if delta.output is not None}
    assert [bytes(id % 256 for id in outputs[handle].prompt_ids).decode(errors="replace") for handle in handles] == [
        "hi\x01", "clock\x01hi\x01", "clock\x01calm\x01hi\x01"
    ]  # fmt: skip
    with pytest.raises(UserError) as caught:
        engine.submit(Conversation("hi"), GREEDY)  # type: ignore[arg-type]
    assert str(caught.value) == "request 3 = 'hi'\n  expected: a list of messages\n  hint: chat([messages])"


def test_a_fault_ends_its_request_and_nobody_else_hears_of_it() -> None:
    broken = Transformer(MODEL.config).eval()
    broken.load_state_dict(MODEL.state_dict())
    with torch.no_grad():
        broken.model.embed_tokens.weight[260] = float("nan")
    engine = Engine(broken, Bytes())
    good, bad = engine.submit([1, 2, 3], GREEDY), engine.submit([4, 260], replace(GREEDY, n=2))
    first = engine.step()
    assert [(delta.handle, delta.finish_reason) for delta in first] == [(good, None)] + [(bad, "not finite")] * 2
    assert first[1].error is None and first[2].output is None
    assert str(first[2].error) == (
        "request 1, sample 0, position 2: the model's logits are NaN or infinite\n"
        "  hint: look for such numbers in its weights, or compute in float32"
    )
    rest = []
    while engine.has_work:
        rest += engine.step()
    assert {delta.handle for delta in rest} == {good}
    wanted = Engine(MODEL, Bytes()).generate([[1, 2, 3]], GREEDY)[0].ids
    assert [id for delta in [first[0], *rest] for id in delta.ids] == wanted


def test_a_fault_in_the_middle_keeps_what_was_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample that has no next token is named; the others of its request end without a word."""
    engine, calls = Engine(MODEL, None), 0
    head = engine.runner.forward.head

    def head_with_a_hole(h_ND: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits = head(h_ND)
        if calls == 3:
            logits[1, 77] = float("nan")
        return logits

    monkeypatch.setattr(engine.runner.forward, "head", head_with_a_hole)
    handle = engine.submit([1, 2, 3], replace(WARM, n=3))
    deltas = [engine.step() for _ in range(3)]
    assert [[len(delta.ids) for delta in some] for some in deltas] == [[1, 1, 1], [1, 1, 1], [0]]
    (fault,) = deltas[2]
    assert (fault.handle, fault.sample, fault.finish_reason) == (handle, 1, "not finite") and fault.error is not None
    assert not engine.scheduler.running and engine.step() == []


def test_nothing_is_kept_of_a_request_that_is_done() -> None:
    """Completed, aborted while it waits and while it runs, left by its stream, faulty, never asked for again."""
    engine = Engine(MODEL, Bytes(), max_batch=2)
    done = engine.submit("one", GREEDY)
    gone = weakref.WeakSet([engine._requests.get(done)])
    while engine.has_work:
        engine.step()
    for when in range(3):
        handles = [engine.submit("two", GREEDY) for _ in range(3)]
        gone.update(engine._requests.get(handle) for handle in handles)
        for _ in range(when):
            engine.step()
        for handle in handles:
            engine.abort(handle)
    stream = engine.stream("three", GREEDY)
    next(stream)
    gone.update(sequence.request for sequence in engine.scheduler.running)
    del stream
    taken = engine.submit("four", GREEDY)
    gone.add(engine._requests.get(taken))
    engine.generate(["five"] * 3, GREEDY)
    engine.abort(taken)  # complete, never handed out
    assert not engine._requests.have_deltas
    engine.step()
    gc.collect()
    assert list(gone) == [] and engine.stats().kv_tokens_used == 0
