r"""The parts of lists, tuples, sets and matrices, as texts that are compared one by one.

`collection("(1, 2)")` is `("()", ["1", "2"])`, of a list without brackets `("", [...])`; `and`, `or`, `;` and 和
separate as commas do. `a ± b` is two elements. `matrix(...)`
reads `pmatrix`, `bmatrix`, `array`, `cases` and `[[1,2],[3,4]]`.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = "([{⦃⟨", ")]}⦄⟩"
_BRACKETS = {"⦃⦄": "{}", "⟨⟩": "()", "{}": "{}"}
_MARKS = re.compile(r"[(\[{⦃⟨)\]}⦄⟩,;∪]")
_MOST = 64
_BETWEEN = re.compile(
    r"(?:,|;) ?(?:and|or) |(?<=[0-9A-Za-z)}\]°%⦄π]) ?(?:和|与|或|及|以及|或者) ?(?=[-0-9A-Za-z(\\√π\[⦃⟨$])|"
    r" (?:and|or) (?=[^ ])"
)
_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_ENVIRONMENT = re.compile(
    r"(?P<scale>[^\\]{0,40}(?:\\frac[^\\]{1,40})?)\\begin ?\{(?P<kind>[bpvBV]?matrix|smallmatrix|array|cases|aligned)\}"
    r"(?: ?\{[lcr| ]*\})?(?P<body>.*?)\\end ?\{(?P=kind)\}",
    re.DOTALL,
)


def split_top(text: str, separators: str = ",;") -> list[str]:
    """Return the parts of a text between separators outside of brackets."""
    parts, level, start = [], 0, 0
    for mark in _MARKS.finditer(text):
        level += (mark[0] in _OPEN) - (mark[0] in _CLOSE)
        if level == 0 and mark[0] in separators:
            parts.append(text[start : mark.start()].strip())
            start = mark.end()
    return [*parts, text[start:].strip()]


def enclosed(text: str) -> bool:
    """Return whether the first bracket is closed by the last one: `(1, 2), (3, 4)` is not."""
    if text[:1] not in _OPEN:
        return False
    level = 0
    for mark in _MARKS.finditer(text):
        level += (mark[0] in _OPEN) - (mark[0] in _CLOSE)
        if level < 1:
            return mark.end() == len(text) > 1
    return False


def collection(text: str) -> tuple[str, list[str]] | None:
    """Return (pair of brackets, elements) of a bracketed or bare list, or None.

    Where spaces follow commas, `1,000` inside of a list is a number; in `(1,000)` it is not."""
    bracket = text[0] + text[-1] if text and enclosed(text) else ""
    inner = text[1:-1] if bracket else text
    inner = _BETWEEN.sub(", ", inner)
    if ", " in inner:
        inner = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), inner)
    parts = split_top(inner)
    if len(parts) > _MOST or not all(parts):
        return None
    parts = [half for part in parts for half in _both_signs(part, len(parts))]
    if len(parts) < 2 and not bracket:
        return None
    return _BRACKETS.get(bracket, bracket), parts


def _both_signs(part: str, count: int) -> list[str]:
    """Return `a + b` and `a - b` of `a ± b`."""
    if "±" not in part and "∓" not in part:
        return [part]
    plus = part.replace("±", "+").replace("∓", "-")
    minus = part.replace("±", "-").replace("∓", "+")
    return [side[1:] if side.startswith("+") else side for side in (plus, minus)]


def matrix(text: str) -> tuple[str, list[list[str]]] | None:
    """Return (factor before it or "cases", rows of cells), or None; a row of one cell is a column vector's."""
    match = _ENVIRONMENT.fullmatch(_unbracketed(text))
    if match:
        rows = [row.strip() for row in re.split("\ue004(?: ?\\[[0-9a-z.]*\\])?", match["body"].replace("\\hline", ""))]
        cells = [[cell.strip().rstrip(",") for cell in row.split("&")] for row in rows if row]
        kind = match["kind"] if match["kind"] in ("cases", "vmatrix", "Vmatrix") else ""
        return (kind or match["scale"].strip(" *"), cells) if 0 < len(cells) <= _MOST else None
    if text.startswith(("[[", "((", "{{")) and enclosed(text):
        parts = split_top(text[1:-1])
        if all(part and enclosed(part) and part[0] == text[0] for part in parts):
            return "", [split_top(part[1:-1]) for part in parts]
    return None


def _unbracketed(text: str) -> str:
    """Return the environment without the brackets around it: `\\left[\\begin{array}...\\end{array}\\right]`."""
    inner = text[1:-1].strip() if text[:1] in "[(⦃" and text[-1:] in "])⦄" else text
    if inner.startswith("\\begin") and inner.endswith("}"):
        return inner
    return re.sub(r"[\[(] ?(\\begin.*) ?[\])]$", r"\1", text, flags=re.DOTALL).strip()
