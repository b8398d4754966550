"""Grammars as a caller gives them, checked and turned into plain text before anything is compiled.

    JSON_SCHEMA.parse({"type": "object"}, "json_schema")     # '{"type": "object"}'

A schema may come from anyone, so its nesting and size are bounded, and counted without recursion; `grammar.py` bounds
what compiling costs. Schemas keep the order of their keys: it is the order of the answer's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from qwenkit.errors import UserError
from qwenkit.inference.argument_checks import Validator

MAX_DEPTH = 64
"""The deepest nesting of objects and lists in a schema."""
MAX_VALUES = 10_000
"""The most values in a schema: objects, lists, strings, numbers."""
MAX_CHARACTERS = 200_000
"""The longest schema as text; a regular expression or a grammar may have a tenth of it."""
MAX_EXPANSION = 100_000
"""The most characters that a regular expression may stand for with its counted repetitions written out."""
_PARTS = re.compile(r"\\.|\[(?:\\.|[^]\\])*]|\{(\d+)(?:,(\d*))?}|.", re.DOTALL)
_ANY_OBJECT = '{"type": "object"}'


def _schema(value: Any) -> str:
    if value is True:
        return _ANY_OBJECT
    schema = _loaded(value, "json_schema") if isinstance(value, str) else value
    if not isinstance(schema, Mapping):
        raise TypeError
    return _dumped(cast("Mapping[str, Any]", schema), "json_schema")


def _tools(value: Any) -> str:
    tools = _loaded(value, "tools") if isinstance(value, str) else value
    if isinstance(tools, Mapping) or not isinstance(tools, Sequence) or not tools:
        raise TypeError
    functions = [tool_function(tool) for tool in cast("Sequence[Any]", tools)]
    return _dumped(functions, "tools")


def tool_function(tool: Any) -> dict[str, Any]:
    """Return the name and the parameters of a tool, given as a function or bare; raises `TypeError` for another
    value."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise TypeError
    parameters = function.get("parameters") or {"type": "object"}
    if not isinstance(parameters, Mapping):
        raise TypeError
    return {"name": function["name"], "parameters": parameters}


def _loaded(text: str, name: str) -> Any:
    _bound(f"{name} of {len(text):,} characters", len(text) <= MAX_CHARACTERS, f"at most {MAX_CHARACTERS:,}")
    try:
        return json.loads(text)
    except RecursionError:
        raise _too_deep(name) from None


def _dumped(value: Any, name: str) -> str:
    """Return a JSON value as text; raises a `UserError` for one that is nested too deep or too large."""
    level, count, depth = [value], 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if depth > MAX_DEPTH:
            raise _too_deep(name)
        _bound(f"{name} of more than {MAX_VALUES:,} values", count <= MAX_VALUES, "fewer alternatives, or a regex")
        for inner in level:
            _check_patterns(inner, name)
        level = [inner for outer in level for inner in _inner(outer)]
    text = json.dumps(value, default=_plain, allow_nan=False)
    _bound(f"{name} of {len(text):,} characters", len(text) <= MAX_CHARACTERS, f"at most {MAX_CHARACTERS:,}")
    return text


def _inner(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(cast("Mapping[str, Any]", value).values())
    return cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else ()


def _check_patterns(value: Any, name: str) -> None:
    """Raise a `UserError` for an expression in an object of a schema that stands for too long a text."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        named = mapping.get("patternProperties")
        for pattern in (mapping.get("pattern"), *(named if isinstance(named, Mapping) else ())):
            if isinstance(pattern, str):
                _check_expansion(pattern, name)


def expansion(pattern: str) -> int:
    """Return how many characters a regular expression has with its counted repetitions written out; an estimate, for
    any text."""
    sizes, last = [0], 0  # of the open groups, and of the last part, which a repetition repeats
    for part in _PARTS.finditer(pattern):
        if part[1] is not None:
            sizes[-1] += last * (max(int(part[1]), int(part[2] or 0)) - 1)
            last *= max(int(part[1]), int(part[2] or 0))
        elif part[0] == "(":
            sizes.append(0)
        elif part[0] == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            last = 1
            sizes[-1] += 1
    return sum(sizes)


def _check_expansion(pattern: str, name: str) -> None:
    _bound(f"{name} with repetitions that stand for more than {MAX_EXPANSION:,} characters",
           len(pattern) <= MAX_CHARACTERS and expansion(pattern) <= MAX_EXPANSION, "smaller counts")  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a mapping that is not a dict as one, for `json.dumps`; raises `TypeError` for what is not JSON."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    raise TypeError


def _too_deep(name: str) -> UserError:
    return UserError(f"{name} is nested more than {MAX_DEPTH} deep", expected="a flatter one, or `$ref` to its parts")


def _bound(what: str, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(what, expected=expected)


def _text(name: str) -> Any:
    most = MAX_CHARACTERS // 10

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise TypeError
        value.encode()  # raises a `ValueError` for half a surrogate pair
        _bound(f"{name} of {len(value):,} characters", len(value) <= most, f"at most {most:,}")
        if name == "regex":
            _check_expansion(value, name)
        return value

    return convert


JSON_SCHEMA = Validator("a JSON schema as a mapping or as its text, or True for any object", _schema)
TOOLS = Validator('a list of tools, each with a name: {"name": "add", "parameters": {...}}', _tools)
REGEX = Validator("a regular expression", _text("regex"))
GRAMMAR = Validator('a grammar with the rule `start`: start: "yes" | "no"', _text("grammar"))
