"""What is in a folder says what is read as what, and everything in it is told; rows of every form; packings."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from qwenkit import compression
from qwenkit.data import build_corpus
from qwenkit.data.pipeline.steps import text_of
from qwenkit.data.readers.documents import Source, read_documents, source_splits
from qwenkit.data.readers.sources import DESCRIPTION, UNKNOWN, source_files
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, read_jsonl
from tests.data.readers.test_documents import response

TEXT = "The town hall of the old harbour opens at nine, and the market closes at noon on every day but Sunday."
HTML = f"<!DOCTYPE html><html><body><p>{TEXT}</p></body></html>"
CODE = "import os\n\n\n\ndef name() -> str:\n    return os.name\n"
PACKS = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def read(path: Path, kind: str = "auto", **keys: Any) -> tuple[list[Any], Counter[str]]:
    quarantine = Quarantine()
    return list(read_documents(Source("s", path, kind, **keys), quarantine)), quarantine.counts


def fill(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


MIXED: dict[str, str | bytes] = {
    "a.html": HTML,
    "b/c.html.gz": gzip.compress(HTML.encode()),
    "saved page": HTML,  # wget names them so
    "about.php?id=3": "\ufeff\n<!-- saved -->\n" + HTML,
    "odd.txt": HTML,
    "crawl.warc.gz": response("one", HTML.encode()),
    "archive": response("two", HTML.encode()),
    "texts.warc.wet.gz": gzip.compress(
        b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n"
    ),
    "x.py": CODE,
    "y.R": "x <- 3\n",
    "note.md": TEXT,
    "rows.jsonl": json.dumps({"text": TEXT}) + "\n",
    "part-00000": json.dumps({"text": TEXT}) + "\n",
    "pages.jsonl": json.dumps({"html": HTML, "url": "http://a"}) + "\n",
    "table.csv": f"id,text\n1,{TEXT!r}\n".replace("'", '"'),
}
KINDS = {
    "html": {
        "a.html", "b/c.html.gz", "saved page", "about.php?id=3", "odd.txt", "crawl.warc.gz", "archive", "pages.jsonl",
    },
    "web": {"texts.warc.wet.gz"},
    "code": {"x.py", "y.R"},
    "text": {"note.md", "rows.jsonl", "part-00000", "table.csv"},
}  # fmt: skip


def test_a_file_is_of_the_kind_of_what_is_in_it(tmp_path: Path) -> None:
    fill(tmp_path, MIXED)
    pq.write_table(pa.table({"html": [HTML], "id": ["p"]}), tmp_path / "pages.parquet")
    files, unread = source_files(tmp_path, "s")
    found = {(file.kind, file.path.relative_to(tmp_path).as_posix()) for file in files}
    assert found == {(kind, name) for kind, names in KINDS.items() for name in names} | {("html", "pages.parquet")}
    assert not unread
    assert {file.kind for file in source_files(tmp_path, "s", "instruction")[0]} == {"instruction"}


def test_documents_are_made_by_their_kind_and_the_books_are_closed(tmp_path: Path) -> None:
    fill(tmp_path, {**MIXED, "README.md": "About.", "x.pdf": "%PDF", ".DS_Store": "x", "empty.txt": "", ".a.txt": "x"})
    documents, bad = read(tmp_path)
    source = Source("s", tmp_path)
    texts = {document.id: text_of(source, document) for document in documents}
    assert sorted(texts.values()) == sorted([TEXT] * 12 + ["text", CODE, "x <- 3\n"])
    assert bad == {DESCRIPTION: 1, UNKNOWN: 1, "a hidden file": 2, "an empty file": 1}
    result = build_corpus([source])
    (row,) = result.sources.values()
    assert row["read"] == 20 == row["kept"] + sum(row["dropped"].values()) + sum(row["quarantined"].values())
    assert result.taken == {
        "s": {
            "html": {"archive": 1, ".html": 2, ".php?id=3": 1, ".warc": 1, "saved page": 1, ".txt": 1, ".jsonl": 1},
            "code": {".py": 1, ".r": 1},
            "text": {".md": 1, ".jsonl": 1, "part-00000": 1, ".csv": 1},
            "web": {".wet": 1},
        }
    }


def test_a_note_among_texts_is_a_text(tmp_path: Path) -> None:
    fill(tmp_path, {"README.md": TEXT, "a.txt": TEXT})
    assert [d.id for d in read(tmp_path)[0]] == ["README.md", "a.txt"]


def test_a_folder_without_anything_known_says_what_is_there(tmp_path: Path) -> None:
    fill(tmp_path, {"a.pdf": "%PDF", "b.docx": "PK", "c.txt": ""})
    with pytest.raises(UserError, match=r"there are 2 x a file of unknown type, 1 x an empty file"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [*PACKS, ""])
@pytest.mark.parametrize("named", [*PACKS, ""])
def test_a_packing_is_known_by_its_bytes(tmp_path: Path, suffix: str, named: str) -> None:
    rows = "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(300)).encode()
    path = tmp_path / f"a.jsonl{named}"
    path.write_bytes(PACKS[suffix](rows) if suffix else rows)
    assert (
        [d.body for d in read(path)[0]] == [row["text"] for row in read_jsonl(path)] == [f"row {n}" for n in range(300)]
    )
    with compression.opened(path) as file:
        assert file.read() == rows


@pytest.mark.parametrize("suffix", PACKS)
def test_what_is_cut_gives_what_comes_before_and_is_told(tmp_path: Path, suffix: str) -> None:
    rows = "".join(json.dumps({"text": f"row {n} {n * n * 7919}"}) + "\n" for n in range(6000)).encode()
    parts = [PACKS[suffix](rows[at : at + 50_000]) for at in range(0, len(rows), 50_000)]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"".join(parts)[: -len(parts[-1]) // 2])
    documents, bad = read(path)
    assert 3000 < len(documents) < 6000 and bad["truncated file"] == 1
    quarantine = Quarantine()
    assert (
        abs(len(list(read_jsonl(path, quarantine))) - len(documents)) < 2 and quarantine.counts["truncated file"] == 1
    )


def test_a_long_window_of_zstd_is_read(tmp_path: Path) -> None:
    row = b'{"text": "far"}\n'
    frame = compression.ZSTD.magic + bytes([0, (31 - 10) << 3])  # a window of 2 GB, and one raw block
    (tmp_path / "a.jsonl.zst").write_bytes(frame + (len(row) << 3 | 1).to_bytes(3, "little") + row)
    assert [d.body for d in read(tmp_path / "a.jsonl.zst")[0]] == ["far"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".jsonl.gz"])
def test_rows_in_other_unicode(tmp_path: Path, encoding: str, suffix: str) -> None:
    rows = [{"id": str(n), "text": f"Zeile {n}, für Müller"} for n in range(50)]
    if suffix == ".csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, ["id", "text"])
        writer.writeheader()
        writer.writerows(rows)
        text = out.getvalue()
    else:
        text = (
            json.dumps(rows) if suffix == ".json" else "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        )
    data = text.encode(encoding)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    for size in (1 << 30, 500):
        source = Source("s", tmp_path / f"a{suffix}")
        assert len(source_splits(source, size)) == 1 or encoding == "utf-8-sig"
    documents, bad = read(tmp_path / f"a{suffix}")
    assert ([(d.id, d.body) for d in documents], bad) == ([(row["id"], row["text"]) for row in rows], {})


def test_tables_as_documents(tmp_path: Path) -> None:
    table = 'id;text\n1;"Two lines,\n\none ""cell"""\n2;x;y\n\n3;' + "caf\udce9" + "\n4;end"
    (tmp_path / "a.csv").write_bytes(table.encode("utf-8", "surrogateescape"))
    documents, bad = read(tmp_path / "a.csv")
    assert [(d.id, d.body, d.place) for d in documents] == [
        ("1", 'Two lines,\n\none "cell"', "a.csv:2"), ("4", "end", "a.csv:8")
    ]  # fmt: skip
    assert bad == {"a row of another length than the header": 1, "invalid UTF-8": 1}
    (tmp_path / "b.tsv").write_text("text\turl\nA, b; c\thttp://a\n")
    ((document,), _) = read(tmp_path / "b.tsv")
    assert (document.body, document.url) == ("A, b; c", "http://a")


def test_a_list_in_a_file_of_lines_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=1))
    assert [d.body for d in read(tmp_path / "a.jsonl")[0]] == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"content": TEXT, "title": "T"}, "content"),
        ({"Text": TEXT, "id": 1}, "Text"),
        ({"raw_content": TEXT, "url": "http://a", "digest": "x"}, "raw_content"),
        ({"sentence": TEXT, "n": 3}, "sentence"),
        ({"meta": {"n": 1, "text": TEXT}, "a": "b", "c": "d"}, "meta.text"),
        ({"messages": [{"role": "user", "content": "Hi"}], "source": "x"}, "messages"),
    ],
)
def test_the_key_that_has_the_text_is_named_and_can_be_given(tmp_path: Path, row: dict[str, Any], key: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert read(tmp_path / "a.jsonl")[1] == {f"no key 'text', but a text in {key!r} (name it in `text_keys`)": 1}
    assert len(read(tmp_path / "a.jsonl", text_keys=(key,))[0]) == 1


def test_reasons_stay_few_whatever_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({f"column{n}": TEXT}) + "\n" for n in range(100)))
    bad = read(tmp_path / "a.jsonl")[1]
    assert len(bad) < 10 and bad.total() == 100 and bad["no key 'text'"] > 90
