"""HTML to text (section 2.1, step 1): the main content of a page, with lists, tables, code and formulas kept readable.

    extract_text(body, url="https://...", encoding="utf-8") -> str

Bytes are decoded first (`decode`), and no header is believed without proof. Then two tiers: `main_content`, our own;
and where its answer is `doubtful`, trafilatura, and resiliparse where that finds nothing either. Measured on gold
beside both: `benchmarks/extraction.py`, docs/data.md.
"""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata

from resiliparse.extract.html2text import extract_plain_text

from qwenkit.data.charset import decode
from qwenkit.data.main_content import main_content

_TITLE, _TITLE_END = re.compile(r"<title\b[^<>]*>[^<]*", re.I), re.compile(r"</title\b", re.I)
_NESTING = re.compile(
    r"<(/?)(?:div|span|section|article|table|blockquote|ul|ol|dl|b|i|em|strong|font|center|form)\b", re.I
)
TOO_LONG = 2_000_000  # characters of a page beyond which the second tier is not tried
TOO_DEEP = 2000  # elements inside each other beyond which it is not: its time is quadratic in them


def extract_text(html: bytes | str, url: str | None = None, encoding: str | None = None) -> str:
    """The main content of a page as plain text; "" when it has none. `encoding` is a header's claim, not a fact."""
    page = decode(html, encoding) if isinstance(html, bytes) else html
    if not _TITLE_END.search(page):  # an open title swallows the whole page: close it before the next tag
        page = _TITLE.sub(r"\g<0></title>", page, count=1)
    if not page.strip():
        return ""
    text, share = main_content(page)
    text = tidy(text)
    if not doubtful(text, share) or len(page) > TOO_LONG or too_deep(page):
        return text
    careful = tidy(extract_careful(page, url)) or tidy(extract_fast(page))
    return careful if len(careful) > len(text) else text


def doubtful(text: str, share: float) -> bool:
    """The cheap confidence test: very little text, or little of the sentences that the page has."""
    return len(text) < 100 or share < 0.15


def too_deep(page: str) -> bool:
    """Whether more than `TOO_DEEP` elements are open at once."""
    steps = (-1 if tag[1] else 1 for tag in _NESTING.finditer(page))
    return max(itertools.accumulate(steps), default=0) > TOO_DEEP


def extract_fast(page: str) -> str:
    """Resiliparse's main content."""
    return extract_plain_text(page, main_content=True, preserve_formatting=True, alt_texts=False, comments=False)


def extract_careful(page: str, url: str | None = None) -> str:
    """Trafilatura's main content; "" where it finds none."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports every odd page as an error
    try:
        return trafilatura.extract(page, url=url, include_comments=False, include_tables=True) or ""
    except (RecursionError, ValueError):  # pages nested too deeply
        return ""


def tidy(text: str) -> str:
    """NFC, no control characters, no trailing spaces, at most one empty line in a row."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " "))
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]", "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<![ \t])[ \t]+$", "", text, flags=re.M)).strip()
