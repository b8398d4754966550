"""GGUF, llama.cpp's one file for a model: its header, checked before any of it is believed, and its tensors in place.

    file = read_gguf("model.gguf")                  # GGUF 2 and 3, little-endian; the file is mapped, not read
    file.text("general.architecture")               # a setting; a missing or mistyped one is a `UserError` with its key
    file.tensors["token_embd.weight"]               # Stored(shape=(rows, columns), kind="Q8_0", start=..., size=...)
    file.view("token_embd.weight")                  # its bytes, mapped; `release` gives their memory back

What a file claims is bounded by what it holds: a header of at most 64 MB, no array longer than its bytes, tensors
inside the file, apart from each other, in a type that is read here. Arrays are walked over, and made only when asked
for.

Layout: magic, version, number of tensors, number of settings; settings as key, type, value; for each tensor its name,
dimensions (columns first), type and offset; then the data, aligned.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, NoReturn

from qwenkit.errors import UserError
from qwenkit.files import CONFIG_BYTES, LFS, MEGABYTE, open_file, refuse_pointer

MAGIC, VERSIONS = b"GGUF", (2, 3)
ENDING = ".gguf"
HEADER_BYTES = CONFIG_BYTES
"""The largest header. Those of vocabularies with 260,000 tokens have a quarter of it."""
MOST_ENTRIES, MOST_ITEMS, LONGEST_NAME = 2**16, 2**22, 2**16
"""The most settings and tensors, items of an array, and bytes of a name."""
_FIRST, _ALIGNMENT, _LARGEST_ALIGNMENT, _DIMENSIONS = 24, 32, 2**16, 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


class Kind(NamedTuple):
    """How a type of tensors is stored: `values` numbers in a block of `size` bytes."""

    values: int
    size: int


KINDS = {
    "F32": Kind(1, 4), "F16": Kind(1, 2), "BF16": Kind(1, 2), "Q4_0": Kind(32, 18), "Q4_1": Kind(32, 20),
    "Q5_0": Kind(32, 22), "Q5_1": Kind(32, 24), "Q8_0": Kind(32, 34), "Q4_K": Kind(256, 144), "Q5_K": Kind(256, 176),
    "Q6_K": Kind(256, 210),
}  # fmt: skip
"""The types that are read."""
_KIND_IDS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


class Stored(NamedTuple):
    """Where a tensor lies: its shape (rows first), its type, its first byte in the file and its number of bytes."""

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


class _Array(NamedTuple):
    """An array that was walked over: the type of its items, how many, and where the first one is."""

    kind: int
    items: int
    start: int


Scalar = str | int | float | bool


class GGUFFile:
    """The settings of a file by key, its tensors by name, and their bytes."""

    def __init__(self, path: Path, data: mmap.mmap, settings: dict[str, Scalar | _Array]) -> None:
        """Keep what `read_gguf` found; `tensors` is filled by it."""
        self.path, self.tensors = path, dict[str, Stored]()
        self._data, self._settings = data, settings

    def __contains__(self, key: str) -> bool:
        """Return whether the file has a setting."""
        return key in self._settings

    def __iter__(self) -> Iterator[str]:
        """Yield the keys of all settings, in their order."""
        return iter(self._settings)

    def where(self, name: str) -> str:
        """Return the place of a setting or tensor, for a message."""
        return f"{self.path}, {name:.200}"

    # ---- settings ---------------------------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; raises a `UserError` where there is none and no default."""
        value = self._get(key, default)
        return value if isinstance(value, str) else self._mistyped(key, value, "a string")

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer; raises a `UserError` where there is none and no default."""
        value = self._get(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        self._mistyped(key, value, "an integer")

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number; raises a `UserError` where there is none and no default."""
        value = self._get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        self._mistyped(key, value, "a number")

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a switch; raises a `UserError` where there is none and no default."""
        value = self._get(key, default)
        return value if isinstance(value, bool) else self._mistyped(key, value, "true or false")

    def scalar(self, key: str) -> Scalar:
        """Return a value of any type but an array."""
        value = self._get(key, None)
        return self._mistyped(key, value, "one value") if isinstance(value, _Array) else value

    def texts(self, key: str) -> list[str]:
        """Return an array of strings."""
        array = self._array(key, (_STRING,), "an array of strings")
        cursor = _Cursor(self._data, self.where(key), array.start)
        return [cursor.text() for _ in range(array.items)]

    def integers(self, key: str) -> list[int]:
        """Return an array of integers."""
        array = self._array(key, (0, 1, 2, 3, 4, 5, 10, 11), "an array of integers")
        return list(struct.unpack_from(f"<{array.items}{_SCALARS[array.kind]}", self._data, array.start))

    def _get(self, key: str, default: Scalar | None) -> Scalar | _Array:
        value = self._settings.get(key, default)
        if value is None:
            raise UserError(f"{key} is missing", where=str(self.path))
        return value

    def _array(self, key: str, kinds: tuple[int, ...], expected: str) -> _Array:
        value = self._get(key, None)
        return value if isinstance(value, _Array) and value.kind in kinds else self._mistyped(key, value, expected)

    def _mistyped(self, key: str, value: Scalar | _Array, expected: str) -> NoReturn:
        shown = f"an array of {value.items}" if isinstance(value, _Array) else repr(value)
        raise UserError(f"it is {shown:.80}", where=self.where(key), expected=expected)

    # ---- tensors ----------------------------------------------------------------------------------------------------

    def view(self, name: str) -> memoryview:
        """Return the bytes of a tensor, mapped from the file: memory is used when a page is touched. Writing to them
        does not change the file."""
        stored = self.tensors[name]
        return memoryview(self._data)[stored.start : stored.start + stored.size]

    def release(self, name: str) -> None:
        """Give back the memory of a tensor's pages; they would be read from the file again."""
        stored, page = self.tensors[name], mmap.PAGESIZE
        first, last = -(-stored.start // page) * page, (stored.start + stored.size) // page * page
        if first < last:
            self._data.madvise(mmap.MADV_DONTNEED, first, last - first)


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file: by its ending, or by how it begins."""
    if path.is_dir():
        return False
    if path.suffix == ENDING:
        return True
    try:
        with open_file(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except (UserError, OSError):
        return False


def only_gguf(folder: Path) -> Path | None:
    """Return the GGUF file of a folder that holds one and no model or tokenizer of another form, or None."""
    if not folder.is_dir() or any((folder / name).exists() for name in ("config.json", "tokenizer.json")):
        return None
    files = sorted(folder.glob(f"*{ENDING}"))
    return files[0] if len(files) == 1 else None


def read_gguf(path: Path) -> GGUFFile:
    """Map a file and check its header; raises a `UserError` that names file and key for anything that does not fit.

    The memory that is used is bounded by the size of the header, the time by the bytes in it."""
    with open_file(path, "a GGUF file") as opened:
        head = opened.read(len(LFS))
        _check_head(head, path)
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    cursor = _Cursor(data, f"{path}, its header", 8)
    tensors, settings = cursor.number("Q"), cursor.number("Q")
    for count, what, least in ((tensors, "tensors", 24), (settings, "settings", 13)):
        if count > MOST_ENTRIES or count * least > len(data):
            raise UserError(f"the header says that there are {count} {what}", where=str(path),
                            expected=f"at most {MOST_ENTRIES}, and as many as the file holds")  # fmt: skip
    file = GGUFFile(path, data, _settings(cursor, settings, path))
    file.tensors = dict(_tensors(cursor, tensors, file))
    _refuse_overlap(file)
    return file


def _check_head(head: bytes, path: Path) -> None:
    """Raise a `UserError` for a file that is not GGUF, of another version or byte order, or cut at once."""
    refuse_pointer(head, path)
    if head[:4] != MAGIC:
        raise UserError(f"not a GGUF file: it begins with {head[:4]!r}", where=str(path), expected="GGUF 2 or 3")
    if len(head) < _FIRST:
        raise _cut(f"{path}, its header")
    version, swapped = (int.from_bytes(head[4:8], order) for order in ("little", "big"))
    if swapped in (1, *VERSIONS):
        raise UserError("a big-endian GGUF file", where=str(path), expected="a little-endian one")
    if version not in VERSIONS:
        raise UserError(f"GGUF version {version}", where=str(path), expected="2 or 3",
                        hint="convert the model again with a present llama.cpp")  # fmt: skip


def _cut(where: str) -> UserError:
    return UserError("the file ends here", where=where, expected="a complete GGUF file", hint="fetch it again")


class _Cursor:
    """A place in the header that moves on as values are read; it never passes the end of the file or the limit."""

    def __init__(self, data: mmap.mmap, where: str, at: int) -> None:
        self.data, self.where, self.at = data, where, at

    def skip(self, size: int) -> int:
        """Move over some bytes, and return where they begin."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise _cut(self.where)
        if self.at > HEADER_BYTES:
            raise UserError(f"the header is larger than {HEADER_BYTES // MEGABYTE} MB", where=self.where)
        return start

    def number(self, code: str) -> int:
        """Return an integer of this code of `struct`."""
        value: int = struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(code)))[0]
        return value

    def text(self, longest: int = HEADER_BYTES) -> str:
        """Return a string of UTF-8 with its length before it."""
        length = self.number("Q")
        if length > longest:
            raise UserError(f"a string of {length} bytes", where=self.where, expected=f"at most {longest}")
        start = self.skip(length)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise UserError("a string that is not UTF-8", where=self.where) from None

    def value(self, kind: int) -> Scalar | _Array:
        """Return a value of a type; of an array only where it is."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise UserError(f"a value of the unknown type {kind}", where=self.where)
        code = _SCALARS[kind]
        value: int | float = struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(code)))[0]
        if kind == _BOOL:
            return bool(value)
        return _decimal(value) if code == "f" else value

    def _array(self) -> _Array:
        """Move over an array, and return where it is."""
        kind, count = self.number("I"), self.number("Q")
        if kind == _ARRAY:
            raise UserError("an array of arrays", where=self.where, expected="an array of numbers or strings")
        if kind not in (*_SCALARS, _STRING):
            raise UserError(f"an array of the unknown type {kind}", where=self.where)
        if count > MOST_ITEMS:
            raise UserError(f"an array of {count} items", where=self.where, expected=f"at most {MOST_ITEMS}")
        start = self.at
        if kind == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            self.skip(count * struct.calcsize(_SCALARS[kind]))
        return _Array(kind, count, start)


def _decimal(value: float) -> float:
    """Return the shortest decimal number that is this one in float32: 1e-06, not 9.999999974752427e-07."""
    short = float(f"{value:.7g}")
    return short if struct.pack("<f", value) == struct.pack("<f", short) else value


def _settings(cursor: _Cursor, count: int, path: Path) -> dict[str, Scalar | _Array]:
    settings: dict[str, Scalar | _Array] = {}
    for number in range(count):
        cursor.where = f"{path}, setting {number + 1} of {count}"
        key = cursor.text(LONGEST_NAME)
        cursor.where = f"{path}, {key:.200}"
        if key in settings:
            raise UserError("the key is there twice", where=cursor.where)
        settings[key] = cursor.value(cursor.number("I"))
    return settings


def _tensors(cursor: _Cursor, count: int, file: GGUFFile) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors of the header by name, each inside the file."""
    entries: dict[str, tuple[tuple[int, ...], str, int]] = {}
    for number in range(count):
        cursor.where = f"{file.path}, tensor {number + 1} of {count}"
        name = cursor.text(LONGEST_NAME)
        cursor.where = file.where(name)
        if name in entries:
            raise UserError("the tensor is there twice", where=cursor.where)
        entries[name] = _shape(cursor), _kind(cursor), cursor.number("Q")
    alignment = file.integer("general.alignment", _ALIGNMENT)
    if alignment % 8 or alignment & (alignment - 1) or not 0 < alignment <= _LARGEST_ALIGNMENT:
        raise UserError(f"it is {alignment}", where=file.where("general.alignment"),
                        expected=f"a power of two from 8 to {_LARGEST_ALIGNMENT}")  # fmt: skip
    first = -(-cursor.at // alignment) * alignment
    for name, (shape, kind, offset) in entries.items():
        yield name, _placed(shape, kind, offset, first, alignment, len(cursor.data), file.where(name))


def _shape(cursor: _Cursor) -> tuple[int, ...]:
    dimensions = cursor.number("I")
    if not 0 < dimensions <= _DIMENSIONS:
        raise UserError(f"a tensor of {dimensions} dimensions", where=cursor.where, expected=f"1 to {_DIMENSIONS}")
    return tuple(cursor.number("Q") for _ in range(dimensions))[::-1]


def _kind(cursor: _Cursor) -> str:
    number = cursor.number("I")
    kind = _KIND_IDS.get(number, f"the unknown type {number}")
    if kind not in KINDS:
        raise UserError(f"stored as {kind}", where=cursor.where, expected=", ".join(KINDS))
    return kind


def _placed(shape: tuple[int, ...], kind: str, offset: int, first: int, alignment: int, end: int, where: str) -> Stored:
    """Return where a tensor lies; raises a `UserError` where it cannot lie there."""
    values, size = KINDS[kind]
    if shape[-1] % values:
        raise UserError(f"{shape[-1]} columns stored as {kind}", where=where, expected=f"a multiple of {values}")
    numbers = 1
    for length in shape:  # of Python's integers: the product of four hostile ones has 256 bits
        numbers *= length
    stored = Stored(shape, kind, first + offset, numbers // values * size)
    if not numbers:
        raise UserError(f"the shape {list(shape)}", where=where, expected="one number or more")
    if offset % alignment:
        raise UserError(f"the data begins at offset {offset}", where=where, expected=f"a multiple of {alignment}")
    if stored.start + stored.size > end:
        raise UserError(f"the data would end at byte {stored.start + stored.size}, and the file ends at {end}",
                        where=where, expected="a complete GGUF file", hint="fetch it again")  # fmt: skip
    return stored


def _refuse_overlap(file: GGUFFile) -> None:
    """Raise a `UserError` for two tensors that share bytes."""
    ordered = sorted(file.tensors.items(), key=lambda item: item[1].start)
    for (name, stored), (other, following) in pairwise(ordered):
        if stored.start + stored.size > following.start:
            raise UserError(f"its data overlaps that of {other:.200}", where=file.where(name),
                            expected="tensors apart from each other")  # fmt: skip
