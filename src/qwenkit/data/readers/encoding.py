"""Bytes to characters, believing no header without proof (before section 2.1's step 1).

    decode(data, claimed="utf-8") -> str

Pages often declare a wrong encoding: GBK as "utf-8", Latin-1 as nothing. What is valid UTF-8 is UTF-8 (other text is
almost never so by accident). Otherwise the claimed, the page's own, a guessed and the usual encodings compete: the
letters outside ASCII are read in each, and the reading that looks most like writing wins: letters of one script, most
of them everyday ones, no capital within a word. A claim that reads about as well as another is taken. Vietnamese in the
encodings of fonts (TCVN3, VNI), which are not encodings of characters, is read as Western text. UTF-16 is known by its
mark or by the NUL bytes between its letters, ISO-2022-JP by its escapes. Caveat: other 7-bit encodings (HZ, UTF-7) are
taken for ASCII.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from functools import lru_cache

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from qwenkit.data.language import detect_language

_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,30})", re.I)
_SAMPLE = 8000  # bytes that encodings are tried on
_CLAIMED, _GUESSED = 0.1, 0.05  # of a score: what a claim of the page and a guess are worth
_PLAIN = 1.05  # of a score: no other encoding is tried
_USUAL = (
    "windows-1252 gb18030 big5 shift_jis euc-jp euc-kr windows-1251 koi8-u ibm866 iso-8859-5 windows-1250 windows-1256 "
    "iso-8859-6 windows-1253 windows-1255 windows-874 windows-1254 windows-1257 windows-1258"
).split()
_WESTERN = ("cp1252", "cp1250", "iso8859-2", "cp1254", "iso8859-9", "cp1257", "iso8859-13", "iso8859-4", "iso8859-10",
            "iso8859-15", "iso8859-16", "iso8859-3", "cp1258")  # fmt: skip
_ALIASES = {  # names of pages that Python has otherwise
    "windows-874": "cp874", "dos-874": "cp874", "iso-8859-8-i": "iso-8859-8", "csiso88598i": "iso-8859-8",
    "logical": "iso-8859-8", "x-mac-cyrillic": "mac-cyrillic", "x-sjis": "shift_jis", "windows-949": "cp949",
    "x-euc-jp": "euc-jp", "x-gbk": "gb18030", "koi8-r": "koi8-u",
}  # fmt: skip
_TAG = re.compile(rb"<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^<>]*>", re.I | re.S)
_HIGH = re.compile(rb"[^\n]{0,40}[\x80-\xff][^\n]{0,200}")
_JAPANESE = re.compile(rb"\x1b\$[@B][\x21-\x7e]{2,}\x1b\([BJ]")
_SCRIPTS = (
    ("latin", "\u1e00", "\u1eff"), ("greek", "\u0370", "\u03ff"), ("cyrillic", "\u0400", "\u052f"),
    ("hebrew", "\u0590", "\u05ff"), ("arabic", "\u0600", "\u06ff"), ("thai", "\u0e00", "\u0e7f"),
    ("kana", "\u3040", "\u30ff"), ("han", "\u4e00", "\u9fff"), ("hangul", "\uac00", "\ud7af"),
)  # fmt: skip
_EVERYDAY = {  # the letters that are most of a text; the others are read in a wrong table as often
    "greek": "αοιετσνηυρπκμλςωάέόίήύώγδ",
    "cyrillic": "оеаинтсрвлкмдпуяызьбгчійјъћђў",
    "hebrew": "יוהלאתרשנבמםדחקעפן",
    "arabic": "اليمنورتبهةدعسفكیکحقأئء،",
    "thai": "านรอกเงมยลวดทสตัี่้ิะแไคขปบหพจใำชณุูื็์โถธ",
    "han": "的一是不了人我在有他这為为之大来來以个個中上们們到说說国國和地也子时時道出而要于於就下得可你年生自会會那"
    "后後能对對着著事其里裡所去行过過家十用发發天如然作方成者多日都三小二无無同么麼经經法当當起与與好看学學进進种種将將还還分此心前"
    "面又定",
}
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def decode(data: bytes, claimed: str | None = None) -> str:
    """Return bytes as text: valid UTF-8 is UTF-8; otherwise the most plausible of the claimed, guessed and usual
    encodings."""
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
    sample = b"\n".join(_HIGH.findall(_TAG.sub(b"\n", data)))[:_SAMPLE] or data[:_SAMPLE]
    trusted = _named(data, sample, claimed)
    scores = {name: plausibility(sample, name) + trust for name, trust in trusted.items()}
    if max(scores.values(), default=0.0) < _PLAIN:
        usual = filter(None, map(_known, _USUAL))
        scores |= {name: plausibility(sample, name) for name in usual if name not in scores}
    best = max(scores, key=lambda name: scores[name])
    if best in _WESTERN:
        best = _by_language(sample, {name: trust for name, trust in trusted.items() if name in _WESTERN})
    return bytes_to_str(data, best, errors="replace", fallback_encodings=())


def _by_language(sample: bytes, trusted: dict[str, float]) -> str:
    """Return the encoding of Latin letters in which a language is recognised best; such encodings are all full of
    letters."""
    names = dict.fromkeys([*trusted, "cp1252"])
    if len(names) == 1:
        return "cp1252"
    sure = {name: detect_language(sample.decode(name, "replace"))[1] + trusted.get(name, 0.0) / 4 for name in names}
    return max(sure, key=lambda name: sure[name])


def utf_16(data: bytes) -> str | None:
    """Return the name of UTF-16 without a mark, or None: in it every other byte of ASCII, such as markup, is NUL."""
    nuls = [data[start:1000:2].count(0) for start in (0, 1)]
    if len(data) < 64 or max(nuls) < 0.3 * len(data[:1000:2]) or min(nuls) > 0.1 * max(nuls):
        return None
    return "utf-16-be" if nuls[0] > nuls[1] else "utf-16-le"


def _nearly_utf8(data: bytes) -> bool:
    """Return whether the bytes are UTF-8 with a few accidents: a truncated character, a pasted Latin-1 letter."""
    broken = data.decode("utf-8", "replace").count("\ufffd")
    whole = len(re.findall(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}", data))
    return whole > 20 * broken


def _named(data: bytes, sample: bytes, claimed: str | None) -> dict[str, float]:
    """Return the encodings that are claimed, with their bonus to the score (`max` keeps the first of equals)."""
    meta = _META.search(data[:4096])
    named = ((claimed, _CLAIMED), (meta.group(1).decode() if meta else None, _CLAIMED))
    named = (*named, (detect_encoding(sample, max_len=0), _GUESSED))
    trusted: dict[str, float] = {}
    for name, trust in named:
        known = _known(name) if name else None
        if known and known != "utf-8":
            trusted.setdefault(known, trust)
    return trusted


@lru_cache(maxsize=256)
def _known(name: str) -> str | None:
    """Return the encoding's name as browsers read it (`gb2312` is `gb18030`, `latin-1` is `windows-1252`), or None."""
    try:
        plain = _ALIASES.get(name.lower(), name)
        mapped = map_encoding_to_html5(plain, fallback_utf8=False) or plain
        b"a\xe9".decode(mapped, "replace")  # some of Python's codecs are of no use for pages, and raise here
        return codecs.lookup({"gbk": "gb18030"}.get(mapped, mapped)).name
    except (LookupError, TypeError, ValueError):
        return None


@lru_cache(maxsize=1)
def _frequent_han() -> frozenset[str]:
    """Return the common Han characters: level 1 of GB 2312 and of Big5, whose code tables put common characters
    first."""
    level_1_gb = bytes(b for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF) for b in (high, low))
    level_1_big5 = bytes(b for high in range(0xA4, 0xC7) for low in range(0xA1, 0xFF) for b in (high, low))
    return frozenset(level_1_gb.decode("gb2312", "ignore") + level_1_big5.decode("big5", "ignore"))


def plausibility(sample: bytes, encoding: str) -> float:
    """Return how much a sample looks like writing when it is read in an encoding: the mean score of its non-ASCII
    characters."""
    text = sample.decode(encoding, "replace")
    chinese = encoding in ("gb18030", "big5")
    scores = [_score(*triple, chinese) for triple in zip(" " + text, text, text[1:] + " ") if triple[1] > "\x7f"]
    return sum(scores) / len(scores) if scores else 0.0


def _score(before: str, char: str, after: str, chinese: bool) -> float:
    """Return 1 for a character that fits its neighbours, below 0 for one that only a wrong table puts there."""
    script, category = _script(char), unicodedata.category(char)
    if char == "\ufffd" or category in ("Cc", "Cn", "Co", "Cs"):
        return -3.0
    if script in ("han", "hangul", "kana") and all(side.isascii() and side.isalpha() for side in (before, after)):
        return -1.0
    if script == "han":
        return 1.2 if char in _EVERYDAY[script] else 0.9 if char in _frequent_han() else -0.5
    if category[0] == "M":  # a vowel or an accent, on a letter of its own script
        known = char in _EVERYDAY.get(script, "")
        follows = _script(before) == script if script else before.isalpha()
        return (0.9 if known or not script else 0.2) if follows else -1.0
    if not char.isalpha():
        within_word = before.isalpha() and after.isalpha()
        return -1.0 if within_word else 0.5 if category[0] in "PZ" else -0.5
    if script == "kana":
        return -0.5 if chinese else 1.1  # Chinese tables hold kana, but Chinese text does not
    if script == "hangul":
        return -0.5 if _script(before) == "han" or _script(after) == "han" else 1.1
    return _alphabetic(before, char, after, script)


def _alphabetic(before: str, char: str, after: str, script: str) -> float:
    """Return the score of a letter: it fits among letters of its script, common ones score higher, capitals do not
    follow small letters."""
    if char.isupper() and before.islower():
        return -1.0
    if any(side.isalpha() and _script(side) != script for side in (before, after)):
        return -1.0
    if script != "latin":
        return 1.0 if char.lower() in _EVERYDAY.get(script, "") else 0.2
    if "\x7f" < before < "\u0250" and before.isalpha():
        return -1.0
    return 1.0 if any(side.isascii() and side.isalpha() for side in (before, after)) else 0.0


@lru_cache(maxsize=1 << 16)
def _script(char: str) -> str:
    """Return the script of a character; "" for a sign that all scripts use."""
    if char < "\u0250":
        return "latin" if char.isalpha() else ""
    return next((name for name, first, last in _SCRIPTS if first <= char <= last), "")
