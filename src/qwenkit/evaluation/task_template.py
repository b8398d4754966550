"""Templates of task files: text with fields of a row, each changed by named filters.

    text = fill("Q: {question|strip}", row)
    choices = value("{choices}", row)                  # one field alone keeps its type: a list, a number
    gold = value("{answer|after:####|strip}", row)

A field is a name, or a path such as `choices.0`. `{{` and `}}` are braces. A filter is a name of `FILTERS`, with an
argument behind a colon for some. Nothing in a row is ever evaluated, and a template can neither call nor loop, so that
task files of strangers are as safe as their data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from qwenkit.errors import UserError, nearest

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_OPTION = re.compile(r"^\s*(?:[(（]\s*[A-Z]\s*[)）]|[A-Z](?=[ .、:：．]))[ .、:：．]*")
_BETWEEN = re.compile(r"[\s,，、。.;；]")
_MIXED = re.compile(r"(\d*)\(\(?(\d+)\)?/\(?(\d+)\)?\)")
_CAPTION = re.compile(r"\[.*?\]")
_CALCULATION = re.compile(r"<<[^<>]*>>")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LANGUAGES = {
    "python": ("python", "_py", "mbpp"), "cpp": ("cpp", "mbcpp"), "javascript": ("js", "javascript", "mbjsp"),
    "java": ("java", "mbjp"), "go": ("go", "mbgp"), "rust": ("rust", "rs"), "typescript": ("typescript", "mbtsp"),
}  # fmt: skip
"""How published files of problems call a programming language in their names."""


class Use(NamedTuple):
    """One use of a filter in a template."""

    name: str
    argument: str


class Field(NamedTuple):
    """A place in a template: the path of a field, and the filters that change its value, in their order."""

    path: tuple[str, ...]
    filters: tuple[Use, ...]


Template = tuple[str | Field, ...]


def parse(template: str) -> Template:
    """Return the parts of a template; raises a `UserError` for a lone brace or an unknown filter."""
    parts: list[str | Field] = []
    at = 0
    for match in _PIECE.finditer(template):
        parts.append(template[at : match.start()])
        at = match.end()
        if match[0] in ("{{", "}}"):
            parts.append(match[0][0])
        elif match[1] is None:
            raise UserError(f"a lone `{match[0]}` in a template", expected="{field}, or {{ and }} for braces")
        else:
            parts.append(_field(match[1]))
    parts.append(template[at:])
    return tuple(part for part in parts if part != "")


def _field(text: str) -> Field:
    path, *filters = text.split("|")
    uses = [Use(name.strip(), argument) for name, _, argument in (use.partition(":") for use in filters)]
    for use in uses:
        if use.name not in FILTERS:
            raise UserError(
                f"`{use.name}` is not a filter", expected=", ".join(FILTERS), nearest=nearest(use.name, FILTERS)
            )
    if not path.strip():
        raise UserError("an empty field in a template", expected="{field}")
    return Field(tuple(path.strip().split(".")), tuple(uses))


def fields(template: str) -> frozenset[str]:
    """Return the names of the fields that a template reads."""
    return frozenset(part.path[0] for part in parse(template) if isinstance(part, Field))


def fill(template: str, row: Mapping[str, Any]) -> str:
    """Return the text of a template with the values of a row; a list or an object in it is a `UserError`."""
    return "".join(part if isinstance(part, str) else _text(part, row) for part in parse(template))


def value(template: str, row: Mapping[str, Any]) -> Any:
    """Return the value of a template that is one field alone, in its own type; otherwise its text."""
    parts = parse(template)
    if len(parts) == 1 and isinstance(parts[0], Field):
        return _value(parts[0], row)
    return fill(template, row)


def _text(field: Field, row: Mapping[str, Any]) -> str:
    result = _value(field, row)
    if result is None or isinstance(result, (list, dict)):
        kind = {list: "a list", dict: "an object"}.get(type(cast("Any", result)), "empty")
        raise UserError(f"`{'.'.join(field.path)}` is {kind} where text is needed", expected="a string or a number")
    return str(result)


def _value(field: Field, row: Mapping[str, Any]) -> Any:
    result: Any = row
    for name in field.path:
        result = _inside(result, name, field)
    for use in field.filters:
        try:
            result = FILTERS[use.name](result, use.argument)
        except (AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
            shown = repr(result) if len(repr(result)) < 80 else f"{repr(result)[:77]}..."
            raise UserError(f"`{'.'.join(field.path)}` is {shown}, which `{use.name}` cannot change") from error
    return result


def _inside(whole: Any, name: str, field: Field) -> Any:
    if isinstance(whole, Mapping) and name in whole:
        return cast("Mapping[str, Any]", whole)[name]
    if isinstance(whole, list) and name.isdigit() and int(name) < len(cast("list[Any]", whole)):
        return cast("list[Any]", whole)[int(name)]
    known = [str(key) for key in cast("Mapping[str, Any]", whole)] if isinstance(whole, Mapping) else []
    raise UserError(
        f"the row has no `{'.'.join(field.path)}`", expected=", ".join(known) or None, nearest=nearest(name, known)
    )


def letter_index(text: str) -> int:
    """Return the index of a letter: 0 for A. Raises a `ValueError` for anything else."""
    text = text.strip()
    if len(text) != 1 or text not in LETTERS:
        raise ValueError(text)
    return LETTERS.index(text)


def boxed(text: str) -> str:
    r"""Return what the last `\boxed{...}` of a solution holds; a `ValueError` where there is none."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        short = re.findall(r"\\boxed\s+([^\s$]+)", text)
        if not short:
            raise ValueError("no box")
        return short[-1]
    begin = text.index("{", start) + 1
    depth = 1
    for at in range(begin, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[begin:at]
    raise ValueError("an open box")


def _indices(answer: Any, _: str) -> int | list[int]:
    """Return the index of a letter, or of each letter of a list or of a word such as `ACD`."""
    letters = _BETWEEN.sub("", answer if isinstance(answer, str) else "".join(answer))
    if not letters:
        raise ValueError(answer)
    indices = [letter_index(letter) for letter in letters]
    return indices[0] if len(indices) == 1 else indices


def _between(number: Any, limits: str) -> bool:
    low, high = map(int, limits.split(","))
    return low <= int(number) <= high


def _language(name: str, _: str) -> str:
    words = set(re.split(r"[_.\-]", name.lower()))
    for language, names in LANGUAGES.items():
        if words & set(names):
            return language
    raise ValueError(name)


def _lettered(choices: list[str], mark: str) -> str:
    return "\n".join(f"{letter}{mark}{choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _fraction(answer: str, _: str) -> str:
    """Return Math23K's `5((7)/(10))` as 57/10."""
    match = _MIXED.fullmatch(answer)
    return f"{int(match[1] or 0) * int(match[3]) + int(match[2])}/{match[3]}" if match else answer


def _hellaswag(text: str, _: str) -> str:
    """Return WikiHow's text without its marks, as published task definitions of HellaSwag do."""
    return _CAPTION.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


FILTERS: dict[str, Callable[[Any, str], Any]] = {
    "strip": lambda text, _: text.strip(),
    "rstrip": lambda text, _: text.rstrip(),
    "lstrip": lambda text, _: text.lstrip(),
    "lower": lambda text, _: text.lower(),
    "upper": lambda text, _: text.upper(),
    "capital": lambda text, _: text[:1].upper() + text[1:],
    "spaces": lambda text, _: text.replace("_", " "),
    "unix": lambda text, _: text.replace("\r\n", "\n"),
    "after": lambda text, mark: text.rpartition(mark)[2],
    "before": lambda text, mark: text.partition(mark)[0],
    "split": lambda text, mark: text.split(mark),
    "tail": lambda text, tail: text.removesuffix(tail),
    "head": lambda text, head: text.removeprefix(head),
    "join": lambda parts, mark: mark.join(parts),
    "each": lambda parts, name: [FILTERS[name](part, "") for part in parts],
    "choices": lambda count, _: list(LETTERS[: count if isinstance(count, int) else len(count)]),
    "letter": lambda index, _: LETTERS[index],
    "index": _indices,
    "int": lambda text, _: int(text),
    "text": lambda item, _: "" if item is None else str(item),
    "minus": lambda number, other: int(number) - int(other),
    "between": _between,
    "differs": lambda text, other: text != other,
    "among": lambda text, names: names.split(",").index(text),
    "keys": lambda table, _: list(table),
    "largest": lambda table, _: max(range(len(table)), key=list(table.values()).__getitem__),
    "last": lambda parts, _: parts[-1],
    "filled": lambda item, _: bool(item),
    "lettered": _lettered,
    "unlabelled": lambda choices, _: [_OPTION.sub("", choice, count=1) for choice in choices],
    "boxed": lambda text, _: boxed(text),
    "calculations": lambda text, _: _CALCULATION.sub("", text),
    "fraction": _fraction,
    "hellaswag": _hellaswag,
    "language": _language,
}
"""What may follow a field, by name; `calculations` takes GSM8K's `<<...>>` out."""
