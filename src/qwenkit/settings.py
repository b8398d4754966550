"""Settings that stand once: a field of a plain dataclass carries what a recipe says of the key that sets it.

    @dataclass(frozen=True)
    class PPOConfig:
        gamma: float = setting(1.0, doc="discount of GAE (ours)", ge=0, le=1)

A field without a default, or with another one than recipes have, names theirs: `setting(doc="width", recipe=4096)`.
`config.stage_config(PPOConfig)` makes the keys of a stage from them, with their limits; `chosen(PPOConfig, config)`
takes their values out of the stage's config again. There is no pydantic here, so that every package may use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

_SETTING = "qwenkit"


@dataclass(frozen=True)
class Setting:
    """What a recipe says of a key: `role` is `content` or `runtime`, `limits` are pydantic's (`gt`, `ge`, `le`)."""

    doc: str
    role: str
    limits: Mapping[str, Any]
    default: Any


def setting(default: Any = MISSING, *, doc: str, role: str = "content", recipe: Any = MISSING, **limits: Any) -> Any:
    """Return a dataclass field that is also a key of recipes, whose default there is `recipe`, or else `default`."""
    in_recipes = default if recipe is MISSING else recipe
    return field(default=default, metadata={_SETTING: Setting(doc, role, limits, in_recipes)})


def settings_of(cls: type) -> Iterator[tuple[str, Any, Any, Setting]]:
    """Yield name, type, default in recipes and setting of each field of a dataclass that is a key there, in order."""
    hints = get_type_hints(cls)
    for entry in fields(cls):
        if _SETTING in entry.metadata:
            about = entry.metadata[_SETTING]
            yield entry.name, hints[entry.name], about.default, about


def chosen(cls: type, config: Any) -> dict[str, Any]:
    """Return the values of a dataclass's settings as a stage's config has them."""
    return {name: getattr(config, name) for name, *_ in settings_of(cls)}
