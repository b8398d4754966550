"""Every command that README and the documentation show works: cheap ones run for real, the others as far as is cheap.

`make TARGET` must be a target of the Makefile; that the package installs is another test's (`tests/packaging`).
`qwenkit run` runs with `--dry-run`, `chat` asks one question; every other command runs as it stands, in a folder with a
tiny family, without a network. The README in Chinese keeps step with the English one.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

from qwenkit.cli import main, old_names, verbs
from qwenkit.cli.app import app, inspect_app
from qwenkit.stages import KINDS
from tests.docs.conftest import qwenkit as run_qwenkit
from tests.docs.pages import ROOT, all_pages
from tests.tiny_gguf import write_tiny


def _names(typer_app: Any) -> list[str]:
    return [command.name or command.callback.__name__.replace("_", "-") for command in typer_app.registered_commands]


READMES = (ROOT / "README.md", ROOT / "README.zh.md")
VERBS = [name for name in _names(app) if name not in KINDS]
VERBS += ["inspect", *(f"inspect {name}" for name in _names(inspect_app))]


def shown(text: str) -> list[str]:
    """The commands of the shell blocks, remarks cut off."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if line]


def cheap(arguments: list[str]) -> list[str]:
    """The command itself where it is cheap, otherwise its cheapest form."""
    if arguments[0] == "run":
        return [*arguments, "--dry-run", "--allow-env-change"]
    return [*arguments, "-p", "hello", "--max-tokens", "4"] if arguments[0] == "chat" else arguments


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


RUN = [page for page in all_pages() if shown(page.read_text("utf-8")) and page.name != "README.zh.md"]
"""Pages whose commands are run; the README in Chinese has those of the English one (`test_the_readmes_keep_step`)."""


@pytest.mark.parametrize("page", RUN, ids=lambda path: path.stem)
def test_the_commands_of_a_page_work(page: Path, family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "runs", tmp_path / "runs")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("Some notes of my own.")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("The mill stands by the river, and the river runs past it to the sea.")
    turns = [{"from": "human", "value": "Where does the mill stand?"}, {"from": "gpt", "value": "By the river."}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": turns}] * 20))
    write_tiny(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf", "llama", "Q4_1")
    for command in shown(page.read_text(encoding="utf-8")):
        program, *arguments = shlex.split(command)
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= make_targets(), command
            continue
        if program == "pip":
            assert arguments == ["install", "-c", "constraints.txt", "."] and (ROOT / "constraints.txt").is_file()
            continue
        assert program == "qwenkit", f"{page.name}: this test does not know how to try `{command}`"
        done = run_qwenkit(*cheap(arguments), cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), command


def options(verb: str) -> set[str]:
    """The options of a verb."""
    verbs.register([verb])
    command: Any = typer.main.get_command(app)
    for word in verb.split():
        command = command.commands[word]
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def test_commands_in_the_text_name_what_there_is() -> None:
    """The experiment log speaks as of its dates: old names are read there as the command line reads them."""
    for page in all_pages():
        for command in re.findall(r"`qwenkit ([^`\n]+)`", page.read_text(encoding="utf-8")):
            if page.name == "LOG.md":
                with warnings.catch_warnings(action="ignore"):
                    command = " ".join(old_names.upgrade(command.split()))
            verb = " ".join(command.split()[:2]) if command.startswith("inspect ") else command.split()[0]
            assert verb in VERBS or verb in KINDS, f"{page.name}: qwenkit {command}"
            given = {word for word in command.split() if re.match(r"--?[a-z]", word)}
            assert given <= options(verb), f"{page.name}: qwenkit {command}"


@pytest.mark.parametrize("verb", [*VERBS, *KINDS])
def test_every_verb_has_help_and_an_example(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qwenkit", *verb.split(), "--help"])
    with contextlib.suppress(SystemExit):  # a mistake would show in what is printed
        main()
    out = capsys.readouterr().out
    assert "Usage" in out and verb.split()[0] in out
    assert "Example:" in out


def test_the_lines_of_python_run(family: Path) -> None:
    """The snippet of the README runs as it stands, and prints an answer."""
    (snippet,) = re.findall(r"^```python\n(.*?)^```", READMES[0].read_text(encoding="utf-8"), re.M | re.S)
    command = [sys.executable, "-c", snippet]
    answer = subprocess.run(command, cwd=family, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[-1] in ("stop", "length")


def test_the_program_of_the_engines_page_runs(family: Path) -> None:
    """The first block of Python runs as it stands: three answers from threads, three from coroutines."""
    text = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    program = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)[0]
    answer = subprocess.run([sys.executable, "-c", program], cwd=family, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0 and not answer.stderr, answer.stderr
    assert answer.stdout.endswith(" tokens in 6 answers\n")


def test_the_readmes_keep_step() -> None:
    """Same headings, commands, links, pictures and numbers, in both languages."""
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert shown(english) == shown(chinese)
    for pattern in (
        r"^(#+) ",
        r"^```python\n(.*?)^```",
        r"^  (\w+/) ",
        r"^\| ?(?:.*\|)",
        r"\]\((docs/(?!images/)[^)]+)\)",
        r'src="([^"]+)"',
    ):  # fmt: skip; pictures of the page are in the reader's language
        of_lines = pattern.startswith(r"^\|")
        first, second = (re.findall(pattern, text, re.M | re.S * (not of_lines)) for text in (english, chinese))
        assert len(first) == len(second) if of_lines else sorted(first) == sorted(second), pattern
    assert Counter(re.findall(r"`([^`\n]+)`", english)) == Counter(re.findall(r"`([^`\n]+)`", chinese))
    numbers = [Counter(re.findall(r"[+−]?\d+(?:\.\d+)?", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


def test_the_tree_of_the_architecture_is_the_packages() -> None:
    """Every package and core module stands in the drawing, and nothing else does."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = re.search(r"## The packages.*?```\n(.*?)```", text, re.S)
    assert drawing
    names = [re.split(r"\s{2,}", line)[0] for line in drawing[1].splitlines()]
    heads = {word.rstrip("/") for line in names for word in re.findall(r"\w+/|\w+\.py", line)}
    package = ROOT / "src" / "qwenkit"
    packages = {p.name for p in package.iterdir() if (p / "__init__.py").exists()}
    files = {p.name for p in package.glob("*.py") if p.name != "__init__.py"}
    assert heads == packages | files


def test_the_tree_of_the_readme_is_the_packages() -> None:
    for page in READMES:
        drawn = re.findall(r"^  (\w+)/ ", page.read_text(encoding="utf-8"), re.M)
        packages = {p.name for p in (ROOT / "src" / "qwenkit").iterdir() if (p / "__init__.py").exists()}
        assert set(drawn) == packages, page.name
