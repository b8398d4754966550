"""Recipes of schema 1 are read with a warning, of schema 3 refused; identities keep the names of schema 1."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import pytest

from qwenkit.errors import Notice, UserError
from qwenkit.lineage.recipe import load_recipe, packaged
from qwenkit.records import canonical
from qwenkit.schema import current_names, frozen_names, renamed_keys
from qwenkit.stages import KINDS, load_stage

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
    """The hashes were taken from the last version that knew schema 1 only: whatever changes them trains again."""
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
