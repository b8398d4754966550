"""Bytes to characters, believing no header without proof (before section 2.1's step 1).

    decode(data, claimed="utf-8") -> str

Pages lie about their encoding: GBK under "utf-8", Latin-1 under nothing. What is valid UTF-8 is UTF-8 (other text is
almost never so by accident). Otherwise the claimed, the page's own, a guessed and the usual encodings compete: the
letters outside ASCII are read in each, and the reading that looks most like writing wins. The claim decides only ties.
UTF-16 is known by its mark or by the NUL bytes between its letters, ISO-2022-JP by its escapes. Caveat: other 7-bit
encodings (HZ, UTF-7) are taken for ASCII.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,30})", re.I)
_TAG = re.compile(rb"<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^<>]*>", re.I | re.S)
_HIGH = re.compile(rb"[^\n]{0,40}[\x80-\xff][^\n]{0,200}")
_JAPANESE = re.compile(rb"\x1b\$[@B][\x21-\x7e]{2,}\x1b\([BJ]")
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def decode(data: bytes, claimed: str | None = None) -> str:
    """Bytes as text. What is valid UTF-8 is UTF-8; else the most plausible of claimed, guessed and usual encodings."""
    for bom, name in BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(name, "replace")
    if wide := utf_16(data):
        return data.decode(wide, "replace")
    try:
        return data.decode("iso2022_jp" if _JAPANESE.search(data) else "utf-8")
    except UnicodeDecodeError:
        pass
    if _nearly_utf8(data):
        return data.decode("utf-8", "replace")
    sample = b"\n".join(_HIGH.findall(_TAG.sub(b"\n", data)))[:20_000] or data[:20_000]
    best = max(_candidates(data, sample, claimed), key=lambda name: plausibility(sample, name), default="windows-1252")
    return bytes_to_str(data, best, errors="replace", fallback_encodings=())


def utf_16(data: bytes) -> str | None:
    """The name of UTF-16 without a mark, or None: every other of its bytes is NUL in ASCII, which all markup is."""
    nuls = [data[start:1000:2].count(0) for start in (0, 1)]
    if len(data) < 64 or max(nuls) < 0.3 * len(data[:1000:2]) or min(nuls) > 0.1 * max(nuls):
        return None
    return "utf-16-be" if nuls[0] > nuls[1] else "utf-16-le"


def _nearly_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8 with a few accidents: a cut character, a pasted Latin-1 letter."""
    broken = data.decode("utf-8", "replace").count("\ufffd")
    whole = len(re.findall(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}", data))
    return whole > 20 * broken


def _candidates(data: bytes, sample: bytes, claimed: str | None) -> list[str]:
    """Encodings worth trying, most trusted first (`max` keeps the first of equals)."""
    meta = _META.search(data[:4096])
    names = [claimed, meta.group(1).decode() if meta else None, detect_encoding(sample, max_len=0)]
    names += ["windows-1252", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "windows-1251", "windows-1250"]
    known = [_known(name) for name in names if name]
    return list(dict.fromkeys(name for name in known if name and name != "utf-8"))


@lru_cache(maxsize=256)
def _known(name: str) -> str | None:
    """The encoding's name as browsers read it (`gb2312` is `gb18030`, `latin-1` is `windows-1252`), or None."""
    try:
        mapped = map_encoding_to_html5(name, fallback_utf8=False) or name
        b"a\xe9".decode(mapped, "replace")  # some of Python's codecs are of no use for pages, and raise here
        return {"gbk": "gb18030"}.get(mapped, mapped)
    except (LookupError, TypeError, ValueError):
        return None


@lru_cache(maxsize=1)
def _frequent_han() -> frozenset[str]:
    """Everyday Han characters: level 1 of GB 2312 and of Big5, whose code tables put common characters first."""
    level_1_gb = bytes(b for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF) for b in (high, low))
    level_1_big5 = bytes(b for high in range(0xA4, 0xC7) for low in range(0xA1, 0xFF) for b in (high, low))
    return frozenset(level_1_gb.decode("gb2312", "ignore") + level_1_big5.decode("big5", "ignore"))


def plausibility(sample: bytes, encoding: str) -> float:
    """How much a sample, read in an encoding, looks like writing: the mean score of its non-ASCII characters."""
    text = sample.decode(encoding, "replace")
    chinese = encoding in ("gb18030", "big5")
    scores = [_score(*triple, chinese) for triple in zip(" " + text, text, text[1:] + " ") if triple[1] > "\x7f"]
    return sum(scores) / len(scores) if scores else 0.0


def _score(before: str, char: str, after: str, chinese: bool) -> float:
    """+1 for a character at home among its neighbours, below 0 for one that only a wrong table puts there."""
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs"):
        return -3.0
    if _is_han(char):
        return 1.0 if char in _frequent_han() else -0.5
    if not char.isalpha():
        within_word = before.isalpha() and after.isalpha()
        return -1.0 if within_word else 0.5 if unicodedata.category(char)[0] in "PZ" else -0.5
    if "\u3040" <= char <= "\u30ff":
        return -0.5 if chinese else 1.1  # Chinese tables hold kana, but Chinese text does not
    if "\uac00" <= char <= "\ud7af":
        return -0.5 if _is_han(before) or _is_han(after) else 1.1
    return _alphabetic(before, char, after)


def _is_han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff"


def _alphabetic(before: str, char: str, after: str) -> float:
    """A letter of an alphabet stands among letters of its own kind; capitals do not follow small letters."""
    plain = [side.isascii() and side.isalpha() for side in (before, after)]
    if char.isupper() and before.islower():
        return -1.0
    if char >= "\u0250":
        return -1.0 if any(plain) else 1.0 if char < "\u0600" else 0.2
    if "\x7f" < before < "\u0250" and before.isalpha():
        return -1.0
    return 1.0 if any(plain) else 0.0
