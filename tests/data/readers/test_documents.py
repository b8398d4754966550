"""Readers: read = yielded + quarantined for every damage, and the user's mistakes named."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from qwenkit import compression
from qwenkit.data import build_corpus
from qwenkit.data.readers import json_files
from qwenkit.data.readers.documents import Document, Source, read_documents, read_source_split, source_splits
from qwenkit.errors import UserError
from qwenkit.records import Quarantine


def read(source: Source) -> tuple[list[Document], Counter[str]]:
    quarantine = Quarantine()
    return list(read_documents(source, quarantine)), quarantine.counts


def response(
    url: str, body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", extra: str = ""
) -> bytes:
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}\r\n".encode() + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{url}>\r\nWARC-Target-URI: http://{url}/\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)


def test_jsonl_bad_lines_go_to_quarantine(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one", "id": "a"}',
        b'{"text": "tw',
        b'{"id": "b"}',
        b'{"text": 5}',
        b'{"text": "\xff"}',
        b"[1]",
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b'\n{"text": "last"}\n')
    documents, bad = read(Source("s", tmp_path / "x.jsonl"))
    assert [(d.id, d.body) for d in documents] == [("a", "one"), ("x.jsonl:7", "last")]
    assert bad.total() == 5 and bad["no key 'text'"] == 1 and bad["not a text in key 'text'"] == 1


def test_cut_gzip_gives_its_whole_lines(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"line {n} {n * 7919}"}) + "\n" for n in range(2000)).encode()
    whole = gzip.compress(rows)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    documents, bad = read(Source("s", tmp_path / "x.jsonl.gz"))
    assert 500 < len(documents) < 1500
    assert bad.total() >= 1
    assert all(d.body == f"line {n} {n * 7919}" for n, d in enumerate(documents))


def test_parquet_and_its_damage(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"id": str(n), "text": f"text {n}", "licence": "CC0"} for n in range(10)])
    pq.write_table(table, tmp_path / "x.parquet")
    documents, bad = read(Source("s", tmp_path / "x.parquet"))
    assert len(documents) == 10 and not bad and documents[3].fields == {"licence": "CC0"}
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-20])
    documents, bad = read(Source("s", tmp_path / "x.parquet"))
    assert documents == [] and bad == {"truncated file": 1}


def test_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.txt").write_text("zed")
    (tmp_path / "a.md").write_text("﻿first", encoding="utf-8")
    (tmp_path / "c.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    documents, bad = read(Source("s", tmp_path))
    assert [(d.id, d.body) for d in documents] == [("a.md", "first"), ("b/z.txt", "zed")]
    assert bad == {"invalid UTF-8": 1, "a file of unknown type": 1}


def test_what_is_not_read_of_a_folder_is_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sub/rows.jsonl", ".git", "closed"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sub/rows.jsonl/a.txt").write_text("A text below a folder that is called like a file.")
    for name in ("sub/x.pdf", "README", ".git/a.txt", "closed/b.txt", "locked.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    (tmp_path / "sub/loop").symlink_to("..")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / os.fsdecode(b"caf\xe9.pdf")).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path))
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: _refused(path) if str(path).endswith("closed") else real(path))
    quarantine = Quarantine()
    found = [document.id for document in read_documents(Source("s", tmp_path), quarantine)]
    assert found == ["sub/rows.jsonl/a.txt"]
    assert {row["sample"]: row["reason"] for row in quarantine.rows} == {
        "sub/x.pdf": "a file of unknown type",
        "README": "a file of unknown type",
        "caf\ufffd.pdf": "a file of unknown type",
        ".git": "a hidden folder",
        "closed": "a folder that cannot be opened",
        "locked.txt": "a file that may not be read",
        "dangling.txt": "a link to nothing",
        "circle.txt": "a link to nothing",
        "sub/loop": "a link to a folder",
        "pipe.txt": "no plain file",
    }
    result = build_corpus([Source("s", tmp_path)])
    assert result.funnel[0] == {"step": "read", "rule": "quarantined", "dropped": 10, "left": 1}


def test_texts_in_utf_16(tmp_path: Path) -> None:
    text = "The town hall — forty miles away."
    for name, data in (("a", text.encode("utf-16")), ("b", text.encode("utf-16-be")), ("c", b"\xff\xfe\x00\xd8")):
        (tmp_path / f"{name}.txt").write_bytes(data)
    documents, bad = read(Source("s", tmp_path))
    assert [d.body for d in documents] == [text, text] and bad == {"invalid UTF-16": 1}


def _refused(path: str) -> None:
    raise PermissionError(13, "Permission denied", path)


ROWS = [{"text": f'row {n}, [with] {{marks}} and \\"}} quotes', "n": [n, {"a": "]"}]} for n in range(5)]


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\ufeff\n " + json.dumps(ROWS, indent="\t"),
        "[" + ",\n".join(map(json.dumps, ROWS)) + "]\n",
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\n".join(map(json.dumps, ROWS)),
    ],
    ids=["list", "pretty", "mark", "list of lines", "objects", "lines"],
)
@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst"])
@pytest.mark.parametrize("block", [1 << 20, 30])
def test_a_json_file_is_what_it_is(
    tmp_path: Path, written: str, suffix: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = gzip.compress if suffix.endswith("gz") else zstandard.compress if suffix.endswith("zst") else bytes
    (tmp_path / f"x{suffix}").write_bytes(pack(written.encode()))
    monkeypatch.setattr(json_files, "BLOCK", block)
    monkeypatch.setattr(compression, "BLOCK", block)
    documents, bad = read(Source("s", tmp_path / f"x{suffix}"))
    assert [d.body for d in documents] == [row["text"] for row in ROWS] and not bad
    assert documents[2].place == f"x{suffix}:3" or written.startswith("\ufeff")


def test_damage_in_a_json_file_is_told_once(tmp_path: Path) -> None:
    good, path = json.dumps(ROWS, indent=1), tmp_path / "x.json"
    for broken, kept, reasons in (
        (good[:-60], 4, {"broken JSON, not read beyond": 1}),
        (good.replace('"row 2', 'row 2"'), 2, {"broken JSON, not read beyond": 1}),
        (good.replace("row 2", "row \udcff"), 4, {"invalid UTF-8": 1}),
        (
            good.replace('"text": "row 2', '"txt": "row 2'),
            4,
            {"no key 'text', but a text in 'txt' (name it in `text_keys`)": 1},
        ),
        (
            "[1, null, " + good[1:],
            5,
            dict.fromkeys((f"{x} where an object was expected" for x in ("a number", "null")), 1),
        ),
        ("[" * 100_000, 0, {"broken JSON, not read beyond": 1}),
        ('{"text": "cut\n' + json.dumps(ROWS[0]), 1, {"broken JSON": 1}),
    ):
        path.write_bytes(broken.encode("utf-8", "surrogateescape"))
        documents, bad = read(Source("s", path))
        assert (len(documents), bad) == (kept, reasons)


def test_a_disk_that_fails_is_named_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    path.write_text("A text.")

    def fails(*_: object) -> Iterator[bytes]:
        yield b"A "
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(compression, "blocks", fails)
    with pytest.raises(UserError, match=r"x\.txt: the file cannot be read \(Input/output error\)"):
        build_corpus([Source("s", path)])


def test_warc_pages_and_what_is_none(tmp_path: Path) -> None:
    chunked = b"5\r\n<p>AB\r\n4\r\n</p>\r\n0\r\n\r\n"
    records = [
        response("one", b"<p>one</p>"),
        response("gone", b"", status="404 Not Found"),
        response("image", b"\x89PNG", kind="image/png"),
        response("zip", gzip.compress(b"<p>zipped</p>"), extra="Content-Encoding: gzip\r\n"),
        response("liar", b"<p>plain</p>", extra="Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        response("chunks", chunked, extra="Transfer-Encoding: chunked\r\n"),
        response("deflate", zlib.compress(b"<p>deflated</p>"), extra="Content-Encoding: deflate\r\n"),
        response("packed", b"\x1f\x9d\x90<\xe0\xc1\x83\x05", extra="Content-Encoding: compress\r\n"),
        response("unpacked", "<p>déjà</p>".encode("latin-1"), extra="Content-Encoding: br\r\n"),
        response("gbk", "<p>你好</p>".encode("gbk"), kind='text/html; charset="GBK"'),
    ]
    (tmp_path / "x.warc.gz").write_bytes(b"".join(records))
    documents, bad = read(Source("s", tmp_path / "x.warc.gz", "html"))
    assert [d.body for d in documents[:4]] == [b"<p>one</p>", b"<p>zipped</p>", b"<p>plain</p>", b"<p>AB</p>"]
    assert (documents[0].id, documents[0].url, documents[-1].charset) == ("one", "http://one/", "GBK")
    assert [d.body for d in documents[4:6]] == [b"<p>deflated</p>", b"<p>d\xe9j\xe0</p>"]
    assert bad == {"HTTP status is not 200": 1, "not a text page": 1, "a page packed in a way that is not read": 1}


@pytest.mark.parametrize("lost", [5, 40, 150])
def test_cut_warc_quarantines_its_last_record(tmp_path: Path, lost: int) -> None:
    data = b"".join(response(f"page{n}", b"<p>" + bytes(str(n * 7919), "ascii") * 60 + b"</p>") for n in range(5))
    (tmp_path / "x.warc.gz").write_bytes(data[:-lost])
    documents, bad = read(Source("s", tmp_path / "x.warc.gz", "html"))
    assert len(documents) + bad.total() == 5 or lost < 20  # the last bytes only close the member
    assert len(documents) >= 4


def test_real_warc_files(real_data: Path) -> None:
    for name, pages in (("sample-0000", 24), ("sample-0001", 17), ("warcfile", 16), ("clueweb-quirk", 29)):
        documents, bad = read(Source("s", real_data / "warc_samples" / f"{name}.warc.gz", "html"))
        assert (len(documents), bad.total()) == (pages, 0), name


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (lambda p: Source("s", p / "pagse.jsonl"), "no such file or folder"),
        (lambda p: Source("s", p / "empty"), "no readable file in this folder"),
        (lambda p: Source("s", p / "empty.jsonl"), "no document in this source"),
        (lambda p: Source("s", p / "x.docx"), "unknown file type 'x.docx'"),
        (lambda p: Source("s", p, kind="htlm"), "unknown kind 'htlm'"),
        (lambda p: Source("s", p, weight=0), "weight 0"),
    ],
)
def test_mistakes_of_the_user(tmp_path: Path, source, what: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty.jsonl", "pages.jsonl", "x.docx"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=what) as error:
        read(source(tmp_path))
    if "pagse" in str(error.value):
        assert error.value.nearest == "pages.jsonl"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("last", [False, True])
def test_a_member_whose_first_bytes_are_damaged_is_told(tmp_path: Path, suffix: str, last: bool) -> None:
    pack = gzip.compress if suffix == ".gz" else zstandard.compress
    first, second, third = (pack(f'{{"text": "row {n}"}}\n'.encode()) for n in range(3))
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(first + b"\1" + second[1:] + (b"" if last else third))
    quarantine = Quarantine()
    found = [document.body for document in read_documents(Source("rows", path), quarantine)]
    assert found == ["row 0"] + ["row 2"] * (not last)
    assert [(row["reason"], row["offset"]) for row in quarantine.rows] == [("damaged file", len(first))]


@pytest.mark.parametrize(
    ("suffix", "filling"),
    [(".gz", bytes(5)), (".zst", bytes(5)), (".zst", b"\x50\x2a\x4d\x18\3\0\0\0abc")],
)
def test_what_holds_nothing_may_stand_between_members(tmp_path: Path, suffix: str, filling: bytes) -> None:
    pack = gzip.compress if suffix == ".gz" else zstandard.compress
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(pack(b'{"text": "one"}\n') + filling + pack(b'{"text": "two"}\n') + filling)
    quarantine, source = Quarantine(), Source("rows", path)
    for size in (1, 1 << 20):
        parts = source_splits(source, size)
        found = [document.body for part in parts for document in read_source_split(part, source, quarantine)]
        assert (found, quarantine.rows) == (["one", "two"], [])


def test_a_damaged_first_byte_of_a_packed_record_is_told(tmp_path: Path) -> None:
    record = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n"
    member, path, quarantine = gzip.compress(record), tmp_path / "pages.warc.gz", Quarantine()
    path.write_bytes(member + b"\1" + member[1:] + member)
    assert len(list(read_documents(Source("pages", path, "html"), quarantine))) == 2
    assert [(row["reason"], row["offset"]) for row in quarantine.rows] == [("damaged WARC member", len(member))]


def test_a_text_may_be_made_of_several_columns_and_of_messages(tmp_path: Path) -> None:
    rows = [
        {"question": "What is it?", "answer": "A harbour.", "id": "a"},
        {"question": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "answer": "x"},
        {"question": "What?", "answer": 3},
        {"question": "What?"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    quarantine = Quarantine()
    source = Source("s", path, "instruction", text_keys=("question", "answer"))
    found = list(read_documents(source, quarantine))
    assert [document.body for document in found] == ["What is it?\n\nA harbour.", "Hi\n\nHello\n\nx"]
    assert quarantine.counts == {"not a text in key 'answer'": 1, "no key 'answer'": 1}
