"""The tensors of a model folder, read one at a time from where they lie, and written in shards.

    with Tensors(folder) as tensors:             # *.safetensors, or pytorch_model*.bin where there are none
        tensors.shapes["model.norm.weight"]      # from the files' heads: nothing is read
        tensors.read("model.norm.weight")        # mapped, not copied: memory is used when a page is touched
    write_shards(named_tensors, folder)

Only numbers are ever read: safetensors, and pickles through torch's `weights_only`. Names of files come from the
folder's index, so they must be plain names of files beside it. With two sets of weights in one folder the choice is
never silent: safetensors take precedence over pickles, as everywhere, with a notice, and a single file beside the index
of another set is refused.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwenkit.errors import UserError, listed, notice
from qwenkit.files import refuse_pointer_at
from qwenkit.records import read_object, write_bytes

SHARD_BYTES = 5 * 10**9
SAFE, PICKLED = ("model.safetensors", ".safetensors"), ("pytorch_model.bin", ".bin")
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_INTEGERS = {"I64", "I32", "I16", "I8", "U8", "BOOL"}


class Tensors:
    """All tensors of a folder by name. Use it as a context manager; tensors that were read stay valid after it."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; its files are opened on entering the context."""
        self.folder = folder
        self.shapes: dict[str, torch.Size] = {}
        self.floats: dict[str, torch.dtype] = {}
        """The dtype of each tensor that does not hold integers."""
        self._homes: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Tensors:
        """Open every weight file of the folder and read the shapes of its tensors."""
        for file in weight_files(self.folder):
            self._open(file)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU, memory-mapped from its file."""
        written = self._names.get(name, name)
        home = self._homes[written]
        return home[written] if isinstance(home, dict) else home.get_tensor(written)

    def call(self, names: Mapping[str, str]) -> None:
        """Rename tensors: `names` maps names in the files to new ones. Raises a `UserError` where two would be
        equal."""
        new = [names.get(name, name) for name in self.shapes]
        if len(set(new)) < len(new):
            raise UserError("two tensors would have one name", where=str(self.folder))
        self._names = {names.get(name, name): name for name in self.shapes}
        self.shapes = {names.get(name, name): shape for name, shape in self.shapes.items()}
        self.floats = {names.get(name, name): dtype for name, dtype in self.floats.items()}

    def is_integer(self, name: str) -> bool:
        """Return whether a tensor holds integers: a part of quantized weights, or a mistake."""
        return name in self.shapes and name not in self.floats

    def dtype(self) -> torch.dtype:
        """Return the dtype in which most of the parameters are stored; float64 counts as float32."""
        count: Counter[torch.dtype] = Counter()
        for name, dtype in self.floats.items():
            count[dtype] += self.shapes[name].numel()
        most = max(count, key=count.__getitem__, default=torch.float32)
        return torch.float32 if most == torch.float64 else most

    def _open(self, file: Path) -> None:
        refuse_pointer_at(file)
        shapes = self._pickled(file) if file.suffix == ".bin" else self._safe(file)
        if twice := sorted(self.shapes.keys() & shapes.keys()):
            raise UserError(f"{twice[0]} is in two files", where=str(file), expected="each tensor once")
        self.shapes.update(shapes)

    def _safe(self, file: Path) -> dict[str, torch.Size]:
        try:
            shard = self._stack.enter_context(safe_open(file, framework="pt"))
            heads = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(file) from error
        if odd := [name for name, head in heads.items() if head.get_dtype() not in _INTEGERS | _FLOATS.keys()]:
            raise UserError(f"{odd[0]} is stored as {heads[odd[0]].get_dtype()}", where=str(file),
                            expected="floating point numbers of 16 bits or more, or integers")  # fmt: skip
        self.floats.update({n: _FLOATS[head.get_dtype()] for n, head in heads.items() if head.get_dtype() in _FLOATS})
        self._homes.update(dict.fromkeys(heads, shard))
        return {name: torch.Size(head.get_shape()) for name, head in heads.items()}

    def _pickled(self, file: Path) -> dict[str, torch.Size]:
        """Return the shapes in a pickle. A pickle is a program: torch runs nothing of it but tensors."""
        try:
            _refuse_packed(file)
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except UserError:
            raise
        except Exception as error:  # whatever a hostile or cut file makes of the reader
            raise UserError(
                "not a plain file of tensors, or corrupted",
                where=str(file),
                expected="tensors and nothing that would have to be run",
                hint="use the model's *.safetensors",
            ) from error
        if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise UserError("does not hold tensors by name", where=str(file))
        if odd := [str(name) for name, tensor in state.items() if not _plain_tensor(tensor)]:
            raise UserError(f"{odd[0]} is not a plain tensor", where=str(file),
                            expected="floating point numbers of 16 bits or more, or integers, each stored")  # fmt: skip
        self.floats.update({str(name): tensor.dtype for name, tensor in state.items() if tensor.is_floating_point()})
        self._homes.update(dict.fromkeys(state, state))
        return {str(name): tensor.shape for name, tensor in state.items()}


def _refuse_packed(file: Path) -> None:
    """Raise a `UserError` for a compressed archive, or for none: tensors are mapped in place."""
    if not zipfile.is_zipfile(file):
        raise UserError("a pickle of before torch 1.6, or not a file of tensors", where=str(file),
                        expected="a zip archive, as torch.save writes it",
                        hint="use the model's *.safetensors, or load it with torch and save it again")  # fmt: skip
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise UserError("the archive is compressed", where=str(file), expected="tensors as they are",
                            hint="use the model's *.safetensors")  # fmt: skip


def _plain_tensor(tensor: Tensor) -> bool:
    """Return whether a pickle's tensor is stored numbers: not sparse, not one number expanded to a thousand."""
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return (whole or tensor.dtype in kinds) and tensor.untyped_storage().nbytes() >= tensor.nbytes


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, in the order of transformers: safetensors before pickles.

    Raises a `UserError` where there are none, or where two sets of weights cannot be told apart."""
    files = _one_set(folder, SAFE[0])
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if files and pickles:
        notice(f"the weights are those of {files[0].name}; {listed(pickles, 2)} are passed over", str(folder))
    files = files or _one_set(folder, PICKLED[0])
    if not files:
        raise UserError(f"weights are missing: {SAFE[0]}", where=str(folder),
                        expected="model.safetensors, or shards with their index", hint=_instead(folder))  # fmt: skip
    return files


def _one_set(folder: Path, single: str) -> list[Path]:
    """Return the only file, or the shards that the index names; raises a `UserError` where both exist."""
    index, alone = folder / f"{single}.index.json", folder / single
    if not index.is_file():
        return [alone] if alone.is_file() else []
    names = _indexed(index)
    absent = [name for name in names if not (folder / name).is_file()]
    if alone.is_file() and single not in names:
        what = (
            f"weights are missing: {listed(absent)}; beside them" if absent else "two sets of weights: the shards, and"
        )
        raise UserError(f"{what} {single}, which {index.name} does not name", where=str(folder), expected="one of them",
                        hint=f"take {index.name} and its shards away: transformers reads {single}")  # fmt: skip
    if absent:
        raise UserError(
            f"weights are missing: {listed(absent)}", where=str(folder), expected="all that the index names"
        )
    return [folder / name for name in names]


def _instead(folder: Path) -> str | None:
    """Return what to do where weights are in the folder in a form that cannot be read."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if shards := [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]:
        return f"{listed(shards)}: no index says that these are the weights; fetch {SAFE[0]}.index.json"
    if other := [name for name in names if name.endswith((".gguf", ".npz", ".h5", ".msgpack", ".onnx", ".nemo"))]:
        return f"{listed(other)} cannot be read; fetch or write the model as *.safetensors"
    return None


def _indexed(index: Path) -> list[str]:
    """Return the names of the files in an index."""
    expected = '{"weight_map": {tensor: file}}'
    try:
        names = sorted({str(name) for name in read_object(index)["weight_map"].values()})
    except UserError as error:
        what = f"not an index of shards: {error.what}"
        raise UserError(what, where=error.where, expected=expected, hint=error.hint) from None
    except (KeyError, AttributeError):
        raise UserError("not an index of shards", where=str(index), expected=expected) from None
    if odd := [name for name in names if not _plain_name(name)]:
        raise UserError(f"the index names the file {odd[0]!r:.200}", where=str(index), expected="shards beside it")
    if not names:
        raise UserError("the index names no file", where=str(index), expected="every shard")
    return names


def _plain_name(name: str) -> bool:
    """Return whether a name is that of a shard in the index's own folder."""
    plain = Path(name).name == name and "\\" not in name and len(name) < 200
    return plain and name.endswith((SAFE[1], PICKLED[1]))


def _damaged(file: Path) -> UserError:
    return UserError("the weights are corrupted", where=str(file), hint="fetch or make them again")


# ---- writing --------------------------------------------------------------------------------------------------------


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as one file while they fit into `shard_bytes`, otherwise as numbered shards with their index.

    Each file is complete before it gets its name, so a model may be written over the folder that it is mapped from."""
    written: list[tuple[Path, list[str]]] = []
    total = 0
    for shard in _shards(tensors, shard_bytes):
        part = folder / f".part-{len(written):05d}.safetensors"
        save_file(shard, part, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in shard.values())
        written.append((part, list(shard)))
    for old in (*folder.glob("model*.safetensors"), folder / f"{SAFE[0]}.index.json"):
        old.unlink(missing_ok=True)
    names = [_shard_name(number, len(written)) for number in range(len(written))]
    for (part, _), name in zip(written, names):
        os.replace(part, folder / name)
    if len(names) > 1:
        where = {tensor: name for (_, tensors_of_part), name in zip(written, names) for tensor in tensors_of_part}
        write_json(folder / f"{SAFE[0]}.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Yield tensors in order, as many together as fit."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _shard_name(number: int, count: int) -> str:
    return SAFE[0] if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file with an indent of two spaces, as Hugging Face's tools do."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
