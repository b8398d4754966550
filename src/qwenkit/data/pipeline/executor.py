"""Phases of work in shards: each shard has a folder of its own, renamed into place when it is complete.

    work = Executor(folder, workers=4)
    records = work.run_phase("read", key, [(split, source), ...], read_part)   # read_part(out, split, source) -> record

A done record is a small JSON value; it lies in the shard's folder with the digest of itself and of what else lies
there. A kill loses the shards that were being made, no more; another number of workers makes the same bytes. A phase
whose `key` (all that its output depends on) has changed is made anew. `runner="ray"` runs the shards as Ray's tasks on
a shared file system.

What an earlier start made is hashed before it is used again, and made again where it is not what its record says: that
costs one reading of the shards at every start. Workers of this machine die with the process that started them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qwenkit.artifacts import locked
from qwenkit.errors import QwenkitError, Stopped, UserError
from qwenkit.records import canonical, read_json, write_json
from qwenkit.workers import end_with_parent

DoneRecord = dict[str, Any]
Task = tuple[Any, ...]
DONE, KEY, PART, DIGEST = "mark.json", "key.json", ".part", "digest"


class Executor:
    """Runs phases in a folder, which is its own meanwhile. Use as a context: the worker processes live as long."""

    def __init__(
        self, folder: Path, workers: int = 1, runner: str = "local", progress: Callable[..., None] | None = None
    ) -> None:
        self.folder, self.workers, self.runner = folder, max(1, workers), runner
        self._progress = progress or (lambda done, total, **_: None)
        self._pool: ProcessPoolExecutor | None = None
        self._held = ExitStack()
        self._names: dict[str, list[str]] = {}

    def __enter__(self) -> Executor:
        self._held.enter_context(locked(self.folder, "folder of chunks"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._held.close()

    def path(self, phase: str, number: int, name: str) -> Path:
        """Return a file of a finished chunk."""
        return self.folder / phase / self._names[phase][number] / name

    def run_phase(
        self,
        phase: str,
        key: object,
        tasks: Sequence[Task],
        work: Callable[..., DoneRecord],
        own: Sequence[object] | None = None,
    ) -> list[DoneRecord]:
        """Do what is not done of a phase; the marks of all chunks in their order. With `own` every chunk has a key of
        its own beside that of the phase, and stays while that stands, wherever it comes to be among the others."""
        self._open(phase, _digest_of(key))
        names = [f"{n:05d}" for n in range(len(tasks))] if own is None else [_digest_of(each)[:16] for each in own]
        self._names[phase] = names
        outs = [self.folder / phase / name for name in names]
        missing = [number for number, intact in enumerate(self._intact(outs)) if not intact]
        done = len(tasks) - len(missing)
        self._progress(done, len(tasks), step=phase)
        for _ in self._run(work, [(outs[number], tasks[number]) for number in missing], phase):
            done += 1
            self._progress(done, len(tasks), step=phase)
        return [read_json(out / DONE) for out in outs]

    def _intact(self, outs: list[Path]) -> list[bool]:
        """Which chunks are there with the bytes that were marked; of another nothing stays."""
        with ThreadPoolExecutor(self.workers) as pool:
            intact_outs = list(pool.map(is_intact, outs))
        for out in (out for out, intact in zip(outs, intact_outs) if not intact):
            shutil.rmtree(out, ignore_errors=True)
        return intact_outs

    def _open(self, phase: str, key: str) -> None:
        """Throw away what another key has made."""
        folder = self.folder / phase
        if folder.exists() and _read(folder / KEY) != key:
            (folder / KEY).unlink(
                missing_ok=True
            )  # first: what a kill leaves half deleted is not a phase of the old key
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f"*{PART}"):  # of a kill: nobody works at it any more
            shutil.rmtree(part, ignore_errors=True)
        write_json(folder / KEY, key)

    def _run(self, work: Callable[..., DoneRecord], jobs: list[tuple[Path, Task]], phase: str) -> Iterator[None]:
        if not jobs:
            return
        if self.runner == "ray":
            yield from _on_ray(work, jobs)
        elif self.workers == 1 or len(jobs) == 1:
            for out, task in jobs:
                make_shard(work, out, task)
                yield
        else:
            self._pool = self._pool or ProcessPoolExecutor(
                self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_as_worker,
                initargs=(os.getpid(),),
            )  # fmt: skip
            try:
                futures = [self._pool.submit(make_shard, work, out, task) for out, task in jobs]
                for future in as_completed(futures):
                    future.result()
                    yield
            except BrokenProcessPool as error:
                raise Stopped(f"a worker process of the phase `{phase}` was killed (out of memory?)") from error


def _digest_of(key: object) -> str:
    return hashlib.sha256(canonical(key)).hexdigest()


def _as_worker(parent: int) -> None:
    """A worker is one of several: its libraries start no threads, an interrupt is the parent's, and it ends with the
    parent."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def make_shard(work: Callable[..., DoneRecord], out: Path, task: Task) -> None:
    """Make one chunk beside its place, in a folder that no other process has; mark it and move it there. A full disk is
    told by the folder of all phases."""
    beside = out.with_name(f"{out.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    beside.mkdir(parents=True)
    try:
        mark = json.loads(json.dumps(work(beside, *task)))  # as it is read again
        write_json(beside / DONE, {**mark, DIGEST: _content(beside, mark, flushed=True)})
    except Exception as error:
        shutil.rmtree(beside, ignore_errors=True)
        fault = _of_disk(error)
        if fault is None:
            raise
        name = str(fault.filename or beside)
        place = out.parent.parent if name.startswith(str(beside)) else name
        raise OSError(fault.errno, fault.strerror or str(fault), str(place)) from error
    try:
        beside.replace(out)
    except OSError:
        if not is_intact(out):  # else another has made the same meanwhile
            raise
        shutil.rmtree(beside, ignore_errors=True)


def is_intact(out: Path) -> bool:
    """Return whether a chunk is there, with the bytes that its mark was made of."""
    mark = _read(out / DONE)
    if not isinstance(mark, dict) or DIGEST not in mark:
        return False
    try:
        return mark.pop(DIGEST) == _content(out, mark)
    except (OSError, ValueError):
        return False


def _content(folder: Path, mark: DoneRecord, flushed: bool = False) -> str:
    """The digest of a chunk: of its files and of what else its mark says."""
    files = {path.name: _digest(path, flushed) for path in sorted(folder.iterdir()) if path.name != DONE}
    return _digest_of([files, mark])


def _read(path: Path) -> Any:
    """A small JSON file; None where it is missing or broken."""
    try:
        return read_json(path)
    except UserError:
        return None


def _of_disk(error: BaseException | None) -> OSError | None:
    """The fault of a disk behind an error: a file that cannot be written whole often cannot be closed either."""
    while error is not None and not isinstance(error, (OSError, QwenkitError)):
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _digest(path: Path, flushed: bool) -> str:
    with path.open("rb") as file:
        if flushed:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _on_ray(work: Callable[..., DoneRecord], jobs: list[tuple[Path, Task]]) -> Iterator[None]:
    ray = import_ray()
    task = ray.remote(make_shard)
    left = [task.remote(work, out, arguments) for out, arguments in jobs]
    while left:
        done, left = ray.wait(left, num_returns=1)
        ray.get(done)
        yield


def import_ray() -> Any:
    """Ray, connected: to the cluster of RAY_ADDRESS, or to one on this machine."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('`runner = "ray"` needs Ray', hint="pip install 'qwenkit[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray
