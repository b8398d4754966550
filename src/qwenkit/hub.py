"""Models of the Hugging Face Hub by name: `org/name` becomes a local folder, and a local folder becomes `org/name`.

    folder = resolve("Qwen/Qwen2.5-0.5B")                   # the cache's folder of one commit; a local folder is itself
    folder = resolve("org/name@v1.0", what="tokenizer")     # a branch, tag or commit; only what a tokenizer needs
    upload({"config.json": path, "README.md": b"..."}, "org/name", private=True)

A text that names a local folder means it, unless the cache holds a model of that name too: then `./org/name` is the
folder and `hf://org/name` the model. Downloading, the cache, the token and offline use (`HF_HUB_OFFLINE`, or simply no
network) are huggingface_hub's. Only configuration, weights and tokenizer files are fetched, never code; pickled weights
only where there are no safetensors. An interrupted download continues where it stopped while the process lives; after a
kill complete files are kept, an incomplete one begins again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit.errors import UserError, nearest
from qwenkit.files import is_disk_full
from qwenkit.gguf_file import only_gguf
from qwenkit.records import as_path

_CONFIG = ["config.json"]
_TOKENIZER = [*_CONFIG, "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "*.tiktoken", "vocab.json",
              "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
              "generation_config.json"]  # fmt: skip
_SAFETENSORS = ["*.safetensors", "*.safetensors.index.json"]
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
_FILES = {
    "config": _CONFIG,
    "tokenizer": _TOKENIZER,
    "model": [*_TOKENIZER, "quantize_config.json", "certificate.json", "adapter_base.json", *_SAFETENSORS],
}
"""The files that are fetched for each use; never anything in a sub-folder."""
_EXPECTED = {"config": "a model's folder", "tokenizer": "a tokenizer's folder or file", "model": "a model's folder"}

_NAME = re.compile(r"(hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\S+))?", re.ASCII)
_NONE = re.compile(r"--|\.\.|\.$|\.(git|json|jsonl|tiktoken|toml|txt|safetensors|bin|gguf)$")
"""Names that no model has: the Hub does not allow them, or they are names of files."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SECONDS = 10


class Name(NamedTuple):
    """A model of the Hub. `explicit`: `hf://` says that it is one."""

    repo: str
    revision: str | None
    explicit: bool


def parse(reference: str) -> Name | None:
    """Return the Hub model that a text may name, or None where it cannot be a name."""
    match = _NAME.fullmatch(reference)
    if match is None or _NONE.search(match[2]) or len(match[2]) > 96:
        return None
    return Name(match[2], match[3], match[1] is not None)


def resolve(path: str | Path, revision: str | None = None, what: str = "model") -> Path:
    """Return the local folder of a reference: the path itself, or the snapshot of a Hub model, fetched where it is not
    cached. A GGUF file is itself too, and what a folder without a config.json stands for that holds one such file.

    `what` is `model`, `tokenizer` or `config`: how much of it is needed. A `Path` to something that exists is always
    that. Raises a `UserError` where a model cannot be fetched."""
    local = as_path(path, expected=_EXPECTED[what])
    there = isinstance(path, Path) and local.exists()
    name = None if there else meant(os.fspath(path), local)
    if name is None:
        if revision is not None:
            raise UserError(f"revision = {revision!r} for something that is not a model on the Hub", where=str(path),
                            expected="org/name, or no revision")  # fmt: skip
        return only_gguf(local) or local
    if revision is not None and name.revision not in (None, revision):
        raise UserError(f"{path} names one revision and revision = {revision!r} another", expected="one of them")
    return _fetch(name.repo, name.revision or revision, what)


def meant(reference: str, local: Path) -> Name | None:
    """Return the Hub model that a text means, or None where it means `local`; raises a `UserError` that names both
    where both exist."""
    name = parse(reference)
    if name is None or name.explicit or not local.exists():
        return name
    if _cached(name.repo):
        raise UserError(
            f'"{reference}" is both a folder here and a model in the cache of the Hub',
            expected=f'the folder "./{reference}" or the model "hf://{reference}"',
        )
    return None


def commit(reference: str) -> str:
    """Return the commit that a model's name means now; without a network, the cached one."""
    return resolve(reference, what="config").name


def is_commit(value: object) -> bool:
    """Return whether a value is a full commit id."""
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def fetch(reference: str, commit: str, what: str = "model") -> Path:
    """Return the folder of a commit of a model, whatever its name means now."""
    return _fetch(repo_of(reference), commit, what)


def refuse_changed(folder: Path) -> None:
    """Raise a `UserError` for a snapshot in which a file differs from what the Hub said.

    The cache names each file by its digest: SHA-256 of large files, and git's of small ones (or, by some mirrors,
    SHA-1). A file that is not a link into the cache has no digest, and is not checked."""
    for path in sorted(folder.iterdir()):
        name = path.resolve().name if path.is_symlink() else ""
        if path.is_file() and _DIGEST.fullmatch(name) and name not in _digests(path, len(name)):
            raise UserError("a downloaded file changed: it is not what the Hub gave", where=str(path),
                            hint=f"remove {path.resolve()} and ask again with a network")  # fmt: skip


def _digests(path: Path, length: int) -> list[str]:
    """Return the digests of a file with this number of digits."""
    blob = b"blob %d\0" % path.stat().st_size
    hashes = (
        [hashlib.sha256()] if length == 64 else [hashlib.sha1(start, usedforsecurity=False) for start in (blob, b"")]
    )
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            for digest in hashes:
                digest.update(data)
    return [digest.hexdigest() for digest in hashes]


def snapshot(reference: str, commit: str) -> Path:
    """Return the folder of the files of a commit; they may not be fetched yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / _cache_name(repo_of(reference)) / "snapshots" / commit


def repo_of(reference: str) -> str:
    """Return the model's name without a revision."""
    name = parse(reference)
    if name is None:
        raise UserError(f"{reference!r} is not the name of a model", expected="org/name")
    return name.repo


def _cache_name(repo: str) -> str:
    return "models--" + repo.replace("/", "--")


def _cached(repo: str) -> bool:
    """Return whether the cache holds files of a model."""
    from huggingface_hub import constants

    return (Path(constants.HF_HUB_CACHE) / _cache_name(repo) / "snapshots").is_dir()


# ---- download -------------------------------------------------------------------------------------------------------


def _fetch(repo: str, revision: str | None, what: str) -> Path:
    """Return the snapshot folder of a model with the files that are needed. A commit whose files are all cached needs
    no request."""
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    with _told(repo, revision, "no such folder here, and "):
        fault = None
        if not _COMMIT.fullmatch(revision or ""):
            fault = _unreachable(repo, revision)
        elif (cached := _whole(repo, revision, what)) is not None:
            return cached
        try:
            folder = _snapshot(repo, revision, _FILES[what], offline=fault is not None)
            if what == "model" and not any(folder.glob("*.safetensors")):
                _snapshot(repo, folder.name, [*_FILES[what], *_PICKLES], offline=fault is not None)
        except LocalEntryNotFoundError as missing:
            raise missing if isinstance(missing, IncompleteSnapshotError) else fault or missing from None
    return folder


def _whole(repo: str, commit: str | None, what: str) -> Path | None:
    """Return the snapshot of a commit, where it is already complete."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(repo, commit, _FILES[what], offline=True)
    except LocalEntryNotFoundError:
        return None
    pickled = what == "model" and not any(folder.glob("*.safetensors"))
    return folder if (folder / "config.json").exists() and not pickled else None


def _snapshot(repo: str, revision: str | None, patterns: list[str], offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    _bars()
    return Path(
        snapshot_download(
            repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=offline
        )
    )


def _bars() -> None:
    """Show the library's progress bars only in a terminal."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def _unreachable(repo: str, revision: str | None) -> Exception | None:
    """Return why the Hub does not answer, or None. The library would wait for ever for a silent server, and reports
    errors only where the cache has nothing."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        HfApi().repo_info(repo, revision=revision, timeout=_SECONDS)
    except RevisionNotFoundError:
        raise
    except Exception as fault:  # whatever it is, the cache may have the model
        return fault
    return None


# ---- upload ---------------------------------------------------------------------------------------------------------


def plain_name(text: str) -> str:
    """Return `org/name` for a model that will be created; raises a `UserError` for anything else."""
    name = parse(text)
    if name is None or name.revision is not None:
        raise UserError(f"{text!r} is not a name for a model", expected="org/name, of letters, digits, -, _ and points")
    return name.repo


def publishable(folder: Path) -> dict[str, Path]:
    """Return the files of a model's folder that others need: what `resolve` fetches, the manifest, and documentation.

    Raises a `UserError` for a link that leads out of the folder: its target may be private."""
    safe = any(folder.glob("*.safetensors"))
    patterns = [*_FILES["model"], *([] if safe else _PICKLES), "manifest.json", "README.md", "LICENSE*", "NOTICE*"]
    named = sorted(path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns))
    for path in named:
        if path.is_symlink() and not _within(path, folder):
            raise UserError("a link that leads out of the folder", where=str(path), expected="a file",
                            hint="put the file itself there, or take the link away")  # fmt: skip
    return {path.name: path for path in named if path.is_file()}


def _within(link: Path, folder: Path) -> bool:
    """Return whether a link leads to a visible file in the folder."""
    target = link.resolve()
    return target.parent == folder.resolve() and not target.name.startswith(".")


def upload(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str,
    keep: Iterable[str] = (),
) -> str:
    """Upload all files in one commit and return its address; the model and the branch are created where they are
    missing.

    Files that the Hub already has are not sent again, and those to `keep` are not replaced."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError("no token of the Hub", hint="log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    _bars()
    with _told(repo, revision):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        kept = {name for name in keep if api.file_exists(repo, name, revision=revision)}
        content = [
            CommitOperationAdd(name, file if isinstance(file, bytes) else os.fspath(file))
            for name, file in files.items()
            if name not in kept
        ]
        return str(api.create_commit(repo, content, commit_message=message, revision=revision).commit_url)


# ---- errors ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(repo: str, revision: str | None, aside: str = "") -> Iterator[None]:
    """Turn the library's errors into `UserError`s; `aside` is put before what a wrong name or a lack of network leads
    to."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _explained(error, repo, revision, aside) from error


def _explained(error: BaseException, repo: str, revision: str | None, aside: str) -> UserError:
    """Return the error by the Hub's answer, else by what happened here."""
    from huggingface_hub import constants, errors

    page, login = f"{constants.ENDPOINT}/{repo}", "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{repo} is open only to those whom its owner lets in", where=page,
                         hint=f"ask for access on that page, then {login}")  # fmt: skip
    if isinstance(error, errors.RevisionNotFoundError):
        return _no_revision(repo, revision or "main", page)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return UserError(f"{aside}no such model on the Hub that you may read", where=repo, nearest=_beside(repo),
                         expected="a folder, or org/name",
                         hint=f"look at the name; for a private model {login}")  # fmt: skip
    if status in (401, 403):
        what = "your token is not accepted" if status == 401 else "you may not do this"
        return UserError(f"{what}{_said(error)}", where=page, hint=login)
    if status is not None:
        return UserError(f"the Hub answers with status {status}{_said(error)}", where=page, hint="try again later")
    return _broken_off(error, repo, aside)


def _broken_off(error: BaseException, repo: str, aside: str) -> UserError:
    """Return the error of a missing or interrupted answer, or one that could not be stored."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.IncompleteSnapshotError):
        return UserError("only a part of it is in the cache", where=repo, hint="ask again with a network")
    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return UserError(f"{aside}it is not in the cache of the Hub's models", where=repo, nearest=_beside(repo),
                         expected="a folder, or org/name",
                         hint="for one of the Hub ask again with a network, and without HF_HUB_OFFLINE")  # fmt: skip
    if is_disk_full(error):
        return UserError("the disk is full", where=f"{repo}, {constants.HF_HUB_CACHE}",
                         hint="free some space, or set HF_HOME to a larger disk; complete files are kept")  # fmt: skip
    if isinstance(error, errors.HTTPError):
        return UserError(f"{aside}the Hub cannot be reached: {error}", where=repo, nearest=_beside(repo),
                         hint="ask again with a network; complete files are kept")  # fmt: skip
    return UserError(" ".join(str(error).split()), where=repo, hint="ask again; complete files are kept")


def _beside(repo: str) -> str | None:
    """Return the local folder with the nearest name."""
    parent = Path(repo).parent
    return nearest(repo, [path.as_posix() for path in parent.iterdir()]) if parent.is_dir() else None


def _no_revision(repo: str, revision: str, page: str) -> UserError:
    """Return the error of an unknown revision, with the branches and tags that exist, where the Hub lists them."""
    from huggingface_hub import HfApi

    known: list[str] = []
    with contextlib.suppress(Exception):  # optional: the error is known without it
        refs = HfApi().list_repo_refs(repo)
        known = [ref.name for ref in [*refs.branches, *refs.tags]]
    return UserError(f"{repo} has no revision {revision!r}", where=page, nearest=nearest(revision, known),
                     expected=", ".join(known) or "a branch, a tag or a commit")  # fmt: skip


def _said(error: Any) -> str:
    """Return the Hub's own message."""
    message = getattr(error, "server_message", None)
    return f": {' '.join(str(message).split())}" if message else ""
