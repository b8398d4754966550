"""Powers, indices and the marks of footnotes, as plain text."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"[\d\s]*\d[\d\s]*\Z")
_BRACKETED = re.compile(r"[\[(［〔【].{0,40}[\])］〕】][:：\d\s,;–-]*\Z", re.S)
_SIGN = re.compile(r"[*†‡§¶‖#↑→⁎※\s]+\Z")
_AMOUNT = re.compile(r"[+\-−–±]?\d[\d.,]*\Z")
_ORDINAL = re.compile(
    r"(?:st|nd|rd|th|[eèao]|er|[eè]re|re|n?d|nde|i?[eè]me|m[eo]|r|l?le|gr|te|tm|sm|mc|ª|º|[®™])s?\.?\Z", re.I
)
_FOOTNOTE = re.compile(r"#?[\w:.-]*(?:fn|foot|note|cite|ref|ftn|bib|doc-noteref|doc-backlink)", re.I)
_MARK = re.compile(r"[\[(［〔]?\s*(?:\d{1,3}|[a-z]{1,2}|[*†‡§¶]+)\s*[\])］〕]?\Z")
_EXPONENTS = frozenset("nkxyijmpqNKLMT")
_LETTER = re.compile(r"(?:^|\W)(?:[^\W\d_]|[)\]])\Z")
_AFTER_WORD = re.compile(r"[\w)\]}]\Z")


def are_numbers(parts: list[str]) -> bool:
    """Return whether a text is nothing but numbers, such as line numbers."""
    return bool(_NUMBERS.match("".join(parts)))


def made(what: str, text: str, before: str, *, linked: bool, href: str = "") -> str:
    """Return the plain text of a superscript (`sup`), a subscript (`sub`) or a link within the page (`a`)."""
    if what == "sup":
        return _raised(text, before, linked=linked)
    return _lowered(text, before) if what == "sub" else _linked(text, href)


def _raised(text: str, before: str, *, linked: bool) -> str:
    """Return a power after a sign, an ordinal's ending unchanged, and nothing for a footnote mark."""
    bare = text.strip()
    if _BRACKETED.match(bare) or _SIGN.match(bare) or (linked and _MARK.match(bare)):
        return ""
    if not _AFTER_WORD.search(before):
        return "" if _AMOUNT.match(bare) and before and not before[-1].isspace() else text
    if _AMOUNT.match(bare):
        return "^" + bare
    if bare.isalpha():
        power = _LETTER.search(before) or (before[-1:].isdecimal() and bare in _EXPONENTS)
        return "^" + bare if power and not _ORDINAL.match(bare) else text
    return text if not any(map(str.isalnum, bare)) else f"^({bare})" if len(bare) < 30 else text


def _lowered(text: str, before: str) -> str:
    """Return an index of letters after a sign; numbers stay as in H2O."""
    bare = text.strip()
    if not bare or bare.isdecimal() or not _LETTER.search(before) or len(bare) > 30:
        return text
    return f"_{bare}" if bare.isalnum() else f"_({bare})"


def _linked(text: str, href: str) -> str:
    """Return "" for a link within the page that is only a mark: of a heading, of a footnote, the way back."""
    bare = text.strip("\u200b \n\t")
    if not any(map(str.isalnum, bare)) or (_MARK.match(bare) and _FOOTNOTE.match(href)):
        return ""
    return text
