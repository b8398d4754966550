"""Remote sources: data sets of the Hugging Face Hub (`hf://datasets/ORG/NAME`), S3 and GCS paths.

    folder = fetched("hf://datasets/org/name", "web")

They are downloaded completely to disk once (the Hub's own cache, or `QWENKIT_CACHE`), never to memory, and read from
there like any other file; without a network that is a `UserError` at once. Everything else is a path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError
from qwenkit.files import is_disk_full

_PATIENCE = "retry_limit_seconds=10"  # otherwise GCS retries for a quarter of an hour without a network
_HUB, _STORES = "hf://datasets/", ("s3://", "gs://", "gcs://")


def fetched(path: Path | str, name: str) -> Path:
    """Return the local path of a source, downloading it where it is remote."""
    text = str(path)
    if text.startswith(_HUB):
        return _from_hub(text.removeprefix(_HUB), name)
    if text.startswith(_STORES):
        return _from_store(text, name)
    return Path(path)


def _from_hub(rest: str, name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    organisation, repository, *below = [*rest.split("/"), ""][:2] + rest.split("/")[2:]
    repo, inner = f"{organisation}/{repository}", "/".join(below).rstrip("/")
    try:
        folder = snapshot_download(repo, repo_type="dataset", allow_patterns=[inner, f"{inner}/*"] if inner else None)
    except HFValidationError as error:
        raise UserError("not the name of a data set", where=f"source {name}: {_HUB}{rest}",
                        expected=f"{_HUB}ORG/NAME, or a file or folder in it") from error  # fmt: skip
    except OSError as error:  # the Hub's errors and those of the network are all of this class
        raise _unfetched("data set", f"source {name}: {_HUB}{rest}", error) from error
    return Path(folder) / inner


def _from_store(text: str, name: str) -> Path:
    """Return the local copy of a folder or file, copied block by block; an interrupted copy is made again."""
    from pyarrow import fs

    cache = Path(os.environ.get("QWENKIT_CACHE", Path.home() / ".cache" / "qwenkit"))
    target = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    address = text.replace("gcs://", "gs://", 1)
    if not target.exists():
        beside = target.with_name(target.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            store, inner = _opened(address)
            is_file = store.get_file_info(inner).type == fs.FileType.File
            to = beside / Path(inner).name if is_file else beside
            fs.copy_files(inner, str(to), source_filesystem=store)
        except (OSError, ValueError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise _unfetched("path", f"source {name}: {text}", error) from error
        beside.rename(target)
    one = target / Path(address.partition("?")[0]).name
    return one if one.is_file() else target


def _opened(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    from pyarrow import fs

    mark = "&" if "?" in address else "?"
    return fs.FileSystem.from_uri(address + (f"{mark}{_PATIENCE}" if address.startswith("gs://") else ""))


def _unfetched(what: str, where: str, error: Exception) -> Exception:
    """Return the error of a copy that failed; a full disk is reported like any other."""
    if is_disk_full(error):
        return error
    reason = " ".join(str(error).split())[:200]
    return UserError(f"this {what} cannot be fetched ({reason})", where=where, hint="check the network and the keys")
