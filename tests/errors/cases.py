# ruff: noqa: E501 (a message is one line, however long)
"""The table of mistakes: name, what is prepared, the command line, the exact answer on stderr, the exit code.

`started` marks a case in which a run may have begun: it may leave its books and scratch, never an artifact. All other
cases leave every file as it was.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.errors.desk import Desk, chats, pairs, prompts, texts

TOKENIZER = '[tokenizer]\ncorpus = "text.jsonl"\n'
CORPUS = '[corpus]\nextra = ["text.jsonl"]\n'
TRAIN = "--row 32 --batch-rows 2 --precision fp32 --threads 1 --out runs/o"
SFT = f"sft --model runs/family/base --data bad.jsonl --steps 1 {TRAIN}"
PAIRS = f"preference --model runs/family/base --data bad.jsonl {TRAIN}"
PPO = "ppo --model runs/family/chat --reward runs/family/pmp --prompts bad.jsonl --steps 1 --threads 1 --out runs/o"
WEIGHTS = "runs/family/base/model.safetensors"


@dataclass(frozen=True)
class Case:
    """One mistake and its answer."""

    name: str
    prepare: Callable[[Desk], Any]
    command: str
    stderr: str
    code: int = 2
    started: bool = False


def nothing(desk: Desk) -> None:
    """An empty folder."""


def broken(text: str | bytes) -> Callable[[Desk], Desk]:
    """A recipe with this text."""
    return lambda desk: desk.write("my.toml", text)


def recipe(text: str) -> Callable[[Desk], Desk]:
    """A recipe, and a corpus beside it."""
    return lambda desk: desk.rows("text.jsonl", *texts()).recipe(text)


def bad_rows(*rows: dict[str, Any]) -> Callable[[Desk], Desk]:
    """The family, and `bad.jsonl` with these rows."""
    return lambda desk: desk.family().rows("bad.jsonl", *rows)


def bad_bytes(data: bytes) -> Callable[[Desk], Desk]:
    """The family, and `bad.jsonl` with these bytes."""
    return lambda desk: desk.family().write("bad.jsonl", data)


def chat(*roles: str) -> dict[str, Any]:
    """A chat with these roles."""
    return {"id": "x", "messages": [{"role": role, "content": "yes"} for role in roles]}


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    """A row that lacks a key."""
    return {name: value for name, value in row.items() if name != key}


def tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Desk], None]:
    """The family, the base model's tensors changed in a copy that is no artifact."""

    def prepare(desk: Desk) -> None:
        foreign(desk)
        found = load_file(desk.tmp / "model/model.safetensors")
        change(found)
        save_file(found, desk.tmp / "model/model.safetensors", metadata={"format": "pt"})

    return prepare


def foreign(desk: Desk) -> Desk:
    """The family's base model as a folder from elsewhere, without a manifest."""
    (desk.family().tmp / "runs/family/base").rename(desk.tmp / "model")
    return desk.remove("model/manifest.json")


def held(desk: Desk) -> None:
    """Another process works in the run folder."""
    lock = (desk.family().tmp / "runs/family/.lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    desk.patch.setattr("tests.errors.cases.LOCKS", [lock])


LOCKS: list[Any] = []


def full_disk(desk: Desk, after: int = 0) -> None:
    """No space is left once `after` flushes have gone well."""
    real, calls = os.fsync, iter(range(10**6))

    def fsync(handle: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    recipe(TOKENIZER + "vocab_size = 300\n")(desk)
    desk.patch.setattr(os, "fsync", fsync)


def no_cuda(desk: Desk) -> None:
    """A machine without a GPU."""
    recipe(TOKENIZER)(desk)
    desk.patch.setattr("torch.cuda.is_available", lambda: False)


def faulty(desk: Desk, error: BaseException) -> None:
    """A room that breaks."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    recipe(TOKENIZER)(desk)
    desk.patch.setattr("qwenkit.tokenizer.train_bpe", fail)


def changed(name: str) -> Callable[[Desk], Desk]:
    """The family with one byte of a file changed, its size kept."""

    def prepare(desk: Desk) -> Desk:
        data = bytearray((desk.family().tmp / name).read_bytes())
        data[-2] ^= 1
        return desk.write(name, bytes(data))

    return prepare


CASES = [
    # ---- recipes ----------------------------------------------------------------------------------------------------
    Case(
        "broken TOML: value missing",
        broken("seed = 1\n[base]\nlr = \n"),
        "run my.toml",
        """\
error: my.toml, line 3: broken TOML: no value that TOML knows; a text stands in quotes
""",
    ),
    Case(
        "broken TOML: string not closed",
        broken('title = "my\nseed = 1\n'),
        "run my.toml",
        """\
error: my.toml, line 1: broken TOML: the text is not closed on its line
""",
    ),
    Case(
        "broken TOML: key twice",
        broken("[base]\nrow = 8\nrow = 9\n"),
        "run my.toml",
        """\
error: my.toml, line 3: broken TOML: the key stands twice
""",
    ),
    Case(
        "broken TOML: table twice",
        broken("[base]\n[base]\n"),
        "run my.toml",
        """\
error: my.toml, line 2: broken TOML: the table [base] stands twice
""",
    ),
    Case(
        "broken TOML: bracket not closed",
        broken("[base\nrow = 8\n"),
        "run my.toml",
        """\
error: my.toml, line 1: broken TOML: Expected ']' at the end of a table declaration
""",
    ),
    Case(
        "invalid UTF-8 in a recipe",
        broken(b'seed = 1\ntitle = "\xff"\n'),
        "run my.toml",
        """\
error: my.toml, line 2: invalid UTF-8
  expected: a recipe saved as UTF-8
""",
    ),
    Case(
        "a list of tables",
        broken("[[base]]\nrow = 8\n"),
        "run my.toml",
        """\
error: my.toml, line 1: `base` is a list of tables
  expected: one table for each node: [base]
""",
    ),
    Case(
        "empty recipe",
        broken(""),
        "run my.toml",
        """\
error: my.toml: the recipe has no nodes
  expected: at least one table, like [tokenizer]
""",
    ),
    Case(
        "no such recipe file",
        nothing,
        "run my.toml",
        """\
error: my.toml: no such recipe
  mend: `qwenkit init my.toml --from nano` writes one
""",
    ),
    Case(
        "no such recipe name",
        nothing,
        "run nono",
        """\
error: no recipe `nono`
  expected: a .toml file, or one of nano, nano-quick
  nearest: nano
""",
    ),
    Case(
        "a folder for a recipe",
        lambda d: d.write("my.toml/x", ""),
        "run my.toml",
        """\
error: my.toml: a folder, where a recipe file was expected
""",
    ),
    Case(
        "unknown run key",
        broken("sede = 1\n"),
        "run my.toml",
        """\
error: my.toml, line 1: unknown key `sede`
  expected: one of schema, seed, device, threads, out, title, about
  nearest: seed
""",
    ),
    Case(
        "newer schema of a recipe",
        broken("schema = 2\n"),
        "run my.toml",
        """\
error: my.toml, line 1: recipe schema 2 is newer than this qwenkit
  expected: 1 or older
  mend: upgrade qwenkit
""",
    ),
    Case(
        "run key of a wrong type",
        broken('seed = "one"\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `seed` is "one"
  expected: a whole number
""",
    ),
    Case(
        "seed below 0",
        broken("seed = -1\n"),
        "run my.toml",
        """\
error: my.toml, line 1: `seed` is -1
  expected: 0 to 9223372036854775807
""",
    ),
    Case(
        "unknown device",
        broken('device = "tpu"\n'),
        "run my.toml",
        """\
error: my.toml, line 1: `device` is "tpu"
  expected: cpu or cuda
""",
    ),
    Case(
        "unknown node key",
        recipe(TOKENIZER + "vocab_sise = 300\n"),
        "run my.toml",
        """\
error: my.toml, line 4: unknown key `tokenizer.vocab_sise`
  expected: one of corpus, extras, held_out, kind, minutes, pad_to, pattern, seed, vocab_size
  nearest: vocab_size
""",
    ),
    Case(
        "unknown kind",
        recipe('[words]\nkind = "tokeniser"\n'),
        "run my.toml",
        """\
error: my.toml, line 3: unknown kind `tokeniser`
  expected: one of world, testsets, corpus, tokenizer, pretrain, sft, preference, reward, ppo, evaluate, report
  nearest: tokenizer
""",
    ),
    Case(
        "missing required key",
        recipe("[tokenizer]\nvocab_size = 300\n"),
        "run my.toml",
        """\
error: my.toml, line 2: missing key `tokenizer.corpus`
  expected: the corpus to learn merges from
""",
    ),
    Case(
        "wrong type: a text for a number",
        recipe(TOKENIZER + 'vocab_size = "300"\n'),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is "300"
  expected: a whole number
""",
    ),
    Case(
        "wrong type: a truth value for a number",
        recipe(TOKENIZER + "vocab_size = true\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is true
  expected: a whole number
""",
    ),
    Case(
        "wrong type: a number for a list",
        recipe('[exam]\nkind = "evaluate"\nmodels = 3\ntests = "text.jsonl"\n'),
        "run my.toml",
        """\
error: my.toml, line 4: `exam.models` is 3
  expected: a list, like ["a", "b"]
""",
    ),
    Case(
        "out of range",
        recipe(TOKENIZER + "vocab_size = 100\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is 100
  expected: at least 256
""",
    ),
    Case(
        "not a finite number",
        recipe(TOKENIZER + "held_out = nan\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.held_out` is nan
  expected: a finite number
""",
    ),
    Case(
        "not one of the choices",
        recipe('[world]\nscale = "nanno"\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `world.scale` is "nanno"
  expected: 'nano', 'quick' or 'tiny'
  nearest: nano
""",
    ),
    Case(
        "two mistakes at once",
        recipe(TOKENIZER + "vocab_size = 1\npad_too = 8\n"),
        "run my.toml",
        """\
error: my.toml, line 4: `tokenizer.vocab_size` is 1
  expected: at least 256
my.toml, line 5: unknown key `tokenizer.pad_too`
  expected: one of corpus, extras, held_out, kind, minutes, pad_to, pattern, seed, vocab_size
  nearest: pad_to
""",
    ),
    Case(
        "neither node nor path",
        recipe('[tokenizer]\ncorpus = "texts.jsonl"\n'),
        "run my.toml",
        """\
error: my.toml, line 3: `tokenizer.corpus` = "texts.jsonl" is neither a node nor a path that exists
  expected: a path that exists
  nearest: text.jsonl
""",
    ),
    Case(
        "misspelt node",
        recipe(CORPUS + '[tokenizer]\ncorpus = "corpsu"\n'),
        "run my.toml",
        """\
error: my.toml, line 5: `tokenizer.corpus` = "corpsu" is neither a node nor a path that exists
  expected: a node of this recipe (corpus) or a path
  nearest: corpus
""",
    ),
    Case(
        "both node and path",
        lambda d: recipe(CORPUS + '[tokenizer]\ncorpus = "corpus"\n')(d).write("corpus", "x"),
        "run my.toml",
        """\
error: my.toml, line 5: `tokenizer.corpus` = "corpus" is both a node and a path
  expected: the node "corpus" or the path "./corpus"
  mend: write "./corpus" for the path, or rename the node
""",
    ),
    Case(
        "a cycle",
        recipe('[a]\nkind = "tokenizer"\ncorpus = "b"\n[b]\nkind = "tokenizer"\ncorpus = "a"\n'),
        "run my.toml",
        """\
error: my.toml, line 2: nodes wait for each other: a -> b -> a
  expected: a graph without cycles
""",
    ),
    Case(
        "no node name",
        recipe('["my node"]\nkind = "tokenizer"\n'),
        "run my.toml",
        """\
error: my.toml, line 2: `my node` is no node name
  expected: letters, digits, - and _
""",
    ),
    # ---- the command line -------------------------------------------------------------------------------------------
    Case(
        "set without a value",
        recipe(TOKENIZER),
        "run my.toml --set seed",
        """\
error: --set: `seed` is no change
  expected: KEY=VALUE or NODE.KEY=VALUE
""",
    ),
    Case(
        "set of an unknown node",
        recipe(TOKENIZER),
        "run my.toml --set tokeniser.extras=1",
        """\
error: --set tokeniser.extras=1: the recipe has no node `tokeniser`
  expected: one of tokenizer
  nearest: tokenizer
""",
    ),
    Case(
        "set of an unknown key",
        recipe(TOKENIZER),
        "run my.toml --set tokenizer.extra=1",
        """\
error: --set tokenizer.extra=1: unknown key `tokenizer.extra`
  expected: one of corpus, extras, held_out, kind, minutes, pad_to, pattern, seed, vocab_size
  nearest: extras
""",
    ),
    Case(
        "set of a wrong type",
        recipe(TOKENIZER),
        "run my.toml --set tokenizer.extras=many",
        """\
error: --set tokenizer.extras=many: `tokenizer.extras` is "many"
  expected: a whole number
""",
    ),
    Case(
        "set of a whole node",
        recipe(TOKENIZER),
        "run my.toml --set tokenizer=1",
        """\
error: --set: `tokenizer=1` is no change
  expected: KEY=VALUE or NODE.KEY=VALUE
""",
    ),
    Case(
        "unknown node in --only",
        recipe(TOKENIZER),
        "run my.toml --only tokeniser",
        """\
error: my.toml: the recipe has no node `tokeniser`
  expected: one of tokenizer
  nearest: tokenizer
""",
    ),
    Case(
        "unknown node in --until",
        recipe(TOKENIZER),
        "run my.toml --until base",
        """\
error: my.toml: the recipe has no node `base`
  expected: one of tokenizer
""",
    ),
    Case(
        "only, without what it reads",
        recipe(CORPUS + '[tokenizer]\ncorpus = "corpus"\n'),
        "run my.toml --only tokenizer",
        """\
error: runs/my: `tokenizer` reads `corpus`, which has not been made
  mend: --until tokenizer makes all it needs
""",
    ),
    Case(
        "unknown verb",
        nothing,
        "pretrian --corpus x",
        """\
error: qwenkit: No such command 'pretrian'. Did you mean 'pretrain'?
  expected: qwenkit [OPTIONS] COMMAND [ARGS]...
  mend: qwenkit --help
""",
    ),
    Case(
        "unknown option",
        nothing,
        "run nano --treads 2",
        """\
error: qwenkit run: No such option: --treads (Possible options: --reuse)
  expected: qwenkit run [OPTIONS] {recipe}
  mend: qwenkit run --help
""",
    ),
    Case(
        "argument missing",
        nothing,
        "run",
        """\
error: qwenkit run: Missing argument 'recipe'
  expected: qwenkit run [OPTIONS] {recipe}
  mend: qwenkit run --help
""",
    ),
    Case(
        "option without its value",
        nothing,
        "run nano --out",
        """\
error: qwenkit: Option '--out' requires an argument
  mend: qwenkit --help
""",
    ),
    Case(
        "a verb without --out",
        nothing,
        "tokenizer --corpus x",
        """\
error: qwenkit tokenizer: Missing option '--out'
  expected: qwenkit tokenizer [OPTIONS]
  mend: qwenkit tokenizer --help
""",
    ),
    Case(
        "a verb without a required key",
        nothing,
        "tokenizer --out runs/o",
        """\
error: qwenkit tokenizer --corpus: missing key `tokenizer.corpus`
  expected: the corpus to learn merges from
""",
    ),
    Case(
        "a verb with a wrong value",
        lambda d: d.rows("t.jsonl", *texts()),
        "tokenizer --corpus t.jsonl --vocab-size big --out runs/o",
        """\
error: qwenkit tokenizer --vocab-size: `tokenizer.vocab_size` is "big"
  expected: a whole number
""",
    ),
    Case(
        "a verb with a file that is not there",
        nothing,
        "tokenizer --corpus t.jsonl --out runs/o",
        """\
error: qwenkit tokenizer --corpus: `tokenizer.corpus` = "t.jsonl" is neither a node nor a path that exists
  expected: a path that exists
""",
    ),
    Case(
        "init onto a file",
        lambda d: d.write("my.toml", "mine"),
        "init my.toml",
        """\
error: my.toml: the file exists already
  mend: choose another name, or remove it
""",
    ),
    Case(
        "init into no folder",
        nothing,
        "init no/my.toml",
        """\
error: no/my.toml: the file cannot be written (No such file or directory)
""",
    ),
    Case(
        "init from no recipe",
        nothing,
        "init my.toml --from nanno",
        """\
error: no recipe `nanno`
  expected: a .toml file, or one of nano, nano-quick
  nearest: nano
""",
    ),
    Case(
        "chat on nothing",
        nothing,
        "chat runs/nothing",
        """\
error: runs/nothing: no such file or folder
  expected: a tokenizer folder, .tiktoken or .json
""",
    ),
    Case(
        "inspect on nothing",
        nothing,
        "inspect mask no.jsonl --tokenizer nothing",
        """\
error: nothing: no such file or folder
  expected: a tokenizer folder, .tiktoken or .json
""",
    ),
    Case(
        "status of nothing",
        nothing,
        "status runs/nothing",
        """\
error: runs/nothing: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "verify of nothing",
        nothing,
        "verify runs/nothing",
        """\
error: runs/nothing: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "clean of nothing",
        lambda d: d.write("mine/letter", "dear"),
        "clean mine",
        """\
error: mine: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    Case(
        "a report on no artifact",
        lambda desk: desk.family().write("mine/notes.txt", "mine"),
        "report --of mine --threads 1 --out runs/o",
        """\
error: qwenkit report, mine: no artifact of a run
  expected: a folder with manifest.json, or a run folder
""",
        started=True,
    ),
    Case(
        "other seeds from no run",
        lambda desk: desk.family(),
        "report --of runs/family --seeds runs/family/chat --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/family/chat: no run in this folder
  expected: a folder that `qwenkit run` made
""",
        started=True,
    ),
    Case(
        "other seeds of nodes from two runs",
        lambda desk: desk.family().copy("runs/family", "runs/mine"),
        "report --of runs/family/chat,runs/mine/pmp --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/family, runs/mine: `seeds` joins nodes of one run, `of` names others
  expected: nodes of one run in `of`
""",
        started=True,
    ),
    Case(
        "the same seed as another",
        lambda desk: desk.family().copy("runs/family", "runs/mine"),
        "report --of runs/family --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/family and runs/mine: `base` has the seed 1 twice
  expected: a seed of its own for every run
""",
        started=True,
    ),
    Case(
        "another seed of another recipe",
        lambda desk: desk.family().run("runs/mine", "--set seed=2 --set chat.lr=0.002"),
        "report --of runs/family --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/mine: a run of another recipe: chat.lr: 0.001 -> 0.002
  expected: another seed and nothing else
""",
        started=True,
    ),
    Case(
        "another seed that is not finished",
        lambda desk: desk.family().run("runs/mine", "--set seed=2 --until chat"),
        "report --of runs/family --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/mine: `pmp` is missing in this run
  expected: a finished run of the same recipe
  mend: `qwenkit run` goes on with it
""",
        started=True,
    ),
    Case(
        "reuse from no run",
        recipe(TOKENIZER),
        "run my.toml --reuse mine",
        """\
error: --reuse mine: no run in this folder
  expected: a folder that `qwenkit run` made
""",
    ),
    # ---- run folders ------------------------------------------------------------------------------------------------
    Case(
        "output folder that is no run",
        lambda d: recipe(TOKENIZER)(d).write("mine/letter", "dear"),
        "run my.toml --out mine",
        """\
error: mine: the output folder holds something that is no run
  expected: an empty or new folder, or a run of this recipe
  mend: choose another with --out
""",
    ),
    Case(
        "output folder that is a file",
        lambda d: recipe(TOKENIZER)(d).write("mine", "dear"),
        "run my.toml --out mine",
        """\
error: mine: the run folder cannot be made
  expected: a folder one may write
""",
    ),
    Case(
        "output folder of another recipe",
        lambda d: recipe(TOKENIZER)(d.family()),
        "run my.toml --out runs/family",
        """\
error: runs/family: the output folder is a run of another recipe, `family`
  expected: a run of `my`
  mend: choose another with --out
""",
    ),
    Case(
        "locked run folder",
        held,
        "run family.toml",
        """\
error: runs/family: another process is working in this run folder
""",
    ),
    Case(
        "clean of a locked run folder",
        held,
        "clean runs/family",
        """\
error: runs/family: another process is working in this run folder
""",
    ),
    Case(
        "newer schema of a run",
        lambda d: d.family().edit("runs/family/run.json", schema=9),
        "run family.toml",
        """\
error: runs/family/run.json: written by a newer qwenkit (schema 9)
  expected: schema 1 or older
  mend: upgrade qwenkit
""",
    ),
    Case(
        "damaged run.json",
        lambda d: d.family().edit("runs/family/run.json", fixed=None),
        "run family.toml",
        """\
error: runs/family/run.json: a damaged run.json: keys are missing
  expected: recipe, fixed.threads
  mend: remove the file and its folder, or choose another with --out
""",
    ),
    Case(
        "other threads",
        lambda d: d.family(),
        "run family.toml --set threads=2 --set tokenizer.extras=2",
        """\
error: runs/family: the run was started under other conditions: threads: 1 -> 2
  expected: the same, so that a resumed run gives the same bits
  mend: --allow-drift goes on and marks the run, --out starts a new one
""",
    ),
    Case(
        "disk full before the first node",
        full_disk,
        "run my.toml",
        """\
error: No space left on device
  mend: free some space
""",
        started=True,
    ),
    Case(
        "disk full within a node",
        lambda d: full_disk(d, 4),
        "run my.toml",
        """\
error: runs/my/.work/tokenizer-KEY: the disk is full, `tokenizer` stopped
  mend: free some space (`qwenkit clean`), then the same command goes on from here
""",
        started=True,
    ),
    # ---- artifacts --------------------------------------------------------------------------------------------------
    Case(
        "verify finds changed bytes",
        changed(WEIGHTS),
        "verify runs/family",
        """\
error: runs/family/base/model.safetensors: its bytes changed
  mend: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "verify finds a missing file",
        lambda d: d.family().remove(WEIGHTS),
        "verify runs/family/base",
        """\
error: runs/family/base/model.safetensors: missing
  mend: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "damaged input of a verb",
        changed(WEIGHTS),
        SFT.replace("bad.jsonl", "chat.jsonl"),
        """\
error: runs/family/base: a damaged artifact: model.safetensors: its bytes changed
  mend: fetch or make it again
""",
    ),
    Case(
        "damaged input under --only",
        changed(WEIGHTS),
        "run family.toml --only chat --set chat.steps=2",
        """\
error: runs/family/base: a damaged artifact: model.safetensors: its bytes changed
  mend: --until chat makes it again
""",
    ),
    Case(
        "broken manifest",
        lambda d: d.family().cut("runs/family/base/manifest.json"),
        "verify runs/family",
        """\
error: runs/family/base/manifest.json, line 42: broken JSON: Unterminated string starting at
""",
    ),
    Case(
        "manifest with a false digest",
        lambda d: d.family().edit("runs/family/base/manifest.json", digest="0"),
        "status runs/family",
        """\
error: runs/family/base/manifest.json: a damaged manifest: its digest is not that of its files
""",
    ),
    Case(
        "manifest without a key",
        lambda d: d.family().edit("runs/family/base/manifest.json", key=None),
        "status runs/family",
        """\
error: runs/family/base/manifest.json: a damaged manifest: keys are missing or unknown
""",
    ),
    Case(
        "newer schema of a manifest",
        lambda d: d.family().edit("runs/family/base/manifest.json", schema=9),
        SFT.replace("bad.jsonl", "chat.jsonl"),
        """\
error: runs/family/base/manifest.json: written by a newer qwenkit (schema 9)
  expected: schema 1 or older
  mend: upgrade qwenkit
""",
    ),
    Case(
        "damaged run.json of an artifact",
        lambda d: d.family().edit("runs/family/base/run.json", seconds=None),
        "status runs/family",
        """\
error: runs/family/base/run.json: missing key `seconds`
""",
    ),
    # ---- rows -------------------------------------------------------------------------------------------------------
    Case(
        "empty corpus",
        lambda d: recipe(CORPUS)(d).write("text.jsonl", ""),
        "run my.toml",
        """\
error: my.toml, [corpus], source extra: text.jsonl: no document in this source
""",
        started=True,
    ),
    Case(
        "corpus of broken lines only",
        lambda d: recipe(CORPUS)(d).write("text.jsonl", b'{"a"\n\xff\n[1]\n'),
        "run my.toml",
        """\
error: my.toml, [corpus]: no document is left: 3 quarantined
  expected: text that passes the rules
""",
        started=True,
    ),
    Case(
        "a folder without readable files",
        lambda d: recipe('[corpus]\nextra = "mine"\n')(d.write("mine/a.bin", "x")),
        "run my.toml",
        """\
error: my.toml, [corpus], source extra: mine: no readable file in this folder
  expected: .htm, .html, .json, .jsonl, .md, .parquet, .py, .rst, .txt, .warc
""",
        started=True,
    ),
    Case(
        "no sources",
        recipe("[corpus]\n"),
        "run my.toml",
        """\
error: my.toml, [corpus]: no sources
  expected: `world` or `extra`
""",
        started=True,
    ),
    Case(
        "upsampled source that is none",
        recipe(CORPUS + "upsample = {cod = 2.0}\n"),
        "run my.toml",
        """\
error: my.toml, [corpus]: `upsample` names no source: cod
  expected: extra
""",
        started=True,
    ),
    Case(
        "decontaminate against nothing",
        lambda d: recipe(CORPUS + 'decontaminate = "mine"\n')(d.write("mine/a.txt", "x")),
        "run my.toml",
        """\
error: my.toml, [corpus], mine: no test set in this folder
  expected: *.jsonl
""",
        started=True,
    ),
    Case(
        "tokenizer without text",
        lambda d: recipe(TOKENIZER)(d).write("text.jsonl", ""),
        "run my.toml",
        """\
error: my.toml, [tokenizer], text.jsonl: no documents in this file
  expected: one JSON object a line, with `text`
""",
        started=True,
    ),
    Case(
        "a document without text",
        lambda d: recipe(TOKENIZER)(d).rows("text.jsonl", texts()[0], {"txt": "x"}),
        "run my.toml",
        """\
error: my.toml, [tokenizer], text.jsonl, row 2: missing key `text`
  expected: a text
""",
        started=True,
    ),
    Case(
        "vocabulary larger than its text",
        recipe(TOKENIZER + "vocab_size = 5000\n"),
        "run my.toml",
        """\
error: my.toml, [tokenizer]: the texts hold only 332 different tokens, 5000 were asked for
  mend: give more text, or set vocab_size to at most 332
""",
        started=True,
    ),
    Case(
        "no chats",
        bad_bytes(b""),
        SFT,
        """\
error: qwenkit sft, bad.jsonl: no chats in this file
  expected: one JSON object a line, with `messages`
""",
        started=True,
    ),
    Case(
        "a broken line of chats",
        bad_bytes(json.dumps(chats()[0]).encode() + b"\n{\n"),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, line 2: broken JSON (Expecting property name enclosed in double quotes)
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "invalid UTF-8 in chats",
        bad_bytes(b"\xff\n"),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, line 1: invalid UTF-8
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "a list for a chat",
        bad_bytes(b"[1]\n"),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, line 1: a list where an object was expected
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "gzip cut in the middle",
        lambda d: d.family().write("bad.jsonl.gz", gzip.compress(b"{}\n" * 9)[:-12]),
        SFT.replace("bad.jsonl", "bad.jsonl.gz"),
        """\
error: qwenkit sft, bad.jsonl.gz: truncated file: nothing in it can be read
  mend: fetch or write it again
""",
        started=True,
    ),
    Case(
        "gzip with wrong bytes",
        lambda d: d.family().write("bad.jsonl.gz", gzip.compress(b"")[:10] + b"\xff" * 20),
        SFT.replace("bad.jsonl", "bad.jsonl.gz"),
        """\
error: qwenkit sft, bad.jsonl.gz: damaged file: nothing in it can be read
  mend: fetch or write it again
""",
        started=True,
    ),
    Case(
        "no gzip at all",
        lambda d: d.family().write("bad.jsonl.gz", "{}\n"),
        SFT.replace("bad.jsonl", "bad.jsonl.gz"),
        """\
error: qwenkit sft, bad.jsonl.gz: damaged file: nothing in it can be read
  mend: fetch or write it again
""",
        started=True,
    ),
    Case(
        "a chat without messages",
        bad_rows(chats()[0], {"id": "x"}),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, row 2: missing key `messages`
  expected: a list of role and content
""",
        started=True,
    ),
    Case(
        "two answers in a row",
        bad_rows(chats()[0], chat("user", "assistant", "assistant")),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, row 2, message 2: assistant after assistant
  expected: user
""",
        started=True,
    ),
    Case(
        "system in the middle",
        bad_rows(chat("user", "system")),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, row 1, message 1: system after user
  expected: assistant
""",
        started=True,
    ),
    Case(
        "unknown role",
        bad_rows(chat("user", "asistant")),
        SFT,
        """\
error: qwenkit sft, bad.jsonl, row 1, message 1: unknown role 'asistant'
  expected: system, user, assistant, tool
  nearest: assistant
""",
        started=True,
    ),
    Case(
        "a chat without an answer",
        bad_rows(chat("user")),
        SFT,
        """\
error: qwenkit sft, chat `x`: 1 of 1 chats have no answer to learn from
  expected: an assistant's turn that is not empty
""",
        started=True,
    ),
    Case(
        "inspect of bad roles",
        bad_rows(chat("assistant")),
        "inspect mask bad.jsonl --tokenizer runs/family/base",
        """\
error: bad.jsonl, row 1, message 0: assistant at the start
  expected: system or user
""",
    ),
    Case(
        "inspect with an unknown mask",
        lambda d: d.family(),
        "inspect mask chat.jsonl --tokenizer runs/family/base --mask quen",
        """\
error: unknown mask 'quen'
  expected: qwen or assistant
  nearest: qwen
""",
    ),
    Case(
        "a pair without a side",
        bad_rows(pairs()[0], without(pairs()[1], "rejected")),
        PAIRS,
        """\
error: qwenkit preference, bad.jsonl, row 2: missing key `rejected`
  expected: messages, chosen, rejected
""",
        started=True,
    ),
    Case(
        "a pair with a number for a side",
        bad_rows({**pairs()[0], "chosen": 3}),
        PAIRS,
        """\
error: qwenkit preference, bad.jsonl, row 1: `chosen` is a number
  expected: a text
""",
        started=True,
    ),
    Case(
        "a pair that ends with an answer",
        bad_rows({**pairs()[0], **chat("user", "assistant")}),
        PAIRS,
        """\
error: qwenkit preference, bad.jsonl, row 1, message 1: nothing to answer: the last turn is assistant
  expected: user or tool
""",
        started=True,
    ),
    Case(
        "a prompt without a rubric",
        bad_rows(without(prompts()[0], "rubric")),
        PPO,
        """\
error: qwenkit ppo, bad.jsonl, row 1: missing key `rubric`
  expected: id, messages, rubric
""",
        started=True,
    ),
    Case(
        "a prompt with an unknown rubric",
        bad_rows({**prompts()[0], "rubric": {"right": {"kind": "nubmer"}}}),
        PPO,
        """\
error: qwenkit ppo, bad.jsonl, row 1: unknown kind of right answer `nubmer`
  expected: number, mention, exact, json, refusal
  nearest: number
""",
        started=True,
    ),
    Case(
        "a rubric without a part",
        bad_rows({**prompts()[0], "rubric": without(prompts()[0]["rubric"], "limit")}),
        PPO,
        """\
error: qwenkit ppo, bad.jsonl, row 1: missing key `rubric.limit`
  expected: language, right, parts, limit, manners, system
""",
        started=True,
    ),
    Case(
        "ptx without a corpus",
        bad_rows(*prompts()),
        PPO + " --row 64 --max-tokens 8",
        """\
error: qwenkit ppo: `ptx_coef` is 0.1, but there is no `corpus`
  mend: name a corpus, or set ptx_coef = 0
""",
        started=True,
    ),
    Case(
        "prompts that do not fit",
        bad_rows(*prompts()),
        PPO + " --row 16 --max-tokens 16",
        """\
error: qwenkit ppo: no prompt fits: the shortest has 21 tokens, `row` = 16 less `max_tokens` = 16 leaves 0
  mend: raise `row`, or lower `max_tokens`
""",
        started=True,
    ),
    # ---- models -----------------------------------------------------------------------------------------------------
    Case(
        "model that is none",
        lambda d: d.rows("chat.jsonl", *chats()).write("mine/letter", "dear"),
        f"sft --model mine --data chat.jsonl {TRAIN}",
        """\
error: qwenkit sft, mine: no tokenizer in this folder
  expected: tokenizer.json, or one .tiktoken file
""",
        started=True,
    ),
    Case(
        "missing tensor",
        tensors(lambda t: t.pop("model.norm.weight")),
        "chat model -p hi",
        """\
error: model: the tensors do not fit config.json: missing: model.norm.weight
""",
    ),
    Case(
        "misshaped tensor",
        tensors(lambda t: t.update({"model.norm.weight": np.ones(3, np.float32)})),
        "chat model -p hi",
        """\
error: model: the tensors do not fit config.json: wrong shape: model.norm.weight is [3], not [16]
""",
    ),
    Case(
        "damaged weights",
        lambda d: foreign(d).cut("model/model.safetensors"),
        "chat model -p hi",
        """\
error: model/model.safetensors: the weights are damaged
  mend: fetch or make them again
""",
    ),
    Case(
        "no weights",
        lambda d: foreign(d).remove("model/model.safetensors"),
        "chat model -p hi",
        """\
error: model: weights are missing: model.safetensors
  expected: *.safetensors
""",
    ),
    Case(
        "unsupported model",
        lambda d: foreign(d).edit("model/config.json", model_type="gpt2"),
        "chat model -p hi",
        """\
error: model/config.json: model_type 'gpt2' is not supported
  expected: qwen2 or llama
""",
    ),
    Case(
        "model without a tokenizer",
        lambda d: foreign(d).remove("model/tokenizer.json"),
        "chat model -p hi",
        """\
error: model: no tokenizer in this folder
  expected: tokenizer.json, or one .tiktoken file
""",
    ),
    Case(
        "width that is no multiple of heads",
        lambda d: d.family(),
        "run family.toml --only base --set base.hidden_size=18 --set base.heads=4",
        """\
error: family.toml, [base], model configuration: hidden_size = 18 does not divide into 4 heads
  expected: a shape that can be built
""",
        started=True,
    ),
    Case(
        "language model for a reward model",
        bad_rows(*prompts()),
        PPO.replace("runs/family/pmp", "runs/family/base") + " --ptx-coef 0 --row 64 --max-tokens 8",
        """\
error: qwenkit ppo, runs/family/base: this folder holds a language model, not one that scores
  expected: a reward or preference model
  mend: a node of kind `reward` makes one
""",
        started=True,
    ),
    Case(
        "test rows without prompts",
        lambda d: d.family().rows("tests/base.jsonl", {"id": "x"}),
        "evaluate --models runs/family/base --tests tests --threads 1 --out runs/o",
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1: missing key `prompt`
  expected: id, prompt
""",
        started=True,
    ),
    Case(
        "two models of one name",
        lambda d: d.family().rows("tests/base.jsonl", {"id": "x", "prompt": "", "answer": ""}),
        "evaluate --models runs/family/base,runs/../runs/family/base --tests tests --threads 1 --out runs/o",
        """\
error: qwenkit evaluate: two models have one name
  expected: names that differ
  mend: rename one of the folders
""",
        started=True,
    ),
    Case(
        "two test sets of one name",
        lambda d: d.rows("a/t.jsonl", {"id": "x"}).rows("b/t.jsonl", {"id": "x"}),
        "testsets --extra a/t.jsonl,b/t.jsonl --threads 1 --out runs/o",
        """\
error: qwenkit testsets, b/t.jsonl: two test sets are named `t`
  mend: rename one of the files
""",
        started=True,
    ),
    # ---- the machine ------------------------------------------------------------------------------------------------
    Case(
        "no such device",
        no_cuda,
        "run my.toml --set device=cuda",
        """\
error: my.toml: no device `cuda` on this machine
  mend: device = "cpu"
""",
    ),
    Case(
        "a fault of ours",
        lambda d: faulty(d, RuntimeError("boom")),
        "run my.toml",
        """\
error: `tokenizer` failed: boom
  mend: this is a fault of qwenkit: please report runs/my/.work/tokenizer-KEY/error.txt
""",
        1,
        started=True,
    ),
    Case(
        "disk full in a library",
        lambda d: faulty(d, RuntimeError("IoError: No space left on device (os error 28)")),
        "run my.toml",
        """\
error: runs/my/.work/tokenizer-KEY: the disk is full, `tokenizer` stopped
  mend: free some space (`qwenkit clean`), then the same command goes on from here
""",
        started=True,
    ),
    Case(
        "interrupted",
        lambda d: faulty(d, KeyboardInterrupt()),
        "run my.toml",
        """\
error: interrupted in `tokenizer`
  mend: the same command goes on from here
""",
        130,
        started=True,
    ),
    Case(
        "the loss is no number",
        tensors(lambda t: t.update({"model.norm.weight": np.full(16, np.nan, np.float32)})),
        f"sft --model model --data chat.jsonl --steps 1 --warmup-steps 0 {TRAIN}",
        """\
error: rows (epoch:number) 0:0, 0:1; documents c6, c2: stopped by the alarm nonfinite-loss: loss is nan (a broken row, weights that already hold NaN, or an overflow in low precision)
  expected: not: the loss of a step is NaN or infinite
  mend: look at the rows named, check the model that was loaded, lower the learning rate, or train in float32
""",
        1,
        started=True,
    ),
]
