"""The scheduler alone: no model, no cache, random arrivals, lengths, aborts and budgets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.inference import SamplingParams
from qwenkit.inference.scheduler import Batch, Scheduler
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.prompt import Prompt


def make_sequence(prompt_length: int, max_new_tokens: int, kind: Callable[..., Sequence] = Sequence) -> Sequence:
    prompt = Prompt(tuple(range(prompt_length)))
    request = Request(0, "prompt 0", prompt, SamplingParams.plain(), max_new_tokens, frozenset())
    return kind(request, 0, None, None)


def run(batch: Batch) -> None:
    """What whoever computes a batch does to its sequences."""
    for sequence, _, stop in batch.prefill:
        if stop == sequence.length:
            sequence.append(7, 0.0)
        sequence.num_computed = stop
    for sequence in batch.decode:
        sequence.append(7, 0.0)
        sequence.num_computed += 1


ARRIVALS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(ARRIVALS, st.integers(1, 6), st.one_of(st.none(), st.integers(1, 50)), st.sets(st.integers(0, 24)))
def test_random_arrivals(
    arrivals: list[tuple[int, int, int]], max_batch: int, budget: int | None, aborted: set[int]
) -> None:
    """Everything that is not aborted ends, in pieces without a gap, inside the budget, and enters in its order."""
    scheduler, sequences, entered = Scheduler(max_batch), [], []
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
    steps = 0
    while len(sequences) < len(arrivals) or scheduler.has_work:
        while len(sequences) < len(arrivals) and arrivals[len(sequences)][0] <= steps:
            sequences.append(make_sequence(*arrivals[len(sequences)][1:]))
            scheduler.add(sequences[-1:])
        for number in aborted:
            if number < len(sequences) and steps % 3 == 2:
                sequences[number].finish_reason = sequences[number].finish_reason or "abort"
        scheduler.remove_finished()
        batch = scheduler.schedule(budget)
        assert scheduler.schedule(budget) == batch, "asked again, it says the same"
        assert len(scheduler.running) <= max_batch
        assert len(scheduler.running) == max_batch or not any(s.status == "waiting" for s in scheduler.waiting)
        pieces = [piece[0] for piece in batch.prefill]
        assert len({*pieces, *batch.decode}) == len(pieces) + len(batch.decode), "a sequence is read once in a step"
        for sequence, start, stop in batch.prefill:
            assert start == sequence.num_computed < stop <= sequence.length
        assert all(sequence.num_computed == sequence.length - 1 for sequence in batch.decode)
        if budget is None:
            assert not (batch.prefill and batch.decode)
            assert all((start, stop) == (0, sequence.length) for sequence, start, stop in batch.prefill)
        else:
            assert sum(stop - start for _, start, stop in batch.prefill) + len(batch.decode) <= budget
        assert bool(batch.prefill or batch.decode) == bool(scheduler.running), "no step goes by without work"
        entered += [s for s in scheduler.running if s not in entered]
        run(batch)
        scheduler.remove_finished()
        steps += 1
        assert steps < 2000
    for sequence in sequences:
        assert sequence.status == "finished"
        if sequence.finish_reason == "length":
            assert len(sequence.ids) == sequence.request.max_new_tokens
            assert sequence.num_computed == sequence.length - 1
    assert entered == [s for s in sequences if s in entered], "first come, first served"
    assert {s for s in sequences if s.finish_reason == "length"} <= set(entered)


def test_whole_prompts_come_before_the_next_tokens() -> None:
    scheduler, first, second = Scheduler(4), make_sequence(9, 3), make_sequence(5, 3)
    scheduler.add([first])
    assert scheduler.schedule() == Batch([(first, 0, 9)], [])
    run(scheduler.schedule())
    scheduler.add([second])
    assert scheduler.schedule() == Batch([(second, 0, 5)], [])
    run(scheduler.schedule())
    assert scheduler.schedule() == Batch([], [first, second])


def test_a_budget_mixes_next_tokens_and_pieces_of_prompts() -> None:
    scheduler, first, second, third = Scheduler(4), make_sequence(2, 3), make_sequence(9, 3), make_sequence(4, 3)
    scheduler.add([first, second, third])
    run(scheduler.schedule(2))
    assert scheduler.schedule(7) == Batch([(second, 0, 6)], [first])
    run(scheduler.schedule(7))
    assert scheduler.schedule(7) == Batch([(second, 6, 9), (third, 0, 3)], [first])


@pytest.mark.parametrize("budget", [1, 2, 3, 4])
def test_answers_take_turns_where_the_budget_has_no_room_for_all(budget: int) -> None:
    """None is more than one token ahead of another that runs, also where steps are interrupted or asked for twice."""
    scheduler, sequences = Scheduler(8), [make_sequence(2, 12) for _ in range(5)]
    scheduler.add(sequences)
    run(scheduler.schedule())
    while scheduler.has_work:
        batch = scheduler.schedule(budget)
        assert scheduler.schedule(budget) == batch
        run(batch)
        counts = [len(sequence.ids) for sequence in sequences]
        assert max(counts) - min(counts) <= 1
        scheduler.remove_finished()
    assert [len(sequence.ids) for sequence in sequences] == [12] * 5


def test_what_was_taken_out_of_the_cache_is_read_again() -> None:
    """The prompt and the answer so far: nothing that was sampled is sampled anew."""
    scheduler, sequence = Scheduler(1), make_sequence(4, 5)
    scheduler.add([sequence])
    run(scheduler.schedule())
    run(scheduler.schedule())
    sequence.num_computed = 0
    assert scheduler.schedule() == Batch([(sequence, 0, 6)], [])
    assert sequence.tokens(0, 6) == (0, 1, 2, 3, 7, 7) and sequence.tokens(3, 5) == (3, 7)


def test_status() -> None:
    scheduler, first, second = Scheduler(1), make_sequence(1, 1), make_sequence(1, 1)
    scheduler.add([first, second])
    assert (first.status, second.status) == ("waiting", "waiting")
    batch = scheduler.schedule()
    assert (first.status, second.status) == ("running", "waiting")
    run(batch)
    assert (first.status, second.status) == ("finished", "waiting")
    second.finish_reason = "abort"
    scheduler.remove_finished()
    assert scheduler.schedule() == Batch([], []) and not scheduler.has_work


def test_a_step_does_not_look_at_all_that_wait() -> None:
    looked = 0

    class Counting(Sequence):
        @property
        def status(self):  # type: ignore[no-untyped-def]
            nonlocal looked
            looked += 1
            return super().status

    scheduler = Scheduler(4)
    scheduler.add(make_sequence(3, 50, Counting) for _ in range(5000))
    for _ in range(20):
        run(scheduler.schedule())
        scheduler.remove_finished()
    assert looked < 20 * 4 * 10


@pytest.mark.parametrize("at", range(4))
def test_an_interrupt_while_sequences_enter_loses_nobody(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Wherever `started` is set the first time, and right after the batch was replaced."""
    scheduler, calls = Scheduler(3), 0
    sequences = [make_sequence(2, 2) for _ in range(5)]

    def interrupted(self: Sequence, value: bool) -> None:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise KeyboardInterrupt
        self.__dict__["started"] = value

    monkeypatch.setattr(Sequence, "started", property(lambda self: self.__dict__.get("started", False), interrupted))
    scheduler.add(sequences)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(9):
            run(scheduler.schedule())
            scheduler.remove_finished()
    while scheduler.has_work:
        run(scheduler.schedule())
        assert len(set(scheduler.running)) == len(scheduler.running) <= 3
        scheduler.remove_finished()
    assert [len(sequence.ids) for sequence in sequences] == [2] * 5
