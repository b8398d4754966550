"""Lists of words, several filters and a model of one's own, given in a recipe; overlaps written beside their tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from qwenkit.data.filters.classifier import QualityClassifier
from qwenkit.data.test_sets import question_texts
from qwenkit.errors import UserError
from qwenkit.records import read_jsonl, write_jsonl
from qwenkit.stages import corpus, testsets
from qwenkit.stages.base import Input
from tests.stages.conftest import Desk

STORY = "The {0} of the town was old, and it stood at the river. Nobody knew who had built it. It was made of stone."
QUESTION = "Which of the northern lords sent his ships along the river to fetch timber in the winter of that year?"


def run(desk: Desk, edges: dict[str, Path], **keys: Any) -> Path:
    context = desk.context()
    given: dict[str, Any] = {name.partition(".")[0]: [] for name in edges if "." in name}
    for name, path in edges.items():
        given[name.partition(".")[0]] = [*given[name.partition(".")[0]], str(path)] if "." in name else str(path)
    config = corpus.Config(**given, **keys)
    corpus.run(config, {name: Input(name, path, "") for name, path in edges.items()}, context)
    return context.out


def fates(out: Path) -> dict[str, str]:
    return {row["id"]: row["rule"] for row in pq.read_table(out / "ledger.parquet").to_pylist()}


@pytest.fixture
def web(desk: Desk) -> Path:
    words = ("harbour", "market", "blorp", "bridge")
    return desk.rows("web.jsonl", [{"id": word, "text": STORY.format(word)} for word in words])


def test_a_list_of_words_and_filters_of_their_own_scores(desk: Desk, web: Path, tmp_path: Path) -> None:
    (tmp_path / "en").write_text("blorp\n")
    texts = [STORY.format(f"house{n}") for n in range(20)]
    for name in ("market", "bridge"):
        QualityClassifier.train(texts, [f"{name} {name} {n}" for n in range(20)]).save(tmp_path / f"{name}.npz")
    between = QualityClassifier.load(tmp_path / "bridge.npz").scores(
        STORY.format(name) for name in ("bridge", "market")
    )
    edges = {"extra.0": web, "offensive_words": tmp_path / "en"}
    keys = {"kinds": {"extra": "web"}, "rules": ["c4"], "near_threshold": 1.0}
    assert fates(run(desk, edges, **keys)) == {"harbour": "", "market": "", "bridge": "", "blorp": "c4_bad_words"}
    edges |= {"filter.0": tmp_path / "market.npz", "filter.1": tmp_path / "bridge.npz"}
    found = fates(run(desk, edges, **keys, min_score=0.0, min_scores={"filter1": float(between.mean())}))
    assert found == {"harbour": "", "market": "", "bridge": "low_score1", "blorp": "c4_bad_words"}


def test_a_model_scores_text_of_the_web(desk: Desk, web: Path, folder: Callable[..., Path]) -> None:
    edges = {"extra.0": web, "perplexity_model": folder()}
    keys = {"kinds": {"extra": "web"}, "near_threshold": 1.0}
    out = run(desk, edges, **keys)
    bits = {row["id"]: row["bits_per_byte"] for row in pq.read_table(out / "attributes-00000.parquet").to_pylist()}
    assert all(0 < value < 20 for value in bits.values()) and len(set(bits.values())) == 4
    most = sum(sorted(bits.values())[2:]) / 2
    found = fates(run(desk, edges, **keys, max_bits_per_byte=most))
    assert found == {name: "too_unlikely" if value > most else "" for name, value in bits.items()}


def test_an_overlap_stands_beside_its_test(desk: Desk, tmp_path: Path) -> None:
    rows = [{"id": "leak", "text": f"He asked me this: {QUESTION} I knew."}, {"id": "b", "text": STORY.format("gate")}]
    write_jsonl(tmp_path / "old.jsonl", [{"id": "7", "question": "What is it?"}, {"id": "9", "question": QUESTION}])
    out = run(desk, {"extra.0": desk.rows("a.jsonl", rows), "decontaminate": tmp_path / "old.jsonl"})
    (row,) = read_jsonl(out / "contaminated.jsonl")
    assert (row["id"], row["test_name"], row["test_text"]) == ("leak", "old/9", QUESTION)
    assert (row["before"], row["after"]) == ("He asked me this: ", "? I knew.")


def test_a_score_for_a_filter_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="`filter1` is not a filter"):
        corpus.Config(extra=["a"], filter=["f.npz"], min_scores={"filter1": 0.5})


def test_packed_test_sets_stand_unpacked_beside_the_others(desk: Desk, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl.gz", [{"question": QUESTION}])
    context = desk.context()
    given = Input("extra.0", tmp_path / "sums.jsonl.gz", "")
    testsets.run(testsets.Config(extra=[str(given.path)]), {"extra.0": given}, context)
    assert [path.name for path in context.out.iterdir()] == ["sums.jsonl"]
    assert question_texts(context.out) == [QUESTION]


def test_what_was_masked_is_counted(desk: Desk) -> None:
    path = desk.rows("mail.jsonl", [{"text": STORY.format("house") + " Write to somebody@example.org."}])
    config = corpus.Config(extra=[str(path)], scrub_pii=True)
    result = corpus.run(config, {"extra.0": Input("extra.0", path, "")}, desk.context())
    assert sum(result.metrics["scrubbed"].values()) == 1


def test_a_source_that_cannot_be_read_ends_the_build_when_all_is_read(desk: Desk, web: Path, tmp_path: Path) -> None:
    odd = desk.rows("odd.jsonl", [{"question": "What?"}] * 3)
    with pytest.raises(
        UserError, match=r"nothing is kept of the source extra1 \(3 no key 'text', but a text in 'question'"
    ):
        run(desk, {"extra.0": web, "extra.1": odd}, chunks=str(tmp_path / "chunks"))
    assert [path.name for path in (tmp_path / "chunks").iterdir() if path.name[0] != "."] == ["1-read"]
    given = fates(run(desk, {"extra.0": web, "extra.1": odd}, text_keys={"extra1": ["question"]}))
    assert len(given) == 7


@pytest.mark.parametrize("keys", [{"min_score": 0.5}, {"max_bits_per_byte": 2.0}, {"most_documents": 10}])
def test_limits_that_do_nothing_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="does nothing without"):
        corpus.Config(extra=["a"], **keys)


def test_what_was_taken_for_what_is_told(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    for n, name in enumerate(("a.html", "b.html", "c.py")):
        text = STORY.format(f"house {n}")
        page = f"<!DOCTYPE html><html><body><p>{text}</p></body></html>"
        (tmp_path / "site" / name).write_text(page if name.endswith("html") else f"name = {text!r}\n\n\n\nuse(name)\n")
    config = corpus.Config(extra=[str(tmp_path / "site")])
    context = desk.context()
    result = corpus.run(config, {"extra.0": Input("extra.0", tmp_path / "site", "")}, context)
    assert result.summary.endswith("; extra: 2 .html as html, 1 .py as code")
    assert result.metrics["taken"] == {"extra": {"html": {".html": 2}, "code": {".py": 1}}}
    rows = {row["id"]: row["text"] for row in pq.read_table(context.out / "documents-00000.parquet").to_pylist()}
    assert rows["a.html"] == STORY.format("house 0")


def test_the_key_with_the_text_is_named_with_the_setting(desk: Desk) -> None:
    path = desk.rows("rows.jsonl", [{"content": STORY.format("gate"), "title": "x"}])
    with pytest.raises(UserError, match=r"no key 'text', but a text in 'content'") as error:
        run(desk, {"extra.0": path})
    assert 'text_keys = {extra = ["content"]}' in error.value.text()
    assert fates(run(desk, {"extra.0": path}, text_keys={"extra": ["content"]})) == {"rows.jsonl:1": ""}
