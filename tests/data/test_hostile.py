"""Texts made to be slow, and rows made to break a reader. Every pattern is linear: one that tries again from each
character would not end here."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from qwenkit.data import CorpusConfig, Source, build_corpus, detect_language
from qwenkit.data.extract import text as extract
from qwenkit.data.extract.main_content import main_content
from qwenkit.data.extract.text import extract_text, tidy
from qwenkit.data.filters.c4 import sentences_kept
from qwenkit.data.filters.rules import TextView
from qwenkit.data.language import UNKNOWN
from qwenkit.data.pipeline.corpus_sources import SourceSettings, make_sources
from qwenkit.data.readers.documents import read_documents, source_splits
from qwenkit.data.readers.encoding import decode
from qwenkit.errors import UserError
from qwenkit.records import Quarantine

LONG = 1_000_000


def _long(unit: str) -> str:
    return unit * (LONG // len(unit))


@pytest.mark.parametrize("unit", ["x", "a@", "x@x", "#", "1.", "中", "[", "<tag>"])
def test_language_of_a_text_without_spaces(unit: str) -> None:
    language, confidence = detect_language(_long(unit))
    assert language and 0 <= confidence <= 1


@pytest.mark.parametrize("text", ["mail@example.org", "@name", "#tag", "https://example.org/a@b.c"])
def test_links_and_addresses_have_no_language(text: str) -> None:
    assert detect_language(text) == (UNKNOWN, 0.0)


def test_a_lone_surrogate_has_no_say() -> None:
    assert detect_language("The town hall opens at nine \ud800 in the morning.")[0] == "en"


TOWN = "<p>The town hall opens at nine in the morning, and the market closes at noon on every day but Sunday.</p>"
OPENING = """<b> <div> <a> <p><b> </div> </p> & &amp; &nosuch &#x41; <td> <table><tr><td> <dl><dt>a<dd> <ul><li>
<ol><li>a <font><i>x \ud800 <!-- <! <? <![CDATA[ <script> <script>x</script <math> <svg> <select><option> <form> <body>
<h1>a</h1> <a><p>x</a> <b><p>x</b> <br> <frameset> <p>a</p> . 中，""".split()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", [*OPENING, "\0", "\n"])
def test_pages_of_one_thing(unit: str) -> None:
    extract_text(_long(unit))
    assert "opens at nine" in extract_text(TOWN + _long(unit)[: LONG // 4])


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("tag", "simple"),
    [
        (f"<p {' '.join(f'a{n}=b' for n in range(100_000))}>", False),
        ("<div>" * 100_000 + "<b>" * 100_000, False),
        ("<br>" * 30_000, False),
        (f"<p title='{'<p> ' * 600_000}'>", False),
        ("<body a=1>" * 1000 + f"<p title='{'<p> ' * 1000}'>", True),
        (f"<div class='{_long('aB x-')}' style='{'display ' * 9}'>", True),
    ],
    ids=["attributes", "depth", "tags", "length", "many", "names"],
)
def test_the_second_tier_is_spared_what_it_does_not_end_with(
    tag: str, simple: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(extract, "extract_careful", lambda page, url: asked.append(page) or "")
    assert extract_text(tag + "<p>Aln, forty miles of river, in all.") == "Aln, forty miles of river, in all."
    assert bool(asked) == simple


@pytest.mark.parametrize("unit", ["<", "<a ", "<script>", "<style", "</title", "<meta charset= "])
def test_bytes_of_open_tags(unit: str) -> None:
    assert decode(_long(unit).encode() + b"\xe9", None).startswith(unit)


def test_spaces_before_a_word() -> None:
    assert tidy("a" + " " * LONG + "b" + " " * LONG) == "a" + " " * LONG + "b"


def test_odd_rows_do_not_spoil_the_others(tmp_path: Path) -> None:
    good = "The town hall opens at nine in the morning, and the market closes at noon on every day but Sunday."
    lines = [
        json.dumps({"id": 0, "text": f"One. {good}", "language": 5, "licence": [], "score": math.nan}),
        r'{"text": "lone \ud800 half of a character"}', r'{"id": "\ud800", "text": "a"}',
        '{"text": "a", "n": ' + "9" * 5000 + "}", '{"text": "a", "id": [1]}', '{"text": "a", "id": true}',
        json.dumps({"id": None, "text": f"Two. {good}", "note": r"a written \ud800 is no surrogate"}),
    ]  # fmt: skip
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    found = build_corpus([Source("mine", tmp_path / "text.jsonl")], config=CorpusConfig(near_threshold=1.0))
    assert [(row["id"], row["language"], row["licence"]) for row in found.documents] == [
        ("0", "en", "unknown"), ("text.jsonl:7", "en", "unknown")
    ]  # fmt: skip
    assert "score" not in found.documents[0]
    assert found.quarantine.counts == {
        "a lone surrogate, which is half of a character": 2, "broken JSON": 1, "not a text in key 'id'": 2
    }  # fmt: skip


def test_capital_suffixes_are_suffixes(tmp_path: Path) -> None:
    record = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>Hello, town hall.</p>"
    head = f"WARC/1.1\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(record)}\r\n\r\n"
    (tmp_path / "PAGES.WARC").write_text(head + record + "\r\n\r\n", newline="")
    found = make_sources([], [tmp_path / "PAGES.WARC"], SourceSettings())
    assert [split.kind for split in source_splits(found[0], 1 << 30)] == ["html"]
    assert len(list(read_documents(found[0], Quarantine()))) == 1


def _warc(pages: list[bytes], length: str | None = None, head: bytes = b"Content-Type: text/html") -> list[bytes]:
    """Records of pages; the second declares another `length`."""
    found = []
    for number, page in enumerate(pages):
        block = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + page
        said = length if length is not None and number == 1 else str(len(block))
        names = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nContent-Length: {said}\r\n\r\n"
        )
        found.append(names.encode() + block + b"\r\n\r\n")
    return found


PAGES = [b"<p>The town hall opens at nine in the morning, page %d.</p>" % n * 9 for n in range(5)]


@pytest.mark.parametrize("length", ["²", "9" * 5000, "9" * 30, "9" * 12, "1500", "20", "-1", ""])
def test_a_false_length_costs_its_own_record_only(tmp_path: Path, length: str) -> None:
    (tmp_path / "a.warc").write_bytes(b"".join(_warc(PAGES, length)))
    quarantine = Quarantine()
    found = [page.id for page in read_documents(Source("s", tmp_path / "a.warc", "html"), quarantine)]
    assert [name for name in found if name != "1"] == ["0", "2", "3", "4"]
    assert length == "20" or len(quarantine) == 1


@pytest.mark.parametrize("lost", [1, 4, 50, 500])
def test_a_record_cut_amid_a_warc_does_not_take_the_next(tmp_path: Path, lost: int) -> None:
    parts = _warc(PAGES)
    (tmp_path / "a.warc").write_bytes(b"".join([*parts[:2], parts[2][:-lost], *parts[3:]]))
    quarantine = Quarantine()
    found = [page.id for page in read_documents(Source("s", tmp_path / "a.warc", "html"), quarantine)]
    assert {"0", "1", "3", "4"} <= set(found) and len(found) + len(quarantine) == 5


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked", b"content-type: Text/HTML", b"Content-Type: text/html; charset=idna"]
)
def test_odd_headers_of_a_page(tmp_path: Path, head: bytes) -> None:
    pages = [b"f" * 24 + b"\r\n" + page + b" caf\xe9" for page in PAGES]
    (tmp_path / "a.warc").write_bytes(b"".join(_warc(pages, head=head)))
    assert build_corpus([Source("s", tmp_path / "a.warc", "html")]).funnel[0]["left"] == 5


@pytest.mark.parametrize("claim", ["idna", "punycode", "undefined", "base64", "utf-16"])
def test_codecs_that_are_no_encodings_of_pages(claim: str) -> None:
    assert decode("Das Rathaus öffnet um neun Uhr früh.".encode("latin-1"), claim).endswith("früh.")


def test_long_numbered_lists_and_runs_of_marks_are_linear() -> None:
    main_content("<p>The town hall opens at nine, they said.</p><ol>" + "<li>a" * 50_000)
    sentences_kept(TextView("a b c d e " + _long("!") + "x."))


def test_parquet_rows_and_groups_cost_themselves_only(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, size = tmp_path / "a.parquet", 4000
    texts = pa.array([b"\xff" if n == 3 else b"text %d" % n for n in range(size)], pa.binary()).view(pa.string())
    when = pa.array([1_700_000_000_123_456_789] * size, pa.timestamp("ns"))
    pq.write_table(pa.table({"text": texts, "when": when}), path, row_group_size=1000)
    column = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    data[column.dictionary_page_offset : column.dictionary_page_offset + 200] = b"\xff" * 200
    path.write_bytes(data)
    quarantine = Quarantine()
    found = [document.place for document in read_documents(Source("s", path), quarantine)]
    assert len(found) == 2999 and found[-1] == "a.parquet:4000" and "a.parquet:2001" not in found
    assert quarantine.counts == {"a row with a value that cannot be read": 1, "damaged row group": 1}


def test_no_two_documents_have_one_id(tmp_path: Path) -> None:
    ids = ["x", "x", "s/x", "x", "s/x#2", "s/x"]
    rows = [json.dumps({"id": name, "text": f"Page {n} of the town hall."}) for n, name in enumerate(ids)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = [row["id"] for row in build_corpus([Source("s", tmp_path / "a.jsonl")]).documents]
    assert len(set(found)) == len(ids) and {"x", "s/x", "s/x#2"} <= set(found)


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("A text.")
    with pytest.raises(UserError, match="not UTF-8"):
        build_corpus([Source("s", tmp_path)])
