"""The fields of a JSON object: which are known, what they hold, and which are refused or named as ignored.

    TABLE = Table({"model": TEXT, "stop": TEXT_OR_LIST}, ignored={"store"}, unsupported={"best_of": "use n"})
    values = TABLE.read(body)                # raises `Refused` with the field's path; nulls count as absent
    values.get("model"), values.ignored
    TABLE.schema()                           # for OpenAPI

A field that is not known is refused by its name, with the nearest known one: a misspelt `max_token` would otherwise
have no effect, silently. A field that is known and has no effect here is listed, and the server names it in a header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenkit.errors import nearest
from qwenkit.inference.argument_checks import shown
from qwenkit.serving.json_body import kind_of
from qwenkit.serving.refusals import Refusal, Refused


@dataclass(frozen=True)
class Kind:
    """A JSON type: in words, as a check, and as a JSON schema."""

    expected: str
    fits: Callable[[Any], bool]
    schema: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


TEXT = Kind("a string", lambda value: isinstance(value, str), {"type": "string"})
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool), {"type": "boolean"})
INTEGER = Kind("an integer", _is_integer, {"type": "integer"})
NUMBER = Kind("a number", _is_number, {"type": "number"})
LIST = Kind("a list", lambda value: isinstance(value, list), {"type": "array", "items": {}})
OBJECT = Kind("an object", lambda value: isinstance(value, dict), {"type": "object"})
TEXT_OR_LIST = Kind(
    "a string or a list",
    lambda value: isinstance(value, (str, list)),
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]},
)
TEXT_OR_OBJECT = Kind(
    "a string or an object",
    lambda value: isinstance(value, (str, dict)),
    {"anyOf": [{"type": "string"}, {"type": "object"}]},
)
ANY = Kind("any value", lambda value: True, {})


def one_of(*names: str) -> Kind:
    """Return the kind of a string that is one of some names."""
    return Kind(", ".join(names), lambda value: isinstance(value, str) and value in names,
                {"type": "string", "enum": list(names)})  # fmt: skip


class Values(dict[str, Any]):
    """The fields of an object that are not null, and the names of those that have no effect."""

    def __init__(self, values: Mapping[str, Any], path: str, ignored: Sequence[str]) -> None:
        """Keep the values of the object at `path`."""
        super().__init__(values)
        self.path, self.ignored = path, tuple(ignored)

    def place(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True)
class Table:
    """The fields of one kind of object."""

    known: Mapping[str, Kind]
    required: Collection[str] = ()
    ignored: Collection[str] = ()
    """Fields that clients send and that have no effect here."""
    unsupported: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields that would change the answer and are not supported, with a hint; null, false and empty are taken."""

    def read(self, value: Any, path: str = "") -> Values:
        """Return the fields of an object; raises `Refused` for another value, and for fields that do not fit."""
        if not isinstance(value, Mapping):
            raise wrong(path or "body", value, "an object")
        values = Values({}, path, [name for name in self.ignored if value.get(name) is not None])
        for name, given in value.items():
            kind = self.known.get(name)
            if kind is None:
                self._check_unknown(name, given, values.place(name))
            elif given is not None:
                if not kind.fits(given):
                    raise wrong(values.place(name), given, kind.expected)
                values[name] = given
        for name in self.required:
            if name not in values:
                what = "is null" if name in value else "is missing"
                raise refused(values.place(name), what, self.known[name].expected, "missing_field")
        return values

    def _check_unknown(self, name: str, given: Any, place: str) -> None:
        if name in self.unsupported:
            if given is not None and given is not False and given not in ([], {}):
                hint = self.unsupported[name] or None
                raise Refused(Refusal("invalid", "is not supported", place, None, hint, "unsupported_field"))
        elif name not in self.ignored:
            known = [*self.known, *self.ignored]
            close = nearest(name[:100], known)
            hint = f"did you mean {close}?" if close else f"known fields: {', '.join(sorted(self.known))}"
            raise Refused(Refusal("invalid", "unknown field", place[:200], None, hint, "unknown_field"))

    def schema(self, nested: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return the JSON schema of such an object, for OpenAPI; `nested` are those of fields that hold more."""
        schemas = {name: {**kind.schema, **(nested or {}).get(name, {})} for name, kind in self.known.items()}
        properties = {
            name: schema if name in self.required or not schema else {"anyOf": [schema, {"type": "null"}]}
            for name, schema in schemas.items()
        }
        properties |= {name: {} for name in self.ignored}
        return {
            "type": "object",
            "properties": properties,
            "required": sorted(self.required),
            "additionalProperties": False,
        }


def refused(place: str, what: str, expected: str | None = None, code: str = "invalid_value") -> Refused:
    """Return the refusal of one field."""
    return Refused(Refusal("invalid", what, place, expected, None, code))


def wrong(place: str, value: Any, expected: str) -> Refused:
    """Return the refusal of a value of another type or outside of what is expected."""
    what = f"is {kind_of(value)}" if isinstance(value, (list, dict)) or value is None else f"is {shown(value)}"
    return refused(place, what, expected, "invalid_value")


def texts(value: Any, place: str, expected: str = "a string or a list of strings") -> tuple[str, ...]:
    """Return a string, or the strings of a list; raises `Refused` for other values."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise wrong(place, value, expected)
    return tuple(items)


def token_ids(value: Any, place: str) -> tuple[int, ...]:
    """Return a list of token ids; raises `Refused` for other values."""
    if not isinstance(value, list) or not all(_is_integer(item) and item >= 0 for item in value):
        raise wrong(place, value, "a list of token ids")
    return tuple(value)
