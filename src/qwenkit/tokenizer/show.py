"""Show how a text is cut into tokens: in the terminal, as plain text, or as a page.

    print(tokens_ansi(tok, "你好, world"))
    Path("tokens.html").write_text(tokens_html(tok, ["你好, world"]), encoding="utf-8")

Neighbouring tokens have different colours; special tokens are inverted. Tokens that only together make a character are
shown as one, with all their ids. Where colours mean nothing a bar stands between tokens. The page needs no network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

from qwenkit import pages
from qwenkit.tokenizer.core import Tokenizer

_COLOURS = ("\x1b[30;48;5;153m", "\x1b[30;48;5;223m", "\x1b[30;48;5;151m", "\x1b[30;48;5;218m")
_SPECIAL, _RESET = "\x1b[7m", "\x1b[0m"

Special = Collection[str] | str


class PlainToken(TypedDict):
    """One token: its id, its bytes in hexadecimal, and its text, or None where the bytes are not UTF-8."""

    id: int
    bytes: str
    text: str | None


class TokenGroup(NamedTuple):
    """Tokens that form complete characters together."""

    text: str
    ids: list[int]


def token_groups(tok: Tokenizer, ids: Iterable[int]) -> Iterator[TokenGroup]:
    """Yield the smallest groups of tokens that are text; an incomplete character at the end shows as U+FFFD."""
    group: list[int] = []
    stream = tok.stream()
    for token in ids:
        group.append(token)
        text = stream.push(token)
        if text:
            yield TokenGroup(text, group)
            group = []
    if group:
        yield TokenGroup(stream.flush(), group)


def printable(text: str) -> str:
    """Return text with visible line ends; other control characters are escaped, so that they cannot move the cursor."""
    shown = "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return shown.replace("\n", "↵\n")


def tokens_ansi(tok: Tokenizer, text: str, allowed_special: Special = frozenset()) -> str:
    """Return the text with terminal colours, and a line of counts."""
    ids = tok.encode(text, allowed_special)
    special = set(tok.special.values())
    parts = [
        (_SPECIAL if special & set(group.ids) else _COLOURS[number % len(_COLOURS)]) + _coloured(group.text)
        for number, group in enumerate(token_groups(tok, ids))
    ]
    return f"{''.join(parts)}{_RESET}\n{counts(text, ids)}"


def _coloured(text: str) -> str:
    """Return coloured text whose colour ends before each line does; otherwise it would fill the window."""
    return printable(text).replace("\n", f"{_RESET}\n") + _RESET


def tokens_text(tok: Tokenizer, text: str, allowed_special: Special = frozenset()) -> str:
    """Return the text with bars between tokens, and a line of counts."""
    ids = tok.encode(text, allowed_special)
    return f"{'│'.join(printable(group.text) for group in token_groups(tok, ids))}\n{counts(text, ids)}"


def tokens_html(tok: Tokenizer, texts: Iterable[str], allowed_special: Special = frozenset()) -> str:
    """Return an HTML page of any number of texts; hovering over a token shows its ids."""
    return pages.page("tokenizer/tokens.html", texts=[_text_view(tok, text, allowed_special) for text in texts])


def _text_view(tok: Tokenizer, text: str, allowed_special: Special) -> dict[str, Any]:
    """Return the counts of a text, and of each group of tokens its colour, ids and text."""
    ids, special = tok.encode(text, allowed_special), set(tok.special.values())
    groups = [
        {
            "colour": "s" if special & set(group.ids) else f"c{number % len(_COLOURS)}",
            "ids": " ".join(map(str, group.ids)),
            "text": printable(group.text),
        }
        for number, group in enumerate(token_groups(tok, ids))
    ]
    return {"counts": counts(text, ids), "groups": groups}


def tokens_plain(tok: Tokenizer, text: str, allowed_special: Special = frozenset()) -> list[PlainToken]:
    """Return every token for programs: its id, its bytes in hexadecimal, and its text where it is valid UTF-8."""
    return [_plain(i, tok.decode_bytes([i])) for i in tok.encode(text, allowed_special)]


def _plain(token: int, data: bytes) -> PlainToken:
    try:
        return {"id": token, "bytes": data.hex(), "text": data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "bytes": data.hex(), "text": None}


def counts(text: str, ids: Sequence[int]) -> str:
    """Return a line with the number of tokens and characters, and UTF-8 bytes per token."""
    size = len(text.encode("utf-8", "replace"))
    rate = f", {size / len(ids):.2f} bytes per token" if ids else ""
    return f"{len(ids)} tokens, {len(text)} characters{rate}"
