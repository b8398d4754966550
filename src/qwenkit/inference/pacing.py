"""How much of the prompts a step may read while answers are being written, so that nobody waits long for a token.

    pace = Pace()
    pace.note(seconds, answers=16, prompt_tokens=0)
    budget = answers + pace.prompt_tokens(waiting=1, answers=16)

A step that reads prompts besides should never take twice as long as one that does not, so half as long again is aimed
at. Where many wait for a first token while few have answers, time is shared by their numbers instead: fourteen should
not wait for seconds so that two may have their tokens a little sooner. Then a step takes up to `_LONGEST` seconds. What
steps cost is measured as the engine runs: by a clock, so not where bits or their order must be the same again. The
later a token stands in its prompt the more it costs, so that far behind a piece may be a single token.

Two things keep pieces from becoming small for ever. Steps of a small model are so short that nobody waits for a token:
up to `_QUICK` seconds prompts may take, or what a piece costs at all would be counted to its few tokens, which would
then be fewer still. And where prompts always wait there would be no step of answers alone: after `_AGAIN` steps with
both comes one, for what it takes changes with the number of answers.
"""

from __future__ import annotations

from qwenkit.inference.block_pool import BLOCK

_FIRST = 64  # tokens, while nothing has been measured
_WEIGHT = 0.2  # of the newest measurement in the moving average
_CHEAPER = 0.5  # of one that is below the average of prompts: a disturbance made that too high, or a small piece
_SHARE = 0.5  # of a step of answers, for prompts besides
_QUICK = 0.02  # seconds that a step may take in any case: 50 tokens a second, more than anybody reads
_LONGEST = 0.2  # seconds that a step may take because many wait: 5 tokens a second, about as fast as people read
_AGAIN = 32  # steps that read prompts too, before one that does not


class Pace:
    """Moving averages of what a step costs, in seconds."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.answer_step: float | None = None
        """A step of answers alone."""
        self.prompt_token: float | None = None
        """One more token of a prompt."""
        self._unmeasured = 0
        """Steps of answers and prompts since the last one of answers alone."""

    def note(self, seconds: float, answers: int, prompt_tokens: int) -> None:
        """Learn from a step."""
        self._unmeasured = self._unmeasured + 1 if prompt_tokens and answers else 0
        if not prompt_tokens:
            self.answer_step = _averaged(self.answer_step, seconds)
        else:
            rest = seconds - (self.answer_step or 0.0 if answers else 0.0)
            each = max(rest, 0.1 * seconds) / prompt_tokens
            weight = _WEIGHT if self.prompt_token is None or each > self.prompt_token else _CHEAPER
            self.prompt_token = _averaged(self.prompt_token, each, weight)

    def prompt_tokens(self, waiting: int = 1, answers: int = 1) -> int:
        """Return how many tokens of prompts a step may read while so many wait for a first token beside so many
        answers: what takes about half as long as a step of answers, or longer where more wait than are answered, or
        fills a quick step. Whole blocks where it is more than one, and at least a token; none now and then, so that
        such a step is measured."""
        if self.answer_step is None or self.prompt_token is None:
            return _FIRST
        if self._unmeasured >= _AGAIN:
            return 0
        shared = min(self.answer_step * waiting / answers, _LONGEST - self.answer_step)
        spare = max(_SHARE * self.answer_step, shared, _QUICK - self.answer_step)
        count = int(spare / self.prompt_token)
        return count // BLOCK * BLOCK if count >= BLOCK else max(1, count)


def _averaged(before: float | None, new: float, weight: float = _WEIGHT) -> float:
    return new if before is None else before + weight * (new - before)
