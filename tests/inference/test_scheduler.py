"""The scheduler alone: no model, no cache, random arrivals, lengths, aborts, budgets and numbers of blocks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.inference import SamplingParams
from qwenkit.inference.block_pool import BLOCK, BlockPool
from qwenkit.inference.scheduler import Batch, Scheduler
from qwenkit.inference.sequence import FinishReason, Request, Sequence
from qwenkit.prompt import Prompt

PLENTY = 1000


def make_sequence(
    prompt_length: int,
    max_new_tokens: int,
    kind: Callable[..., Sequence] = Sequence,
    ids: tuple[int, ...] | None = None,
    priority: int = 0,
) -> Sequence:
    """A sequence that finds nothing of another one, unless its ids are given."""
    prompt = Prompt(tuple(range(prompt_length)) if ids is None else ids)
    request = Request(0, "prompt 0", prompt, SamplingParams.plain(), max_new_tokens, frozenset(), priority=priority)
    sequence = kind(request, 0, None, None)
    sequence.table.salt = None if ids is None else ()
    return sequence


def make_scheduler(max_batch: int, blocks: int = 1000, invariant: bool = True) -> Scheduler:
    return Scheduler(max_batch, BlockPool(blocks), invariant=invariant)


def run(scheduler: Scheduler, batch: Batch) -> None:
    """What whoever computes a batch does to its sequences."""
    for sequence, start, stop in [*batch.prefill, *((s, s.num_computed, s.num_computed + 1) for s in batch.decode)]:
        assert start == sequence.num_computed and sequence.table.capacity >= stop, "there is a place for each token"
        if stop == sequence.length:
            sequence.append(7, 0.0)
        sequence.num_computed = stop
    scheduler.computed(batch)


def step(scheduler: Scheduler, budget: int = PLENTY) -> Batch:
    batch = scheduler.schedule(budget)
    run(scheduler, batch)
    scheduler.remove_finished()
    return batch


ARRIVALS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40), st.integers(1, 6)), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(
    ARRIVALS,
    st.integers(1, 6),
    st.one_of(st.just(PLENTY), st.integers(1, 50)),
    st.sets(st.integers(0, 24)),
    st.integers(3, 20),
    st.booleans(),
    st.booleans(),
)
def test_random_arrivals(
    arrivals: list[tuple[int, int, int]],
    max_batch: int,
    budget: int,
    aborted: set[int],
    blocks: int,
    invariant: bool,
    alike: bool,
) -> None:
    """Everything that is not aborted ends, in pieces without a gap and inside the budget; every block comes back."""
    scheduler, sequences = make_scheduler(max_batch, blocks, invariant), []
    arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
    steps = 0
    while len(sequences) < len(arrivals) or scheduler.has_work:
        while len(sequences) < len(arrivals) and arrivals[len(sequences)][0] <= steps:
            _, length, count = arrivals[len(sequences)]
            sequences.append(make_sequence(length, count, ids=(5,) * length if alike else None))
            scheduler.add(sequences[-1:])
        for number in aborted:
            if number < len(sequences) and steps % 3 == 2:
                sequences[number].finish_reason = sequences[number].finish_reason or "abort"
        scheduler.remove_finished()
        batch = scheduler.schedule(budget)
        assert scheduler.schedule(budget) == batch, "asked again, it says the same"
        assert len(scheduler.running) <= max_batch
        pieces = [piece[0] for piece in batch.prefill]
        assert len({*pieces, *batch.decode}) == len(pieces) + len(batch.decode), "a sequence is read once in a step"
        for sequence, start, stop in batch.prefill:
            assert start == sequence.num_computed < stop <= sequence.length
        assert all(sequence.num_computed < sequence.length for sequence in batch.decode)
        assert sum(stop - start for _, start, stop in batch.prefill) + len(batch.decode) <= budget
        assert bool(batch.prefill or batch.decode) == bool(scheduler.running), "no step goes by without work"
        held = {block for sequence in scheduler.running for block in sequence.table.blocks}
        assert scheduler.pool.num_used == len(held)
        run(scheduler, batch)
        scheduler.remove_finished()
        steps += 1
        assert steps < 5000
    for sequence in sequences:
        assert sequence.status == "finished"
        if sequence.finish_reason == "length":
            assert len(sequence.ids) == sequence.request.max_new_tokens
    assert scheduler.pool.num_used == 0


def test_a_budget_mixes_next_tokens_and_pieces_of_prompts() -> None:
    scheduler = make_scheduler(4)
    first, second, third = make_sequence(2, 3), make_sequence(9, 3), make_sequence(4, 3)
    scheduler.add([first, second, third])
    step(scheduler, 2)
    assert scheduler.schedule(7) == Batch([(second, 0, 6)], [first])
    step(scheduler, 7)
    assert scheduler.schedule(7) == Batch([(second, 6, 9), (third, 0, 3)], [first])


@pytest.mark.parametrize("budget", [1, 2, 3, 4])
def test_answers_take_turns_where_the_budget_has_no_room_for_all(budget: int) -> None:
    """None is more than one token ahead of another that runs, also where steps are interrupted or asked for twice."""
    scheduler, sequences = make_scheduler(8), [make_sequence(2, 12) for _ in range(5)]
    scheduler.add(sequences)
    step(scheduler)
    while scheduler.has_work:
        batch = scheduler.schedule(budget)
        assert scheduler.schedule(budget) == batch
        run(scheduler, batch)
        counts = [len(sequence.ids) for sequence in sequences]
        assert max(counts) - min(counts) <= 1
        scheduler.remove_finished()
    assert [len(sequence.ids) for sequence in sequences] == [12] * 5


def test_status() -> None:
    scheduler, first, second = make_scheduler(1), make_sequence(1, 1), make_sequence(1, 1)
    scheduler.add([first, second])
    assert (first.status, second.status) == ("waiting", "waiting")
    batch = scheduler.schedule(PLENTY)
    assert (first.status, second.status) == ("running", "waiting")
    run(scheduler, batch)
    assert (first.status, second.status) == ("finished", "waiting")
    second.finish_reason = "abort"
    scheduler.remove_finished()
    assert scheduler.schedule(PLENTY) == Batch([], []) and not scheduler.has_work


def test_lower_numbers_come_first_and_equal_ones_in_their_order() -> None:
    scheduler = make_scheduler(1)
    sequences = [make_sequence(3, 1, priority=priority) for priority in (5, 0, 5, -1, 0)]
    for number, sequence in enumerate(sequences):
        sequence.request.handle = number
        scheduler.add([sequence])
    order = []
    while scheduler.has_work:
        order.append(sequences.index(step(scheduler).prefill[0][0]))
    assert order == [3, 1, 4, 0, 2]


# ---- beginnings that are there already ------------------------------------------------------------------------------

ALIKE = tuple(range(40))


def test_a_beginning_is_computed_once() -> None:
    """The others wait for whoever computes it, then find its full blocks."""
    scheduler, sequences = make_scheduler(8), [make_sequence(0, 2, ids=ALIKE) for _ in range(3)]
    scheduler.add(sequences)
    assert step(scheduler).prefill == [(sequences[0], 0, 40)]
    batch = step(scheduler)
    assert batch == Batch([(sequences[1], 32, 40), (sequences[2], 32, 40)], [sequences[0]])
    assert [sequence.num_cached for sequence in sequences] == [0, 32, 32]
    assert (scheduler.num_asked, scheduler.num_cached) == (120, 64)


def test_who_shares_nothing_does_not_wait() -> None:
    scheduler = make_scheduler(8)
    first, alike, other = (make_sequence(0, 2, ids=ids) for ids in (ALIKE, ALIKE, ALIKE[::-1]))
    scheduler.add([first, alike, other])
    assert step(scheduler).prefill == [(first, 0, 40), (other, 0, 40)]


def test_nobody_waits_for_a_block_that_it_may_not_take() -> None:
    """The newest token is computed in any case: of a prompt that fills its blocks, the last one is nobody's to find."""
    scheduler, sequences = make_scheduler(16), [make_sequence(0, 9, ids=ALIKE[:32]) for _ in range(8)]
    scheduler.add(sequences)
    assert step(scheduler).prefill == [(sequences[0], 0, 32)]
    assert step(scheduler).prefill == [(sequence, 16, 32) for sequence in sequences[1:]]


def test_an_interrupt_behind_a_new_token_leaves_room_for_it() -> None:
    """The token is there, what was computed of it is not noted yet, and the blocks are full."""
    scheduler, sequence = make_scheduler(4, invariant=False), make_sequence(BLOCK, 9)
    scheduler.add([sequence])
    scheduler.schedule(PLENTY)
    sequence.append(7, 0.0)
    scheduler.recover()
    while scheduler.has_work:
        step(scheduler)
    assert len(sequence.ids) == 9 and scheduler.pool.num_used == 0


def test_whoever_waits_for_an_aborted_one_goes_on_itself() -> None:
    scheduler = make_scheduler(8)
    first, second = (make_sequence(0, 2, ids=ALIKE) for _ in range(2))
    scheduler.add([first, second])
    assert step(scheduler, 20).prefill == [(first, 0, 20)]
    first.finish_reason = "abort"
    scheduler.remove_finished()
    assert step(scheduler).prefill == [(second, 16, 40)]


def test_answers_are_found_where_bits_may_differ() -> None:
    """A later turn of a chat begins with the answer."""
    for invariant, count in ((True, 16), (False, 48)):
        scheduler = make_scheduler(8, invariant=invariant)
        first = make_sequence(0, 30, ids=ALIKE[:20])
        scheduler.add([first])
        while scheduler.has_work:
            step(scheduler)
        second = make_sequence(0, 1, ids=(*ALIKE[:20], *[7] * 30, 1, 2, 3))
        scheduler.add([second])
        assert step(scheduler).prefill == [(second, count, 53)], "the newest token of an answer is never read"


# ---- where the blocks do not suffice --------------------------------------------------------------------------------


@pytest.mark.parametrize("invariant", [True, False])
def test_the_last_one_is_put_back_and_computed_again(invariant: bool) -> None:
    """Nothing that was sampled is sampled anew; where bits count, answers are computed token by token again."""
    scheduler = make_scheduler(2, blocks=3, invariant=invariant)
    first, second = make_sequence(BLOCK, 20), make_sequence(BLOCK - 4, 12)
    first.request.handle, second.request.handle = 0, 1
    scheduler.add([first, second])
    for _ in range(6):
        step(scheduler)
    assert scheduler.num_preempted == 1 and second.status == "waiting" and (len(first.ids), len(second.ids)) == (6, 5)
    while first.status == "running":
        step(scheduler)
    again = scheduler.schedule(PLENTY)
    assert again == Batch([(second, 0, BLOCK - 4 if invariant else BLOCK + 1)], [])
    while scheduler.has_work:
        step(scheduler)
    assert (len(first.ids), len(second.ids)) == (20, 12) and scheduler.pool.num_used == 0


def test_a_prompt_waits_until_there_are_blocks_for_all_of_it() -> None:
    scheduler = make_scheduler(4, blocks=4)
    first, second, third = make_sequence(40, 2), make_sequence(30, 2), make_sequence(3, 2)
    scheduler.add([first, second, third])
    assert step(scheduler, 10).prefill == [(first, 0, 10)], "and nobody overtakes it"
    while first.status != "finished":
        step(scheduler)
    assert step(scheduler).prefill == [(second, 0, 30), (third, 0, 3)]


def test_a_step_does_not_look_at_all_that_wait() -> None:
    looked = 0

    class Counting(Sequence):
        @property
        def status(self):  # type: ignore[no-untyped-def]
            nonlocal looked
            looked += 1
            return super().status

    scheduler = make_scheduler(4)
    scheduler.add(make_sequence(3, 50, Counting) for _ in range(5000))
    for _ in range(20):
        step(scheduler)
    assert looked < 20 * 4 * 10


@pytest.mark.parametrize("at", range(8))
def test_an_interrupt_while_sequences_enter_loses_nobody(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Wherever `started` is set, and wherever blocks are given out."""
    scheduler, calls = make_scheduler(3, blocks=9), 0
    sequences = [make_sequence(20, 2) for _ in range(5)]

    def interrupted(self: Sequence, value: bool) -> None:
        count()
        self.__dict__["started"] = value

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise KeyboardInterrupt

    take = scheduler.pool._take

    def taking() -> int:
        count()
        return take()

    monkeypatch.setattr(Sequence, "started", property(lambda self: self.__dict__.get("started", False), interrupted))
    monkeypatch.setattr(scheduler.pool, "_take", taking)
    scheduler.add(sequences)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(9):
            step(scheduler)
    scheduler.recover()
    while scheduler.has_work:
        step(scheduler)
        assert len(set(scheduler.running)) == len(scheduler.running) <= 3
    assert [len(sequence.ids) for sequence in sequences] == [2] * 5 and scheduler.pool.num_used == 0


@pytest.mark.parametrize("seed", range(8))
def test_interrupts_anywhere_lose_no_block(seed: int) -> None:
    """A signal may come between any two lines of the scheduler and the pool."""
    import sys

    draw = random.Random(seed)
    scheduler = make_scheduler(3, blocks=12, invariant=bool(seed % 2))
    sequences = [make_sequence(0, draw.randrange(1, 30), ids=(5,) * draw.randrange(1, 60)) for _ in range(12)]
    for number, sequence in enumerate(sequences):
        sequence.request.handle = number
    scheduler.add(sequences)
    left = 0

    def tracer(frame, event, arg):  # type: ignore[no-untyped-def]
        nonlocal left
        if (
            not frame.f_code.co_filename.endswith(("scheduler.py", "block_pool.py"))
            or "test_" in frame.f_code.co_filename
        ):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return tracer

    for _ in range(3000):
        if not scheduler.has_work:
            break
        left, before = draw.randrange(1, 400), sys.gettrace()
        sys.settrace(tracer)
        try:
            batch = scheduler.schedule(20)
        except KeyboardInterrupt:
            sys.settrace(before)
            scheduler.recover()
            continue
        sys.settrace(before)
        run(scheduler, batch)
        scheduler.remove_finished()
    assert [len(s.ids) for s in sequences] == [s.request.max_new_tokens for s in sequences]
    assert scheduler.pool.num_used == 0


def test_what_was_aborted_behind_a_stream_of_more_urgent_ones_leaves_soon() -> None:
    scheduler = make_scheduler(2)
    patient = [make_sequence(20, 3, priority=1) for _ in range(1000)]
    for number, sequence in enumerate(patient):
        sequence.request.handle = number
    scheduler.add(patient)
    kept = [sequence for number, sequence in enumerate(patient) if number % 100 == 7]
    for sequence in patient:
        if sequence not in kept:
            sequence.finish_reason = "abort"
    for number in range(40):
        urgent = make_sequence(20, 1)
        urgent.request.handle = 1000 + number
        scheduler.add([urgent, make_sequence(20, 1)])
        step(scheduler)
        assert not set(scheduler.running) & set(patient)
    assert [sequence for sequence in scheduler.waiting if sequence.request.priority] == kept
    while scheduler.has_work:
        step(scheduler)
    assert [len(sequence.ids) for sequence in kept] == [3] * 10


def test_a_step_looks_at_a_bounded_part_of_the_queue() -> None:
    looked = 0

    class Watched(Sequence):
        @property
        def finish_reason(self) -> FinishReason | None:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return self.__dict__.get("finish_reason")

        @finish_reason.setter
        def finish_reason(self, value: FinishReason | None) -> None:
            self.__dict__["finish_reason"] = value

    scheduler = make_scheduler(1)
    scheduler.add([make_sequence(20, 10**6)])
    step(scheduler)
    waiting = [make_sequence(20, 1, kind=Watched) for _ in range(20_000)]
    scheduler.add(waiting)
    steps = 500 + 20_000 // 64 + 1
    for number in range(steps):
        if number < 500:
            waiting[-1 - number].finish_reason = "abort"
        step(scheduler)
    assert len(scheduler.waiting) == 19_500, "all of it was looked through"
    assert looked <= steps * 64 + 2 * 500 + 500
