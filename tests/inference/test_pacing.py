"""How much of a prompt is read beside answers, by a clock that the tests turn."""

import pytest

from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.pacing import Pace


def seconds(position: int, tokens: int, answers: float = 0.08, token: float = 0.003, key: float = 2e-6) -> float:
    """Return what a step takes whose answers cost so much, and which reads tokens at this position of a prompt."""
    return answers + tokens * (token + key * position)


def test_no_step_takes_twice_as_long_while_a_long_prompt_is_read() -> None:
    pace, position, longest = Pace(), 0, 0.0
    for _ in range(8):
        pace.note(seconds(0, 0), answers=16, prompt_tokens=0)
    pace.note(seconds(0, 512, answers=0.0), answers=0, prompt_tokens=512)
    while position < 8000:
        count = min(pace.prompt_tokens(waiting=1, answers=16), 8000 - position)
        took = seconds(position, count)
        pace.note(took, answers=16, prompt_tokens=count)
        position, longest = position + count, max(longest, took)
    assert 1.2 * seconds(0, 0) < longest < 2 * seconds(0, 0)


@pytest.mark.parametrize(("token", "expected"), [(0.0001, 400), (0.0024, 16), (0.0026, 15), (0.1, 1)])
def test_pieces_are_whole_blocks_or_less_than_one(token: float, expected: int) -> None:
    pace = Pace()
    pace.note(0.08, answers=1, prompt_tokens=0)
    pace.note(100 * token, answers=0, prompt_tokens=100)
    assert pace.prompt_tokens(waiting=0) == pace.prompt_tokens(waiting=1, answers=2) == expected
    assert expected < BLOCK or expected % BLOCK == 0


def test_steps_of_a_small_model_are_not_paced_to_death() -> None:
    """What a piece costs at all (2 ms) is more than half a step of answers (1 ms): pieces do not shrink to a token."""
    pace = Pace()
    pace.note(0.001, answers=4, prompt_tokens=0)
    for _ in range(200):
        count = pace.prompt_tokens(waiting=1, answers=4)
        took = 0.001 + (0.002 + count * 5e-5 if count else 0.0)
        pace.note(took, answers=4, prompt_tokens=count)
    pace.note(0.001, answers=4, prompt_tokens=0)
    assert (
        256 <= pace.prompt_tokens(waiting=1, answers=4) <= 380
    )  # 20 ms less 1 ms of answers and 2 ms of a piece: 340 tokens of 50 us


def test_a_step_of_more_answers_is_measured_again_while_prompts_wait() -> None:
    """The first step had one answer (30 ms); now there are many (150 ms), and prompts never end."""
    pace, empty, counts = Pace(), 0, list[int]()
    pace.note(0.03, answers=1, prompt_tokens=0)
    for _ in range(400):
        counts.append(pace.prompt_tokens(waiting=8, answers=64))
        pace.note(0.15 + counts[-1] * 0.001, answers=64, prompt_tokens=counts[-1])
        empty += counts[-1] == 0
    assert 10 <= empty <= 400 // 32
    assert 48 <= counts[-1] <= 75  # half of 150 ms, at 1 ms a token


def test_one_step_that_was_disturbed_is_forgotten_soon() -> None:
    """A step that took ten times as long, as on a busy machine: six steps later pieces are nearly as long as before."""
    pace = Pace()
    for _ in range(20):
        pace.note(0.08, answers=8, prompt_tokens=0)
        before = pace.prompt_tokens(waiting=1, answers=8)
        pace.note(seconds(0, before, token=0.0005), answers=8, prompt_tokens=before)
    pace.note(10 * seconds(0, before, token=0.0005), answers=8, prompt_tokens=before)
    assert pace.prompt_tokens(waiting=1, answers=8) < before / 2
    for _ in range(6):
        count = pace.prompt_tokens(waiting=1, answers=8)
        pace.note(seconds(0, count, token=0.0005), answers=8, prompt_tokens=count)
    assert pace.prompt_tokens(waiting=1, answers=8) >= 0.8 * before


def test_where_more_wait_than_are_answered_prompts_have_more_of_the_time() -> None:
    """A step of answers takes 10 ms, a token of a prompt 0.1 ms."""
    pace = Pace()
    pace.note(0.01, answers=2, prompt_tokens=0)
    pace.note(0.0512, answers=0, prompt_tokens=512)
    given = {waiting: pace.prompt_tokens(waiting, answers=2) for waiting in (1, 4, 14, 1000)}
    assert given == {1: 96, 4: 192, 14: 688, 1000: 1888}  # 10 (a quick step), 20, 70 ms; 190 ms at most


def test_answers_that_are_slow_anyway_are_not_slowed_for_many_who_wait() -> None:
    """A step of answers takes longer than steps may become for others' sake: half as long again, and no more."""
    pace = Pace()
    pace.note(0.3, answers=2, prompt_tokens=0)
    pace.note(1.0, answers=0, prompt_tokens=1000)
    assert pace.prompt_tokens(waiting=50, answers=2) == 144
