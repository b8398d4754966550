"""The folder of an adapter, as peft writes it: what is one, and which model it belongs to.

    if is_adapter(folder): base = base_of(folder)

`adapter_config.json` names the model: as `org/name` of the Hub with its revision, or as a path, which counts from the
adapter's folder where it is relative. `adapter_base.json`, which is ours, keeps a digest of that model's tensors. No
torch here: tokenizers and servers ask too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit.errors import UserError
from qwenkit.hub import parse, resolve
from qwenkit.records import read_object

CONFIG, WEIGHTS, PICKLED, BASE = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_base.json"
)  # fmt: skip
_MODELS = ("model.safetensors", "pytorch_model.bin")


class BaseName(NamedTuple):
    """How an adapter's folder names its model: as `org/name` of the Hub with a commit, or as a path, which counts from
    the adapter's folder where it is relative."""

    name: str
    revision: str | None = None


def is_adapter(path: Path) -> bool:
    """Return whether a path is the folder of an adapter, not of a complete model.

    Raises a `UserError` for a folder that holds both."""
    if not (path / CONFIG).exists():
        return False
    weights = any((path / name).exists() for name in (WEIGHTS, PICKLED))
    whole = (path / "config.json").exists() and any(
        (path / f"{name}{ending}").exists() for name in _MODELS for ending in ("", ".index.json")
    )
    if whole and weights:
        raise UserError(f"a model and an adapter in one folder: {_of(path)}", where=str(path),
                        expected="one of them",
                        hint=f"take {CONFIG} and {WEIGHTS} away where they are merged already; else move them to a "
                        "folder of their own")  # fmt: skip
    return not whole


def refuse_no_adapter(folder: Path, where: str | None = None) -> None:
    """Raise a `UserError` for what is not the folder of an adapter."""
    if not is_adapter(folder):
        raise UserError("no adapter is here", where=where or str(folder),
                        expected=f"a folder with {CONFIG} and {WEIGHTS}")  # fmt: skip


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json; raises a `UserError` where it is missing or of another kind of adapter."""
    settings = read_object(folder / CONFIG)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UserError(f"an adapter of the kind {kind!r:.80} is not supported", where=str(folder / CONFIG),
                        expected='peft_type "LORA"')  # fmt: skip
    return settings


def base_of(folder: Path) -> Path:
    """Return the model's folder that an adapter names, fetched from the Hub where it is one there.

    Raises a `UserError` where it names none, or one that is not here."""
    settings, where = read_adapter_config(folder), str(folder / CONFIG)
    name, hint = settings.get("base_model_name_or_path"), "name the model too: qwenkit chat MODEL --adapter ADAPTER"
    if not isinstance(name, str) or not name:
        raise UserError("the adapter does not say which model it is of", where=where, hint=hint)
    for place in (folder / name, Path(name)):
        if place.exists():
            return resolve(Path(os.path.normpath(place)))
    if parse(name) is None:
        raise UserError(f"the model of this adapter is not here: {name:.200}", where=where, hint=hint)
    revision = settings.get("revision")
    return resolve(name, revision if isinstance(revision, str) and revision else None)


def base_name(folder: Path, place: Path, near: Path) -> BaseName:
    """Return how an adapter at `place` names the model of a local folder: from there where both lie in `near`, so that
    they can be moved together; of an adapter its model, as that adapter names it on the Hub."""
    if is_adapter(folder):
        settings = read_adapter_config(folder)
        name, revision = str(settings.get("base_model_name_or_path")), settings.get("revision")
        if not (folder / name).exists() and not Path(name).exists():
            return BaseName(name, revision if isinstance(revision, str) else None)
        folder = base_of(folder)
    folder, near = folder.resolve(), near.resolve()
    together = folder.is_relative_to(near)
    return BaseName(os.path.relpath(folder, place.resolve()) if together else str(folder))


def described_at(folder: Path) -> Path:
    """Return the folder whose config.json describes the model: that of an adapter's model, or the folder itself."""
    return described_at(base_of(folder)) if is_adapter(folder) else folder


def tokenizer_at(path: Path) -> Path:
    """Return where the tokenizer of a model is: for an adapter without one, at its model."""
    named = ("tokenizer.json", "vocab.json", "tokenizer_config.json")
    own = any((path / name).exists() for name in named) or any(path.glob("*.tiktoken"))
    return path if own or not path.is_dir() or not is_adapter(path) else described_at(path)


def _of(folder: Path) -> str:
    """Return which kind of adapter of which model a folder holds, for messages."""
    settings = read_object(folder / CONFIG)
    kind = settings.get("peft_type") or "some kind"
    base = settings.get("base_model_name_or_path") or "a model that it does not name"
    return f"{kind!s:.80} of {base!s:.200}"
