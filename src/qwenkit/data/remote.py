"""Sources that are not on this disk: data sets of the Hugging Face Hub (`hf://datasets/ORG/NAME`), S3 and GCS paths.

    folder = fetched("hf://datasets/org/name", "web")

They are fetched whole to a folder once (the Hub's own cache, or `QWENKIT_CACHE`), and read from there like any other;
without a network that is an error of the user's, said at once. Everything else is a path and returned as one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from qwenkit.errors import UserError

_HUB, _STORES = "hf://datasets/", ("s3://", "gs://", "gcs://")


def fetched(path: Path | str, name: str) -> Path:
    """The local path of a source."""
    text = str(path)
    if text.startswith(_HUB):
        return _from_hub(text.removeprefix(_HUB), name)
    if text.startswith(_STORES):
        return _from_store(text, name)
    return Path(path)


def _from_hub(rest: str, name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    organisation, repository, *below = [*rest.split("/"), ""][:2] + rest.split("/")[2:]
    repo, inner = f"{organisation}/{repository}", "/".join(below)
    try:
        folder = snapshot_download(repo, repo_type="dataset", allow_patterns=[f"{inner}*"] if inner else None)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "this data set cannot be fetched",
            where=f"source {name}: {_HUB}{rest}",
            mend="fetch it where there is a network",
        ) from error
    return Path(folder) / inner


def _from_store(text: str, name: str) -> Path:
    from pyarrow import fs

    cache = Path(os.environ.get("QWENKIT_CACHE", Path.home() / ".cache" / "qwenkit"))
    target = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not target.exists():
        beside = target.with_name(target.name + ".part")
        beside.mkdir(parents=True, exist_ok=True)
        try:
            store, inner = fs.FileSystem.from_uri(text.replace("gcs://", "gs://", 1))
            fs.copy_files(inner, str(beside), source_filesystem=store)
        except (OSError, ValueError) as error:
            raise UserError(
                "this path cannot be fetched", where=f"source {name}: {text}", mend="check the network and the keys"
            ) from error
        beside.rename(target)
    return target
