"""HTML to text (section 2.1, step 1): the main content of a page, with lists, tables and code kept readable.

    extract_text(body, url="https://...", encoding="utf-8") -> str

Bytes are decoded first (`decode`), and no header is believed without proof. Then two extractors: resiliparse (an order
of magnitude faster) and, where its answer looks `doubtful`, trafilatura: of the two answers the one with less text in
unfinished lines is taken. That scores above either extractor alone: `benchmarks/extraction.py`, docs/data.md.
"""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata

from resiliparse.extract.html2text import extract_plain_text

from qwenkit.data.charset import decode
from qwenkit.data.quality import View, unfinished_lines

_LIST_TAG = re.compile(r"<(/?)ul\b[^<>]*>", re.I)
_TITLE, _TITLE_END = re.compile(r"<title\b[^<>]*>[^<]*", re.I), re.compile(r"</title\b", re.I)
TOO_LONG = 2_000_000  # characters of a page on which only the fast extractor is tried


def extract_text(html: bytes | str, url: str | None = None, encoding: str | None = None) -> str:
    """The main content of a page as plain text; "" when it has none. `encoding` is a header's claim, not a fact."""
    page = decode(html, encoding) if isinstance(html, bytes) else html
    if not _TITLE_END.search(page):  # an open title swallows the whole page: close it before the next tag
        page = _TITLE.sub(r"\g<0></title>", page, count=1)
    if not page.strip():
        return ""
    fast = tidy(extract_fast(page))
    if not doubtful(fast) or len(page) > TOO_LONG:
        return fast
    careful = tidy(extract_careful(page, url))
    return careful if _unfinished(careful) < _unfinished(fast) and 10 * len(careful) > len(fast) else fast


def extract_fast(page: str) -> str:
    """Resiliparse's main content. It takes every `<ul>` less than four deep for a menu; so lists of text go deeper."""
    return extract_plain_text(
        _deeper_lists(page), main_content=True, preserve_formatting=True, alt_texts=False, comments=False
    )


def _deeper_lists(page: str) -> str:
    """The page with every innermost `<ul>` of text, not of links, three levels deeper."""
    tags = list(_LIST_TAG.finditer(page))
    parts, done = [], 0
    for opening, closing in itertools.pairwise(tags):
        if opening.group(1) or not closing.group(1):
            continue
        inside = page[opening.end() : closing.start()].lower()
        if inside.count("<li") > 2 * inside.count("<a "):
            whole = page[opening.start() : closing.end()]
            parts += [page[done : opening.start()], f"<div><div><div>{whole}</div></div></div>"]
            done = closing.end()
    return "".join([*parts, page[done:]])


def extract_careful(page: str, url: str | None = None) -> str:
    """Trafilatura's main content; "" where it finds none."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports every odd page as an error
    return trafilatura.extract(page, url=url, include_comments=False, include_tables=True) or ""


def doubtful(text: str) -> bool:
    """The cheap confidence test: very little text, or much of it in lines that do not end as sentences do (menus)."""
    return len(text) < 100 or _unfinished(text) > 0.15


def _unfinished(text: str) -> float:
    return unfinished_lines(View(text)) if text else 1.0


def tidy(text: str) -> str:
    """NFC, no control characters, no trailing spaces, at most one empty line in a row."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " "))
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]", "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<![ \t])[ \t]+$", "", text, flags=re.M)).strip()
