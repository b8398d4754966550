r"""One plain spelling of an answer: `plain(r"$\dfrac{1}{2}\,\text{cm}$")` is `\frac{1}{2} cm`.

LaTeX commands that only change the looks disappear; symbols become one Unicode or ASCII character (`\le` is `<=`,
`\pi` is `π`, `\{` is `⦃`, so that it differs from a group's brace); `\text{...}` becomes its words. Letter case stays:
in a formula `R` and `r` are two variables. Unknown commands stay as they are.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile("(?<=[0-9])(?=[¼½¾⅐-⅞])")
_BEFORE = str.maketrans(
    {"㎡": "m^2", "㎥": "m^3", "㎝": "cm", "㎜": "mm", "㎞": "km", "℃": "°C", "℉": "°F", "º": "°", "∘": "°", "˚": "°",
     "∶": ":", "⁄": "/", "…": "...", "ℝ": "\ue000", "ℤ": "\ue001"}
)  # fmt: skip
_AFTER = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "′": "'", "「": '"', "」": '"', "。": ".", "、": ",", "−": "-", "–": "-",
     "—": "-", "⁄": "/", "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "≤": "<=", "≥": ">=", "⩽": "<=",
     "⩾": ">=", "≠": "!=", "\u200b": None, "\ufeff": None, "\u200e": None, "\u200f": None, "\ue000": "ℝ",
     "\ue001": "ℤ", "¢": " cents", "〈": "⟨", "〉": "⟩", "∣": "|"}
)  # fmt: skip

_GREEK = {
    name: chr(code)
    for names, code in (
        ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho", 0x3B1),
        ("sigma tau upsilon phi chi psi omega", 0x3C3),
    )
    for code, name in enumerate(names.split(), code)
}
_GREEK |= {"varphi": "φ", "varepsilon": "ε", "vartheta": "θ", "Delta": "Δ", "Omega": "Ω", "Gamma": "Γ", "Sigma": "Σ",
           "Phi": "Φ", "Theta": "Θ", "Lambda": "Λ", "Pi": "Π", "Psi": "Ψ"}  # fmt: skip
_SYMBOLS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "ne": "!=", "neq": "!=", "lt": "<", "gt": ">", "pm": "±", "mp": "∓", "infty": "∞",
    "cup": "∪", "cap": "∩", "in": "∈", "degree": "°", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|",
    "lbrace": "⦃", "rbrace": "⦄", "langle": "⟨", "rangle": "⟩", "emptyset": "∅", "varnothing": "∅", "oslash": "∅",
    "R": "ℝ", "Z": "ℤ", "ldots": "...", "dots": "...", "cdots": "...", "prime": "'", "approx": "≈", "simeq": "≈",
    "circ": "°", "lor": " or ", "vee": " or ", "land": " and ", "wedge": " and ", "colon": ":", "euro": "€",
    "pounds": "£", "lbrack": "[", "rbrack": "]", "backslash": "∖", "setminus": "∖", "textdollar": "$", "yen": "¥",
}  # fmt: skip
_LOOKS = frozenset(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits rm bf it tiny small large".split()
)
_SPACES = frozenset("quad qquad space enspace thinspace".split())
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln lg log exp max min gcd lcm det".split()
)
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_TEXT = re.compile(
    r"\\(?:text|textnormal|textrm|textbf|textit|textsf|mathrm|mathbf|mathit|mathsf|mathcal|mbox|operatorname\*?|"
    r"hbox|boldsymbol|bm|rm|emph) ?\{([^{}]*)\}"
)
_DECORATION = re.compile(
    r"\\(?:overline|overrightarrow|overset\{\\frown\}|widehat|vec|hat|bar|underline|tilde)"
    r" ?\{([^{}]*)\}"
)
_REPEATING = re.compile(r"(\.[0-9]*)\\overline ?\{([0-9]+)\}|(\.[0-9]*)\(([0-9]+)\)(?![0-9])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|,\\,|\\,|\\;(?=[0-9]{3}))\s*(?=[0-9]{3}(?![0-9]))")
_BLACKBOARD = re.compile(r"\\math(?:bb|bf) ?(?:\{ ?(?P<a>[RZ]) ?\}|(?P<b>[RZ]))(?![a-zA-Z])")
_DEGREE = re.compile(r" ?\^ ?(?:\{ ?°\ ?}|°)|\^ ?\{ ?(?:o|\\circ) ?\}|\^ ?\\circ(?![a-zA-Z])")
_WRAPPED = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"))
_OPENINGS = re.compile(
    r"^(?:(?:so |hence |therefore |thus )?(?:the )?(?:final |correct )?answer(?: is(?: equal to)?)? ?:?|"
    r"(?:所以|因此|故)?(?:最终|正确)?答案(?:是|为)? ?:?|approximately|approx\.?|about|≈|约等于|大约|约|选项)\s*(?=\S)",
    re.IGNORECASE,
)
_STOPS = re.compile(r"(?:(?<![0-9n)])!|[.;,:]){1,20}$")  # 5! is a factorial
_DOLLAR = "\ue003"  # one that is money, until those around formulas are gone
_INLINE = re.compile(r"\$([^$]+)\$(?![0-9])")
_ROUNDS = 12  # nesting of \text, \overline and quotes that is resolved


def plain(answer: str) -> str:
    """Return the answer in the plain spelling that all readers take; letter case stays."""
    text = _SUPERSCRIPT.sub(_raised, answer.translate(_BEFORE))
    text = _SUBSCRIPT.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
    text = unicodedata.normalize("NFKC", _VULGAR.sub(" ", text)).translate(_AFTER)
    text = _commands(_boxed(text))
    return _INLINE.sub(r"\1", unwrapped(text)).replace(_DOLLAR, "$")


def _raised(match: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", match[0]).replace("−", "-")
    return "^" + (digits if len(digits) == 1 else "{" + digits + "}")


def _boxed(text: str) -> str:
    r"""Return what the last `\boxed{}` holds, or the text without one."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return text
    opening = text.index("{", start)
    level = 0
    for place in range(opening, len(text)):
        level += (text[place] == "{") - (text[place] == "}")
        if level == 0:
            return text[opening + 1 : place]
    return text


def _commands(text: str) -> str:
    """Return the text with LaTeX's commands as symbols and words; formulas keep their fractions, roots and braces."""
    text = text.replace("\\\\", "\ue004")  # the end of a matrix's row
    text = _REPEATING.sub(lambda match: f"{match[1] or match[3]}\ue002{match[2] or match[4]}\ue002", text)
    text = _THOUSANDS.sub("", text)
    text = _BLACKBOARD.sub(lambda match: "ℝ" if "R" in match.group("a", "b") else "ℤ", text)
    text = re.sub(r"\\(?:left|right) ?\.|\\(?:[,;:> ]|!)|~", " ", text).replace("\\|", "|")
    text = text.replace("\\%", "%").replace("\\$", _DOLLAR).replace("\\{", "⦃").replace("\\}", "⦄").replace("\\#", "#")
    for _ in range(_ROUNDS):
        before = text
        text = _DECORATION.sub(r"\1", _TEXT.sub(_words, text))
        if text == before:
            break
    text = _DEGREE.sub("°", _COMMAND.sub(_symbol, text))
    return re.sub(r"(?:np|numpy|math|sympy)\.(?=[a-z])", "", text)


def _words(match: re.Match[str]) -> str:
    words = match[1]
    return words if len(words.strip()) < 2 else f" {words} "


def _symbol(match: re.Match[str]) -> str:
    name = match[1]
    if name in ("dfrac", "tfrac", "cfrac"):
        return "\\frac"
    if name in ("dbinom", "tbinom"):
        return "\\binom"
    if name in _LOOKS or name in _SPACES:
        return "" if name in _LOOKS else " "
    if name in _FUNCTIONS:
        return f" {name} "
    return _SYMBOLS.get(name) or _GREEK.get(name) or match[0]


def unwrapped(text: str) -> str:
    """Return the text without surrounding marks, introductions and final stops, spaces collapsed."""
    for _ in range(_ROUNDS):
        before = text
        text = _STOPS.sub("", " ".join(text.split())).strip()
        for opening, closing in _WRAPPED:
            inner = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and inner and closing not in inner:
                text = inner
        text = _OPENINGS.sub("", text)
        if re.fullmatch(r"\([^(),;|]*\)", text):
            text = text[1:-1]
        if text == before:
            break
    return text
