"""What waits for a consumer: bounded, in order, nothing lost."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import Stopped
from qwenkit.inference import Delta, Output
from qwenkit.inference.delta_queue import DeltaQueue, MergedDelta, Watcher, wake_all

from .fake_engine import LIMIT


def delta(sample: int, *ids: int, output: Output | None = None) -> Delta:
    reason = None if output is None else "stop"
    return Delta(5, sample, list(ids), "".join(map(str, ids)), [-float(id) for id in ids], reason, output)


OUTPUT = Output(5, [1], [], 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60), st.sampled_from([1, 2, 5]))
def test_whatever_the_consumer_takes_the_deltas_add_up(pieces: list[tuple[int, int]], most: int) -> None:
    """(sample, takes before): deltas of an answer stay in their order, the one with the output is the last."""
    queue, given_out = DeltaQueue(most), []
    wanted: dict[int, list[int]] = defaultdict(list)
    for number, (sample, takes) in enumerate(pieces):
        given_out += [taken for taken, _ in (queue.take() for _ in range(takes)) if taken is not None]
        queue.put(delta(sample, number))
        wanted[sample].append(number)
        assert len(queue._deltas) <= max(most, 2 * 4)
    queue.put(delta(0, len(pieces), output=OUTPUT))
    wanted[0].append(len(pieces))
    while (taken := queue.take())[0] is not None:
        given_out.append(taken[0])
    assert taken == (None, True) and given_out[-1].output is OUTPUT
    assert all(one.output is None for one in given_out[:-1])
    for sample, ids in wanted.items():
        own = [one for one in given_out if one.sample == sample]
        assert [id for one in own for id in one.ids] == ids
        assert "".join(one.text or "" for one in own) == "".join(map(str, ids))
        assert [x for one in own for x in one.logprobs or ()] == [-float(id) for id in ids]


def test_deltas_apart_until_there_are_too_many() -> None:
    queue = DeltaQueue(3)
    for number in range(3):
        queue.put(delta(0, number))
    assert [queue.take()[0].ids for _ in range(2)] == [[0], [1]]  # type: ignore[union-attr]
    for number in range(3, 6):
        queue.put(delta(0, number))
    assert queue.take() == (delta(0, 2, 3, 4, 5), False) and queue.take() == (None, False)


def added(first: Delta, second: Delta) -> Delta:
    merged = MergedDelta(first)
    merged.add(second)
    return merged.delta()


def test_what_only_one_of_two_deltas_has_is_kept() -> None:
    bare = replace(delta(1, 7), text=None, logprobs=None)
    assert added(bare, replace(bare, finish_reason="length")) == replace(bare, ids=[7, 7], finish_reason="length")
    assert added(delta(1, 7), bare) == replace(delta(1, 7), ids=[7, 7])
    assert added(bare, delta(1, 7, output=OUTPUT)) == replace(delta(1, 7, output=OUTPUT), ids=[7, 7])


class Counted(list[int]):
    """Ids that count how many of them were copied or read."""

    copied = 0

    def __iter__(self) -> Iterator[int]:
        Counted.copied += len(self)
        return super().__iter__()

    def __add__(self, other: Any) -> Counted:
        Counted.copied += len(self) + len(other)
        return Counted(super().__add__(other))


@pytest.mark.parametrize(("most", "samples"), [(1, 1), (16, 1), (16, 40)])
def test_what_nobody_takes_is_copied_once(most: int, samples: int) -> None:
    """Time in proportion to the answers: merging again and again must not copy what was merged before."""
    queue, text, Counted.copied = DeltaQueue(most), "ab\r\nc", 0
    for number in range(4000):
        sample = number % samples
        queue.put(Delta(5, sample, Counted([number]), text, [0.0], None, top_logprobs=[((number, 0.0),)]))
        assert len(queue._deltas) <= max(most, 2 * samples)
    assert Counted.copied <= 4000
    taken = []
    while (delta := queue.take()[0]) is not None:
        taken.append(delta)
    assert sorted(id for one in taken for id in one.ids) == list(range(4000))
    assert "".join(one.text or "" for one in taken) == text * 4000
    assert sum(len(one.top_logprobs or ()) for one in taken) == 4000


def test_a_delta_that_was_given_out_does_not_change() -> None:
    queue, first = DeltaQueue(1), delta(0, 1)
    queue.put(first)
    queue.put(delta(0, 2))
    taken = queue.take()[0]
    for number in range(3, 6):
        queue.put(delta(0, number))
    assert (first, taken, queue.take()[0]) == (delta(0, 1), delta(0, 1, 2), delta(0, 3, 4, 5))


def test_an_error_comes_behind_the_deltas_and_anew_for_everyone_who_asks() -> None:
    queue, fault = DeltaQueue(4), Stopped("no")
    queue.put(delta(0, 1))
    queue.close(fault)
    queue.close(Stopped("too late"))
    queue.put(delta(0, 2))
    assert queue.take() == (delta(0, 1), False) and queue.take() == (None, True)
    errors = []
    for _ in range(2):
        with pytest.raises(Stopped, match=r"^no$") as caught:
            queue.result()
        errors.append(caught.value)
    assert len({id(error) for error in [fault, *errors]}) == 3 and queue.error is fault


def test_an_abort_drops_what_nobody_has_taken() -> None:
    queue = DeltaQueue(4)
    queue.put(delta(0, 1))
    queue.close(Stopped("no"), discard=True)
    assert queue.take() == (None, True)


def test_a_thread_that_waits_is_woken_by_a_delta_or_only_by_the_end() -> None:
    queue = DeltaQueue(4)
    woken: list[str] = []

    def wait(name: str, for_end: bool) -> None:
        queue.wait(LIMIT, for_end)
        woken.append(name)

    first, second = (threading.Thread(target=wait, args=(str(flag), flag)) for flag in (False, True))
    first.start(), second.start()
    queue.put(delta(0, 1))
    first.join(LIMIT)
    assert woken == ["False"]
    queue.put(delta(0, 2, output=OUTPUT))
    second.join(LIMIT)
    assert woken == ["False", "True"]


def test_coroutines_of_two_event_loops_are_woken_and_a_closed_one_is_passed_over() -> None:
    queue, begun = DeltaQueue(4), threading.Barrier(3)
    loops = [asyncio.new_event_loop() for _ in range(3)]

    async def watch() -> None:
        future = queue.watch(asyncio.get_running_loop())
        begun.wait(LIMIT)
        await asyncio.wait_for(future, LIMIT)

    threads = [threading.Thread(target=loop.run_until_complete, args=(watch(),)) for loop in loops[:2]]
    for thread in threads:
        thread.start()
    queue.watch(loops[2])
    loops[2].close()
    begun.wait(LIMIT)
    queue.put(delta(0, 1))
    for thread, loop in zip(threads, loops):
        thread.join(LIMIT)
        assert not thread.is_alive()
        loop.close()
    assert queue._watchers == {}


def test_the_coroutines_of_one_event_loop_are_woken_by_one_call() -> None:
    """Also those of many requests; one of a closed event loop hurts nobody."""
    closed = asyncio.new_event_loop()
    gone = Watcher(closed, closed.create_future(), False)
    closed.close()

    async def main() -> tuple[int, int]:
        event_loop, calls = asyncio.get_running_loop(), 0
        queues = [DeltaQueue(4) for _ in range(5)]
        futures = [queue.watch(event_loop) for queue in queues]
        real = event_loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return real(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(event_loop, "call_soon_threadsafe", counted)
            wake_all([gone, *(watcher for queue in queues for watcher in queue.add(delta(0, 1)))])
        done, _ = await asyncio.wait(futures, timeout=LIMIT)
        return calls, len(done)

    assert asyncio.run(main()) == (1, 5)
