r"""Text of people and models as Markdown in which every tag is text and no picture is fetched.

    shown("<script>alert(1)</script>")       # \<script>alert(1)\</script>
    shown("`a<b` and $a<b$")                 # `a<b` and \(a\lt b\)
    unshown(shown(text)) == text             # nearly: for what people edit as it is shown

The page's Markdown would drop tags, or follow them. In code they are text as it is; in formulas `<` is `\lt`; elsewhere
a backslash makes them text. A picture becomes a link, which is not followed until somebody clicks it, and a diagram
stays the text that it is written in. A formula between single dollars is one where it could not be a sum of money.
"""

from __future__ import annotations

import re
from functools import lru_cache

from markdown_it import MarkdownIt

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)")
_DIAGRAM = re.compile(r"^( {0,3}[`~]{3,} *)mermaid", re.I)
_PARTS = re.compile(
    r"(?P<code>(?<![`\\])(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<math>\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\))"
    r"|(?P<dollars>(?<![\\$\w])\$(?P<inner>(?![\s$])[^$\n]*?[^\s$\\])\$(?![\w$]))"
    r"|(?P<escaped>\\[\\`*_{}\[\]()#+\-.!<>~|$&])"
    r"|(?P<tag><)"
    r"|(?P<picture>!\[)",
    re.S,
)
_TAGS = re.compile(r"(?P<escaped>\\[^\n])|(?P<tag><)|(?P<picture>!\[)|(?P<code>(?!))|(?P<math>(?!))|(?P<dollars>(?!))")
_MAY_BE_CODE = re.compile(r"[`~].*(<|!\[)|(<|!\[).*[`~]", re.S)
_MARKDOWN = MarkdownIt("commonmark", {"html": True})
_UNWANTED = ("html_block", "html_inline", "image")


@lru_cache(maxsize=2048)
def shown(text: str) -> str:
    """Return text as Markdown for the page."""
    markdown = "".join(part if is_code else _PARTS.sub(_plain, part) for part, is_code in _blocks(text))
    if _MAY_BE_CODE.search(text) and _has_tags(markdown):
        return _TAGS.sub(_plain, text)  # what looked like code is none: then every tag is made text, in code too
    return markdown


def _has_tags(markdown: str) -> bool:
    """Return whether a reader of Markdown that takes HTML would find some, or a picture."""
    tokens = _MARKDOWN.parse(markdown)
    return any(token.type in _UNWANTED for outer in tokens for token in (outer, *(outer.children or ())))


def unshown(markdown: str) -> str:
    """Return the text that was shown so."""
    return "".join(
        part if is_code else re.sub(r"\\(<|!\[)", r"\1", part) for part, is_code in _blocks(markdown)
    )  # fmt: skip


def _blocks(text: str) -> list[tuple[str, bool]]:
    """Return the text in parts, and whether each is a fenced block of code; one that is not closed runs to the end."""
    parts: list[tuple[str, bool]] = []
    lines, fence = list[str](), ""
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        opens = match is not None and not fence and not (match[1][0] == "`" and "`" in match[2])
        closes = match is not None and bool(fence) and match[1].startswith(fence) and not match[2].strip()
        if opens and match is not None:
            parts.append(("".join(lines), False))
            lines, fence = [_DIAGRAM.sub(r"\1text", line)], match[1]
            continue
        lines.append(line)
        if closes:
            parts.append(("".join(lines), True))
            lines, fence = [], ""
    return [*parts, ("".join(lines), bool(fence))]


def _plain(match: re.Match[str]) -> str:
    if match["code"] or match["escaped"]:
        return match[0]
    if match["math"]:
        return _formula(match[0])
    if match["dollars"]:
        return rf"\({_formula(match['inner'])}\)"
    return f"\\{match[0]}"


def _formula(text: str) -> str:
    return text.replace("<", r"\lt ")
