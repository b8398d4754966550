"""Functions of a user's own: found without being run, loaded once, and never another than the one that was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.custom_functions import failure, find_function, load_function
from qwenkit.errors import UserError


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return f"{folder}/mine.py:score"


def test_it_is_found_without_being_run_and_loaded_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("SCORE = 3\n")
    found = find_function(written(tmp_path, "from beside import SCORE\ndef score(): return SCORE\n"), "reward", "()")
    assert found.path == str(tmp_path / "mine.py") and found.function == "score" and len(found.digest) == 64
    assert load_function(found, "reward")() == 3 and load_function(found, "reward") is load_function(found, "reward")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("score = 3\n", "`score` is not a function"),
        ("def score(): ...\n1 / 0\n", "the reward failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, text: str, what: str) -> None:
    found = find_function(written(tmp_path, text), "reward", "()")
    with pytest.raises(UserError) as caught:
        load_function(found, "reward")
    assert caught.value.what == what and str(caught.value.where).startswith(f"reward {found.name}: {found.path}")


def test_a_file_that_changed_is_not_the_one_that_was_found(tmp_path: Path) -> None:
    found = find_function(written(tmp_path, "def score(): ...\n"), "reward", "()")
    written(tmp_path, "def score(): return 1\n")
    with pytest.raises(UserError, match="the file of this reward changed while it was used"):
        load_function(found, "reward")


def test_a_failure_names_the_last_line_of_the_file_that_was_reached(tmp_path: Path) -> None:
    found = find_function(written(tmp_path, "import json\n\n\ndef score():\n    json.loads('{')\n"), "reward", "()")
    try:
        load_function(found, "reward")()
    except ValueError as error:
        said = failure(found, "reward", error, "sample 1 of prompt q0")
    assert said.where == f"reward {found.name}: {found.path}:5, sample 1 of prompt q0"
