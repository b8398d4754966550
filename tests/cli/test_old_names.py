"""Words of the command line that have another name now: each works, with one warning; both spellings at once do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenkit.cli.old_names import COMMANDS, INSPECT, OPTIONS, upgrade
from qwenkit.errors import Notice, UserError
from qwenkit.records import write_jsonl
from qwenkit.schema import renamed_keys
from qwenkit.stages import KINDS
from tests.errors.desk import call, texts

OLD_COMMANDS = [(old, new) for old, new in COMMANDS.items()] + [
    (f"inspect {old}", f"inspect {new}") for old, new in INSPECT.items()
]
OLD_OPTIONS = [(command, old, new) for command, names in OPTIONS.items() for old, new in names.items()] + [
    (kind, "--" + old.replace("_", "-"), "--" + new.replace("_", "-"))
    for kind in KINDS
    for old, new in renamed_keys(kind).items()
]


@pytest.mark.parametrize(("old", "new"), OLD_COMMANDS, ids=[old for old, _ in OLD_COMMANDS])
def test_an_old_command_works_with_one_warning(old: str, new: str) -> None:
    code, out, err = call(f"{old} --help")
    assert code == 0 and f"qwenkit {new}" in out
    assert err == f"note: an old name, read for one release more: qwenkit {old} is now qwenkit {new}\n"


@pytest.mark.parametrize(("command", "old", "new"), OLD_OPTIONS, ids=[f"{c} {old}" for c, old, _ in OLD_OPTIONS])
@pytest.mark.parametrize("sign", [" ", "="], ids=["apart", "joined"])
def test_an_old_option_is_todays_with_one_warning(command: str, old: str, new: str, sign: str) -> None:
    with pytest.warns(Notice) as warned:
        assert upgrade(f"{command} {old}{sign}8 -q".split()) == f"{command} {new}{sign}8 -q".split()
    (warning,) = warned
    what = f"qwenkit {command}: an old name, read for one release more: {old} is now {new}"
    assert str(warning.message) == what
    assert upgrade(f"{command} {new}{sign}8 -q".split()) == f"{command} {new}{sign}8 -q".split()  # without a warning


@pytest.mark.parametrize(("command", "old", "new"), OLD_OPTIONS, ids=[f"{c} {old}" for c, old, _ in OLD_OPTIONS])
def test_both_spellings_at_once_are_refused(command: str, old: str, new: str) -> None:
    with pytest.raises(UserError) as refused:
        upgrade([command, old, "1", f"{new}=2"])
    assert refused.value.text() == (
        f"qwenkit {command}: {old} and {new} are two names of one option\n  expected: {new}"
    )


def test_only_names_in_their_place_are_renamed() -> None:
    for words in ("run mask", "inspect data mask", "status longctx", "chat -p explain", "run -- --allow-drift"):
        assert upgrade(words.split()) == words.split()


def test_a_verb_takes_an_old_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl("more.jsonl", texts())
    Path("tok").mkdir()
    recipes: list[Any] = []
    monkeypatch.setattr("qwenkit.lineage.runner.run_recipe", lambda recipe, *_: recipes.append(recipe))
    code, _, err = call("pretrain --row 8 --corpus more.jsonl --tokenizer tok --tokens 4e3 --out runs/t -q")
    assert code == 0 and recipes[0].nodes["pretrain"].config.seq_length == 8
    assert err == "note: qwenkit pretrain: an old name, read for one release more: --row is now --seq-length\n"


def test_both_keys_of_a_verb_are_refused_by_name() -> None:
    code, _, err = call("pretrain --row 8 --seq-length 16 --corpus more.jsonl --out runs/t")
    assert code == 2 and "--row and --seq-length are two names of one option" in err
