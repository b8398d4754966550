"""The review page and judgements on it."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from qwenkit.data import review
from qwenkit.data.tables import DOCUMENT, LEDGER, Writer
from qwenkit.errors import UserError
from qwenkit.records import write_json, write_jsonl


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    row = {"id": "a", "source": "s", "place": "x.jsonl:1", "step": "kept", "rule": "", "copies": 2}
    with Writer(tmp_path / "ledger.parquet", LEDGER) as ledger:
        ledger.add(row)
        ledger.add({**row, "id": "b", "step": "near_duplicates", "rule": "near_copy", "of": "a", "copies": 0})
    with Writer(tmp_path / "documents-00000.parquet", DOCUMENT) as documents:
        documents.add({"id": "a", "text": "héllo " * 40})
    lines = (("read", "quarantined", 1, 2), ("near", "copy", 1, 1))
    funnel = [dict(zip(("step", "rule", "dropped", "left"), line)) for line in lines]
    sizes = {f"by_{key}": {"<x>": {"documents": 1, "characters": 240}} for key in ("source", "language", "licence")}
    manifest = {"node": "corpus", "headline": "1 document", "config": {"near_threshold": 0.8}}
    write_json(tmp_path / "manifest.json", {**manifest, "metrics": {"funnel": funnel, **sizes}})
    sample = {"step": "quality", "rule": "length", "id": "<b>", "source": "s", "seen": "3"}
    sample["text"] = "<script>alert(1)</script>"
    write_jsonl(tmp_path / "samples.jsonl", [sample])
    return tmp_path


def test_page_is_whole_and_escapes_what_documents_say(corpus: Path) -> None:
    page = review.page(corpus)
    assert "<script>alert" not in page and "&lt;script&gt;" in page and "&lt;x&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "src=" not in page


def test_judgements_are_saved_and_summed_up(corpus: Path) -> None:
    saved = corpus / "review.jsonl"
    with review.serve(corpus, saved) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        idle = socket.create_connection(server.server_address)  # as browsers open in advance
        assert b"1 document" in urllib.request.urlopen(url, timeout=10).read()
        for name, say in (("a", "right"), ("b", "right"), ("b", "wrong")):
            data = json.dumps({"id": name, "rule": "length", "say": say}).encode()
            assert urllib.request.urlopen(url, data=data, timeout=10).status == 204
        for bad in (b"[" * 9000, json.dumps({"id": "a", "rule": "length", "say": "perhaps"}).encode()):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(url, data=bad, timeout=10)
        elsewhere = urllib.request.Request(url, data=b"{}", headers={"Origin": "http://other.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(elsewhere, timeout=10)
        idle.close()
        server.shutdown()
    assert review.summary(saved) == {"length": {"right": 1, "wrong": 1}}


def test_measured_curve_follows_theory() -> None:
    theory, measured = review.s_curve(0.8, pairs=60)
    expected = dict(theory)
    assert all(abs(share - expected[round(s, 2)]) < 0.25 for s, share in measured if round(s, 2) in expected)
    assert measured[-1][1] == 1 and measured[0][1] < 0.1


def test_a_saved_row_that_is_no_judgement_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "review.jsonl", [{"id": "a", "say": "right"}])
    with pytest.raises(UserError, match="no rule") as caught:
        review.summary(tmp_path / "review.jsonl")
    assert "review.jsonl:1" in caught.value.text()
