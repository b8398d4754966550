"""One mistake: name, what is prepared, the command line, the exact answer on stderr, the exit code.

`started` marks a case in which a run may have begun: it may leave its books and scratch, never an artifact. All other
cases leave every file as it was.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safetensors.numpy import load_file, save_file

from tests.errors.desk import Desk, texts

TOKENIZER = '[tokenizer]\ncorpus = "text.jsonl"\n'
CORPUS = '[corpus]\nextra = ["text.jsonl"]\n'
TRAIN = "--seq-length 32 --batch-size 2 --precision fp32 --threads 1 --out runs/o"
SFT = f"sft --model runs/family/base --data bad.jsonl --steps 1 {TRAIN}"
PAIRS = f"preference --model runs/family/base --data bad.jsonl {TRAIN}"
PPO = "ppo --model runs/family/chat --reward runs/family/pmp --prompts bad.jsonl --steps 1 --ptx-coef 0 --threads 1 --out runs/o"
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


def said(**fields: Any) -> dict[str, Any]:
    """A chat whose answer has these fields."""
    return {"id": "x", "messages": [{"role": "user", "content": "so?"}, {"role": "assistant", "content": "", **fields}]}


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
    desk.patch.setattr("tests.errors.cases.case.LOCKS", [lock])


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
    desk.patch.setattr("torch.cuda.device_count", lambda: 0)


def other_device(desk: Desk) -> None:
    """A recipe for a machine with ten GPUs, on one without."""
    recipe(f'device = "cuda:9"\n{TOKENIZER}')(desk)
    desk.patch.setattr("torch.cuda.device_count", lambda: 0)


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
