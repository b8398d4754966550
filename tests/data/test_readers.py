"""Readers: read = yielded + quarantined for every damage, and the user's mistakes named."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenkit.data.readers import Document, Source, read_documents
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
    assert bad == {"invalid UTF-8": 1}


def test_warc_pages_and_what_is_none(tmp_path: Path) -> None:
    chunked = b"5\r\n<p>AB\r\n4\r\n</p>\r\n0\r\n\r\n"
    records = [
        response("one", b"<p>one</p>"),
        response("gone", b"", status="404 Not Found"),
        response("image", b"\x89PNG", kind="image/png"),
        response("zip", gzip.compress(b"<p>zipped</p>"), extra="Content-Encoding: gzip\r\n"),
        response("liar", b"<p>plain</p>", extra="Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        response("chunks", chunked, extra="Transfer-Encoding: chunked\r\n"),
        response("gbk", "<p>你好</p>".encode("gbk"), kind='text/html; charset="GBK"'),
    ]
    (tmp_path / "x.warc.gz").write_bytes(b"".join(records))
    documents, bad = read(Source("s", tmp_path / "x.warc.gz", "html"))
    assert [d.body for d in documents[:4]] == [b"<p>one</p>", b"<p>zipped</p>", b"<p>plain</p>", b"<p>AB</p>"]
    assert (documents[0].id, documents[0].url, documents[4].charset) == ("one", "http://one/", "GBK")
    assert bad == {"HTTP status is not 200": 1, "not a text page": 1}


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
