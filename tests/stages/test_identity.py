"""For every key of every kind it is known whether it changes content, and the identity follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from qwenkit.config import StageConfig
from qwenkit.stages import KINDS, load_stage

EXAMPLES = Path(__file__).parents[2] / "examples"
EVERY = [(kind, key) for kind in KINDS for key in load_stage(kind).Config.model_fields]

RUNTIME = {
    "activation_checkpointing",
    "planned_minutes",
    "planned_memory_mb",
    "runner",
    "chunks",
    "checkpoint_seconds",
    "reward_seconds",
    "evaluate_every",
    "max_bad",
}
"""All keys that may change without changing any byte. A new one must be written down here on purpose."""


VALID = {
    "corpus": {"extra": ["a"], "filter": ["a"], "perplexity_model": "a", "decontaminate": "a"},
    "testsets": {"extra": ["a"]},
    "reward": {"data": "a"},
    "ppo": {"corpus": "a", "reward_model": "a"},
}
"""What a kind needs besides its required keys."""

SAMPLES = {
    "languages": ["en"], "upsample": {"extra": 2.0}, "kinds": {"extra": "web"}, "licences": {"extra": "x"},
    "min_scores": {"filter": 0.5}, "text_keys": {"extra": ["question"]}, "thresholds": {"length": [20, 1000]},
    "rules": ["c4"], "hidden_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 8,
    "group_size": 64, "optimizer": "muon", "reward": {"model": 0.5}, "adapter": {"rank": 8},
}  # fmt: skip
"""Other values of keys that not every other value would do for."""


def sample(config: type[StageConfig], key: str) -> Any:
    """A value of the key that differs from its default and passes its limits."""
    if key in SAMPLES:
        return SAMPLES[key]
    field = config.model_fields[key]
    if key == "steps" and "list" in str(field.annotation):
        return [f"{EXAMPLES / 'my_step.py'}:step"]
    default = field.get_default(call_default_factory=True)
    if get_origin(field.annotation) is Literal:
        return next(option for option in get_args(field.annotation) if option != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default * 0.9 if default else 0.1
    if isinstance(default, str):
        return "[x]" if key == "pattern" else default + "x"
    if isinstance(default, list):
        return [0.5] if "float" in str(field.annotation) else ["x"]
    if isinstance(default, dict):
        return {"x": "y"} if "dict[str, str]" in str(field.annotation) else {"x": 2}
    return 7


def build(config: type[StageConfig], **keys: Any) -> StageConfig:
    required = VALID.get(config.__module__.rpartition(".")[2], {}) | {
        k: (["a"] if "list" in str(f.annotation) else "a") for k, f in config.model_fields.items() if f.is_required()
    }
    return config.model_validate({**required, **keys})


@pytest.mark.parametrize(("kind", "key"), EVERY, ids=[f"{kind}.{key}" for kind, key in EVERY])
def test_the_identity_knows_every_key(kind: str, key: str) -> None:
    config = load_stage(kind).Config
    role = config.role(key)
    assert (role == "runtime") == (key in RUNTIME)
    if role == "edge" or key == "seed":
        assert key not in build(config).identity()
        return
    before, after = build(config), build(config, **{key: sample(config, key)})
    assert (before.identity() != after.identity()) == (role == "content")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_is(kind: str) -> None:
    stage = load_stage(kind)
    assert isinstance(stage.VERSION, int) and stage.__doc__.startswith(f"`{kind}`")
    assert stage.Config.__doc__ and all(field.description for field in stage.Config.model_fields.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_edge_wants_what_some_kind_gives_or_a_person_has(kind: str) -> None:
    """A new kind says what it gives, and at each edge what it wants: a wrong edge is refused with the recipe."""
    of_people = {"anything", "text", "questions", "run", "filter", "words"}
    config, given = load_stage(kind).Config, {noun for other in KINDS for noun in load_stage(other).PRODUCES}
    assert load_stage(kind).PRODUCES
    for edge in config.edges():
        assert config.accepts(edge) and set(config.accepts(edge)) <= given | of_people
