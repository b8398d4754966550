"""What a run is made of, and checkpoints of it that survive a kill at any moment.

    state = RunState({"model": model}, {"main": optimizer})
    save_checkpoint(state.state_dict(), folder, step)      # folder/step-00000100, torch.distributed.checkpoint format
    if tree := load_latest(folder, notify=print): state.load_state_dict(tree)

A checkpoint is written beside its place, fsynced and renamed; `complete.json`, written last, holds the SHA-256 of each
file. Where a file is cut, missing or changed, `complete.json` among them, that is reported and the checkpoint before it
is used. The newest two stay. Tensors have flat names; everything else is one JSON text, so that no pickle is ever run
(`checkpoint_metadata`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from qwenkit.artifacts import fsync_tree, fsync_tree_entry, sha256_file
from qwenkit.errors import UserError
from qwenkit.model.trainable import load_trainable_state, trainable_state
from qwenkit.records import read_object, write_json
from qwenkit.training.checkpoint_metadata import Planner, Reader
from qwenkit.training.checkpoint_upgrade import SCHEMA, upgrade
from qwenkit.training.optim import OptimizerSet

COMPLETE, PLAIN, KEEP = "complete.json", "plain", 2
_NAME = re.compile(r"step-(\d{8})")


@dataclass
class RunState:
    """Named modules and optimizers, how far the run is, and whatever else it must remember.

    Of the modules the state holds what is trained (`model.trainable.trainable_state`); what is frozen is that of the
    folder that they were loaded from."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, OptimizerSet] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values, such as the running moments of the reward."""
    step: int = 0
    """Steps done, those without an update among them."""
    tokens: int = 0
    """Tokens read, over all processes and without padding."""
    skipped_steps: int = 0
    """Steps whose update was left out."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything as nested dicts and lists of tensors and plain values."""
        return {
            "schema": SCHEMA,
            "modules": {name: trainable_state(module) for name, module in self.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a saved state into the modules and optimizers of this one, also one of an earlier version.

        Raises a `UserError` that names what is missing, or not known here."""
        frozen = {
            name: set(module.state_dict()) - set(trainable_state(module)) for name, module in self.modules.items()
        }
        state = upgrade(state, frozen, {name: optimizer.names for name, optimizer in self.optimizers.items()})
        for name, module in self.modules.items():
            load_trainable_state(module, state["modules"][name], f"the module `{name}`")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name], f"the optimizer `{name}`")
        for name in _PLAIN_FIELDS:
            setattr(self, name, state[name])
        self.numbers = dict(self.numbers)


_PLAIN_FIELDS = ("numbers", "step", "tokens", "skipped_steps")


def step_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def save_checkpoint(tree: dict[str, Any], folder: Path, step: int) -> Path:
    """Write a checkpoint, fsync and rename it; then remove all but the newest two. Return its folder."""
    target = step_folder(folder, step)
    beside = folder / f"{target.name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors: dict[str, Any] = {}
    plain = json.dumps(_split(tree, "", tensors))
    with _alone(beside):
        dcp.save({**tensors, PLAIN: plain}, storage_writer=FileSystemWriter(beside), no_dist=True)
    write_json(beside / COMPLETE, {"schema": 1, "step": step, "files": _hashes(beside)})
    fsync_tree(beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
    fsync_tree_entry(folder)
    ahead = [path for path in _complete(folder) if path.name > target.name]  # skipped: corrupted, and of no use now
    for old in (*ahead, *[path for path in _complete(folder) if path not in ahead][:-KEEP]):
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint, if there is one."""
    return next((path for path in reversed(_complete(folder)) if damage_of(path) is None), None)


def load_latest(folder: Path, notify: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that can be read; `notify(message)` says why newer ones cannot."""
    passed = False
    for path in reversed(_complete(folder)):
        why = damage_of(path)
        if why is None:
            try:
                return load_checkpoint(path)
            except UserError as error:
                why = error.what
        notify(f"the checkpoint {path.name} is passed over: {why}")
        passed = True
    if passed:
        notify("no checkpoint is intact: the training begins anew")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the saved state, its tensors on the CPU; raises a `UserError` for a folder that this package did not
    write."""
    try:
        reader = Reader(path)
        entries = reader.read_metadata().state_dict_metadata
        flat: dict[str, Any] = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype) if isinstance(entry, TensorStorageMetadata)
            else "" for name, entry in entries.items()
        }  # fmt: skip
        with _alone(path):
            dcp.load(flat, storage_reader=reader, planner=Planner(), no_dist=True)
        return _join(json.loads(flat.pop(PLAIN)), flat)
    except _FOREIGN as error:
        why = " ".join(str(error).split())[:200] or "it ends too early"
        raise UserError(f"it is not a checkpoint of ours ({why})", where=str(path), hint="remove the folder") from error


_FOREIGN = (
    pickle.UnpicklingError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, AssertionError,
    IndexError, OverflowError, MemoryError, ImportError,
)  # fmt: skip
"""Errors of readers on bytes from anywhere."""


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Run without torch's warning that there is one process only, and without its wrapper around errors."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as error:
        raise _cause(error, folder) from error


def _cause(error: CheckpointException, folder: Path) -> BaseException:
    """Return the error of the process that wrote or read. torch's archives forget why a file could not be written to
    its end: the disk or a quota is full."""
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, RuntimeError) and "inline_container" in str(cause):
        cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(cause.errno, cause.strerror, str(folder)) if isinstance(cause, OSError) else cause


def _complete(folder: Path) -> list[Path]:
    """Return checkpoints that were written to their end, oldest first."""
    paths = sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
    return [path for path in paths if (path / COMPLETE).exists()]


def damage_of(path: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, or None where they are intact."""
    try:
        hashes = read_object(path / COMPLETE).get("files")
    except UserError as error:
        return f"{COMPLETE}: {error.what}"
    if not isinstance(hashes, dict) or not hashes:
        return f"{COMPLETE} names no files"
    current = _hashes(path)
    names = [name for name in sorted({*hashes, *current}) if hashes.get(name) != current.get(name)]
    return f"{names[0]} is not what {COMPLETE} says" if names else None


def _hashes(path: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(path.iterdir())
            if file.name != COMPLETE and file.is_file()}  # fmt: skip


def _split(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    """Move tensors out into `tensors` under their path; mark what JSON cannot tell apart (tuples, integer keys)."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {"$tensor": name}
    if isinstance(value, dict):
        return {"$dict": [[key, _split(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_split(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    return value


def _join(value: Any, tensors: dict[str, Any]) -> Any:
    """Put the tensors back: the inverse of `_split`."""
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if isinstance(value, dict):
        ((mark, item),) = value.items()
        if mark == "$tensor":
            return tensors[item]
        if mark == "$tuple":
            return tuple(_join(part, tensors) for part in item)
        return {key: _join(part, tensors) for key, part in item}
    return value
