"""Artifacts: folders in standard formats plus `manifest.json`, published atomically.

`manifest.json` holds the node's key, its inputs' digests, the SHA-256 of every content file, and deterministic metrics;
two clean runs write the same bytes. Times, versions and the machine go to `run.json`, which no digest covers. `publish`
fsyncs every file, writes the manifest last and renames the folder into place: a reader sees all or nothing. An artifact
is intact when its content files are exactly those of its manifest, with the same bytes; `damage` is the one check of
it. Hidden files, which desktops leave everywhere, are never content, nor is the model card.

A manifest may come from anywhere: `read_manifest` is the one reader of its names and digests, and returns no name that
leads out of its folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from qwenkit.errors import UserError
from qwenkit.json_values import mapping
from qwenkit.records import canonical, json_kind, read_object, write_json

SCHEMA = 1
LONGEST_NAME = 64
"""The longest name of a node in characters: it names a folder, and another with a key after it."""
MANIFEST, RUN, CARD = "manifest.json", "run.json", "README.md"
STRAY, MOVE = "not in the manifest", "move it out of the folder"


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and where it comes from. `key` decides whether to run, `digest` is what downstream nodes
    see."""

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
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_names(folder: Path) -> list[str]:
    """Return the relative names of an artifact's content files, sorted: no manifest, run.json, model card or hidden
    file."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))
    return sorted(name for name in shown if name not in (MANIFEST, RUN, CARD))


def digest_of(files: dict[str, str]) -> str:
    """Return the artifact's digest: SHA-256 over its sorted (name, SHA-256) pairs."""
    return hashlib.sha256(canonical(sorted(files.items()))).hexdigest()


def path_digest(path: Path, views: Collection[str]) -> str:
    """Return the digest of something outside the run that is not an artifact: a file, another run (the manifests of its
    artifacts without `views`, as `run_artifacts` has them), or a folder with every file in it."""
    if path.is_file():
        return _outside(path)
    if is_run(path):
        return digest_of({name: sha256_file(path / name / MANIFEST) for name in run_artifacts(path, views)})
    return digest_of({file.relative_to(path).as_posix(): _outside(file) for file in outside_files(path, views)})


def outside_files(path: Path, views: Collection[str]) -> list[Path]:
    """Return the files that the digest of an outside path covers: the path itself, the manifests of a run, or every
    file below it.

    Raises a `UserError` for a name that is not UTF-8, which cannot be part of a digest or an id."""
    if is_run(path):
        return [path / name / MANIFEST for name in run_artifacts(path, views)]
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        refuse_not_utf8(file)
    return files


def refuse_not_utf8(path: Path | str, where: str | None = None) -> None:
    """Raise a `UserError` for a name that is not UTF-8: manifests, ids and reports are texts."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        what = f"a file name that is not UTF-8: {str(path)!a}"
        raise UserError(what, where=where, hint="rename it") from None


def _outside(path: Path) -> str:
    """Return the SHA-256 of a file without a manifest. A start asks for it several times; it is read once as long as
    its size and times stay."""
    return _read_once(path.resolve(), *signature(path))


@functools.lru_cache(maxsize=100_000)
def _read_once(path: Path, *_: int) -> str:
    return sha256_file(path)


def signature(path: Path) -> list[int]:
    """Return numbers that change when a file is written or replaced, even if its size and times are restored.

    They are valid until the file is copied; `stamp` is for records that are kept."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def is_node_name(name: object) -> bool:
    """Return whether a value is a legal name of a node: letters, digits, - and _. It also names folders."""
    known = isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum()
    return known and len(cast("str", name)) <= LONGEST_NAME


def is_content_name(name: str) -> bool:
    """Return whether a name is that of a content file: a relative path below the artifact."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and "/".join(parts) == name and not any(part.startswith(".") for part in parts)
    return plain and "\0" not in name and name not in (MANIFEST, RUN, CARD)


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, and not of one artifact."""
    return (folder / RUN).is_file() and not (folder / MANIFEST).exists()


def run_artifacts(run_dir: Path, views: Collection[str]) -> dict[str, Manifest]:
    """Return the published artifacts of a run by node, without those of kinds that only show the others (`views`).

    A report is not part of a run's content, so that two runs may each report the other."""
    folders = (path.parent for path in sorted(run_dir.glob(f"*/{MANIFEST}")) if is_node_name(path.parent.name))
    manifests = {folder.name: read_manifest(folder) for folder in folders}
    return {name: manifest for name, manifest in manifests.items() if manifest.kind not in views}


def make_key(
    kind: str, version: int, config: dict[str, Any], inputs: dict[str, str], seed: int, environment: dict[str, str]
) -> str:
    """Return the node's identity: equal keys mean equal work, so nothing runs again."""
    parts = [kind, version, config, sorted(inputs.items()), seed, sorted(environment.items())]
    return hashlib.sha256(canonical(parts)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a published artifact; raises a `UserError` for a corrupted or newer one."""
    path = folder / MANIFEST
    data = read_object(path)
    refuse_newer(data, SCHEMA, path)
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise UserError("a corrupted manifest: keys are missing or unknown", where=str(path)) from error
    if odd := _odd(data):
        raise UserError(f"a corrupted manifest: {odd}", where=str(path))
    if manifest.digest != digest_of(manifest.files):
        raise UserError("a corrupted manifest: its digest is not that of its files", where=str(path))
    return manifest


_TYPES: dict[str, type] = {
    "kind": str, "version": int, "key": str, "seed": int, "headline": str, "digest": str,
    "config": dict, "inputs": dict, "files": dict, "metrics": dict,
}  # fmt: skip


def _odd(data: dict[str, Any]) -> str | None:
    """Return what is invalid in a manifest: values of other types, and names that lead out of its folder."""
    for name, kind in _TYPES.items():
        if not isinstance(data.get(name, kind()), kind):
            return f"`{name}` is {json_kind(data[name])}"
    if not is_node_name(data["node"]):
        return f"{data['node']!r} is not a node name"
    if not re.fullmatch(r"[0-9a-z]{1,64}", data["key"]):
        return f"{data['key']!r} is not a key"
    for name, digest in data["files"].items():
        if not is_content_name(name) or not isinstance(digest, str):
            return f"{name!r} is not a content file"
    return next(
        (f"the input {name!r} names nothing" for name, row in data["inputs"].items() if not _is_input(row)), None
    )


def _is_input(row: Any) -> bool:
    """Return whether an input has a digest, and names a node or nothing."""
    texts = mapping(row)
    node = texts.get("node") or ""
    return "digest" in texts and all(isinstance(v, str) for v in texts.values()) and (not node or is_node_name(node))


def is_newer(folder: Path) -> bool:
    """Return whether a newer qwenkit wrote an artifact. That is not corruption: what cannot be read here must not be
    made again."""
    try:
        schema = read_object(folder / MANIFEST).get("schema")
    except UserError:
        return False
    return isinstance(schema, int) and schema > SCHEMA


def refuse_newer(data: dict[str, Any], known: int, path: Path) -> None:
    """Raise a `UserError` for a file without a schema number, or with one that this version does not know yet."""
    schema = data.get("schema")
    if not isinstance(schema, int):
        raise UserError("not written by qwenkit: no schema number", where=str(path))
    if schema > known:
        raise UserError(
            f"written by a newer qwenkit (schema {schema})",
            where=str(path),
            expected=f"schema {known} or older",
            hint="upgrade qwenkit",
        )


def finish(out: Path, manifest: dict[str, Any], run: dict[str, Any]) -> Manifest:
    """Complete a folder in place: hash its files, write run.json, fsync everything, and only then write the manifest.
    So where there is a manifest, everything that it names is on the disk."""
    files = {name: sha256_file(out / name) for name in content_names(out)}
    whole = Manifest(**manifest, files=files, digest=digest_of(files))
    write_json(out / RUN, {**run, "files": {name: stamp(out / name) for name in files}})
    fsync_tree(out)
    write_json(out / MANIFEST, asdict(whole))
    fsync_tree_entry(out)
    return whole


def read_run(folder: Path) -> dict[str, Any]:
    """Return how an artifact was made: times, attempts, machine. Raises a `UserError` where run.json is missing or
    corrupted."""
    run = read_object(folder / RUN)
    refuse_newer(run, SCHEMA, folder / RUN)
    missing = [key for key in ("started", "seconds", "attempts", "peak_mb") if key not in run]
    if missing:
        raise UserError(f"missing key `{missing[0]}`", where=str(folder / RUN))
    return {"planned_minutes": None, "planned_mb": None, **{key: value for key, value in run.items() if key != "files"}}


def refuse_changed(path: Path, before: list[int], where: str) -> None:
    """Raise a `UserError` for a file whose signature has changed: what was read may be of neither version."""
    if not path.exists() or signature(path) != before:
        raise UserError(
            "the file changed while it was read", where=where, expected="data that stays as it is until it is read",
            hint="the same command begins again with what is there now",
        )  # fmt: skip


def stamp(path: Path) -> list[int]:
    """Return the size and time of a file: while they stay, its bytes are assumed to stay too."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def stamps(path: Path) -> list[int]:
    """Return sizes and times of a file, or of the files of a folder: while they stay, what was read of it stays
    valid."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [number for file in files for number in stamp(file)]


def copy(source: Path, target: Path) -> None:
    """Copy the content of an artifact, and its manifest and run.json unless they are links, which may point
    anywhere."""
    for name in (*read_manifest(source).files, MANIFEST, RUN, CARD):
        file = source / name
        if file.is_file() and (is_content_name(name) or not file.is_symlink()):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target / name)


def refuse_links(run_dir: Path) -> None:
    """Raise a `UserError` for a run folder in which something that a run writes to, or removes, is a link: its target
    is not part of the run.

    A node's folder may be a link: it is read, and when it is superseded the link is moved away."""
    own = [run_dir / name for name in (".work", ".old", ".lock", RUN, "events.jsonl")]
    links = (path for path in own if path.is_symlink())
    below = (
        Path(base, name) for base, *names in os.walk(run_dir / ".work") for name in (*names[0], *names[1])
        if Path(base, name).is_symlink()
    )  # fmt: skip
    for path in (*links, *below):
        raise UserError(
            "a link in a run folder, where a run writes", where=str(path), expected="a file or folder of the run's own",
            hint="remove the link; what it leads to stays",
        )  # fmt: skip


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Generator[None]:
    """Lock a folder inside the `with` block; raises a `UserError` where another process has it. `what` names it in
    messages."""
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
    """Rename a finished folder to its place; what was there moves to `superseded/NAME-KEY-N`."""
    if os.path.lexists(target):  # also a link to nothing: it is moved away, and never followed
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
    numbers = (n for n in range(1_000_000) if not os.path.lexists(superseded / f"{stem}-{n}"))
    return superseded / f"{stem}-{next(numbers)}"


def fsync_tree_entry(folder: Path) -> None:
    """Flush a folder's own entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damage(folder: Path, quick: bool = False) -> list[str]:
    """Return what differs between an artifact and its manifest, one line for each file; empty where it is intact.

    `quick` is for every start of a run: a file with the size and time noted in run.json is not hashed again."""
    expected, present = read_manifest(folder).files, set(content_names(folder))
    noted = _noted(folder) if quick else {}
    lines = [f"{name}: {STRAY}" for name in present - expected.keys()]
    for name, digest in expected.items():
        if name not in present:
            lines.append(f"{name}: missing")
        elif stamp(folder / name) != noted.get(name) and sha256_file(folder / name) != digest:
            lines.append(f"{name}: its bytes changed")
    return sorted(lines)


def only_stray(lines: list[str]) -> bool:
    """Return whether an artifact is intact except for foreign files in its folder."""
    return bool(lines) and all(line.endswith(STRAY) for line in lines)


def refuse_damaged(folder: Path, hint: str) -> None:
    """Raise a `UserError` for a corrupted artifact: what is made of it would have a false lineage."""
    lines = damage(folder, quick=True)
    if lines:
        raise damaged(folder, lines, hint)


def damaged(folder: Path, lines: list[str], hint: str) -> UserError:
    """Return the error of a corrupted artifact. Its hint for foreign files is to move them away, as they belong to
    somebody."""
    return UserError(
        "a corrupted artifact: " + "; ".join(lines), where=str(folder), hint=MOVE if only_stray(lines) else hint
    )


def _noted(folder: Path) -> dict[str, Any]:
    """Return the size and time of every file at publishing; empty where run.json is corrupted."""
    try:
        return read_object(folder / RUN).get("files", {})
    except UserError:
        return {}
