"""Ctrl-C between any two lines: an answer is not left half written, no delta is lost, no request is forgotten."""

from __future__ import annotations

import itertools
import linecache
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import qwenkit.inference
from qwenkit.inference import Delta, Engine, SamplingParams
from qwenkit.inference.requests import RequestFactory
from qwenkit.inference.sequence import Delivered, Sequence
from qwenkit.model import Transformer

from .conftest import GREEDY, Bytes, completed, make_prompts
from .test_grammar import END, ENOUGH, MODEL, THINK, THINKING

FOLDER = Path(qwenkit.inference.__file__).parent
ANSWER = ("sequence", "detokenizer", "stopping", "token_counts", "thinking", "grammar")
STEP = (*ANSWER, "pending", "stepper", "scheduler", "block_pool", "sampler", "model_runner")
HANDED_OUT = "return deltas"
"""The one line before which Python looks for no signal: nothing is called between the assignment above it and this."""


def interrupted(at: int, names: tuple[str, ...], work: Callable[[], object]) -> bool:
    """Do something that is interrupted before its line number `at` in these files; return whether it came to that."""
    files, left = {str(FOLDER / f"{name}.py") for name in names}, at

    def tracer(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != HANDED_OUT:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


RICH = SamplingParams.plain(max_tokens=8, logprobs=3, repetition_penalty=1.2, stop=["never", "cc"],
                            stop_token_ids=[END], regex="[a-c]{4,90}", thinking_budget=3)  # fmt: skip
A, B, C = b"abc"
WRITTEN = {
    "the end of a thought": [THINK, A, A, A, ENOUGH],
    "a stop string": [A, B, C, C],
    "a stop token": [A, B, A, B, END],
    "the longest answer": [A, B, A, B, A, B, A, B],
    "half a character": [THINK, A, 0xE3],
}


FACTORY = RequestFactory(MODEL, THINKING, None, seed=0)


def new_sequence() -> Sequence:
    return FACTORY.make_request([65], FACTORY.effective_params(RICH), 0, "prompt 0", with_text=True).sequences[0]


def grow(sequence: Sequence, ids: list[int]) -> None:
    for id in ids[len(sequence.ids) :]:
        sequence.append(id, -id / 7, ((id, -id / 7), (1, -9.0), (2, -9.5)))


def state(sequence: Sequence) -> object:
    """All that an answer consists of."""
    counts, thought, grammar, detokenizer = (
        sequence.token_counts, sequence.thought, sequence.grammar, sequence.detokenizer
    )  # fmt: skip
    assert counts is not None and thought is not None and grammar is not None and detokenizer is not None
    return (
        sequence.ids, sequence.logprobs, sequence.top_logprobs, sequence.finish_reason, sequence.torn,
        [tensor.tolist() for tensor in counts.tensors(torch.device("cpu"))],
        (thought.state, thought.length, thought.next_id),
        None if sequence.finish_reason else (grammar.allowed().tolist(), grammar.may_end), grammar.is_complete,
        detokenizer.text, detokenizer.settled, detokenizer.ended, sequence.delta(Delivered(1, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_an_interrupt_at_any_line_leaves_a_token_with_all_that_belongs_to_it_or_none(name: str) -> None:
    ids, whole = WRITTEN[name], new_sequence()
    grow(whole, ids)
    wanted, both = state(whole), set()
    for at in itertools.count(1):
        sequence = new_sequence()
        grow(sequence, ids[:-1])
        if not interrupted(at, ANSWER, partial(grow, sequence, ids)):
            break
        interrupted(at, ANSWER, sequence.recover)  # once more while it is mended
        sequence.recover()
        both.add(len(sequence.ids) - len(ids))
        grow(sequence, ids)
        assert state(sequence) == wanted, at
    assert both == {-1, 0} and at > 20


def ask(engine: Engine) -> dict[int, int]:
    """Requests of several kinds; the number of each by its handle."""
    several = [GREEDY, replace(GREEDY, n=3, temperature=1.0, seed=4), replace(GREEDY, presence_penalty=1.0),
               replace(GREEDY, stop=["a", "b"], logprobs=2), replace(GREEDY, max_tokens=0)]  # fmt: skip
    prompts = make_prompts(len(several), seed=3, longest=60)
    return {engine.submit(prompt, params, rng_id=5): i for i, (prompt, params) in enumerate(zip(prompts, several))}


def answers(engine: Engine, step: Callable[[], list[Delta]]) -> list[Any]:
    """What the deltas of all requests add up to, and the outputs, which must be the same."""
    handles, deltas = ask(engine), list[Delta]()
    while engine.has_work:
        deltas += step()
    outputs = {delta.handle: delta.output for delta in deltas if delta.output is not None}
    assert len(outputs) == len(handles) == len([delta for delta in deltas if delta.output or delta.error])
    for handle, output in outputs.items():
        assert output is not None
        for number, sample in enumerate(output.samples):
            own = [delta for delta in deltas if (delta.handle, delta.sample) == (handle, number)]
            assert [id for delta in own for id in delta.ids] == sample.ids
            assert "".join(delta.text or "" for delta in own) == sample.text
            assert [x for delta in own for x in delta.logprobs or ()] == sample.logprobs
    return [outputs[handle].samples for handle in sorted(handles)]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(2))
def test_interrupts_anywhere_in_a_step_lose_no_delta(model: Transformer, seed: int) -> None:
    draw = random.Random(seed)
    arguments: dict[str, Any] = dict(max_batch=3, kv_tokens=160, step_tokens=32, invariant=bool(seed % 2), native=False)
    wanted = answers(whole := Engine(model, Bytes(), **arguments), whole.step)
    engine, count = Engine(model, Bytes(), **arguments), 0

    def step() -> list[Delta]:
        nonlocal count
        out: list[Delta] = []
        hit = interrupted(draw.randrange(1, 3000), STEP, lambda: out.extend(engine.step()))
        count += hit
        return out

    got = answers(engine, step)
    if engine._stepper.invariant:
        assert got == wanted
    assert [[sample.ids for sample in samples] for samples in got] == [
        [sample.ids for sample in samples] for samples in wanted
    ]
    assert count > 5
    assert engine.scheduler.pool.num_used == 0 and not engine._requests._requests and not engine._requests._delivered
    engine.update_weights()


def _take_deltas(engine: Engine, out: list[Delta]) -> None:
    out += engine._requests.take_deltas(engine.scheduler.running)


def test_an_interrupt_at_any_line_where_deltas_are_taken_loses_none(model: Transformer) -> None:
    wanted = answers(whole := Engine(model, Bytes()), whole.step)
    engine, lines = Engine(model, Bytes()), itertools.count(1)

    def step() -> list[Delta]:
        engine._step()
        out: list[Delta] = []
        for at in itertools.chain(lines, itertools.count(10**9)):
            if not interrupted(at, ("pending", *ANSWER), partial(_take_deltas, engine, out)):
                return out
        raise AssertionError

    assert answers(engine, step) == wanted and next(lines) > 50


SHORT = replace(GREEDY, max_tokens=3)
NAMES = ("engine", "pending", "scheduler", "sequence", "one_thread")


def test_a_request_is_queued_whole_or_not_at_all(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    wanted = engine.generate([[5, 6]], SHORT)[0].ids
    for at in itertools.count(1):
        other = engine.submit([5, 6], SHORT)
        request = engine.prepare([7, 8], replace(GREEDY, n=3))
        if not interrupted(at, NAMES, partial(engine.enqueue, request)):
            break
        done: dict[int, list[int]] = {}
        while engine.has_work:
            done.update(completed(engine.step()))
        assert done == {other: wanted}, at
        engine.update_weights()  # which nothing may be pending for
        assert engine.scheduler.pool.num_used == 0
    assert at > 15 and request.handle >= 0


def test_an_abort_that_was_interrupted_can_be_done_again(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    for at in itertools.count(1):
        handle = engine.submit([7, 8], replace(GREEDY, n=3))
        engine.step()
        hit = interrupted(at, NAMES, partial(engine.abort, handle))
        engine.abort(handle)
        assert engine.step() == [] and not engine.has_work and engine.scheduler.pool.num_used == 0
        engine.update_weights()
        if not hit:
            break
    assert at > 6
