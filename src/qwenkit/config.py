"""Recipes as checked configuration: stage configs whose every key has a declared role.

* `content(...)`: the key changes the bytes of the artifact; it is part of the node's identity.
* `runtime(...)`: the key changes only how the work is done (checkpoint interval, planned minutes); it is not.
* `edge(...)`: the key names another node, a path, or `org/name`; the digest of what it names is part of the identity.

A key without a role is an error when the class is made, so no key can slip out of (or into) the identity unnoticed.
How a recipe is read, and where its keys stand, is in `toml_file.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticUndefined

from qwenkit.errors import UserError, nearest
from qwenkit.json_values import mapping, sequence
from qwenkit.settings import settings_of
from qwenkit.toml_file import Lines, place_of, toml_value

ROLES = ("content", "runtime", "edge")
NOTES = ("many", "several", "hub", "with_manifest", "accepts", "resolved", "before", "added")
T = TypeVar("T")


def _role(role: str, default: Any, doc: str, **extra: Any) -> Any:
    about = {"role": role, **{name: extra.pop(name, False) for name in NOTES}}
    return Field(default, description=doc, json_schema_extra=about, **extra)


def content(default: Any = ..., *, doc: str, **limits: Any) -> Any:
    """Return the field of a key that changes the artifact's bytes. `limits` are pydantic's (`gt`, `ge`, `le`,
    `pattern`).

    With `resolved` the key is another way to give one that is part of the identity, and not part of it itself. With
    `added` it came after artifacts had been made without it: at its default it is not part of the identity, so that
    these keep theirs. `before` names the key before which it appears in tables and on help pages."""
    return _role("content", default, doc, **limits)


def runtime(default: Any = ..., *, doc: str, **limits: Any) -> Any:
    """Return the field of a key that changes how the work is done, never its result."""
    return _role("runtime", default, doc, **limits)


def edge(
    default: Any = ...,
    *,
    doc: str,
    accepts: str | tuple[str, ...] = (),
    many: bool = False,
    several: bool = False,
    hub: str = "",
    with_manifest: bool = False,
    **limits: Any,
) -> Any:
    """Return the field of a key that names another node or a path.

    With `many` it is a list of them; with `several` one, or some that are read as one (a list, or separated by commas).
    With `hub` it may also name a Hub model, of which it needs the whole `model` or the `tokenizer`. With
    `with_manifest` the stage also reads the manifest, metrics and summary, so all of it counts as its input. `accepts`
    says what is read there, in the nouns that stages produce (`PRODUCES`): an artifact that has none of them is
    refused."""
    return _role(
        "edge",
        default,
        doc,
        many=many,
        several=several,
        hub=hub,
        with_manifest=with_manifest,
        accepts=accepts,
        **limits,
    )


class StageConfig(BaseModel):
    """Base of every stage's `Config`. `kind`, `seed`, `planned_minutes` and `planned_memory_mb` exist in every node."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False)

    seed: int | None = content(None, doc="seed of this node; the run's seed when not given", ge=0, lt=2**63)
    planned_minutes: float | None = runtime(None, doc="planned minutes, printed beside the actual ones", gt=0)
    planned_memory_mb: int | None = runtime(None, doc="planned memory in MB, printed beside the actual peak", gt=0)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Raise a `TypeError` for a key without a role."""
        for name in cls.model_fields:
            if cls.role(name) not in ROLES:
                raise TypeError(f"{cls.__module__}.{name} has no role: use content(), runtime() or edge()")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, table: Any) -> Any:
        """Make a single reference a list of one where an edge takes many, and a list a comma-separated string where it
        takes several as one."""
        many = [name for name in cls.edges() if cls.takes_many(name)]
        several = [name for name in cls.edges() if cls.takes_several(name) and _is_texts(table.get(name))]
        return {
            **table,
            **{name: [table[name]] for name in many if isinstance(table.get(name), str)},
            **{name: ",".join(table[name]) for name in several},
        }

    @classmethod
    def role(cls, name: str) -> str:
        """Return the role of a key: `content`, `runtime` or `edge`."""
        return _extra(cls, name).get("role", "")

    @classmethod
    def key_names(cls) -> list[str]:
        """Return the keys in the order in which tables and help pages show them."""
        names = list(cls.model_fields)
        for name in cls.model_fields:
            if before := _before(cls, name):
                names.remove(name)
                names.insert(names.index(before), name)
        return names

    @classmethod
    def edges(cls) -> list[str]:
        """Return the keys that name other nodes."""
        return [name for name in cls.model_fields if cls.role(name) == "edge"]

    @classmethod
    def takes_many(cls, name: str) -> bool:
        """Return whether a key names a list of nodes."""
        return bool(_extra(cls, name).get("many"))

    @classmethod
    def takes_several(cls, name: str) -> bool:
        """Return whether a key names one source or some that are read as one."""
        return bool(_extra(cls, name).get("several"))

    @classmethod
    def from_hub(cls, name: str) -> str:
        """Return what an edge needs of a Hub model: `model`, `tokenizer`, or "" where it cannot name one."""
        return str(_extra(cls, name).get("hub") or "")

    @classmethod
    def accepts(cls, name: str) -> tuple[str, ...]:
        """Return the nouns that an edge accepts, of which a stage must produce one."""
        nouns = _extra(cls, name).get("accepts") or ()
        return (nouns,) if isinstance(nouns, str) else tuple(nouns)

    @classmethod
    def reads_manifest(cls, name: str) -> bool:
        """Return whether an input, `of` or `of.0`, is identified by its manifest."""
        return bool(_extra(cls, name.partition(".")[0]).get("with_manifest"))

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield (input name, reference) for every edge that is given; a list has the names `name.0`, `name.1`, ..."""
        for name in self.edges():
            value = getattr(self, name)
            if self.takes_several(name) and isinstance(value, str) and "," in value:
                value = [reference for part in value.split(",") if (reference := part.strip())]
            if isinstance(value, (list, tuple)):
                yield from ((f"{name}.{index}", item) for index, item in enumerate(cast("Sequence[str]", value)))
            elif value is not None:
                yield name, value

    def identity(self) -> dict[str, Any]:
        """Return the content keys and their values, defaults included, but for keys that were `added`; the lineage adds
        the seed."""
        names = [name for name in self.key_names() if _counts(type(self), name) and not self._is_added_default(name)]
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name in names}

    def _is_added_default(self, name: str) -> bool:
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(_extra(type(self), name).get("added")) and getattr(self, name) == default


def stage_config(settings: type[T]) -> type[T]:
    """Return a base for a stage's `Config`, with a key for each setting of a dataclass: its type, default and limits.

        class Config(stage_config(PPOConfig), StageConfig): ...

    For a type checker it is the dataclass; in truth it is a `StageConfig`."""
    keys: dict[str, Any] = {}
    for name, annotation, default, entry in settings_of(settings):
        keys[name] = (annotation, _role(entry.role, default, entry.doc, **entry.limits))
    made = create_model(f"{settings.__name__}Keys", __base__=StageConfig, __module__=settings.__module__, **keys)
    return cast("type[T]", made)


def _before(cls: type[StageConfig], name: str) -> str:
    """Return the key before which another appears, as its class or a base class says."""
    bases = (base for base in cls.__mro__ if issubclass(base, StageConfig) and name in base.model_fields)
    return next(filter(None, (_extra(base, name).get("before") for base in bases)), "")


def _counts(cls: type[StageConfig], name: str) -> bool:
    return cls.role(name) == "content" and name != "seed" and not _extra(cls, name).get("resolved")


def _is_texts(value: Any) -> bool:
    items = sequence(value)
    return bool(items) and all(isinstance(item, str) for item in items)


def _extra(cls: type[BaseModel], name: str) -> dict[str, Any]:
    return mapping(cls.model_fields[name].json_schema_extra)


def default_text(cls: type[StageConfig], name: str) -> str:
    """Return the default of a key as TOML text; "" where the key is required or has none."""
    value = cls.model_fields[name].get_default(call_default_factory=True)
    return "" if value is PydanticUndefined or value is None else toml_value(value)


def validate(cls: type[StageConfig], table: dict[str, Any], where: str, lines: Lines, node: str) -> StageConfig:
    """Return the table as a config; raises one `UserError` that lists every wrong key with its line."""
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        problems = [_problem(cls, item, where, lines, node) for item in error.errors()]
        raise problems[0] if len(problems) == 1 else UserError("\n".join(p.text() for p in problems)) from None


def _problem(cls: type[StageConfig], item: Any, where: str, lines: Lines, node: str) -> UserError:
    path = tuple(part for part in item["loc"] if isinstance(part, str))  # without list indices
    key = path[0] if path else ""
    place = place_of(where, lines, (node, *path))
    if item["type"] == "extra_forbidden":
        known = [*cls.model_fields, "kind"]
        return UserError(
            f"unknown key `{node}.{'.'.join(path)}`",
            where=place,
            expected="one of " + ", ".join(sorted(known)),
            nearest=nearest(key, known),
        )
    if item["type"] == "missing":
        doc = cls.model_fields[key].description if key in cls.model_fields else ""
        return UserError(f"missing key `{node}.{key}`", where=place, expected=doc)
    if not path:  # a check across several keys
        which = "" if place == f"qwenkit {node}" else f"`{node}`: "
        return UserError(which + _expected(item), where=place)
    given, expected = item.get("input"), _expected(item)
    close = nearest(given, re.findall(r"'([^']*)'", expected)) if isinstance(given, str) else None
    verb = "is" if len(path) == len(item["loc"]) else "holds"
    what = f"`{node}.{'.'.join(path)}` {verb} {toml_value(given)}"
    return UserError(what, where=place, expected=expected, nearest=close)


_WORDS = {
    "int_type": "an integer", "int_from_float": "an integer", "float_type": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "string_type": "a string in quotes",
    "list_type": 'a list, like ["a", "b"]', "dict_type": "a table, like {code = 2}",
    "too_short": "a list that is not empty",
}  # fmt: skip


def _expected(item: Any) -> str:
    """Return what a value should have been, in the words of a recipe."""
    words = re.sub(r"^(Input should be|Value error,)\s*", "", item["msg"])
    return _WORDS.get(item["type"], words.replace("greater than or equal to", "at least").replace(
        "less than or equal to", "at most"))  # fmt: skip
