"""Artifacts: folders in standard formats plus `manifest.json`, published atomically.

`manifest.json` holds the node's key, its inputs' digests, the SHA-256 of every content file, and deterministic metrics;
two clean runs write the same bytes. Times, versions and the machine go to `run.json`, which no digest covers.
`publish` fsyncs every file, writes the manifest last and renames the folder into place: a reader sees all or nothing.
An artifact is whole when its content files are those of its manifest, no more and no fewer, with their bytes: `damage`
decides it for all who ask. Hidden files, which desktops leave everywhere, are never content, nor is the model card.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError
from qwenkit.records import canonical, read_object, write_json

SCHEMA = 1
MANIFEST, RUN, CARD = "manifest.json", "run.json", "README.md"
STRAY, MOVE = "not in the manifest", "move it out of the folder"


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and where it comes from. `key` decides whether to run, `digest` what downstream sees."""

    node: str
    kind: str
    version: int
    key: str
    seed: int
    config: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    digest: str
    files: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    headline: str = ""
    schema: int = SCHEMA


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_names(folder: Path) -> list[str]:
    """Relative names of an artifact's content files, sorted: no manifest, run.json, model card or hidden file."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts))
    return sorted(name for name in shown if name not in (MANIFEST, RUN, CARD))


def digest_of(files: dict[str, str]) -> str:
    """The artifact's digest: SHA-256 over its sorted (name, SHA-256) pairs."""
    return hashlib.sha256(canonical(sorted(files.items()))).hexdigest()


def path_digest(path: Path) -> str:
    """Digest of something outside the run that is no artifact: a file, another run (the manifests of its artifacts), or
    a folder with every file in it."""
    if path.is_file():
        return _outside(path)
    if is_run(path):
        return digest_of({name: sha256_file(path / name / MANIFEST) for name in run_artifacts(path)})
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return digest_of({name: _outside(path / name) for name in names})


def _outside(path: Path) -> str:
    """SHA-256 of a file that nobody vouches for. A start asks for it several times: it is read once as long as its size
    and time stand."""
    return _read_once(path.resolve(), *stamp(path))


@functools.lru_cache(maxsize=100_000)
def _read_once(path: Path, size: int, time: int) -> str:
    return sha256_file(path)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, and not one artifact's."""
    return (folder / RUN).is_file() and not (folder / MANIFEST).exists()


def run_artifacts(run_dir: Path) -> dict[str, Manifest]:
    """The published artifacts of a run by node. A report is a view of the others and no part of what a run is: two
    runs may each report the other."""
    found = {path.parent.name: read_manifest(path.parent) for path in sorted(run_dir.glob(f"*/{MANIFEST}"))}
    return {name: manifest for name, manifest in found.items() if manifest.kind != "report"}


def make_key(
    kind: str, version: int, config: dict[str, Any], inputs: dict[str, str], seed: int, environment: dict[str, str]
) -> str:
    """The node's identity: equal keys mean equal work, so nothing runs again."""
    parts = [kind, version, config, sorted(inputs.items()), seed, sorted(environment.items())]
    return hashlib.sha256(canonical(parts)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a published artifact; a `UserError` for a damaged or newer one."""
    path = folder / MANIFEST
    data = read_object(path)
    refuse_newer(data, SCHEMA, path)
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise UserError("a damaged manifest: keys are missing or unknown", where=str(path)) from error
    for name in ("files", "inputs", "config", "metrics"):
        if not isinstance(data.get(name, {}), dict):
            raise UserError("a damaged manifest: a value where a table belongs", where=str(path))
    if manifest.digest != digest_of(manifest.files):
        raise UserError("a damaged manifest: its digest is not that of its files", where=str(path))
    return manifest


def is_newer(folder: Path) -> bool:
    """Whether a newer qwenkit wrote an artifact. It is no damage: what cannot be read here must not be made again."""
    try:
        schema = read_object(folder / MANIFEST).get("schema")
    except UserError:
        return False
    return isinstance(schema, int) and schema > SCHEMA


def refuse_newer(data: dict[str, Any], known: int, path: Path) -> None:
    """Refuse a file without a schema number, or with one that this version does not know yet."""
    schema = data.get("schema")
    if not isinstance(schema, int):
        raise UserError("not written by qwenkit: no schema number", where=str(path))
    if schema > known:
        raise UserError(
            f"written by a newer qwenkit (schema {schema})",
            where=str(path),
            expected=f"schema {known} or older",
            mend="upgrade qwenkit",
        )


def finish(out: Path, manifest: dict[str, Any], run: dict[str, Any]) -> Manifest:
    """Complete a folder in place: hash its files, write run.json, fsync all of it, and only then write the manifest:
    where there is a manifest, everything it names is on the disk."""
    files = {name: sha256_file(out / name) for name in content_names(out)}
    whole = Manifest(**manifest, files=files, digest=digest_of(files))
    write_json(out / RUN, {**run, "files": {name: stamp(out / name) for name in files}})
    fsync_tree(out)
    write_json(out / MANIFEST, asdict(whole))
    fsync_tree_entry(out)
    return whole


def read_run(folder: Path) -> dict[str, Any]:
    """How an artifact was made: times, attempts, machine. A `UserError` where run.json is missing or damaged."""
    run = read_object(folder / RUN)
    refuse_newer(run, SCHEMA, folder / RUN)
    missing = [key for key in ("started", "seconds", "attempts", "peak_mb") if key not in run]
    if missing:
        raise UserError(f"missing key `{missing[0]}`", where=str(folder / RUN))
    return {"planned_minutes": None, "planned_mb": None, **{key: value for key, value in run.items() if key != "files"}}


def stamp(path: Path) -> list[int]:
    """Size and time of a file: while they stand, its bytes are taken to stand too."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def stamps(path: Path) -> list[int]:
    """Sizes and times of a file, or of the files of a folder: while they stand, what was read of it stands too."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [number for file in files for number in stamp(file)]


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Generator[None]:
    """Hold a folder alone; refuse a second process. `what` it is called in messages."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"the {what} cannot be made", where=str(folder), expected="a folder one may write") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is working in this {what}", where=str(folder)) from error
        yield


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def publish(out: Path, target: Path, superseded: Path) -> None:
    """Rename a finished folder to its place; what stood there moves to `superseded/NAME-KEY-N`."""
    if target.exists():
        superseded.mkdir(parents=True, exist_ok=True)
        target.rename(_free_name(superseded, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    out.rename(target)
    fsync_tree_entry(target.parent)


def _free_name(superseded: Path, target: Path) -> Path:
    try:
        stem = f"{target.name}-{read_manifest(target).key[:12]}"
    except UserError:
        stem = f"{target.name}-damaged"
    numbers = (n for n in range(1_000_000) if not (superseded / f"{stem}-{n}").exists())
    return superseded / f"{stem}-{next(numbers)}"


def fsync_tree_entry(folder: Path) -> None:
    """Flush a folder's own entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damage(folder: Path, quick: bool = False) -> list[str]:
    """What differs between an artifact and its manifest: one line for each file, empty when whole.

    `quick` is for every start of a run: a file with the size and time noted in run.json is not hashed again.
    """
    expected, found = read_manifest(folder).files, set(content_names(folder))
    noted = _noted(folder) if quick else {}
    lines = [f"{name}: {STRAY}" for name in found - expected.keys()]
    for name, digest in expected.items():
        if name not in found:
            lines.append(f"{name}: missing")
        elif stamp(folder / name) != noted.get(name) and sha256_file(folder / name) != digest:
            lines.append(f"{name}: its bytes changed")
    return sorted(lines)


def only_stray(lines: list[str]) -> bool:
    """Whether an artifact is whole but for files that somebody put beside its own."""
    return bool(lines) and all(line.endswith(STRAY) for line in lines)


def refuse_damaged(folder: Path, mend: str) -> None:
    """A damaged artifact is no input: what is made of it would carry a false lineage."""
    lines = damage(folder, quick=True)
    if lines:
        raise damaged(folder, lines, mend)


def damaged(folder: Path, lines: list[str], mend: str) -> UserError:
    """The error of a damaged artifact. Stray files are moved away by hand: they are somebody's."""
    return UserError(
        "a damaged artifact: " + "; ".join(lines), where=str(folder), mend=MOVE if only_stray(lines) else mend
    )


def _noted(folder: Path) -> dict[str, Any]:
    """Size and time of every file at publishing; none where run.json is damaged."""
    try:
        return read_object(folder / RUN).get("files", {})
    except UserError:
        return {}
