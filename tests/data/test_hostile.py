"""Texts made to be slow, and rows made to break a reader. Every pattern is linear: one that tries again from each
character would not end here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from qwenkit.data import CorpusConfig, Source, build_corpus, detect_language
from qwenkit.data.charset import decode
from qwenkit.data.extract import extract_text, tidy
from qwenkit.data.language import UNKNOWN
from qwenkit.data.pii import scrub
from qwenkit.data.readers import read_documents
from qwenkit.records import Quarantine
from qwenkit.stages import corpus
from qwenkit.stages.base import Input
from qwenkit.stages.corpus import _sources

LONG = 1_000_000


def _long(unit: str) -> str:
    return unit * (LONG // len(unit))


@pytest.mark.parametrize("unit", ["x", "a@", "x@x", "#", "1.", "中", "[", "<tag>"])
def test_language_of_a_text_without_spaces(unit: str) -> None:
    detect_language(_long(unit))


@pytest.mark.parametrize("text", ["mail@example.org", "@name", "#tag", "https://example.org/a@b.c"])
def test_links_and_addresses_have_no_language(text: str) -> None:
    assert detect_language(text) == (UNKNOWN, 0.0)


def test_a_lone_surrogate_has_no_say() -> None:
    assert detect_language("The town hall opens at nine \ud800 in the morning.")[0] == "en"


@pytest.mark.parametrize("unit", ["<ul", "<title", "<title>", "<"])
def test_pages_of_open_tags(unit: str) -> None:
    extract_text(_long(unit))


@pytest.mark.parametrize("unit", ["<", "<a ", "<script>", "<style", "</title", "<meta charset= "])
def test_bytes_of_open_tags(unit: str) -> None:
    assert decode(_long(unit).encode() + b"\xe9", None).startswith(unit)


def test_spaces_before_a_word() -> None:
    assert tidy("a" + " " * LONG + "b" + " " * LONG) == "a" + " " * LONG + "b"


@pytest.mark.parametrize("unit", ["x.", "1-", "1 ", "+1 ", "a@"])
def test_personal_data(unit: str) -> None:
    assert scrub(_long(unit))[0] == _long(unit)


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
    found = _sources(corpus.Config(extra=["x"]), {"extra.0": Input("extra.0", tmp_path / "PAGES.WARC", "")}, Source)
    assert [source.kind for source in found] == ["html"]
    assert len(list(read_documents(found[0], Quarantine()))) == 1
