"""Pages of web archives: encodings undone where the bytes bear them out, types that lie, lengths nobody believes."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from pathlib import Path

import brotli
import pytest
import zstandard

from qwenkit.data.pipeline.steps import text_of
from qwenkit.data.readers import warc, warc_pages
from qwenkit.data.readers.documents import Source, read_documents, read_source_split, source_splits
from qwenkit.data.readers.warc import Record
from qwenkit.records import Quarantine

PAGE = b"<html><body>" + b"".join(
    b"<p>Dear friends, house %d of the old street was built by people whose names are known.</p>" % n for n in range(40)
)


def page(body: bytes, *headers: str, kind: str = "text/html; charset=utf-8") -> warc_pages.Page | str:
    head = "\r\n".join(["HTTP/1.1 200 OK", *([f"Content-Type: {kind}"] if kind else []), *headers])
    return warc_pages.page(Record({"warc-type": "response"}, head.encode() + b"\r\n\r\n" + body))


def body(*given: str | bytes) -> bytes:
    found = page(*given)  # type: ignore[arg-type]
    assert not isinstance(found, str), found
    return found.body


def raw_deflate(data: bytes) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    return pack.compress(data) + pack.flush()


def chunked(data: bytes, size: int = 700, end: bytes = b"0\r\n\r\n") -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x;a=b\r\n" % len(part) + part + b"\r\n" for part in parts) + end


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        (gzip.compress(PAGE), "gzip"),
        (gzip.compress(PAGE), "x-gzip"),
        (gzip.compress(PAGE), "identity"),  # and so is what nobody declares
        (gzip.compress(PAGE[:500]) + gzip.compress(PAGE[500:]), "gzip"),
        (zlib.compress(PAGE), "deflate"),
        (raw_deflate(PAGE), "deflate"),
        (raw_deflate(PAGE), "gzip"),
        (brotli.compress(PAGE), "br"),
        (zstandard.compress(PAGE), "zstd"),
        (brotli.compress(gzip.compress(PAGE)), "gzip, br"),
        (gzip.compress(gzip.compress(PAGE)), "gzip, gzip"),
        *((PAGE, name) for name in ("gzip", "deflate", "br", "zstd", "compress", "utf-8", "none", "")),
    ],
)
def test_an_encoding_is_undone_where_it_is_one(packed: bytes, name: str) -> None:
    assert body(packed, f"Content-Encoding: {name}") == PAGE
    assert body(chunked(packed), f"Content-Encoding: {name}", "Transfer-Encoding: chunked") == PAGE
    assert body(packed, f"Transfer-Encoding: {name}, chunked") == PAGE


def test_a_text_in_another_encoding_is_not_taken_for_packed() -> None:
    text = "Straße und Überfluß, ".encode("latin-1") * 30
    for name in ("gzip", "deflate", "br", "zstd", "compress"):
        assert body(text, f"Content-Encoding: {name}") == text


def test_what_is_packed_and_not_read_is_named() -> None:
    assert page(b"\x1f\x9d\x90\x8b\x12\x80\xff\xfe" * 9, "Content-Encoding: compress") == warc_pages.PACKED
    assert page(gzip.compress(PAGE)[:15] + b"\xff" * 400, "Content-Encoding: gzip") == warc_pages.BROKEN


def test_a_cut_body_gives_what_there_is() -> None:
    for packed in (gzip.compress(PAGE, 1), zlib.compress(PAGE, 1), raw_deflate(PAGE)):
        found = body(packed[: len(packed) // 2], "Content-Encoding: deflate")
        assert len(found) > 50 and PAGE.startswith(found)
    assert PAGE.startswith(body(chunked(PAGE)[:1000], "Transfer-Encoding: chunked"))


def test_frames_of_chunks_are_undone_only_where_they_are() -> None:
    text = b"Dear friends\r\n" + PAGE
    for given in (
        text,
        b"de\r\nax" * 60,
        b"12\r\nlines of a text that begins with a number",
        b"ffffffffffffffff\r\n" + PAGE,
    ):
        assert body(given, "Transfer-Encoding: chunked") == given
    assert body(chunked(PAGE)) == PAGE  # whole ones also where nobody declares them
    assert body(chunked(PAGE, end=b""), "Transfer-Encoding: chunked") == PAGE
    assert body(b"0\r\n\r\n", "Transfer-Encoding: chunked") == b""


@pytest.mark.parametrize("pack", [gzip.compress, brotli.compress, zstandard.compress, zlib.compress])
def test_bombs(pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc_pages, "MAX_RECORD", 100_000)
    name = {gzip.compress: "gzip", brotli.compress: "br", zstandard.compress: "zstd"}.get(pack, "deflate")
    assert page(pack(b"0" * 1_000_000), f"Content-Encoding: {name}") == warc_pages.TOO_LONG


CODE = b"for i in range(n):\n    if a[i] < a[i-1] and b > c:\n        swap(a, i)\n"


@pytest.mark.parametrize(
    ("kind", "data", "is_text"),
    [
        ("text/plain", CODE, True),
        ("text/markdown", CODE, True),
        ("text/html", CODE, True),  # there is no tag in it
        ("text/plain", b"<!DOCTYPE html>" + PAGE, False),
        ("text/html", PAGE, False),
        ("", PAGE, False),
        ("application/octet-stream", PAGE, False),
        ("application/xhtml+xml", PAGE, False),
        ("text/html", b"%PDF-1.4 \xff", None),
        ("text/html", b"\x89PNG\r\n", None),
        ("application/octet-stream", b"\x00\x01", None),
        ("image/png", PAGE, None),
        ("text/css", b"p { margin: 0 }", None),
        ("application/json", b"{}", None),
    ],
)
def test_a_type_is_believed_as_far_as_the_bytes_bear_it_out(kind: str, data: bytes, is_text: bool | None) -> None:
    found = page(data, kind=kind)
    assert found == warc_pages.NO_PAGE if is_text is None else not isinstance(found, str) and found.is_text == is_text


def record(number: int, text: bytes, length: int | None = None, kind: str = "response") -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + text
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nContent-Type: application/http\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def read(path: Path, size: int = 1 << 40) -> tuple[list[str], Counter[str]]:
    source, quarantine = Source("s", path, "html"), Quarantine()
    parts = source_splits(source, size)
    return [d.id for part in parts for d in read_source_split(part, source, quarantine)], quarantine.counts


@pytest.mark.parametrize("size", [0, 100, 1000, 5000])
@pytest.mark.parametrize("last", [False, True])
def test_a_record_that_quotes_records_is_one_whatever_the_parts(tmp_path: Path, size: int, last: bool) -> None:
    quoting = record(1, b"See:\r\n\r\n" + record(7, b"quoted") * 20 + b"as was said")
    rest = [] if last else [record(n, b"text %d" % n * 50) for n in range(2, 9)]
    (tmp_path / "a.warc").write_bytes(b"".join([record(0, b"zero" * 100), quoting, *rest]))
    assert read(tmp_path / "a.warc", size or 1 << 40) == ([str(n) for n in range(2 if last else 9)], {})


@pytest.mark.parametrize("length", [10**14, 10**17, -1])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_an_absurd_length_costs_its_own_record(tmp_path: Path, length: int, pack) -> None:
    records = [record(n, b"text %d" % n * 50, length if n == 2 else None) for n in range(5)]
    path = tmp_path / f"a.warc{ {bytes: '', gzip.compress: '.gz'}.get(pack, '.zst') }"
    for data in (pack(b"".join(records)), b"".join(map(pack, records))):
        path.write_bytes(data)
        found, bad = read(path)
        assert found == ["0", "1", "3", "4"] and bad.total() == 1


def test_an_archive_packed_as_one_member_is_read_through_a_window(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(warc, "MAX_RECORD", 20_000)
    monkeypatch.setattr("qwenkit.compression.BLOCK", 5_000)
    records = [record(n, b"%d " % n * (20_000 if n == 7 else 300)) for n in range(60)]
    whole = gzip.compress(b"".join(records))
    (tmp_path / "a.warc.gz").write_bytes(whole)
    found, bad = read(tmp_path / "a.warc.gz")
    assert found == [str(n) for n in range(60) if n != 7] and bad == {warc.TOO_LONG: 1}
    (tmp_path / "a.warc.gz").write_bytes(whole[: len(whole) // 2])
    found, bad = read(tmp_path / "a.warc.gz")
    assert 5 < len(found) < 50 and bad == {warc.TOO_LONG: 1, "truncated file": 1}


def test_records_that_are_no_pages(tmp_path: Path) -> None:
    kinds = ["warcinfo", "request", "metadata", "revisit", "continuation", "response"]
    (tmp_path / "a.warc").write_bytes(b"".join(record(n, b"text", kind=kind) for n, kind in enumerate(kinds)))
    bad = {"a revisit, whose page is elsewhere": 1, "a WARC record of no known type": 1}
    assert read(tmp_path / "a.warc") == (["5"], bad)
    endless = record(0, b"text").replace(b"\r\n\r\nHTTP", b"\r\nA: b" * 5000 + b"\r\n\r\nHTTP", 1)
    (tmp_path / "a.warc").write_bytes(endless + record(1, b"\0text"))
    assert read(tmp_path / "a.warc") == (["1"], {"no end of the headers of the WARC record": 1})


def test_wet_and_wat_names(tmp_path: Path) -> None:
    wet = record(1, b"").replace(b"response", b"conversion").replace(b"application/http", b"text/plain")
    for name in ("a.wet", "a.warc.wet", "a.warc.wet.gz"):
        (tmp_path / name).write_bytes(gzip.compress(wet) if name.endswith("gz") else wet)
        assert [split.kind for split in source_splits(Source("s", tmp_path / name), 1 << 30)] == ["web"]
        assert len(list(read_documents(Source("s", tmp_path / name), Quarantine()))) == 1
    wat = record(1, b"{}", kind="metadata").replace(b"application/http", b"application/json")
    (tmp_path / "a.warc.wat.gz").write_bytes(gzip.compress(wat))
    assert read(tmp_path / "a.warc.wat.gz") == ([], {"metadata of a page (WAT), and no page": 1})


def test_a_plain_text_keeps_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(record(0, CODE))
    source = Source("s", tmp_path / "a.warc", "html")
    (document,) = read_documents(source, Quarantine())
    assert text_of(source, document) == CODE.decode().strip()
