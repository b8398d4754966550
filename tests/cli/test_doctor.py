"""`qwenkit doctor --env` names what matters."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from qwenkit.cli.app import app
from qwenkit.cli.entry import main  # noqa: F401  (it registers the commands)
from qwenkit.errors import UserError
from qwenkit.sandbox import probe


def test_it_names_the_tiers_and_why_they_do_not_work() -> None:
    done = CliRunner().invoke(app, ["doctor", "--env"])
    assert done.exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {"python", "qwenkit", "packages", "processor", "devices", "compiler", "sandbox", "bwrap", "landlock"} <= set(
        rows
    )
    works = [name for name in ("bwrap", "landlock") if probe(name).works]  # pyright: ignore[reportArgumentType]
    assert rows["sandbox"].split(":")[0] == (works[0] if works else "none")
    assert json.loads(CliRunner().invoke(app, ["doctor", "--env", "--json"]).stdout)["sandbox"] == rows["sandbox"]


def test_nothing_to_look_at() -> None:
    error = CliRunner().invoke(app, ["doctor"]).exception
    assert isinstance(error, UserError) and str(error) == "qwenkit doctor: nothing to look at\n  expected: --env"
