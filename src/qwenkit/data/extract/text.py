"""HTML to text (section 2.1, step 1): the main content of a page, with lists, tables, code and formulas kept readable.

    extract_text(body, url="https://...", encoding="utf-8") -> str

Bytes are decoded first (`decode`), and no header is believed without proof. Then two tiers: `main_content`, our own;
and where its answer is `doubtful`, trafilatura, but of `simple` pages only: its time is quadratic in the depth of a
page and in the attributes of a tag. Measured on gold beside it: `benchmarks/extraction.py`, docs/data.md.
"""

from __future__ import annotations

import logging
import re
import unicodedata

from qwenkit.data.extract.main_content import main_content
from qwenkit.data.readers.encoding import decode

_TITLE, _TITLE_END = re.compile(r"<title\b[^<>]*>[^<]*", re.I), re.compile(r"</title\b", re.I)
TOO_LONG = 2_000_000  # characters of a page beyond which the second tier is not asked


def extract_text(html: bytes | str, url: str | None = None, encoding: str | None = None) -> str:
    """Return the main content of a page as plain text; "" when it has none. `encoding` is a header's claim, not a
    fact."""
    page = decode(html, encoding) if isinstance(html, bytes) else html
    if not _TITLE_END.search(page):  # an open title swallows the whole page: close it before the next tag
        page = _TITLE.sub(r"\g<0></title>", page, count=1)
    if not page.strip():
        return ""
    content = main_content(page)
    text = tidy(content.text)
    if not doubtful(text, content.share) or len(page) > TOO_LONG or not content.simple:
        return text
    careful = tidy(extract_careful(page, url))
    return careful if len(careful) > len(text) or (careful and not content.share) else text


def doubtful(text: str, share: float) -> bool:
    """Return whether an extraction is to be repeated with care: the text holds under 15% of the page's sentences, or it
    is under 100 characters and holds under 80% of them."""
    return share < 0.15 or (len(text) < 100 and share < 0.8)


def extract_careful(page: str, url: str | None = None) -> str:
    """Trafilatura's main content; "" where it finds none."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports every odd page as an error
    try:
        return trafilatura.extract(page, url=url, include_comments=False, include_tables=True) or ""
    except (RecursionError, ValueError):  # pages nested too deeply
        return ""


def tidy(text: str) -> str:
    """NFC, no control characters or soft hyphens, no trailing spaces, at most one empty line in a row."""
    text = unicodedata.normalize("NFC", re.sub(r"\r\n|[\r\x0b\x0c\x85]", "\n", text).replace("\xa0", " "))
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\ufeff]", "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<![ \t])[ \t]+$", "", text, flags=re.M)).strip()
