"""Settings that stand once: keys of recipes made of a dataclass, and the dataclass made of a recipe's values again."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from qwenkit.config import StageConfig, content, default_text, stage_config
from qwenkit.settings import chosen, filled, setting


@dataclass(frozen=True)
class Settings:
    names: tuple[str, ...] | None = setting(None, doc="names", empty=[])
    ranges: dict[str, tuple[float, float]] = setting({}, doc="ranges")
    most: int | None = setting(None, doc="most", empty=0, ge=0)
    rules: tuple[str, ...] = setting(("own",), doc="rules")
    share: float = setting(0.5, doc="share", le=1, role="runtime", before="most")
    width: int = setting(8, doc="width", recipe=4096)
    seed: int = 0


class Config(stage_config(Settings), StageConfig):  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """Keys of its own beside those of the dataclass."""

    last: bool = content(False, doc="last")


def test_keys_are_those_of_a_recipe() -> None:
    fields = Config.model_fields
    assert fields["names"].annotation == list[str] and fields["ranges"].annotation == dict[str, list[float]]
    assert fields["most"].annotation is int and "seed" in fields and fields["seed"].default is None
    texts = {name: default_text(Config, name) for name in ("names", "ranges", "most", "rules", "share", "width")}
    assert texts == {"names": "[]", "ranges": "{}", "most": "0", "rules": '["own"]', "share": "0.5", "width": "4096"}
    assert Config.key_names()[-7:] == ["names", "ranges", "share", "most", "rules", "width", "last"]
    assert [Config.role(name) for name in ("names", "share")] == ["content", "runtime"]
    assert "share" not in Config().identity() and Config().identity()["most"] == 0


class Grown(StageConfig):
    """A config that artifacts were made with before it had its second key."""

    first: int = content(1, doc="first")
    later: dict[str, float] = content({"x": 1.0}, doc="later", added=True)


def test_an_added_key_is_part_of_the_identity_where_it_is_set() -> None:
    assert Grown().identity() == Grown.model_validate({"later": {"x": 1}}).identity() == {"first": 1}
    assert Grown(later={"x": 2.0}).identity() == {"first": 1, "later": {"x": 2.0}}


@pytest.mark.parametrize("table", [{"most": -1}, {"share": 2.0}, {"names": ("a",)}, {"ranges": {"a": 1.0}}])
def test_limits_and_types_hold(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(table)


def test_values_come_back_in_the_types_of_the_dataclass() -> None:
    assert filled(Settings, Config(), seed=7) == Settings(width=4096, seed=7)
    config = Config.model_validate({"names": ["a"], "ranges": {"x": [1, 2]}, "most": 3, "rules": [], "width": 2})
    assert chosen(Settings, config) == {
        "names": ("a",),
        "ranges": {"x": (1.0, 2.0)},
        "most": 3,
        "rules": (),
        "share": 0.5,
        "width": 2,
    }


@pytest.mark.parametrize("annotation", [tuple[str, float], int | str | None], ids=str)
def test_a_type_that_no_key_can_have_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match=r"one (other )?type"):
        stage_config(make_dataclass("Odd", [("odd", annotation, setting(None, doc="odd", empty=0))], frozen=True))


def test_two_instances_share_no_table() -> None:
    assert Settings().ranges is not Settings().ranges


@dataclass(frozen=True)
class Shape:
    width: int = setting(doc="width", recipe=64, ge=8)
    heads: int | None = setting(None, doc="heads", recipe=2, empty=0)


class ShapeConfig(stage_config(Shape), StageConfig):  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """A dataclass that needs its values, whose recipe has defaults for them."""


def test_a_recipe_may_have_a_default_where_the_dataclass_has_none() -> None:
    with pytest.raises(TypeError, match="width"):
        Shape()
    assert filled(Shape, ShapeConfig()) == Shape(width=64, heads=2)
    assert filled(Shape, ShapeConfig.model_validate({"heads": 0})) == Shape(64, None)
    with pytest.raises(ValidationError):
        ShapeConfig.model_validate({"width": 4})
