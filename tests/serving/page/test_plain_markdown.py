r"""Every tag is text: outside of code and formulas no `<` is left that Markdown could take for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qwenkit.serving.page.plain_markdown import shown, unshown

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
PIECES = ["<script>", "</script>", "<img src=x onerror=alert(1)>", "`", "```", "~~~", "\n", "\n\n", " ", "    ", "a",
          "$", "$$", "\\", "\\[", "\\]", "\\(", "\\)", "![", "[x](http://e.example/)", "](http://e.example/p.png)",
          "<!--", "<http://e.example>", "<b", ">", "- ", "> ", "&lt;", "5", "mermaid", "\t", "<?", "]: http://e.example",
          ]  # fmt: skip


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
        ("a `<b>` c", "a `<b>` c"),
        ("a ``<b>` c`` <d>", r"a ``<b>` c`` \<d>"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n\\<i>"),
        ("```\n<b>", "```\n<b>"),  # a block that is still being written
        ("~~~\n```\n<b>\n~~~\n<i>", "~~~\n```\n<b>\n~~~\n\\<i>"),
        ("```mermaid\ngraph\n```", "```text\ngraph\n```"),
        ("![a](http://e.example/p.png)", r"\![a](http://e.example/p.png)"),
        ("$a<b$ and $$c<d$$", r"\(a\lt b\) and $$c\lt d$$"),
        (r"\[a<b\] \(c<d\)", r"\[a\lt b\] \(c\lt d\)"),
        ("$5 and $6, or US$7", "$5 and $6, or US$7"),
        (r"\<b>", r"\<b>"),
        ("1 < 2", r"1 \< 2"),
    ],
)
def test_what_is_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def tokens(text: str) -> list[str]:
    return [token.type for outer in MARKDOWN.parse(text) for token in [outer, *(outer.children or [])]]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_markdown_has_tags_or_pictures_left(text: str) -> None:
    """An independent parser of Markdown that would take HTML finds none, and no picture."""
    assert {"html_block", "html_inline", "image"}.isdisjoint(tokens(shown(text)))


@pytest.mark.parametrize("text", ["<b> `<i>` ![p](q)", "```\n<b>\n```\n<i>", "a\nb", "$5", "a & b &lt; c"])
def test_what_is_edited_is_what_was_written(text: str) -> None:
    assert unshown(shown(text)) == text
