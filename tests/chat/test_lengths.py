"""What is longer than a row: every answer once, every part within the row, nothing cut inside a turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from qwenkit.chat import STYLES, ChatTokenizer, TooLong, cut
from qwenkit.errors import UserError
from qwenkit.tokenizer import train_bpe

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def tok() -> ChatTokenizer:
    return ChatTokenizer(train_bpe(["question answer 问题 回答 " * 9], 280, extras=1, multiple=8), "chatml")


def words(messages: Sequence[Any]) -> int:
    """A length that is easy to see: letters of the content."""
    return sum(len(message["content"]) for message in messages)


def chat(*turns: str, system: str = "") -> Messages:
    """Each turn a letter asked and answered so often as its text is long."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, *({"role": role, "content": text} for text in turns for role in ("user", "assistant"))]


def shown(parts: list[list[Any]]) -> list[str]:
    return ["".join(message["content"] for message in part) for part in parts]


@pytest.mark.parametrize(
    ("policy", "expected", "left_out"),
    [("drop", [], 5), ("split", ["Saabb", "Scc", "See"], 1), ("truncate", ["See"], 4)],
)
def test_each_policy_by_hand(policy: TooLong, expected: list[str], left_out: int) -> None:
    """Five turns of 2, 2, 2, 8 and 2 letters in rows of 5, of which the system turn takes one."""
    messages = chat("a", "b", "c", "dddd", "e", system="S")
    parts, lost = cut(messages, 5, policy, words)
    assert (shown(parts), lost) == (expected, left_out)


def test_what_fits_is_left_as_it_is() -> None:
    messages = chat("a", "b")
    for policy in ("drop", "split", "truncate"):
        assert cut(messages, 4, policy, words) == ([messages], 0)


def test_a_turn_is_a_question_with_all_that_follows() -> None:
    """Calls, results and the answer after them stay together."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    asked, told, said = ({"role": r, "content": c} for r, c in (("user", "q"), ("tool", "r"), ("assistant", "a")))
    used = [asked, call, told, said]
    parts, lost = cut([*chat("xx"), *used, *used], 6, "split", words)
    assert (shown(parts), lost) == (["xxxx", "qraqra"], 0) and parts[1] == [*used, *used]


def test_nothing_fits() -> None:
    """Not even one turn, or the system turn alone is longer than a row."""
    for policy in ("drop", "split", "truncate"):
        assert cut(chat("aaaa", "bbbb"), 5, policy, words) == ([], 2)
        assert cut(chat("a", "b", system="S" * 9), 5, policy, words) == ([], 2)


def test_truncation_ends_at_the_first_turn_that_does_not_fit() -> None:
    """Turns that are left are neighbours: none is taken from before one that was too long."""
    assert cut(chat("a", "bbbbbb", "c"), 6, "truncate", words)[1] == 2
    assert cut(chat("a", "b", "cccccc"), 6, "truncate", words) == ([], 3)


@pytest.mark.parametrize("policy", ["split", "truncate"])
@pytest.mark.parametrize("style", STYLES)
def test_every_answer_once_in_any_style(tok: ChatTokenizer, style: str, policy: TooLong) -> None:
    """Random conversations, with thoughts, tools and turns that are too long by themselves."""
    luck = random.Random(5)
    for _ in range(30):
        messages = chat(*(f"{n} " + "answer " * luck.choice([1, 3, 9, 60]) for n in range(luck.randrange(1, 12))))
        messages = [*([{"role": "system", "content": "question"}] if luck.random() < 0.5 else []), *messages]
        if luck.random() < 0.5:
            messages[-1] = {**messages[-1], "reasoning_content": "thought " * 5}
        tools = TOOLS if luck.random() < 0.3 and STYLES[style].tools is not None else None
        row = luck.randrange(120, 400)

        def size(part: Sequence[Any], tools: Any = tools) -> int:
            return len(tok.render(part, tools=tools, style=style).ids)

        parts, left_out = cut(messages, row, policy, size)
        head = [message for message in messages[:1] if message["role"] == "system"]
        assert all(size(part) <= row and part[: len(head)] == head for part in parts)
        learnt = [message for part in parts for message in part[len(head) :]]
        assert 2 * left_out + len(learnt) == len(messages) - len(head)
        rest = iter(messages)
        assert all(message in rest for message in learnt)  # in order, none twice


def test_a_misspelt_policy(tok: ChatTokenizer) -> None:
    with pytest.raises(UserError, match="unknown policy 'splitt'"):
        cut(chat("a"), 1, "splitt", words)  # type: ignore[arg-type]
