"""How much of the prompts a step may read while answers are being written, so that nobody waits long for a token.

    pace = Pace()
    pace.note(seconds, answers=16, prompt_tokens=0)
    budget = answers + pace.prompt_tokens()

A step that reads prompts besides should never take twice as long as one that does not, so half as long again is aimed
at. Both are measured as the engine runs: by a clock, so not where bits or their order must be the same again. The later
a token stands in its prompt the more it costs, so that far behind a piece may be a single token.
"""

from __future__ import annotations

from qwenkit.inference.block_pool import BLOCK

_FIRST = 64  # tokens, while nothing has been measured
_WEIGHT = 0.2  # of the newest measurement in the moving average
_SHARE = 0.5  # of a step of answers, for prompts besides


class Pace:
    """Moving averages of what a step costs, in seconds."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.answer_step: float | None = None
        """A step of answers alone."""
        self.prompt_token: float | None = None
        """One more token of a prompt."""

    def note(self, seconds: float, answers: int, prompt_tokens: int) -> None:
        """Learn from a step."""
        if not prompt_tokens:
            self.answer_step = _averaged(self.answer_step, seconds)
        else:
            rest = seconds - (self.answer_step or 0.0 if answers else 0.0)
            self.prompt_token = _averaged(self.prompt_token, max(rest, 0.1 * seconds) / prompt_tokens)

    def prompt_tokens(self) -> int:
        """Return how many tokens of prompts take about half as long as a step of answers: whole blocks where it is more
        than one, and at least a token."""
        if self.answer_step is None or self.prompt_token is None:
            return _FIRST
        count = int(_SHARE * self.answer_step / self.prompt_token)
        return count // BLOCK * BLOCK if count >= BLOCK else max(1, count)


def _averaged(before: float | None, new: float) -> float:
    return new if before is None else before + _WEIGHT * (new - before)
