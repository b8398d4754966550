"""Where an answer stands while it is generated: before its thought, inside it, or behind it.

    thought = Thought(tags, prompt_ids, budget=512, blank_line=False)
    thought.push(token_id)           # each token of the answer; true where it belongs to the thought
    thought.next_id                  # the token that must follow now, or None

A thought that reaches its budget is closed: the tokens of `ThoughtTokens.closing` follow, whatever the model says.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenkit.chat import ThoughtTokens


class Thought:
    """The thoughts of one answer, and the tokens that must follow."""

    def __init__(self, tags: ThoughtTokens, prompt_ids: Sequence[int], budget: int | None, blank_line: bool) -> None:
        """Begin where the prompt ends. With a `budget` thoughts have at most so many tokens together; with
        `blank_line` each is followed by one."""
        self.tags, self.budget, self.blank_line = tags, budget, blank_line
        self.state = tags.state(prompt_ids)
        self.length = 0
        """How many tokens of the answer lie inside thoughts."""
        self._following: list[int] = []
        self._close_at_budget()

    @property
    def next_id(self) -> int | None:
        """Return the token that must follow, or None where the model chooses."""
        return self._following[0] if self._following else None

    @property
    def is_open(self) -> bool:
        """Return whether the next token still belongs to the thought or to its end."""
        return self.state == "inside" or bool(self._following)

    def push(self, id: int) -> bool:
        """Take a token of the answer; return whether it belongs to a thought, with its tags and the blank line."""
        belongs = self.is_open or id == self.tags.start
        self._following = self._following[1:]
        if id == self.tags.start:
            self.state = "inside"
        elif self.state == "inside" and id == self.tags.end:
            self.state = "behind"
            if self.blank_line and not self._following:
                self._following = list(self.tags.gap)
        elif self.state == "inside":
            self.length += 1
        elif self.state == "before":
            self.state = "behind"
        self._close_at_budget()
        return belongs

    def _close_at_budget(self) -> None:
        spent = self.budget is not None and self.length >= self.budget
        if self.state == "inside" and spent and not self._following:
            self._following = list(self.tags.closing)
