"""The review page and judgements on it."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenkit.artifacts import digest_of, finish, sha256_file
from qwenkit.data.parquet_io import DOCUMENT, LEDGER, Writer
from qwenkit.data.review import page as review
from qwenkit.data.review import server as review_server
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
    sample = {"step": "quality", "rule": "length", "id": "<b>", "source": "s", "seen": "3"}
    sample["text"] = "<script>alert(1)</script>"
    kept = {**sample, "step": "kept", "rule": "", "id": "a", "text": "Good text."}
    write_jsonl(tmp_path / "samples.jsonl", [sample, kept, {**kept, "source": "<t>", "id": "c", "text": "Other text."}])
    span = {"id": "d", "source": "s", "test": 0, "start": 3, "stop": 9, "before": "As <b>", "matched": "she said"}
    span |= {"after": ", so be it", "test_name": "chat/<7>", "test_text": "What <i>did</i> she say?"}
    write_jsonl(tmp_path / "contaminated.jsonl", [{**span, "id": f"d{n}"} for n in range(130)])
    manifest = {"node": "corpus", "kind": "corpus", "version": 1, "key": "0", "seed": 1, "inputs": {}}
    manifest |= {"headline": "1 document", "config": {"near_threshold": 0.8}}
    finish(tmp_path, {**manifest, "metrics": {"funnel": funnel, "sources": {}, **sizes}}, {})
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
    cells = re.sub(r"<td[^>]*>", "<td>", page).replace("</td>", "")
    assert "<td>s<td>s.jsonl<td>4<td>1<td>1<td>2<td>broken JSON 2, near_copy 1" in cells
    assert "<td>silent<td>silent<td>3<td>0<td>0<td>3<td>cut gzip 3" in cells
    assert "&lt;rule&gt;" in page and "<rule>" not in page


def test_curve_and_charts_have_axes_and_titles(corpus: Path) -> None:
    page = review.page(corpus)
    for words in ("Jaccard similarity of two documents", "chance that they are compared", ">0.6</text>"):
        assert words in page
    assert "documents of a language" in page and ">128</text>" in page  # 240 characters
    many = {f"l{n}": {"documents": n, "characters": n} for n in range(1, 21)}
    assert review._languages(many)[-1] == ("others", 15)


@contextlib.contextmanager
def served(corpus: Path, saved: Path) -> Iterator[str]:
    with review_server.serve(corpus, saved) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def ask(address: str, path: str = "/", data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer; names of headers are written with _ for -."""
    names = {name.replace("_", "-"): value.format(address) for name, value in headers.items()}
    request = urllib.request.Request(f"http://{address}{path}", data, names)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def judged(name: str = "a", say: str = "right") -> bytes:
    return json.dumps({"source": "s", "rule": "length", "id": name, "say": say}).encode()


def test_judgements_are_saved_and_summed_up(corpus: Path) -> None:
    saved = corpus / "review.jsonl"
    with served(corpus, saved) as address:
        idle = socket.create_connection(address.split(":"))  # as browsers open in advance
        assert b"1 document" in ask(address)[1]
        assert json.loads(ask(address, "/said")[1]) == {"said": []}
        for name, say in (("a", "right"), ("b", "right"), ("b", "wrong")):
            assert ask(address, data=judged(name, say))[0] == 204
        said = json.loads(ask(address, "/said")[1])
        assert [each["say"] for each in said["said"]] == ["right", "wrong"]
        assert said["summary"] == review.summary(saved)
        for bad in (b"[" * 9000, judged(say="perhaps"), b"[]", b"", b'{"id": 1}'):
            assert ask(address, data=bad)[0] == 400
        assert ask(address, data=b" " * 20_000)[0] == 413
        idle.close()
    found = review.summary(saved)
    assert found["by_rule"]["length"] == found["by_source"]["s"] == found["by_source_and_rule"]["s length"]
    half = found["by_rule"]["length"]
    assert (half["right"], half["wrong"], half["share"]) == (1, 1, 0.5)
    assert half["low"] == pytest.approx(0.0945, abs=1e-3) and half["high"] == pytest.approx(0.9055, abs=1e-3)
    assert found["false_positives"] == {}


JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "evil.example", "Origin": "http://evil.example", **JSON},
    ],
)
def test_another_host_is_told_nothing_and_writes_nothing(corpus: Path, headers: dict[str, str]) -> None:
    """A site may let its own name point to this machine: then its page and this server are of one origin."""
    saved = corpus / "review.jsonl"
    with served(corpus, saved) as address:
        for path in ("/", "/said"):
            status, body = ask(address, path, **headers)
            assert status == 403 and b"document" not in body
        assert ask(address, data=judged(), **headers)[0] == 403
    assert saved.read_bytes() == b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://{}", **JSON}, 204),
        ({"Origin": "http://{}", "Referer": "http://{}/", "Sec_Fetch_Site": "same-origin", **JSON}, 204),
        ({"Origin": "http://evil.example", **JSON}, 403),
        ({"Origin": "null", **JSON}, 403),
        ({"Origin": "https://{}", **JSON}, 403),
        ({"Referer": "http://evil.example/{}", **JSON}, 403),
        ({"Sec_Fetch_Site": "cross-site", **JSON}, 403),
        ({"Origin": "http://{}", "Content_Type": "text/plain"}, 403),
    ],
)
def test_a_browser_judges_from_our_page_alone(corpus: Path, headers: dict[str, str], status: int) -> None:
    with served(corpus, corpus / "review.jsonl") as address:
        assert ask(address, data=judged(), **headers)[0] == status
        assert ask(address, Host=address.replace("127.0.0.1", "localhost"))[0] == 200


def test_a_file_that_cannot_be_written_is_refused_before_anybody_judges(corpus: Path) -> None:
    (corpus / "broken.jsonl").write_text('{"id": "a"')
    for saved in (corpus / "nowhere" / "s.jsonl", corpus, corpus / "samples.jsonl" / "x", corpus / "broken.jsonl"):
        with pytest.raises(UserError):
            review_server.serve(corpus, saved)


def test_a_judgement_that_is_not_saved_is_told(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the page and where the server runs; nothing of it is in the file, and the next is a line of its own."""
    saved = corpus / "new" / "review.jsonl"
    saved.parent.mkdir()
    saved.write_bytes(judged("a"))  # without an end of line, as an editor leaves it
    with served(corpus, saved) as address:
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (saved.stat().st_size + 10, usual[1]))
        try:
            status, body = ask(address, data=judged("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert status == 507 and b"was not saved" in body and saved.read_bytes() == judged("a")
        assert ask(address, data=judged("b"))[0] == 204
        assert [row["id"] for row in review.judgements(saved)] == ["a", "b"]
        shutil.rmtree(saved.parent)
        assert ask(address, data=judged("c"))[0] == 507
    assert capsys.readouterr().err.count("a judgement was not saved") == 2


def rewritten(corpus: Path, name: str, text: str) -> None:
    """As somebody does who writes the digests too."""
    manifest = read_json(corpus / "manifest.json")
    (corpus / name).write_text(text)
    manifest["files"][name] = sha256_file(corpus / name)
    write_json(corpus / "manifest.json", {**manifest, "digest": digest_of(manifest["files"])})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("samples.jsonl", '{"a": 1}'), ("samples.jsonl", "[1]"), ("contaminated.jsonl", '{"id": [], "source": "s"}'),
        ("documents-00000.parquet", "PAR1"), ("documents-00000.parquet", ""), ("samples.jsonl", "\x00\xff"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(corpus: Path, name: str, text: str) -> None:
    rewritten(corpus, name, text)
    with pytest.raises(UserError) as caught:
        review.page(corpus)
    assert name in str(caught.value.where)
    (corpus / name).write_text("other")
    with pytest.raises(UserError, match=f"a corrupted artifact: {name}"):
        review.page(corpus)


BAD = {
    "funnel": ([], [1], [{"step": "read"}], {"step": 1}),
    "sources": ([], {"s": 1}, {"s": {"file": "x", "read": 1, "kept": 1, "dropped": {"a": "b"}, "quarantined": {}}}),
    "by_source": (None, {"s": {"documents": "1", "characters": 1}}),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_books_that_are_no_books_are_refused(corpus: Path, key: str, value: object) -> None:
    manifest = read_json(corpus / "manifest.json")
    manifest["metrics"][key] = value
    write_json(corpus / "manifest.json", manifest)
    with pytest.raises(UserError, match=rf"cannot be shown: `metrics\.{key}`"):
        review.page(corpus)


@pytest.mark.parametrize("text", ["{}", "[]", "", "{", "null"])
def test_a_manifest_that_is_none_is_refused(corpus: Path, text: str) -> None:
    (corpus / "manifest.json").write_text(text)
    with pytest.raises(UserError):
        review.page(corpus)


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
