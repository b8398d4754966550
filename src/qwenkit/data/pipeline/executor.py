"""Phases of work in shards: each shard has a folder of its own, renamed into place when it is complete.

    work = Executor(folder, workers=4)
    records = work.run_phase("read", key, [(split, source), ...], read_part)   # read_part(out, split, source) -> record

A done record is a small JSON value in the shard's folder, with the digest of itself and of the other files there. A
kill loses only the shards that were being written; another number of workers gives the same bytes. A phase whose `key`
(everything that its output depends on) has changed is repeated. `runner="ray"` runs the shards as Ray's tasks on a
shared file system.

Shards of an earlier start are hashed before they are used again, and written again where they differ from their record:
so every start reads them once. Local worker processes end with the process that started them.
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
from types import ModuleType
from typing import Any

from qwenkit.artifacts import locked
from qwenkit.errors import QwenkitError, Stopped, UserError
from qwenkit.records import canonical, read_json, write_json
from qwenkit.workers import end_with_parent

DoneRecord = dict[str, Any]
Task = tuple[Any, ...]
DONE, KEY, PART, DIGEST = "mark.json", "key.json", ".part", "digest"


class Executor:
    """Runs phases in a folder, which it locks. Use it as a context manager: the worker processes live as long."""

    def __init__(
        self, folder: Path, workers: int = 1, runner: str = "local", progress: Callable[..., None] | None = None
    ) -> None:
        """Prepare a folder of phases; `workers` processes run shards, or Ray does (`runner` is "ray")."""
        self.folder, self.workers, self.runner = folder, max(1, workers), runner
        self._progress = progress or (lambda done, total, **_: None)
        self._pool: ProcessPoolExecutor | None = None
        self._held = ExitStack()
        self._names: dict[str, list[str]] = {}

    def __enter__(self) -> Executor:
        """Lock the folder."""
        self._held.enter_context(locked(self.folder, "folder of chunks"))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the worker processes and unlock the folder."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._held.close()

    def path(self, phase: str, number: int, name: str) -> Path:
        """Return the path of a file of a finished shard."""
        return self.folder / phase / self._names[phase][number] / name

    def run_phase(
        self,
        phase: str,
        key: object,
        tasks: Sequence[Task],
        work: Callable[..., DoneRecord],
        own: Sequence[object] | None = None,
    ) -> list[DoneRecord]:
        """Run the missing shards of a phase; return the done records of all shards in order.

        A phase with another `key` starts anew. With `own` every shard also has a key of its own, and stays while that
        is the same, whatever its place among the others. Raises `Stopped` where a worker process is killed."""
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
        """Return which shards exist with the bytes of their done record; others are removed."""
        with ThreadPoolExecutor(self.workers) as pool:
            intact_outs = list(pool.map(is_intact, outs))
        for out in (out for out, intact in zip(outs, intact_outs) if not intact):
            shutil.rmtree(out, ignore_errors=True)
        return intact_outs

    def _open(self, phase: str, key: str) -> None:
        """Remove the shards of another key."""
        folder = self.folder / phase
        if folder.exists() and _read(folder / KEY) != key:
            (folder / KEY).unlink(
                missing_ok=True
            )  # first: a half-deleted phase after a kill must not pass for one of the old key
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f"*{PART}"):  # left by a kill: no process works on it
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
    """Set up a worker process: its libraries start no threads, the parent handles interrupts, and it ends with the
    parent."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def make_shard(work: Callable[..., DoneRecord], out: Path, task: Task) -> None:
    """Write one shard into a temporary folder, mark it as done and rename it into place.

    The error of a full disk names the folder of all phases."""
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
        if not is_intact(out):  # otherwise another process has written the same
            raise
        shutil.rmtree(beside, ignore_errors=True)


def is_intact(out: Path) -> bool:
    """Return whether a shard exists with the bytes that its done record was made of."""
    mark = _read(out / DONE)
    if not isinstance(mark, dict) or DIGEST not in mark:
        return False
    try:
        return mark.pop(DIGEST) == _content(out, mark)
    except (OSError, ValueError):
        return False


def _content(folder: Path, mark: DoneRecord, flushed: bool = False) -> str:
    """Return the digest of a shard: of its files and of its done record."""
    files = {path.name: _digest(path, flushed) for path in sorted(folder.iterdir()) if path.name != DONE}
    return _digest_of([files, mark])


def _read(path: Path) -> Any:
    """Return the value of a small JSON file; None where it is missing or broken."""
    try:
        return read_json(path)
    except UserError:
        return None


def _of_disk(error: BaseException | None) -> OSError | None:
    """Return the disk error behind an error: a file that cannot be written completely often cannot be closed either."""
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


def import_ray() -> ModuleType:
    """Return Ray, connected to the cluster of RAY_ADDRESS or to a local one; raises a `UserError` where it is not
    installed."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('`runner = "ray"` needs Ray', hint="pip install 'qwenkit[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray
