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
from qwenkit.records import read_json, write_json, write_jsonl


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
    write_json(tmp_path / "manifest.json", {**manifest, "metrics": {"funnel": funnel, "sources": {}, **sizes}})
    sample = {"step": "quality", "rule": "length", "id": "<b>", "source": "s", "seen": "3"}
    sample["text"] = "<script>alert(1)</script>"
    kept = {**sample, "step": "kept", "rule": "", "id": "a", "text": "Good text."}
    write_jsonl(tmp_path / "samples.jsonl", [sample, kept, {**kept, "source": "<t>", "id": "c", "text": "Other text."}])
    span = {"id": "d", "source": "s", "test": 0, "start": 3, "stop": 9, "before": "As <b>", "matched": "she said"}
    span |= {"after": ", so be it", "test_name": "chat/<7>", "test_text": "What <i>did</i> she say?"}
    write_jsonl(tmp_path / "contaminated.jsonl", [{**span, "id": f"d{n}"} for n in range(130)])
    return tmp_path


def test_page_is_whole_and_escapes_what_documents_say(corpus: Path) -> None:
    page = review.page(corpus)
    assert "<script>alert" not in page and "&lt;script&gt;" in page and "&lt;x&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "src=" not in page
    assert page.count("<article ") == 3 + 100 and "100 of 130 documents" in page
    assert (
        "As &lt;b&gt;<mark>she said</mark>, so be it" in page
        and "What &lt;i&gt;did" in page
        and "chat/&lt;7&gt;" in page
    )


def test_kept_documents_stand_beside_the_dropped_of_their_source(corpus: Path) -> None:
    first, second = review.page(corpus).split("<h3>")[1:]
    assert first.startswith("&lt;t&gt;<") and "Other text." in first and "dropped: none" in first
    order = ("quality length", "&lt;script&gt;", "<h4>kept", "Good text.")
    assert sorted(order, key=second.index) == list(order)


def test_every_source_has_a_line_that_adds_up(corpus: Path) -> None:
    manifest = read_json(corpus / "manifest.json")
    manifest["metrics"]["sources"] = {
        "s": {"file": "s.jsonl", "read": 4, "kept": 1, "dropped": {"near_copy": 1}, "quarantined": {"broken JSON": 2}},
        "silent": {"file": "silent", "read": 3, "kept": 0, "dropped": {}, "quarantined": {"cut gzip": 3}},
    }
    manifest["metrics"]["funnel"][0]["rule"] = "<rule>"
    write_json(corpus / "manifest.json", manifest)
    page = review.page(corpus)
    assert "<td>s<td>s.jsonl<td>4<td>1<td>1<td>2<td>broken JSON 2, near_copy 1" in page
    assert "<td>silent<td>silent<td>3<td>0<td>0<td>3<td>cut gzip 3" in page
    assert "&lt;rule&gt;" in page and "<rule>" not in page


def test_curve_and_charts_have_axes_and_titles(corpus: Path) -> None:
    page = review.page(corpus)
    for words in ("Jaccard similarity of two documents", "chance that they are compared", ">0.6</text>"):
        assert words in page
    assert "documents of a language" in page and ">128</text>" in page  # 240 characters
    many = {f"l{n}": {"documents": n, "characters": n} for n in range(1, 21)}
    assert review._languages(many)[-1] == ("others", 15)


def test_judgements_are_saved_and_summed_up(corpus: Path) -> None:
    saved = corpus / "review.jsonl"
    with review.serve(corpus, saved) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        idle = socket.create_connection(server.server_address)  # as browsers open in advance
        assert b"1 document" in urllib.request.urlopen(url, timeout=10).read()
        assert json.loads(urllib.request.urlopen(url + "said", timeout=10).read()) == {"said": []}
        row = {"source": "s", "rule": "length"}
        for name, say in (("a", "right"), ("b", "right"), ("b", "wrong")):
            data = json.dumps({**row, "id": name, "say": say}).encode()
            assert urllib.request.urlopen(url, data=data, timeout=10).status == 204
        said = json.loads(urllib.request.urlopen(url + "said", timeout=10).read())
        assert [each["say"] for each in said["said"]] == ["right", "wrong"]
        assert said["summary"] == review.summary(saved)
        for bad in (b"[" * 9000, json.dumps({**row, "id": "a", "say": "perhaps"}).encode()):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(url, data=bad, timeout=10)
        elsewhere = urllib.request.Request(url, data=b"{}", headers={"Origin": "http://other.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(elsewhere, timeout=10)
        idle.close()
        server.shutdown()
    found = review.summary(saved)
    assert found["by_rule"]["length"] == found["by_source"]["s"] == found["by_source_and_rule"]["s length"]
    half = found["by_rule"]["length"]
    assert (half["right"], half["wrong"], half["share"]) == (1, 1, 0.5)
    assert half["low"] == pytest.approx(0.0945, abs=1e-3) and half["high"] == pytest.approx(0.9055, abs=1e-3)
    assert found["false_positives"] == {}


def test_false_positives_of_tests_are_told_with_their_interval(tmp_path: Path) -> None:
    row = {"source": "s", "rule": "test_overlap"}
    said = ("wrong" if n < 2 else "right" for n in range(50))
    write_jsonl(tmp_path / "review.jsonl", [{**row, "id": f"d{n}", "say": say} for n, say in enumerate(said)])
    found = review.summary(tmp_path / "review.jsonl")["false_positives"]["overlaps"]
    assert (found["wrong"], found["share"]) == (2, 0.04)
    assert found["low"] == pytest.approx(0.011, abs=1e-3) and found["high"] == pytest.approx(0.135, abs=1e-3)


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
