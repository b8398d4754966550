"""Settings that are declared once: a field of a plain dataclass carries what a recipe says of the key that sets it.

    @dataclass(frozen=True)
    class PPOConfig:
        gamma: float = setting(1.0, doc="discount of GAE (ours)", ge=0, le=1)

A field without a default, or with another one than recipes have, names theirs: `setting(doc="width", recipe=4096)`.
`config.stage_config(PPOConfig)` makes the keys of a stage from them, with their limits; `chosen(PPOConfig, config)`
takes their values out of the stage's config again, and `filled(PPOConfig, config)` makes the dataclass of them. A
recipe has lists where a dataclass has tuples, and no None: an `empty` value (0, or an empty list) stands for it. These
functions translate. There is no pydantic here, so that every package may use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

_SETTING = "qwenkit"
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What a recipe says of a key: `role` is `content` or `runtime`, `limits` are pydantic's (`gt`, `ge`, `le`) and
    notes of `config.content` (`before`, `resolved`), `default` is that of recipes, and `empty` is their None."""

    doc: str
    role: str
    limits: Mapping[str, Any]
    default: Any
    empty: Any = None


def setting(
    default: Any = MISSING, *, doc: str, role: str = "content", recipe: Any = MISSING, empty: Any = None, **limits: Any
) -> Any:
    """Return a dataclass field that is also a key of recipes, whose default there is `recipe`, or else `default`."""
    in_recipes = _recipe_value(default if recipe is MISSING else recipe, empty)
    metadata = {_SETTING: Setting(doc, role, limits, in_recipes, empty)}
    if isinstance(default, dict):
        table = cast("dict[str, Any]", default)
        return field(default_factory=lambda: dict(table), metadata=metadata)
    return field(default=default, metadata=metadata)


def settings_of(cls: type) -> Iterator[tuple[str, Any, Any, Setting]]:
    """Yield name, type, default and setting of each field of a dataclass that is a key of recipes, in order; type and
    default are those of recipes."""
    hints = get_type_hints(cls)
    for entry in fields(cls):
        if _SETTING in entry.metadata:
            about: Setting = entry.metadata[_SETTING]
            yield entry.name, _recipe_type(hints[entry.name], about.empty), about.default, about


def chosen(cls: type, config: Any) -> dict[str, Any]:
    """Return the values of a dataclass's settings as a stage's config has them, in the dataclass's own types."""
    return {name: _own_value(getattr(config, name), entry.empty) for name, _, _, entry in settings_of(cls)}


def filled(cls: type[T], config: Any, **more: Any) -> T:
    """Return a dataclass with the settings that a stage's config has, and `more`, which recipes do not have."""
    return cls(**chosen(cls, config), **more)


def _recipe_type(annotation: Any, empty: Any = None) -> Any:
    """Return the type of a key: a list for a tuple of one type, and without None where something stands for it.

    Raises `TypeError` for types that no key of a recipe can have.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType) and empty is not None:
        options = [option for option in inner if option is not NoneType]
        if len(options) != 1:
            raise TypeError(f"{annotation}: `empty` stands for None beside one other type")
        return _recipe_type(options[0])
    if origin is tuple:
        if len({option for option in inner if option is not Ellipsis}) != 1:
            raise TypeError(f"{annotation}: a list in a recipe has one type")
        return list[_recipe_type(inner[0])]
    return dict[inner[0], _recipe_type(inner[1])] if origin is dict else annotation


def _recipe_value(value: Any, empty: Any) -> Any:
    if value is None:
        return empty
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def _own_value(value: Any, empty: Any = None) -> Any:
    if empty is not None and value == empty:
        return None
    if isinstance(value, dict):
        return {name: _own_value(item) for name, item in cast("dict[str, Any]", value).items()}
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value
