"""The metadata of a checkpoint, read without running it.

torch writes `.metadata` as a pickle, and a pickle is a program. Here only the classes of the format itself can be
created from it, and their contents are checked against the folder: they may name only its files, and tensors no larger
than those.
"""

from __future__ import annotations

import math
import pathlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

METADATA = ".metadata"
_CLASSES = (
    "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
    "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
)  # fmt: skip
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(metadata.__name__, name): getattr(metadata, name) for name in _CLASSES},
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("torch", "Size"): torch.Size,
    **{(module, "PosixPath"): pathlib.PurePosixPath for module in ("pathlib", "pathlib._local")},
    **{(module, "WindowsPath"): pathlib.PureWindowsPath for module in ("pathlib", "pathlib._local")},
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}
"""The classes that the file may name: all of them only hold values."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which is not part of a checkpoint")
        return _ALLOWED[module, name]


def read_metadata(file: BinaryIO, folder: Path) -> Metadata:
    """Return the metadata in a file, checked against the folder; raises `ValueError` or `pickle.UnpicklingError`."""
    contents = _Unpickler(file).load()
    if not isinstance(contents, Metadata) or not isinstance(contents.state_dict_metadata, dict):
        raise ValueError(f"{METADATA} holds no metadata")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    for item in contents.storage_data.values():
        if item.relative_path not in sizes or item.transform_descriptors:
            raise ValueError(f"{METADATA} names {item.relative_path!r}, which is not a file of the checkpoint")
    wanted = sum(_bytes(entry) for entry in contents.state_dict_metadata.values())
    if wanted > sum(sizes.values()):
        raise ValueError(f"{METADATA} names tensors of {wanted} bytes, more than there are")
    return contents


def _bytes(entry: Any) -> int:
    if isinstance(entry, BytesStorageMetadata):
        return 0
    if not isinstance(entry, TensorStorageMetadata) or min(entry.size, default=0) < 0:
        raise ValueError(f"{METADATA} describes something other than a tensor")
    return math.prod(entry.size) * entry.properties.dtype.itemsize


class Reader(FileSystemReader):
    """A reader of torch's distributed checkpoints that reads the metadata with `read_metadata`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the checked metadata of the folder."""
        with Path(self.path, METADATA).open("rb") as file:
            contents = read_metadata(file, Path(self.path))
        contents.storage_meta = contents.storage_meta or metadata.StorageMeta()
        contents.storage_meta.load_id = self.load_id
        return contents


class Planner(DefaultLoadPlanner):
    """A load planner of torch that reads values other than tensors (here one string) with `weights_only`."""

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Load a value that is not a tensor, without running code from the file."""
        self.original_state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)
