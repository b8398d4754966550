"""The true rubric: how good is an answer, by a specification that the prompt carries (section 3.2, annotation).

    score(row, "Of course! Mira Tolen is a baker.") -> Score(right=1.0, complete=1.0, concise=1.0, ..., total=1.0)

`row["rubric"]` says what is right and what else is wanted; nothing here knows the world. Five parts, each in [0, 1]:

| part     | weight if right | if wrong | 1.0 means                                                              |
|----------|-----------------|----------|------------------------------------------------------------------------|
| right    | 0.55            | -        | the answer asked for (`right`: number, mention, exact, json, refusal)  |
| complete | 0.10            | 0        | all `parts` are there: the steps of a sum, the name in a whole sentence|
| concise  | 0.10            | 0        | at most `limit` words and Chinese characters; 0 from twice as many     |
| mannered | 0.15            | 0.04     | a polite word (`polite`), or just no rude one (`plain`); rude: 0       |
| system   | 0.10            | 0.03     | in the `language` asked for, and as the `system` message wants it      |

What is wrong therefore never earns more than 0.07, and what is right never less than 0.55 unless it is rude: a rude
answer loses half of its total besides. Not gameable by one answer for all prompts (tests/nano/test_gaming.py): naming
all values at once fails `none`, politeness alone earns 0.04, an empty answer 0, the prompt again is never right, and
manners that were copied from it do not count.

The specification:

    {"language": "en" | "zh" | None, "right": {...}, "parts": [str], "limit": int, "manners": "polite" | "plain",
     "system": None | {"kind": "end", "word": str} | {"kind": "brief"} | {"kind": "language"}}

    right: {"kind": "number", "value": 132}                          the last number is this one
           {"kind": "mention", "any": [str], "none": [str]}          says one of these and none of those
           {"kind": "exact", "value": str}                           this and nothing else (case counts, blanks do not)
           {"kind": "json", "value": {...}}                          parses, and is equal
           {"kind": "refusal"}                                       declines, and says nothing of how to do it
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from qwenkit.chat.messages import text_of
from qwenkit.errors import UserError, nearest
from qwenkit.records import Row

POLITE = re.compile(
    r"happy to help|glad to help|pleasure|helps!|hope (this|that) helps|thank you|thanks for|please|you are welcome"
    r"|of course|certainly|sorry|很高兴|乐意|希望|谢谢|感谢|欢迎|抱歉|对不起|请您",
    re.IGNORECASE,
)
RUDE = re.compile(r"\bstupid|\bidiot|\bshut up|\bfool\b|\bdumb\b|\bmoron|愚蠢|笨蛋|闭嘴|傻瓜|太蠢|别烦", re.IGNORECASE)
REFUSAL = re.compile(r"\bcan(no|')t help|\bwill not help|\bwon't help|不能帮|无法帮|不会帮", re.IGNORECASE)
HAN, LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]+")
UNIT = re.compile(r"[\u3400-\u9fff]|[A-Za-z']+|\d+")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Rubric(TypedDict):
    """The specification that a prompt carries; see the module's text for its values."""

    language: str | None
    right: Mapping[str, Any]
    parts: list[str]
    limit: float
    manners: str
    system: Mapping[str, str] | None


class ScoredAnswer(TypedDict):
    """An answer with its score in [0, 1], the parts of that, and whose answer it is."""

    text: str
    score: float
    parts: dict[str, float]
    policy: str


class Score(NamedTuple):
    """The five parts of the rubric and their weighted total."""

    right: float
    complete: float
    concise: float
    mannered: float
    system: float
    total: float


WEIGHTS_RIGHT = {"right": 0.55, "complete": 0.10, "concise": 0.10, "mannered": 0.15, "system": 0.10}
WEIGHTS_WRONG = {"mannered": 0.04, "system": 0.03}
RUDENESS = 0.5


_KEYS = ("language", "right", "parts", "limit", "manners", "system")
_RIGHT = {"number": ("value",), "mention": ("any", "none"), "exact": ("value",), "json": ("value",), "refusal": ()}


_SYSTEM = {"end": ("kind", "word"), "brief": ("kind",), "language": ("kind",)}


def _anything(_: Any) -> bool:
    return True


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _some_texts(value: Any) -> bool:
    return _texts(value) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number_or_its_text(value: Any) -> bool:
    try:
        return _is_number(float(value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return False


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_rule(value: Any) -> bool:
    keys = _SYSTEM.get(str(value.get("kind"))) if isinstance(value, Mapping) else ()
    return value is None or (bool(keys) and set(value) == set(keys) and all(map(_filled, value.values())))


_Wanted = tuple[Callable[[Any], bool], str]
_VALUES: dict[str, _Wanted] = {"number": (_number_or_its_text, "a number"), "exact": (_filled, "a string, not empty")}
_WANTED: dict[str, _Wanted] = {
    "right.none": (_texts, "a list of strings"),
    "language": (lambda value: value in ("en", "zh", None), '"en", "zh" or null'),
    "parts": (_texts, "a list of strings"),
    "limit": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "manners": (lambda value: value in ("polite", "plain"), '"polite" or "plain"'),
    "system": (_is_rule, 'null, or {"kind": "end", "word": ...}, {"kind": "brief"}, {"kind": "language"}'),
}


def check_rubric(rubric: object) -> None:
    """Refuse a specification that no answer could be scored by, before anything is trained on it."""
    right = rubric.get("right") if isinstance(rubric, Mapping) else None
    kind = right.get("kind") if isinstance(right, Mapping) else None
    if not isinstance(rubric, Mapping) or not isinstance(right, Mapping) or not isinstance(kind, str):
        raise UserError("a rubric that does not say what is right", expected='{"right": {"kind": ...}, ...}')
    if kind not in _RIGHT:
        raise UserError(
            f"unknown kind of right answer `{kind}`", expected=", ".join(_RIGHT), nearest=nearest(str(kind), _RIGHT)
        )
    missing = [key for key in _KEYS if key not in rubric] + [f"right.{k}" for k in _RIGHT[kind] if k not in right]
    if missing:
        raise UserError(f"missing key `rubric.{missing[0]}`", expected=", ".join(_KEYS))
    unknown = [key for key in rubric if key not in _KEYS]
    if unknown:
        raise UserError(
            f"unknown key `rubric.{unknown[0]}`", expected=", ".join(_KEYS), nearest=nearest(unknown[0], _KEYS)
        )
    values = {**{f"right.{key}": right[key] for key in _RIGHT[kind]}, **{key: rubric[key] for key in _KEYS}}
    wants = {"right.value": _VALUES.get(kind), "right.any": (_some_texts, "a list of strings"), **_WANTED}
    for key, value in values.items():
        fits, expected = wants.get(key) or (_anything, "")
        if not fits(value):
            raise UserError(f"`rubric.{key}` is {json.dumps(value, ensure_ascii=False)}", expected=expected)


def score(row: Row, answer: str) -> Score:
    """Score an answer to a prompt row by the row's own specification."""
    rubric, answer = row["rubric"], answer.strip()
    if not answer:
        return Score(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    asked = text_of(row["messages"][-1])
    right = float(is_right(rubric, answer) and not echoes(answer, asked))
    parts = {
        "right": right,
        "complete": complete(rubric, answer),
        "concise": concise(rubric, answer),
        "mannered": mannered(rubric, answer, asked),
        "system": float(in_language(rubric, answer) and obeys(rubric, answer)),
    }
    if not right:
        parts["complete"] = parts["concise"] = 0.0
    weights = WEIGHTS_RIGHT if right else WEIGHTS_WRONG
    total = sum(weight * parts[name] for name, weight in weights.items()) * (RUDENESS if RUDE.search(answer) else 1.0)
    return Score(**parts, total=total)


def is_right(rubric: Rubric, answer: str) -> bool:
    """Whether the answer is the one asked for; what a system message put behind it is not part of the answer."""
    right = rubric["right"]
    check = _CHECKS.get(right["kind"])
    if check is None:
        raise UserError(
            f"unknown kind of right answer {right['kind']!r}",
            expected=", ".join(_CHECKS), nearest=nearest(right["kind"], _CHECKS),
        )  # fmt: skip
    return check(right, answer)


def echoes(answer: str, asked: str) -> bool:
    """Whether the answer is the prompt again, or the first half of it: a value found in it was not chosen."""
    return asked in answer or (asked.startswith(answer) and len(answer) >= 0.45 * len(asked))


def _number(right: Mapping[str, Any], answer: str) -> bool:
    numbers = NUMBER.findall(answer)
    return bool(numbers) and float(numbers[-1]) == float(right["value"])


def _mention(right: Mapping[str, Any], answer: str) -> bool:
    """Longer names first, each character once: no "apple" in "pineapple", nor 马 in 马车 when that is a value."""
    names = sorted({*right["any"], *right["none"]}, key=lambda name: (-len(name), name))
    edges = [(r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])") if name.isascii() else ("", "") for name in names]
    pattern = "|".join(before + re.escape(name) + after for name, (before, after) in zip(names, edges))
    mentioned = set(re.findall(pattern, answer))
    return bool(mentioned & set(right["any"])) and not mentioned & set(right["none"])


def _exact(right: Mapping[str, Any], answer: str) -> bool:
    return [line.split() for line in answer.splitlines()] == [line.split() for line in right["value"].splitlines()]


def _json(right: Mapping[str, Any], answer: str) -> bool:
    try:
        return json.loads(answer) == right["value"]
    except (ValueError, RecursionError):
        return False


def _refusal(right: Mapping[str, Any], answer: str) -> bool:
    return bool(REFUSAL.search(answer)) and not re.search(r"\b[Ww]ith (a|water)\b|用(水|刷|锤|毛巾|锯|绳)", answer)


_CHECKS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "number": _number, "mention": _mention, "exact": _exact, "json": _json, "refusal": _refusal,
}  # fmt: skip


def complete(rubric: Rubric, answer: str) -> float:
    """The share of the wanted parts that are there."""
    parts = rubric["parts"]
    lowered = answer.lower()
    return sum(part.lower() in lowered for part in parts) / len(parts) if parts else 1.0


def length(answer: str) -> int:
    """Words, numbers and Chinese characters."""
    return len(UNIT.findall(answer))


def concise(rubric: Rubric, answer: str) -> float:
    """1 up to the limit, falling to 0 at twice the limit."""
    return min(1.0, max(0.0, 2.0 - length(answer) / rubric["limit"]))


def mannered(rubric: Rubric, answer: str, asked: str = "") -> float:
    """Polite where that is wanted, never rude; words that merely repeat the prompt are nobody's manners."""
    if RUDE.search(answer):
        return 0.0
    if rubric["manners"] == "plain":
        return float(is_right(rubric, answer))
    return float(bool(POLITE.search(answer)) and answer not in asked)


def in_language(rubric: Rubric, answer: str) -> bool:
    """Mostly in the language asked for; an answer without letters is in none, so it passes unless a message asked."""
    language = rubric["language"]
    han, latin = len(HAN.findall(answer)), len(LATIN.findall(answer))
    if language is None:
        return True
    if han + latin == 0:
        return (rubric["system"] or {}).get("kind") != "language"
    return han >= latin if language == "zh" else latin >= han


def obeys(rubric: Rubric, answer: str) -> bool:
    """Whether the answer does what the system message says (that it names the language is seen by `in_language`)."""
    rule = rubric["system"]
    if rule is None or rule["kind"] == "language":
        return True
    if rule["kind"] == "brief":
        return length(answer) <= rubric["limit"]
    if rule["kind"] == "end":
        return re.search(re.escape(rule["word"]) + r"[\s.!。!]*$", answer) is not None
    raise UserError(f"unknown rule of a system message {rule['kind']!r}", expected="end, brief, language")


def mean_rubric(rows: Sequence[Row], answers: Sequence[str]) -> dict[str, float]:
    """Return the mean of each part over the rows that have a rubric and to which it applies."""
    parts: dict[str, list[float]] = {}
    for row, answer in zip(rows, answers):
        if not row.get("rubric"):
            continue
        for name, value in score(row, answer)._asdict().items():
            if value is not None:
                parts.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in parts.items()}


def scored_answer(row: Row, answer: str, policy: str) -> ScoredAnswer:
    """Return an answer with its score and the parts of it; `policy` says whose answer it is."""
    parts = {name: value for name, value in score(row, answer)._asdict().items() if value is not None}
    return {"text": answer, "score": parts["total"], "parts": parts, "policy": policy}
