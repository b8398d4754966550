"""What the command line shows: help pages that say what a key needs, and colours only where they mean something."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qwenkit import __version__
from qwenkit.artifacts import read_manifest
from qwenkit.config import default_text
from qwenkit.lineage.recipe import load_recipe
from qwenkit.records import write_jsonl
from qwenkit.stages import KINDS, load_stage
from tests.errors.desk import call, chats, texts

ANSI = "\x1b["


def help_page(monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> str:
    """The page as it is shown at a width, its lines joined to one."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    code, out, err = call(f"{command} --help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= width
    return out


def row(page: str, option: str) -> str:
    """What a page says of an option, over all its lines."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if re.search(rf"{option}\s", line))
    end = next(i for i in range(start + 1, len(lines)) if " --" in lines[i] or lines[i].startswith("╰"))
    return " ".join(" ".join(lines[start:end]).replace("│", " ").split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", KINDS)
def test_help_tells_defaults_and_required_keys(kind: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
    page = help_page(monkeypatch, kind, width)
    config = load_stage(kind).Config
    for key, field in config.model_fields.items():
        said, default = row(page, f"--{key.replace('_', '-')}"), default_text(config, key).strip('"')
        assert ("[required]" in said) == field.is_required(), said
        assert (f"[default: {default}]" in said) == (default not in ("", "[]", "{}")), said


@pytest.mark.parametrize("command", ["", "inspect", "inspect loss-mask", "run", "status", *KINDS])
def test_help_ends_with_an_example(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = help_page(monkeypatch, command, 80)
    assert page.rstrip().rpartition("╯")[2].split()[:2] == ["Example:", "qwenkit"]


@pytest.mark.parametrize("command", ["", "inspect"])
def test_without_a_command_the_help_page_is_the_whole_answer(command: str) -> None:
    code, out, err = call(command)
    assert code == 2 and "Commands" in out and err == ""


def test_the_version_is_that_of_the_package() -> None:
    assert call("--version") == (0, f"qwenkit {__version__}\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_commands_that_work(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As far as is cheap: every option is known, every key valid, every path that of a nano run."""
    monkeypatch.chdir(tmp_path)
    for node in load_recipe("nano").nodes:
        Path("runs/nano", node).mkdir(parents=True)
    Path("notes").mkdir()
    write_jsonl("more.jsonl", texts())
    raised: list[Any] = []
    monkeypatch.setattr("qwenkit.lineage.runner.run_recipe", lambda recipe, *_: raised.append(recipe))
    code, _, err = call(f"{kind} {KINDS.all()[kind].example} --out runs/mine")
    assert (code, err) == (0, "")
    assert [node.kind for node in raised[0].nodes.values()] == [kind]


def test_lists_are_given_by_repeating_or_by_commas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_jsonl(f"{name}.jsonl", texts())
    raised: list[Any] = []
    monkeypatch.setattr("qwenkit.lineage.runner.run_recipe", lambda recipe, *_: raised.append(recipe))
    assert call("testsets --extra a.jsonl --extra b.jsonl,c.jsonl --out o")[0] == 0
    assert raised[0].nodes["testsets"].config.extra == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_several_nodes_are_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _, out, _ = call("run nano --only base --only corpus --dry-run")
    plan = out.splitlines()[1:]  # below it the size of each model, as "base: …"
    assert [line.split()[0] for line in plan if re.match(r"[\w-]+ ", line)] == ["corpus", "base"]


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
    ids=["pipe", "forced", "forbidden"],
)
def test_colours_stay_out_of_pipes(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch, family_tokenizer: Path
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = f"inspect loss-mask {family_tokenizer / 'chat.jsonl'} --tokenizer {family_tokenizer} --limit 2 --json"
    code, out, _ = call(command)
    first, second = json.loads(out)
    assert code == 0 and first["id"] != second["id"]
    trained = "".join(token["text"] for token in first["tokens"] if token["weight"])
    assert chats()[0]["messages"][-1]["content"] in trained
    assert sum(len(token["ids"]) for token in first["tokens"]) >= len(first["tokens"])


def test_a_verb_answers_programs_and_the_curious(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl("more.jsonl", texts())
    verb = "tokenizer --corpus more.jsonl --vocab-size 300 --threads 1"
    code, out, err = call(f"{verb} --out runs/t --json")
    (node,) = json.loads(out)["nodes"]
    assert code == 0 and (node["node"], node["state"]) == ("tokenizer", "run") and "1 of 1 nodes" in err
    assert call(f"{verb} --extras 3 --out runs/t -q")[1].startswith("node")
    key = read_manifest(Path("runs/t/tokenizer")).key[:12]
    said = call(f"{verb} --extras 3 --out runs/t -v")[1]
    assert f"tokenizer    up to date key {key}" in said and "runs/t/tokenizer: digest" in said
    said = call(f"{verb} --extras 4 --out runs/t --verbose")[1]
    assert "extras: 3 -> 4" in said and "seed 1, peak" in said


@pytest.fixture(scope="module")
def family_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer, and chats beside it."""
    from qwenkit.tokenizer import save_tokenizer, train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_bpe([row["text"] for row in texts()], 300), folder)
    write_jsonl(folder / "chat.jsonl", chats())
    return folder


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "hot"])
def test_a_temperature_is_a_number_from_0_on(value: str) -> None:
    code, _, err = call(f"chat nowhere --temperature {value}")
    assert code == 2 and f"Invalid value for '--temperature': {value} is not a number, 0 or more" in err


def test_a_chat_without_thoughts_is_refused_before_the_model_is_read(family_tokenizer: Path) -> None:
    code, _, err = call(f"chat {family_tokenizer} --thinking off")
    assert code == 2 and "error: thinking = false, and the chat style chatml has no thoughts" in err
