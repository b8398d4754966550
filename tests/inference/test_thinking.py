"""Thoughts of an answer: where they begin and end, and what a budget makes of them."""

from __future__ import annotations

import pytest

from qwenkit.chat import ThoughtTokens, thought_tokens
from qwenkit.inference.thinking import Thought
from qwenkit.tokenizer import Tokenizer

NAMES = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258, "<think>": 259, "</think>": 260}
TOK = Tokenizer({bytes([b]): b for b in range(256)}, NAMES)
START, END, TURN, LINE = 259, 260, 257, 10


def _tags() -> ThoughtTokens:
    tags = thought_tokens(TOK)
    assert tags is not None
    return tags


def test_tags_are_those_of_the_vocabulary() -> None:
    assert _tags() == (START, END, (LINE, END, LINE, LINE), (LINE, LINE), TURN)
    assert thought_tokens(Tokenizer({bytes([b]): b for b in range(256)}, {"<think>": 256})) is None
    assert thought_tokens(None) is None


@pytest.mark.parametrize(
    ("prompt", "state"),
    [([1, TURN, 5], "before"), ([TURN, 5, START, LINE], "inside"), ([TURN, START, LINE, END, LINE], "behind"),
     ([START, 5, END, TURN, 5], "before"), ([START, 5, TURN, 5], "before"), ([], "before")],
)  # fmt: skip
def test_the_prompts_last_turn_says_where_an_answer_begins(prompt: list[int], state: str) -> None:
    assert _tags().state(prompt) == state


def _answer(thought: Thought, chosen: list[int], count: int) -> list[int]:
    """The first tokens of an answer: what must follow, else what the model chooses."""
    ids: list[int] = []
    for _ in range(count):
        ids.append(chosen.pop(0) if thought.next_id is None else thought.next_id)
        thought.push(ids[-1])
    return ids


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_thought_ends_at_its_budget(budget: int) -> None:
    closed = [*[7] * budget, *_tags().closing, 8, 8]
    own = Thought(_tags(), [TURN], budget, blank_line=False)
    assert _answer(own, [START, *[7] * budget, 8, 8], len(closed) + 1) == [START, *closed]
    opened = Thought(_tags(), [TURN, START], budget, blank_line=False)
    assert _answer(opened, [*[7] * budget, 8, 8], len(closed)) == closed


def test_a_second_thought_goes_on_with_the_budget() -> None:
    thought = Thought(_tags(), [TURN], 3, blank_line=False)
    ids = [START, 7, 7, END, 8, START, 7, *_tags().closing]
    assert _answer(thought, [START, 7, 7, END, 8, START, 7], len(ids)) == ids


def test_a_thought_within_its_budget_is_left_alone() -> None:
    thought = Thought(_tags(), [TURN], 3, blank_line=False)
    assert _answer(thought, [START, 7, 7, END, 8], 5) == [START, 7, 7, END, 8] and thought.next_id is None


def test_which_tokens_belong_to_a_thought() -> None:
    thought = Thought(_tags(), [TURN], None, blank_line=True)
    assert [thought.push(id) for id in [START, 7, END, LINE, LINE, 8]] == [True] * 5 + [False]
    plain = Thought(_tags(), [TURN], None, blank_line=True)
    assert [plain.push(id) for id in [8, 9]] == [False, False] and plain.state == "behind"
