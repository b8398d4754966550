"""The body of a request as a JSON object, with limits: it comes from anyone.

    body = read_body(b'{"model": "chat", "messages": []}')

Refused with the place in the text: bytes that are not UTF-8, what is not JSON, NaN and Infinity, numbers that no float
holds, a key that comes twice, more than `MAX_DEPTH` levels, more than `MAX_VALUES` values. Half a surrogate pair, which
programs make that cut a text in the middle of an emoji, becomes U+FFFD, as everywhere in the tokenizer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Never, cast

from qwenkit.errors import listed
from qwenkit.serving.refusals import Refusal, Refused

MAX_DEPTH = 100
"""The deepest nesting of objects and lists in a body."""
MAX_VALUES = 500_000
"""The most values in a body; a prompt of token ids has one for each."""
MAX_DIGITS = 30
"""The longest integer."""


def read_body(body: bytes | str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the object in a body; raises `Refused` for anything else."""
    value = dict(body) if isinstance(body, Mapping) else _loaded(body)
    if not isinstance(value, dict):
        raise _refused(f"the body is {kind_of(value)}", "a JSON object")
    return cast("dict[str, Any]", _checked(value))


def _loaded(body: bytes | str) -> Any:
    try:
        text = body if isinstance(body, str) else body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(f"the body is not UTF-8, at byte {error.start}", "JSON in UTF-8") from None
    if not text.strip():
        raise _refused("the body is empty", "a JSON object")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _refused(f"the body is not JSON: {error.msg} at {place}", "a JSON object") from None
    except RecursionError:
        raise _too_deep() from None


def _checked(value: dict[str, Any]) -> Any:
    """Return a value with whole characters only; raises `Refused` where it is too deep or too large."""
    level: list[Any] = [value]
    depth = count = 0
    while level:
        depth, count = depth + 1, count + sum(map(len, level))
        if depth > MAX_DEPTH:
            raise _too_deep()
        if count > MAX_VALUES:
            raise _refused(f"the body has more than {MAX_VALUES:,} values", "fewer")
        level = [inner for container in level for inner in _mended(container) if isinstance(inner, (dict, list))]
    return value


def _mended(container: Any) -> list[Any]:
    """Return the values inside an object or a list, whose strings become whole characters."""
    if isinstance(container, list):
        items = cast("list[Any]", container)
        items[:] = [whole(inner) if isinstance(inner, str) else inner for inner in items]
        return items
    table = cast("dict[Any, Any]", container)
    if not all(isinstance(key, str) for key in table):
        raise _refused("a key is not a string", "a JSON object")
    mended = {whole(key): whole(inner) if isinstance(inner, str) else inner for key, inner in table.items()}
    table.clear()
    table.update(mended)
    return list(mended.values())


def whole(text: str) -> str:
    """Return text with surrogate pairs joined and U+FFFD for halves of them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def kind_of(value: object) -> str:
    """Return the JSON type of a value in words."""
    names: dict[type, str] = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
    }
    return names.get(type(value), "an object")


def _refused(what: str, expected: str) -> Refused:
    return Refused(Refusal("invalid", what, expected=expected, code="invalid_json"))


def _too_deep() -> Refused:
    return _refused(f"the body is nested more than {MAX_DEPTH} deep", "a flatter one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys: set[str] = set()
        twice = next(key for key, _ in pairs if key in keys or keys.add(key))
        raise _refused(f"the key {listed([whole(twice)])!r} comes twice in one object", "each key once")
    return table


def _constant(name: str) -> Never:
    raise _refused(f"{name} is not JSON", "numbers")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _refused(f"a number of {len(digits):,} digits", f"at most {MAX_DIGITS}")
    return int(digits)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _refused(f"the number {text[:40]} is too large", "one that a float holds")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float)
