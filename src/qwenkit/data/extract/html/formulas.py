"""Formulas as TeX between dollar signs, from wherever a page has them: MathML with or without a note in TeX, scripts
of MathJax, pictures; and the other elements whose text is not the page's own.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from qwenkit.data.extract.html.names import FORMULA, meaning

_STYLE = re.compile(r"\{\s*\\(?:display|text|script)style\b\s*(.*)\}\Z", re.S)
_MADE_FROM_TEX = re.compile(
    r"latex|equation\?tex=|codecogs|mathtex|mimetex|texvc|[?&]cht=tx|/math/|/tex/|/formulas?/|math/render", re.I
)
_QUERY = re.compile(r"[?&](?:tex|latex|chl)=([^&]*)|(?:codecogs\.com/[a-z.]*|mathtex\.cgi|mimetex\.cgi)\?([^&]*)", re.I)
_EMOJI = re.compile(r"\b(?:emoji|emoticon|smiley|twemoji)\b", re.I)
_SIMPLE = re.compile(r"(?:.|\d+|\\[a-zA-Z]+)?\Z", re.S)
_UNSEEN_OPERATORS = re.compile("[\u2061-\u2064\u200b]")
_LONGEST_EMOJI, _LONGEST_FORMULA, _DEEPEST = 8, 5000, 60


def formula(tex: str) -> str:
    """TeX between dollar signs; "" for nothing."""
    tex = " ".join(tex.split())
    while len(tex) > 1 and tex[0] == tex[-1] == "$":
        tex = tex[1:-1].strip()
    if tex.startswith(("\\(", "\\[")) and tex.endswith(("\\)", "\\]")):
        tex = tex[2:-2].strip()
    if style := _STYLE.match(tex):
        tex = style[1].strip()
    return f"${tex}$" if tex and len(tex) <= _LONGEST_FORMULA else ""


def image_text(attributes: dict[str, str]) -> str:
    """Return the text that a picture stands for: a formula or an emoji. Other pictures have captions for that."""
    kind, source, alt = (attributes.get(key, "") for key in ("class", "src", "alt"))
    if "eeimg" in attributes or meaning(kind) & FORMULA or _MADE_FROM_TEX.search(source[:500]):
        if alt.strip():
            return formula(alt)
        match = _QUERY.search(source)
        return formula(unquote_plus(match[1] or match[2] or "")) if match else ""
    if kind and _EMOJI.search(kind) and len(alt) <= _LONGEST_EMOJI and not alt.isalnum():
        return alt
    return ""


class Aside:
    """An element whose text is none of the page's: titles, formulas and boxes of text are taken from it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self._depth = tag, 1
        self.fixed = "readonly" in attributes or "disabled" in attributes
        script = tag == "script" and attributes.get("type", "").startswith("math/tex")
        self._kept = script or tag in ("title", "textarea")
        self._parts: list[str] = []
        self._math = _Math(attributes) if tag == "math" else None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Open an element inside."""
        self._depth += 1
        if self._math is not None:
            self._math.start(tag, attributes)
        elif tag == "math" and not self._kept:
            self._math = _Math(attributes)

    def end(self, tag: str) -> bool:
        """One element less is open; whether that was the last."""
        self._depth -= 1
        if self._math is not None:
            self._math.end(tag)
        return not self._depth

    def data(self, text: str) -> None:
        """Take the text of the element."""
        if self._math is not None:
            self._math.data(text)
        elif self._kept:
            self._parts.append(text)

    def text(self) -> str:
        """Return the text collected so far."""
        return "".join(self._parts)

    def formula(self) -> str:
        """Return the formula in it, "" if there is none."""
        if self._math is not None:
            return formula(self._math.tex())
        return formula(self.text()) if self.tag == "script" else ""


class _Math:
    """One `math` element: its TeX where the page notes it, else TeX made of its parts."""

    def __init__(self, attributes: dict[str, str]) -> None:
        self._alt = attributes.get("alttext", "")
        self._noted: list[str] = []
        self._note = 0  # depth inside a note: 1 and more
        self._is_tex = False
        self._frames: list[tuple[str, list[str], dict[str, str]]] = [("math", [], {})]
        self._flat = 0  # elements too deep to be told apart

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Open an element inside."""
        if self._note or tag.startswith("annotation"):
            if not self._note:
                self._is_tex = "tex" in attributes.get("encoding", "").lower()
            self._note += 1
        elif len(self._frames) > _DEEPEST:
            self._flat += 1
        else:
            self._frames.append((tag, [], attributes))

    def end(self, tag: str) -> None:
        if self._note:
            self._note -= 1
        elif self._flat:
            self._flat -= 1
        elif len(self._frames) > 1:
            name, parts, attributes = self._frames.pop()
            self._frames[-1][1].append(_written(name, parts, attributes))

    def data(self, text: str) -> None:
        """Take the text of the element."""
        if self._note:
            if self._is_tex:
                self._noted.append(text)
        elif shown := _UNSEEN_OPERATORS.sub("", text).strip():
            self._frames[-1][1].append(shown)

    def tex(self) -> str:
        while len(self._frames) > 1:
            self.end("")
        return "".join(self._noted).strip() or self._alt or "".join(self._frames[0][1])


def _group(text: str) -> str:
    return text if _SIMPLE.match(text) else f"{{{text}}}"


def _written(tag: str, parts: list[str], attributes: dict[str, str]) -> str:
    """An element of MathML as TeX."""
    filled = [part for part in parts if part] if tag in ("mrow", "math", "mstyle") else parts
    match tag, filled:
        case "msup" | "mover", [base, above]:
            return f"{base}^{_group(above)}"
        case "msub" | "munder", [base, below]:
            return f"{base}_{_group(below)}"
        case "msubsup" | "munderover", [base, below, above]:
            return f"{base}_{_group(below)}^{_group(above)}"
        case "mfrac", [above, below]:
            return f"\\frac{{{above}}}{{{below}}}"
        case "mroot", [base, order]:
            return f"\\sqrt[{order}]{{{base}}}"
        case "msqrt", _:
            return f"\\sqrt{{{''.join(filled)}}}"
        case "mtr", _:
            return " & ".join(part for part in filled if part)
        case "mtable", _:
            return r" \\ ".join(part for part in filled if part)
        case "mfenced", _:
            inner = ",".join(part for part in filled if part)
            return f"{attributes.get('open', '(')}{inner}{attributes.get('close', ')')}"
        case _:
            return "".join(filled)
