"""Recipes of schema 1 are read with a warning, of schema 3 refused; identities keep the names of schema 1, and those of
before a key came to mean two things."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from qwenkit.artifacts import make_key
from qwenkit.errors import Notice, UserError
from qwenkit.lineage.graph import key_of
from qwenkit.lineage.recipe import Node, load_recipe, own_copy, packaged
from qwenkit.records import canonical
from qwenkit.schema import current_names, frozen_inputs, frozen_names, renamed_keys
from qwenkit.stages import KINDS, load_stage
from qwenkit.stages.base import Input

HERE = Path(__file__).parent


def test_both_schemas_say_the_same() -> None:
    with pytest.warns(Notice, match="schema1.toml: names of schema 1.*`row` is now `seq_length`") as warned:
        old = load_recipe(str(HERE / "schema1.toml"))
    assert len(warned) == 1, "one warning for a file, however many keys"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = load_recipe(str(HERE / "schema2.toml"))
    assert [node.config for node in old.nodes.values()] == [node.config for node in new.nodes.values()]
    assert [node.inputs for node in old.nodes.values()] == [node.inputs for node in new.nodes.values()]


@pytest.mark.parametrize("name", list(packaged()))
def test_identities_are_those_of_schema_1(name: str) -> None:
    """The hashes were taken from the last version that knew schema 1 only: whatever changes them trains again.
    That of `finetune` is from the version that made its training one of an adapter."""
    before = json.loads((HERE / "identities.json").read_text())[name]
    nodes = load_recipe(name).nodes.items()
    assert {n: hashlib.sha256(canonical(node.identity())).hexdigest()[:16] for n, node in nodes} == before


def test_every_renamed_key_exists() -> None:
    for kind in KINDS:
        fields = load_stage(kind).Config.model_fields
        names = renamed_keys(kind)
        assert set(names.values()) <= set(fields) and not set(names) & set(fields), kind
        config = dict.fromkeys(fields, 1)
        assert current_names(kind, frozen_names(kind, config)) == config and len(frozen_names(kind, config)) == len(
            config
        )


@pytest.mark.parametrize(
    ("head", "line", "what"),
    [
        (
            "schema = 1",
            "lr = 1e-3\nrow = 64\nseq_length = 64",
            "line 5: `base.row` and `base.seq_length` are two names",
        ),
        ("seed = 1", "row = 64\nseq_length = 32", "line 4: `base.row` and `base.seq_length` are two names"),
        ("schema = 2", "row = 64", "line 4: `base.row` is a key of schema 1"),
        ("schema = 3", "seq_length = 64", "recipe schema 3 is newer than this qwenkit"),
    ],
)
def test_what_is_refused(tmp_path: Path, head: str, line: str, what: str) -> None:
    path = tmp_path / "family.toml"
    path.write_text(f'{head}\n[base]\nkind = "pretrain"\n{line}\ncorpus = "./c"\ntokenizer = "./t"\n')
    with pytest.raises(UserError, match=what):
        load_recipe(str(path))


@pytest.mark.filterwarnings("ignore::qwenkit.errors.Notice")
def test_two_changes_are_of_one_key_by_whichever_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`base.row` and `base.seq_length` are two names of one key"):
        load_recipe("nano", ["base.row=32", "base.seq_length=64"])
    assert load_recipe("nano", ["base.row=32", "base.row=64"]).nodes["base"].config.seq_length == 64  # type: ignore[attr-defined]
    path = tmp_path / "family.toml"
    path.write_text('[base]\nkind = "pretrain"\nrow = 64\ncorpus = "./c"\ntokenizer = "./t"\n')
    (tmp_path / "c").mkdir()
    (tmp_path / "t").mkdir()
    for change in ("base.row=32", "base.seq_length=32"):  # it takes the place of what the file says
        assert load_recipe(str(path), [change]).nodes["base"].config.seq_length == 32  # type: ignore[attr-defined]


def test_an_option_takes_the_old_name_with_a_warning() -> None:
    with pytest.warns(Notice, match="--set base.row=128: a name of schema 1.*`row` is now `seq_length`"):
        recipe = load_recipe("nano", ["base.row=128"])
    assert recipe.nodes["base"].config.seq_length == 128  # type: ignore[attr-defined]


RL = '[rl]\nkind = "ppo"\nmodel = "./m"\nprompts = "./p"\nptx_coef = 0.0\n'


@pytest.fixture
def rl(tmp_path: Path) -> Callable[..., Node]:
    """The node of a recipe of PPO with these keys, and changes."""
    for name in ("m", "p", "r", "s"):
        (tmp_path / name).mkdir()
    (tmp_path / "checks.py").write_text("def score(rows, trajectories): ...\n")

    def load(keys: str, *changes: str) -> Node:
        (tmp_path / "family.toml").write_text(RL + keys.replace("checks.py", f"{tmp_path}/checks.py"))
        with contextlib.chdir(tmp_path):
            return load_recipe("family.toml", list(changes)).nodes["rl"]

    return load


def test_a_string_of_rewards_is_the_reward_model_without_a_warning(rl: Callable[..., Node]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old, new = rl('reward = "./r"\n'), rl('reward_model = "./r"\n')
        changed = rl('reward = "./s"\n', "rl.reward=./r"), rl('reward = "./s"\n', "rl.reward_model=./r")
    for node in (new, *changed):
        assert (node.config, node.inputs, node.identity()) == (old.config, old.inputs, old.identity())
    assert list(old.inputs) == ["model", "reward_model", "prompts"] and "reward" not in old.identity()
    weighed = rl('reward = "./r"\n', "rl.reward={model = 0.5}")
    assert weighed.inputs == old.inputs and weighed.identity() == {**old.identity(), "reward": {"model": 0.5}}
    assert old.places["reward_model"].endswith("line 6") and changed[0].places["reward_model"].startswith("--set")


@pytest.mark.parametrize(
    ("keys", "changes", "what"),
    [
        ('reward = "./r"\nreward_model = "./r"\n', [], "line 6: `rl.reward` and `rl.reward_model` name the same"),
        ("", ["rl.reward=./r", "rl.reward_model=./r"], "`rl.reward` and `rl.reward_model` are two names of one key"),
    ],
)
def test_a_reward_model_by_both_names_is_refused(
    rl: Callable[..., Node], keys: str, changes: list[str], what: str
) -> None:
    with pytest.raises(UserError, match=what):
        rl(keys, *changes)


def test_the_key_of_a_policy_is_that_of_before_the_reward_model_had_a_name(rl: Callable[..., Node]) -> None:
    """Its inputs count under their first names, and the default table of rewards not at all."""
    node = rl('reward = "./r"\n')
    recipe = load_recipe("nano")
    inputs = {name: Input(name, Path(name), f"digest of {name}") for name in node.inputs}
    names = {name: item.digest for name, item in inputs.items()}
    before = {"model": names["model"], "reward": names["reward_model"], "prompts": names["prompts"]}
    stage, identity = load_stage("ppo"), {key: value for key, value in node.identity().items() if key != "reward"}
    assert key_of(node, inputs, recipe) == make_key("ppo", stage.VERSION, identity, before, recipe.seed, {})
    assert frozen_inputs("ppo", inputs).keys() == before.keys() and frozen_inputs("sft", names) == names


def test_rewards_of_one_s_own_count_by_their_files(rl: Callable[..., Node], tmp_path: Path) -> None:
    first = rl('reward = {"checks.py:score" = 0.5}\n').identity()["reward"]
    ((name, (weight, digest)),) = first.items()
    assert name.endswith("checks.py:score") and weight == 0.5 and len(digest) == 64
    (tmp_path / "checks.py").write_text("def score(rows, trajectories): return []\n")
    assert rl('reward = {"checks.py:score" = 0.5}\n').identity()["reward"] != first


def test_a_copy_of_a_recipe_takes_a_reward_model_by_either_name(tmp_path: Path) -> None:
    for name in ("reward", "reward_model"):
        text = own_copy("nano", tmp_path / "mine.toml", [f"chat-rlhf.{name}=./r"])
        assert text.count('reward_model = "./r"') == 1 and 'reward_model = "reward"' not in text
