"""What a case of the table works on: a folder with files, a tiny family to be damaged, and the command line in-process.

The family is trained once a session by the command line itself (a corpus file -> tokenizer -> base -> chat -> pmp); a
case that needs it gets a copy.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwenkit.cli import main
from qwenkit.cli.app import app
from qwenkit.records import write_jsonl

TRAIN = 'seq_length = 32\nbatch_size = 2\nwarmup_steps = 0\nprecision = "fp32"\nlr = 1e-3\n'
FAMILY = f"""\
seed = 1
threads = 1

[tokenizer]
corpus = "text.jsonl"
vocab_size = 300
extras = 1
pad_to = 8

[base]
kind = "pretrain"
corpus = "text.jsonl"
tokenizer = "tokenizer"
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 16
tokens = 64
{TRAIN}
[chat]
kind = "sft"
model = "base"
data = "chat.jsonl"
steps = 1
{TRAIN}
[pmp]
kind = "preference"
model = "base"
data = "pairs.jsonl"
{TRAIN}"""
WORDS = "river stone lamp garden winter paper bridge silver 河流 石头 花园 冬天 纸张 桥梁".split()


def sentence(number: int) -> str:
    """A sentence that no other number gives."""
    return " ".join(WORDS[(number * step + step) % len(WORDS)] for step in range(1, 12)) + f" {number}."


def texts() -> list[dict[str, Any]]:
    """Documents enough for a vocabulary of 300."""
    return [{"id": f"t{n}", "text": sentence(n), "source": "text"} for n in range(40)]


def chats() -> list[dict[str, Any]]:
    """Chats of one question each."""
    return [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}]}
        for n in range(8)
    ]


def pairs() -> list[dict[str, Any]]:
    """Comparisons of two short answers."""
    asked = {"role": "user", "content": "so?"}
    return [{"id": f"p{n}", "messages": [asked], "chosen": "yes", "rejected": "no"} for n in range(4)]


def prompts() -> list[dict[str, Any]]:
    """Prompts with a rubric."""
    rubric = {"language": None, "right": {"kind": "exact", "value": "yes"}, "parts": [], "limit": 3,
              "manners": "plain", "system": None}  # fmt: skip
    return [{"id": f"q{n}", "messages": [{"role": "user", "content": "so?"}], "rubric": rubric} for n in range(4)]


def call(command: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, without a new process."""
    out, err = io.StringIO(), io.StringIO()
    commands = list(app.registered_commands)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["qwenkit", *shlex.split(command)])
        patch.setattr(app, "registered_commands", commands)
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def raise_family(folder: Path) -> None:
    """Make the family's run folder in `folder`, by the command line."""
    write_jsonl(folder / "text.jsonl", texts())
    write_jsonl(folder / "chat.jsonl", chats())
    write_jsonl(folder / "pairs.jsonl", pairs())
    (folder / "family.toml").write_text(FAMILY)
    with contextlib.chdir(folder):
        code, _, err = call("run family.toml -q")
    assert code == 0, err


@dataclass
class Desk:
    """The folder in which a case is prepared; its methods return the desk, so that a preparation is one expression."""

    tmp: Path
    patch: pytest.MonkeyPatch
    made: Callable[[], Path]

    def family(self) -> Desk:
        """Copy the family here: its texts, its recipe and its run folder."""
        shutil.copytree(self.made(), self.tmp, dirs_exist_ok=True)
        return self

    def write(self, name: str, content: str | bytes) -> Desk:
        """Write one file."""
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self

    def rows(self, name: str, *rows: dict[str, Any]) -> Desk:
        """Write rows as JSONL."""
        write_jsonl(self.tmp / name, rows)
        return self

    def recipe(self, text: str) -> Desk:
        """Write `my.toml` with one thread."""
        return self.write("my.toml", "threads = 1\n" + text)

    def edit(self, name: str, **fields: Any) -> Desk:
        """Change fields of a JSON file; None takes a field away."""
        path = self.tmp / name
        data = {**json.loads(path.read_text()), **fields}
        return self.write(name, json.dumps({key: value for key, value in data.items() if value is not None}))

    def cut(self, name: str, share: float = 0.5) -> Desk:
        """Cut a file."""
        data = (self.tmp / name).read_bytes()
        return self.write(name, data[: int(len(data) * share)])

    def copy(self, name: str, to: str) -> Desk:
        """Copy a folder, with the times of its files."""
        shutil.copytree(self.tmp / name, self.tmp / to)
        return self

    def run(self, out: str, changes: str) -> Desk:
        """Train the family once more into another folder."""
        code, _, err = call(f"run family.toml {changes} --out {out} -q")
        assert code == 0, err
        return self

    def remove(self, name: str) -> Desk:
        """Remove a file."""
        (self.tmp / name).unlink()
        return self
