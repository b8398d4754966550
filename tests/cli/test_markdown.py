"""Styles of streamed Markdown: nothing is lost, nothing comes twice, and cuts change nothing."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.cli.markdown import CODES, AnswerStyler, Markdown, Span, painted
from qwenkit.errors import visible

PIECES = st.sampled_from(
    ["`", "``", "```", "```py\n", "~~~", "*", "**", "***", "_", "__", "#", "## ", "\n", "\n\n", " ", "\t", "\\", "a",
     "b c", "中文", "<b>", "[x]: y\n", "<think>", "</think>", "</thi", "- ", "1. ", "\r", "$x_1*y$", "é\u0301", "👩‍💻"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


def styled(pieces: list[str], in_thought: bool = False) -> list[tuple[str, str]]:
    """The style of each character."""
    styler = AnswerStyler(in_thought)
    spans = [span for piece in pieces for span in styler.push(piece)] + styler.finish()
    return [(span.style, sign) for span in spans for sign in span.text]


@given(TEXTS, st.booleans(), st.lists(st.integers(0, 60)))
def test_no_text_is_lost_or_doubled_however_it_is_cut(text: str, in_thought: bool, cuts: list[int]) -> None:
    pieces = [text[start:stop] for start, stop in pairwise([0, *sorted(cuts), len(text)])]
    whole, characters = styled([text], in_thought), styled(list(text), in_thought)
    assert "".join(sign for _, sign in whole) == text
    assert characters == styled(pieces, in_thought) == whole


@given(TEXTS)
def test_without_its_codes_what_is_painted_is_the_text(text: str) -> None:
    spans = [*(styler := Markdown()).push(text), *styler.finish()]
    shown = "".join(painted(style, visible(part)) for style, part in spans)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == visible(text)


def marked(text: str) -> str:
    """A text with the first letter of the styles of each span before it, in brackets."""
    spans: list[Span] = []
    styler = AnswerStyler()
    for span in [*styler.push(text), *styler.finish()]:
        if spans and spans[-1].style == span.style:
            spans[-1] = Span(span.style, spans[-1].text + span.text)
        else:
            spans.append(span)
    return "".join(f"[{','.join(span.style.split())}:{span.text}]" if span.style else span.text for span in spans)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a **b** c", "a [strong:**b**] c"),
        ("a *b* and _c_ d", "a [emphasis:*b*] and [emphasis:_c_] d"),
        ("***a***", "[strong,emphasis:***a***]"),
        ("2 * 3 * 4, a_b_c, \\*x\\*", "2 * 3 * 4, a_b_c, \\*x\\*"),
        ("* item\n- item", "* item\n- item"),
        ("**open\nnext", "[strong:**open]\nnext"),
        ("use `a*b*c` here", "use [code:`a*b*c`] here"),
        ("``a`b`` c", "[code:``a`b``] c"),
        ("# One\ntwo #3", "[heading:# One]\ntwo #3"),
        ("#no\n####### no", "#no\n####### no"),
        ("```py\na = *b\n# c\n```\n*d*", "[code:```py\na = *b\n# c\n```]\n[emphasis:*d*]"),
        ("~~~\n```\n~~~\nx", "[code:~~~\n```\n~~~]\nx"),
        ("```a``` b\nc", "[code:```a``` b]\nc"),
        ("<think>\n*a*\n</think>\n\n*b*", "[thought:<think>\n*a*\n</think>]\n\n[emphasis:*b*]"),
        ("<thin* *a*", "<thin* [emphasis:*a*]"),
        ("<think>cut", "[thought:<think>cut]"),
    ],
)
def test_what_has_which_style(text: str, shown: str) -> None:
    assert marked(text) == shown


def test_codes_stand_around_each_line() -> None:
    assert painted("strong code", "a\n\nb") == "\x1b[1;36ma\x1b[0m\n\n\x1b[1;36mb\x1b[0m"
    assert painted("", "a\n") == "a\n" and all(painted(name, "") == "" for name in CODES)


def test_only_what_may_become_a_mark_is_held_back() -> None:
    styler = AnswerStyler()
    assert styler.push("<thi") == [] and styler.push("s") == [Span("", "<this")]
    assert styler.push(" is") == [Span("", " is")] and styler.push("*") == [] and styler.push("b") != []
