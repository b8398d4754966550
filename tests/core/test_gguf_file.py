"""The header of a GGUF file: read as it is, and every lie in it refused by file and key, without taking memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenkit import gguf_file
from qwenkit.errors import UserError
from qwenkit.gguf_file import GGUFFile, is_gguf, only_gguf, read_gguf
from tests.gguf_files import entry, file_bytes, header, info, string, value

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
SETTINGS: dict[str, Any] = {"general.architecture": "qwen2", "a.count": 3, "a.share": 1e-6, "a.on": True,
                            "a.names": ["x", "é", ""], "a.kinds": [1, -2, 3]}  # fmt: skip


def written(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "m.gguf").write_bytes(data)
    return tmp_path / "m.gguf"


def message(path: Path, call: Callable[[Path], object] = read_gguf) -> str:
    with pytest.raises(UserError) as caught:
        call(path)
    return str(caught.value).replace(str(path), "FILE")


def test_settings_and_tensors_come_as_they_were_written(tmp_path: Path) -> None:
    tensors = {"w": ("F32", ROWS), "v": ("F16", np.ones(4, np.float16))}
    file = read_gguf(written(tmp_path, file_bytes(SETTINGS, tensors)))
    assert list(file) == list(SETTINGS) and "a.on" in file and "a.off" not in file
    assert (file.text("general.architecture"), file.integer("a.count"), file.flag("a.on")) == ("qwen2", 3, True)
    assert file.number("a.share") == 1e-6 and file.number("a.count") == 3.0
    assert file.texts("a.names") == ["x", "é", ""] and file.integers("a.kinds") == [1, -2, 3]
    assert (file.integer("none", 7), file.text("none", "x"), file.flag("none", False)) == (7, "x", False)
    assert (file.tensors["w"].shape, file.tensors["v"].shape) == ((2, 3), (4,))
    assert np.array_equal(np.frombuffer(file.view("w"), np.float32), ROWS.ravel())
    file.release("w")
    assert bytes(file.view("v")) == np.ones(4, np.float16).tobytes()


def test_changing_what_was_mapped_leaves_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, file_bytes({}, {"w": ("F32", ROWS)}))
    before = path.read_bytes()
    np.frombuffer(read_gguf(path).view("w"), np.float32)[:] = 9
    assert path.read_bytes() == before


def test_a_file_is_known_by_its_name_or_its_beginning(tmp_path: Path) -> None:
    path = written(tmp_path, file_bytes({}, {}))
    blob = path.rename(tmp_path / "blob")
    assert is_gguf(blob) and is_gguf(tmp_path / "not-there.gguf")
    assert not is_gguf(tmp_path) and not is_gguf(tmp_path / "not-there")
    assert only_gguf(tmp_path) is None
    (tmp_path / "one.gguf").write_bytes(blob.read_bytes())
    assert only_gguf(tmp_path) == tmp_path / "one.gguf"
    (tmp_path / "config.json").write_text("{}")
    assert only_gguf(tmp_path) is None


TYPED = [
    (lambda file: file.text("a.count"), "FILE, a.count: it is 3\n  expected: a string"),
    (lambda file: file.integer("a.on"), "FILE, a.on: it is True\n  expected: an integer"),
    (lambda file: file.number("a.names"), "FILE, a.names: it is an array of 3\n  expected: a number"),
    (lambda file: file.flag("a.count"), "FILE, a.count: it is 3\n  expected: true or false"),
    (lambda file: file.texts("a.kinds"), "FILE, a.kinds: it is an array of 3\n  expected: an array of strings"),
    (lambda file: file.integers("a.names"), "FILE, a.names: it is an array of 3\n  expected: an array of integers"),
    (lambda file: file.scalar("a.names"), "FILE, a.names: it is an array of 3\n  expected: one value"),
    (lambda file: file.text("b.name"), "FILE: b.name is missing"),
]


@pytest.mark.parametrize(("ask", "expected"), TYPED)
def test_a_setting_of_another_type_is_named(ask: Callable[[GGUFFile], object], expected: str, tmp_path: Path) -> None:
    path = written(tmp_path, file_bytes(SETTINGS, {}))
    assert message(path, lambda path: ask(read_gguf(path))) == expected


F32, Q4_0, Q8_K = 0, 2, 15
WHOLE = "\n  expected: a complete GGUF file\n  hint: fetch it again"
ONE = [entry("a", value(1))]


def array(kind: int, count: int, rest: bytes = b"") -> bytes:
    """An array with a count that may be a lie."""
    return struct.pack("<IIQ", 9, kind, count) + rest


def placed(*infos: bytes, data: int = 64) -> bytes:
    head = header(ONE, list(infos))
    return head + bytes(-len(head) % 32) + bytes(data)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "FILE: not a GGUF file: it begins with b''\n  expected: GGUF 2 or 3"),
    "another file": (
        b"PK\x03\x04" * 9,
        "FILE: not a GGUF file: it begins with b'PK\\x03\\x04'\n  expected: GGUF 2 or 3",
    ),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "FILE: a git-lfs pointer, not the file itself\n  hint: git lfs pull",
    ),
    "version 1": (
        header(ONE, [], version=1),
        "FILE: GGUF version 1\n  expected: 2 or 3\n  hint: convert the model again with a present llama.cpp",
    ),
    "big-endian": (
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "FILE: a big-endian GGUF file\n  expected: a little-endian one",
    ),
    "cut in the first bytes": (header(ONE, [])[:20], f"FILE, its header: the file ends here{WHOLE}"),
    "cut in a key": (header(ONE, [])[:29], f"FILE, setting 1 of 1: the file ends here{WHOLE}"),
    "cut in a value": (header(ONE, [])[:-2] + b"", f"FILE, a: the file ends here{WHOLE}"),
    "many tensors": (
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0),
        "FILE: the header says that there are 1152921504606846976 tensors\n"
        "  expected: at most 65536, and as many as the file holds",
    ),
    "many settings": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 50) + bytes(64),
        "FILE: the header says that there are 50 settings\n  expected: at most 65536, and as many as the file holds",
    ),
    "a key twice": (header(ONE * 2, []), "FILE, a: the key is there twice"),
    "a long key": (
        header([struct.pack("<Q", 2**20) + bytes(40)], []),
        "FILE, setting 1 of 1: a string of 1048576 bytes\n  expected: at most 65536",
    ),
    "a key that is not text": (
        header([entry("a", b"")[:8] + b"\xff" + bytes(9)], []),
        "FILE, setting 1 of 1: a string that is not UTF-8",
    ),
    "a huge string": (
        header([entry("a", struct.pack("<IQ", 8, 2**62))], []),
        "FILE, a: a string of 4611686018427387904 bytes\n  expected: at most 67108864",
    ),
    "a string beyond the file": (
        header([entry("a", struct.pack("<IQ", 8, 5000))], []),
        f"FILE, a: the file ends here{WHOLE}",
    ),
    "an unknown type of value": (
        header([entry("a", struct.pack("<IQ", 13, 0))], []),
        "FILE, a: a value of the unknown type 13",
    ),
    "a huge array": (
        header([entry("a", array(4, 2**60))], []),
        "FILE, a: an array of 1152921504606846976 items\n  expected: at most 4194304",
    ),
    "an array beyond the file": (header([entry("a", array(10, 2**22))], []), f"FILE, a: the file ends here{WHOLE}"),
    "an array of strings beyond the file": (
        header([entry("a", array(8, 3, string("x")))], []),
        f"FILE, a: the file ends here{WHOLE}",
    ),
    "nested arrays": (
        header([entry("a", array(9, 1, array(9, 1)))], []),
        "FILE, a: an array of arrays\n  expected: an array of numbers or strings",
    ),
    "an array of an unknown type": (
        header([entry("a", array(77, 1, bytes(8)))], []),
        "FILE, a: an array of the unknown type 77",
    ),
    "an odd alignment": (
        header([entry("general.alignment", value(24))], []),
        "FILE, general.alignment: it is 24\n  expected: a power of two from 8 to 65536",
    ),
    "no dimensions": (placed(info("w", (), F32, 0)), "FILE, w: a tensor of 0 dimensions\n  expected: 1 to 4"),
    "many dimensions": (
        placed(string("w") + struct.pack("<I", 2**31) + bytes(40)),
        "FILE, w: a tensor of 2147483648 dimensions\n  expected: 1 to 4",
    ),
    "nothing in it": (placed(info("w", (2, 0), F32, 0)), "FILE, w: the shape [2, 0]\n  expected: one number or more"),
    "a type that is not read": (
        placed(info("w", (2, 256), Q8_K, 0)),
        "FILE, w: stored as Q8_K\n  expected: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
    ),
    "an unknown type": (
        placed(info("w", (2, 256), 777, 0)),
        "FILE, w: stored as the unknown type 777\n"
        "  expected: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
    ),
    "half a block": (
        placed(info("w", (2, 40), Q4_0, 0)),
        "FILE, w: 40 columns stored as Q4_0\n  expected: a multiple of 32",
    ),
    "a tensor twice": (
        placed(info("w", (2, 2), F32, 0), info("w", (2, 2), F32, 32)),
        "FILE, w: the tensor is there twice",
    ),
    "an odd offset": (
        placed(info("w", (2, 2), F32, 4)),
        "FILE, w: the data begins at offset 4\n  expected: a multiple of 32",
    ),
    "an offset beyond the file": (
        placed(info("w", (2, 2), F32, 2**40)),
        f"FILE, w: the data would end at byte 1099511627888, and the file ends at 160{WHOLE}",
    ),
    "data beyond the file": (
        placed(info("w", (2**31, 2**31, 2**31), F32, 0)),
        f"FILE, w: the data would end at byte 39614081257132168796771975264, and the file ends at 160{WHOLE}",
    ),
    "cut data": (
        placed(info("w", (4, 4), F32, 0), data=63),
        f"FILE, w: the data would end at byte 160, and the file ends at 159{WHOLE}",
    ),
    "overlap": (
        placed(info("w", (4, 4), F32, 0), info("v", (2, 2), F32, 32)),
        "FILE, w: its data overlaps that of v\n  expected: tensors apart from each other",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_lie_in_the_header_is_refused(name: str, tmp_path: Path) -> None:
    data, expected = BAD[name]
    path = written(tmp_path, data)
    tracemalloc.start()
    try:
        assert message(path) == expected
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_missing_file_and_a_header_beyond_the_limit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message(tmp_path / "no.gguf") == "FILE: no such file\n  expected: a GGUF file"
    monkeypatch.setattr(gguf_file, "HEADER_BYTES", 2**20)
    path = written(tmp_path, header([entry("a", array(0, 2**21, bytes(2**21)))], []))
    assert message(path) == "FILE, a: the header is larger than 1 MB"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    healthy = file_bytes(SETTINGS, {"w": ("F32", ROWS)})
    end = len(healthy) - 8  # the last bytes only fill up the block
    for length in range(end):
        path = written(tmp_path, healthy[:length])
        with pytest.raises(UserError):
            read_gguf(path)


def test_flipped_bytes_of_a_header_are_read_or_refused(tmp_path: Path) -> None:
    healthy = file_bytes(SETTINGS, {"w": ("F32", ROWS), "v": ("F32", ROWS)})
    rng, refused = random.Random(7), 0
    for _ in range(600):
        data = bytearray(healthy)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data) - 64)] = rng.randrange(256)
        path = written(tmp_path, bytes(data))
        try:
            file = read_gguf(path)
        except UserError:
            refused += 1
            continue
        assert sum(len(file.view(name)) for name in file.tensors) <= len(data)
    assert 300 < refused < 600
