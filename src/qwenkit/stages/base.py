"""What every stage is given: its inputs, and its `StageContext`: where and how it works.

`context.scratch` survives a kill (checkpoints, finished steps), `context.out` becomes the artifact, `context.progress`
moves the bar, `context.log` writes events of this node. A stage returns its `Result`: deterministic metrics and a
summary.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from qwenkit import rng
from qwenkit.adapter_files import BaseName, base_name
from qwenkit.artifacts import sha256_file
from qwenkit.config import runtime
from qwenkit.errors import UserError
from qwenkit.events import Log
from qwenkit.records import Row, read_jsonl, read_object, write_json

Progress = Callable[..., None]
CHATS = "chats: files or folders of JSON, CSV or Parquet in any common form, or a world"
PAIRS = "comparisons with chosen and rejected: files or folders of JSON, CSV or Parquet, or a world"
PROMPTS = "prompts: files or folders of JSON, CSV or Parquet, or a world"
RUNNER = "where chunks are worked on: here, or on the cluster of Ray"
"""What several stages say of the same key."""


@dataclass(frozen=True)
class Input:
    """One input of a node: an artifact of the run, a path outside it, or a commit of a model of the Hub."""

    name: str
    path: Path
    digest: str
    node: str | None = None
    hub: str | None = None
    """The model's name on the Hub."""

    @property
    def called(self) -> str:
        """Return the name that results use: of the node, of the model, or of the file or folder."""
        return self.node or (self.hub or str(self.path)).rsplit("/", 1)[-1]

    @property
    def title(self) -> str:
        """Return the input as a recipe names it, `corpus`; in a list with what it is, `extra (notes.txt)`."""
        key, _, index = self.name.partition(".")
        return f"{key} ({self.node or self.hub or self.path})" if index else key

    def file(self, name: str) -> Path:
        """Return the path of a file of the input. Raises a `UserError` that names the input where it is missing."""
        path = self.path / name
        if not path.exists():
            raise UserError(f"`{name}` is missing in the input `{self.title}`", where=str(self.path))
        return path

    def rows(self, name: str) -> list[Row]:
        """Return all rows of one JSONL file of the input."""
        return list(read_jsonl(self.file(name)))


@dataclass(frozen=True)
class Result:
    """What a stage tells the lineage: deterministic metrics, one line for people, and warnings that are true of this
    machine only (how fast something was): those are told and logged, and are no part of the artifact."""

    metrics: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    warnings: tuple[str, ...] = ()


class Training(TypedDict):
    """The place and the means of a training, as `qwenkit.training.train` takes them."""

    device: str
    log: Log
    folder: Path
    progress: Progress
    seed: int


@dataclass(frozen=True)
class StageContext:
    """The place and the means of one node's work."""

    node: str
    run_dir: Path
    scratch: Path
    out: Path
    seed: int
    threads: int
    device: str
    log: Log
    progress: Progress

    def training(self) -> Training:
        """Return the place and the means of a training in this node."""
        return {
            "device": self.device, "log": self.log, "folder": self.scratch / "checkpoints", "progress": self.progress,
            "seed": self.seed,
        }  # fmt: skip

    def seed_for(self, *names: str | int) -> int:
        """Return a seed for a named purpose of this node."""
        return rng.derive_seed(self.seed, *names)

    def base_of(self, model: Input) -> BaseName:
        """Return how the adapter that this node trains names its model."""
        if model.hub is not None:
            return BaseName(model.hub, model.digest)
        return base_name(model.path, self.run_dir / self.node, self.run_dir)

    def run_once(self, name: str, produce: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Do a phase once and return its metrics: `produce(folder)` fills a folder and returns them.

        A later start finds the phase done where the files are those that its mark names; else it does it again."""
        folder, mark = self.scratch / name, self.scratch / f"{name}.done.json"
        if (done := _read(mark)) and done.get("files") == _hashes(folder):
            return done["value"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        value = produce(folder)
        write_json(mark, {"value": value, "files": _hashes(folder)})
        return read_object(mark)["value"]


def _read(mark: Path) -> Row | None:
    """Return the mark of a phase; None where it is missing or broken."""
    try:
        mark_row = read_object(mark)
    except UserError:
        return None
    return mark_row if "value" in mark_row else None


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def many(inputs: dict[str, Input], name: str) -> Iterator[Input]:
    """Yield the inputs of a list edge, in order."""
    index = 0
    while f"{name}.{index}" in inputs:
        yield inputs[f"{name}.{index}"]
        index += 1


def sources(inputs: dict[str, Input], name: str) -> list[Path]:
    """Return where an edge that takes several sources as one is read: at the one that it names, or at all of them."""
    return [inputs[name].path] if name in inputs else [item.path for item in many(inputs, name)]


def digests(inputs: dict[str, Input], *names: str) -> list[str]:
    """Return the digests of these edges, those of a list one by one, in the order in which the node names its
    inputs."""
    return [item.digest for name, item in inputs.items() if name.partition(".")[0] in names]


def summary_part(label: str, words: str) -> str:
    """Return `; label words`, to be appended to a summary, or "" where `words` is empty."""
    return f"; {label} {words}" if words else ""


def max_bad() -> Any:
    """Return the key of every stage that reads people's rows: it decides whether the node ends, not what is learnt."""
    return runtime(0.01, doc="largest share of rows that cannot be used; above it the node ends (ours)", ge=0, le=1)
