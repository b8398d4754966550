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
        count = min(pace.prompt_tokens(), 8000 - position)
        took = seconds(position, count)
        pace.note(took, answers=16, prompt_tokens=count)
        position, longest = position + count, max(longest, took)
    assert 1.2 * seconds(0, 0) < longest < 2 * seconds(0, 0)


@pytest.mark.parametrize(("token", "expected"), [(0.0001, 400), (0.0024, 16), (0.0026, 15), (0.1, 1)])
def test_pieces_are_whole_blocks_or_less_than_one(token: float, expected: int) -> None:
    pace = Pace()
    pace.note(0.08, answers=1, prompt_tokens=0)
    pace.note(100 * token, answers=0, prompt_tokens=100)
    assert pace.prompt_tokens() == expected
    assert expected < BLOCK or expected % BLOCK == 0
