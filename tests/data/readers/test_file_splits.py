"""Parts of files: read apart they are the whole, whatever their size; damage costs the record that it names."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from qwenkit import compression
from qwenkit.data import build_corpus
from qwenkit.data.readers import remote, text_lines
from qwenkit.data.readers.documents import Source, read_documents, read_source_split, source_splits
from qwenkit.errors import UserError
from qwenkit.records import Quarantine
from tests.data.readers.test_documents import response

ROWS = [{"text": f"row {n} 第{n}行 " + "x" * (n % 97)} for n in range(500)]


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_all(folder: Path) -> list[Source]:
    data = jsonl(ROWS)
    (folder / "plain.jsonl").write_bytes(data)
    (folder / "open-end.jsonl").write_bytes(data[:-1])
    (folder / "one.jsonl.gz").write_bytes(gzip.compress(data))
    frames = [zstandard.compress(data[at : at + 1000]) for at in range(0, len(data), 1000)]  # cut within lines
    (folder / "frames.jsonl.zst").write_bytes(b"".join(frames))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=30)
    pages = [response(f"p{n}", b"<p>" + row["text"].encode()) for n, row in enumerate(ROWS)]
    (folder / "pages.warc.gz").write_bytes(b"".join(pages))
    (folder / "pages.warc").write_bytes(b"".join(map(gzip.decompress, pages)))
    (folder / "pages.warc.zst").write_bytes(b"".join(zstandard.compress(gzip.decompress(page)) for page in pages))
    (folder / "many").mkdir()
    for n, row in enumerate(ROWS[:50]):
        (folder / "many" / f"{n:03}.txt").write_text(row["text"], encoding="utf-8")
    html = {"pages.warc", "pages.warc.gz", "pages.warc.zst"}
    return [Source(p.name, p, "html" if p.name in html else "text") for p in sorted(folder.iterdir())]


@pytest.mark.parametrize("size", [1, 700, 5_000, 1 << 30])
def test_parts_are_the_whole(tmp_path: Path, size: int) -> None:
    for source in write_all(tmp_path):
        quarantine = Quarantine()
        whole = [(d.id, d.body, d.place) for d in read_documents(source, quarantine)]
        parts = source_splits(source, size)
        apart = [(d.id, d.body, d.place) for part in parts for d in read_source_split(part, source, quarantine)]
        assert apart == whole and len(whole) == (50 if source.name == "many" else 500), source.name
        assert not quarantine and (size > 700 or source.name == "one.jsonl.gz" or len(parts) > 2)


def damaged(data: bytes, at: int, length: int = 30) -> bytes:
    return data[:at] + b"\x00" * length + data[at + length :]


def read(path: Path, kind: str = "text") -> tuple[list[str], Counter[str]]:
    quarantine = Quarantine()
    found = [
        d.body if isinstance(d.body, str) else d.body.decode()
        for d in read_documents(Source("s", path, kind), quarantine)
    ]
    return found, quarantine.counts


def test_a_corrupt_gzip_member_costs_only_itself(tmp_path: Path) -> None:
    members = [gzip.compress(jsonl(ROWS[n : n + 100])) for n in range(0, 500, 100)]
    (tmp_path / "x.jsonl.gz").write_bytes(b"".join([*members[:2], damaged(members[2], 200), *members[3:]]))
    texts, bad = read(tmp_path / "x.jsonl.gz")
    assert bad["damaged file"] == 1 and {row["text"] for row in ROWS[:200] + ROWS[300:]} <= set(texts)
    pages = [response(f"p{n}", b"<p>" + b"abc %d" % n * 50) for n in range(5)]
    (tmp_path / "x.warc.gz").write_bytes(b"".join([*pages[:2], damaged(pages[2], 100), *pages[3:]]))
    texts, bad = read(tmp_path / "x.warc.gz", "html")
    assert len(texts) == 4 and bad == {"damaged WARC member": 1}


def test_a_plain_archive_cut_within_a_record_or_broken_in_one(tmp_path: Path) -> None:
    pages = [gzip.decompress(response(f"p{n}", b"<p>page %d</p>" % n)) for n in range(5)]
    (tmp_path / "cut.warc").write_bytes(b"".join(pages)[:-20])
    assert len(read(tmp_path / "cut.warc", "html")[0]) == 4 and read(tmp_path / "cut.warc", "html")[1].total() == 1
    broken = pages[2].replace(b"Content-Length", b"Content-Lenght")
    (tmp_path / "broken.warc").write_bytes(b"".join([*pages[:2], broken, *pages[3:]]))
    texts, bad = read(tmp_path / "broken.warc", "html")
    assert len(texts) == 4 and bad == {"no length of the WARC record": 1}


def test_a_huge_line_is_skipped_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "MAX_RECORD", 100_000)
    monkeypatch.setattr(compression, "BLOCK", 10_000)
    data = jsonl(ROWS[:3]) + b'{"text": "' + b"a" * 2_000_000 + b'"}\n' + jsonl(ROWS[3:6])
    for name, packed in (
        ("a.jsonl", data),
        ("b.jsonl.gz", gzip.compress(data)),
        ("c.jsonl.zst", zstandard.compress(data)),
    ):
        (tmp_path / name).write_bytes(packed)
        texts, bad = read(tmp_path / name)
        assert texts == [row["text"] for row in ROWS[:6]] and bad == {text_lines.TOO_LONG: 1}, name


def test_zero_bytes_and_mixed_encodings(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b"\x00" * 50,
        b'{"text": "a\x00b"}',
        '{"text": "caf\xe9"}'.encode("latin-1"),
        b'{"text": "end"}',
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    texts, bad = read(tmp_path / "x.jsonl")
    assert texts == ["good", "end"] and bad == {"broken JSON": 2, "invalid UTF-8": 1}


def test_decompression_bombs_in_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenkit.data.readers.warc_pages.MAX_RECORD", 100_000)
    bomb = response("bomb", gzip.compress(b"0" * 1_000_000), extra="Content-Encoding: gzip\r\n")
    (tmp_path / "x.warc.gz").write_bytes(response("a", b"<p>a") + bomb + response("b", b"<p>b"))
    texts, bad = read(tmp_path / "x.warc.gz", "html")
    assert texts == ["<p>a", "<p>b"] and bad == {text_lines.TOO_LONG: 1}


def test_remote_paths_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot be fetched"):
        list(read_documents(Source("web", "hf://datasets/qwenkit-no-such/no-such-set"), Quarantine()))


@pytest.mark.parametrize("name", ["a.jsonl", "", "sub"])
def test_stores_are_copied_to_disk_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    store, asked = tmp_path / "store", []
    (store / "sub").mkdir(parents=True)
    (store / "a.jsonl").write_text('{"text": "A row."}')
    (store / "sub/b.txt").write_text("A text.")

    def from_uri(uri: str) -> tuple[fs.FileSystem, str]:
        asked.append(uri)
        return fs.LocalFileSystem(), str(store / uri.partition("?")[0].removeprefix("gs://bucket/"))

    monkeypatch.setattr(remote, "_opened", from_uri)
    monkeypatch.setenv("QWENKIT_CACHE", str(tmp_path / "cache"))
    source = Source("web", f"gcs://bucket/{name}")
    found = [[document.body for document in read_documents(source, Quarantine())] for _ in range(2)]
    assert found[0] == found[1] == {"a.jsonl": ["A row."], "": ["A row.", "A text."], "sub": ["A text."]}[name]
    assert asked == [f"gs://bucket/{name}"]


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    monkeypatch.setattr(fs, "copy_files", lambda *_, **__: open(tmp_path / "no" / "such"))  # noqa: SIM115
    monkeypatch.setattr(remote, "_opened", lambda _: (fs.LocalFileSystem(), str(tmp_path)))
    monkeypatch.setenv("QWENKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cannot be fetched .*No such file") as error:
        list(read_documents(Source("web", "s3://bucket/a"), Quarantine()))
    assert error.value.where == "source web: s3://bucket/a" and not list((tmp_path / "cache").iterdir())


def test_a_part_of_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("A text.")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    source = Source("web", "hf://datasets/org/name/data/")
    assert [document.id for document in read_documents(source, Quarantine())] == ["a.txt"]
    assert {str(call) for call in asked} == {
        "(('org/name',), {'repo_type': 'dataset', 'allow_patterns': ['data', 'data/*']})"
    }


def test_a_name_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the name of a data set"):
        list(read_documents(Source("web", "hf://datasets/org"), Quarantine()))


def test_archives_with_plain_ends_of_lines_are_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    head = b"WARC/1.0\nWARC-Type: resource\nContent-Type: text/html\nContent-Length: 11\n\n"
    path.write_bytes((head + b"<p>Page</p>\n\n") * 3)
    source = Source("a", path, "html")
    whole = [document.place for document in read_documents(source, Quarantine())]
    for size in range(20, path.stat().st_size):
        parts = source_splits(source, size)
        assert [d.place for part in parts for d in read_source_split(part, source, Quarantine())] == whole, size


def test_an_empty_frame_within_a_line(tmp_path: Path) -> None:
    data, pack = jsonl([{"text": f"row {n}"} for n in range(4)]), zstandard.ZstdCompressor().compress
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(pack(data[:25]) + pack(b"") + pack(data[25:]))
    quarantine, source = Quarantine(), Source("a", path)
    assert len([d for part in source_splits(source, 1) for d in read_source_split(part, source, quarantine)]) == 4
    assert not quarantine


def test_an_archive_packed_as_a_whole_has_equal_places(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(b"".join(gzip.decompress(response(f"page-{n}", b"<p>Page</p>")) for n in range(4))))
    assert build_corpus([Source("a", path, "html")]).sources["a"]["read"] == 4
