"""A new kind of node is one file: help page, verb, plan, run, report card and docs know it without another edit."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

import qwenkit.stages
from qwenkit.artifacts import read_manifest
from qwenkit.lineage import estimate, run_reader
from qwenkit.lineage.progress import Terminal
from qwenkit.lineage.recipe import load_recipe
from qwenkit.lineage.report_card import card_number, curves_of, write_card
from qwenkit.lineage.runner import Options, run_recipe
from qwenkit.stages import KINDS, is_chat_model, load_stage, produces
from tests.docs import pages

KIND = '''"""`shout`: a text in capitals."""

from qwenkit.config import StageConfig, content
from qwenkit.stages.base import Result
from qwenkit.stages.card import CardPart
from qwenkit.stages.claims import WORKED, Claim
from qwenkit.stages.results import Estimate


def volumes(node):
    rows = [("hall", node.metrics["letters"]), ("<b>yard</b>", 0.5)]
    return {"name": node.name, "heading": "how loud where", "head": ["place", "letters"], "rows": rows}


SUMMARY = "say a text louder"
EXAMPLE = "--text hello"
ORDER = 35
CHAT_MODEL = True
VERSION = 1
PRODUCES = ("shout",)
CURVES = (("Loudness", "decibel", ("loudness",)),)
SEED_METRICS = ("letters",)
CARD_PARTS = (CardPart("data", "Volumes", "table", volumes),)


class Config(StageConfig):
    """What is said."""

    text: str = content("hello", doc="the text")


def run(config, inputs, context):
    (context.out / "text").write_text(config.text.upper())
    context.log("step", step=1, loudness=3.0)
    return Result({"letters": len(config.text)}, f"{len(config.text)} letters: loud")


def card_number(metrics):
    return f"{metrics['letters']} capitals"


def claims(nodes, seeds):
    for node in nodes:
        yield Claim(WORKED, f"{node.name} is loud", f"{node.metrics['letters']} letters")
'''
RECIPE = """
[shout]
text = "good morning"

[report]
of = "shout"
"""


@pytest.fixture
def shout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of a new kind, which the package also reads."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "shout.py").write_text(KIND)
    monkeypatch.setattr(qwenkit.stages, "__path__", [*qwenkit.stages.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "qwenkit.stages.shout", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_package_knows_it_without_loading_it(shout: Path) -> None:
    assert KINDS["shout"] == "say a text louder" and is_chat_model("shout")
    assert "qwenkit.stages.shout" not in sys.modules
    kinds = list(KINDS)
    assert kinds.index("corpus") < kinds.index("shout") < kinds.index("tokenizer")
    assert produces("shout") == ("shout",) and load_stage("shout").VERSION == 1


def test_the_command_line_shows_it(shout: Path) -> None:
    code = (
        "import sys, qwenkit.stages as stages; stages.__path__.append(sys.argv.pop(1)); from qwenkit.cli import main;"
        " main()"
    )

    def call(*arguments: str) -> str:
        words = [sys.executable, "-c", code, str(shout), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert "Say a text louder." in call("--help")
    assert "qwenkit shout --text hello --out runs/my-shout" in " ".join(call("shout", "--help").split())
    call("shout", "--text", "hey", "--out", "one", "--quiet")
    assert Path("one/shout/text").read_text() == "HEY"


def test_a_recipe_runs_it_and_the_card_tells_of_it(shout: Path) -> None:
    Path("new.toml").write_text(RECIPE)
    recipe = load_recipe("new.toml")
    run_recipe(recipe, Options(), Terminal(Console(quiet=True)))
    assert read_manifest(recipe.out / "shout").metrics == {"letters": 12}
    run = run_reader.load_run(recipe.out)
    assert card_number(run.nodes["shout"]) == "12 capitals"
    assert ("Loudness", "decibel", ("loudness",)) in curves_of("shout")
    write_card(recipe.out, Path("card"))
    page = Path("card/report.html").read_text()
    assert "shout is loud" in page and "12 capitals" in page and "Loudness" in page
    assert "<h3>shout: how loud where</h3>" in page and "<td>hall</td><td>12</td>" in page and "Volumes" not in page
    assert "&lt;b&gt;yard&lt;/b&gt;" in page and "<b>yard" not in page
    text = Path("card/report.md").read_text()
    assert "shout: how loud where\n\n| place | letters |\n| --- | --- |\n| hall | 12 |\n" in text


def test_the_card_says_where_it_has_not_run(shout: Path) -> None:
    Path("runs/old").mkdir(parents=True)
    write_card(Path("runs/old"), Path("card"))
    assert "Volumes: not run" in Path("card/report.html").read_text()
    assert "Volumes: not run." in Path("card/report.md").read_text()


def test_a_plan_asks_it_what_it_will_take(shout: Path) -> None:
    (shout / "shout.py").write_text(KIND + "\n\ndef estimate(config, rows):\n    return Estimate(rows, 2.0, 3.0, 4)\n")
    Path("new.toml").write_text("[shout]\n")
    assert estimate.sizes(load_recipe("new.toml")) == {}, "its vocabulary is not known"


def test_the_documentation_asks_for_its_page(shout: Path) -> None:
    assert pages.stage_page("shout").name == "shout.md" and "`text`" in pages.keys("shout")


def test_the_contract_names_every_kind() -> None:
    """What import-linter holds apart are all kinds of the package."""
    contracts = tomllib.loads((pages.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (independent,) = (contract["modules"] for contract in contracts if contract["type"] == "independence")
    assert independent == [f"qwenkit.stages.{kind}" for kind in KINDS]
