"""Your own steps: what they keep, change and drop is in the corpus and its accounting; what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenkit.data import CorpusConfig, CorpusResult, Source, build_corpus
from qwenkit.data.pipeline.custom_steps import find_step
from qwenkit.errors import UserError
from qwenkit.stages import corpus

EXAMPLE = Path(__file__).parents[3] / "examples" / "my_step.py"
WORDS = "river town hill market winter sailor baker bridge story garden engine paper candle music letter".split()


def write_step(folder: Path, body: str, name: str = "mine.py") -> str:
    (folder / name).write_text(f"from qwenkit.data import Drop\n\n\ndef step(document):\n    {body}\n")
    return f"{folder / name}:step"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Two files of ten documents; every fifth has two words, and every other one a link with a tracker."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("a", "b"):
        texts = [" ".join(f"{name}{word}{n}" for word in WORDS) for n in range(10)]
        texts = [f"{text} see http://example.org/?utm_source=mail now" for text in texts]
        rows = [{"id": f"{name}{n}", "text": "two words" if n % 5 == 0 else text, "year": 1900 + n, "none": None}
                for n, text in enumerate(texts)]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source("web", folder, "text")


def build(source: Source, *steps: str, workers: int = 1, folder: Path | None = None) -> CorpusResult:
    config = CorpusConfig(steps=steps, thresholds={"length": (0, 1000)}, chunk_bytes=500)
    return build_corpus([source], config=config, workers=workers, folder=folder)


def test_the_example_drops_and_changes_and_is_counted(source: Source) -> None:
    result = build(source, f"{EXAMPLE}:step")
    assert len(result.documents) == 16 and all("utm_" not in row["text"] for row in result.documents)
    assert {row["year"] for row in result.documents} == {1900 + n for n in range(10) if n % 5}
    assert [row for row in result.funnel if row["step"] == "steps"] == [
        {"step": "steps", "rule": "few_words", "dropped": 4, "left": 16}
    ]
    assert result.sources["web"]["dropped"] == {"few_words": 4} and result.sources["web"]["read"] == 20
    assert {row["seen"] for row in result.samples if row["rule"] == "few_words"} == {"2 words"}
    assert all(row["step"] != "steps" for row in build(source).funnel)


def test_two_workers_make_the_same_bytes(source: Source, tmp_path: Path) -> None:
    one, two = (build(source, f"{EXAMPLE}:step", workers=n, folder=tmp_path / str(n)) for n in (1, 2))
    assert len(one.document_files) > 1
    for left, right in zip([*one.document_files, *one.ledger_files], [*two.document_files, *two.ledger_files]):
        assert left.read_bytes() == right.read_bytes()


def test_steps_run_in_their_order_and_before_the_search_for_copies(source: Source, tmp_path: Path) -> None:
    first = write_step(tmp_path, 'return {**document, "text": "one text for all of them", "seen": True}', "one.py")
    second = write_step(tmp_path, 'return {**document, "text": document["text"] * document["seen"]}', "two.py")
    (row,) = build(source, first, second).documents
    assert row["text"] == "one text for all of them" and row["seen"] is True


@pytest.mark.parametrize(
    ("body", "what", "where"),
    [
        ("return None", "the step returned None", "a.jsonl:1"),
        ("return document | {'id': 'x'}", "the step changed `id`", "a.jsonl:1"),
        ("return document | {'text': 3}", "the step `text` is 3", "a.jsonl:1"),
        ("return document | {'extra': []}", r"the step `extra` is \[\]", "a.jsonl:1"),
        ("return Drop('')", "the step returned Drop", "a.jsonl:1"),
        ("return document['texts']", "the step failed: KeyError: 'texts'", "mine.py:5, document a.jsonl:1"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_goes_wrong_is_named_with_its_document(
    source: Source, tmp_path: Path, body: str, what: str, where: str, workers: int
) -> None:
    with pytest.raises(UserError, match=what) as caught:
        build(source, write_step(tmp_path, body), workers=workers)
    place = str(caught.value.where)
    assert where in place or where.replace("a.jsonl", "b.jsonl") in place or workers == 2


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mine", "not the name of a step"),
        ("mine:a b", "not the name of a step"),
        ("nowhere_at_all:step", "no such file"),
        ("{folder}/mine.py:stop", "no `stop` in this file"),
        ("{folder}/broken.py:step", "not a Python file"),
    ],
)
def test_bad_references_are_refused_before_anything_is_read(tmp_path: Path, name: str, what: str) -> None:
    write_step(tmp_path, "raise SystemExit", "mine.py")
    (tmp_path / "broken.py").write_text("def step(document:\n")
    name = name.format(folder=tmp_path)
    with pytest.raises(UserError, match=what):
        build(Source("web", tmp_path / "missing", "text"), name)
    with pytest.raises(ValueError, match=what):
        corpus.Config(extra=["raw"], steps=[name])


def test_a_module_of_the_folder_is_found_and_none_of_its_code_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").mkdir()
    write_step(tmp_path / "package", "return document\nraise SystemExit", "mine.py")
    step = find_step("package.mine:step")
    assert Path(step.path) == (tmp_path / "package" / "mine.py").resolve() and step.function == "step"


def test_the_bytes_of_the_file_are_part_of_the_identity(tmp_path: Path) -> None:
    """Without steps the identity is what it was before there were any."""
    name = write_step(tmp_path, "return document")
    none, first = corpus.Config(extra=["raw"]).identity(), corpus.Config(extra=["raw"], steps=[name]).identity()
    assert "steps" not in none and first == {**none, "steps": first["steps"]}
    write_step(tmp_path, "return document ")
    assert corpus.Config(extra=["raw"], steps=[name]).identity() != first


def test_another_version_of_a_step_reads_again(source: Source, tmp_path: Path) -> None:
    name = write_step(tmp_path, "return document")
    assert len(build(source, name, folder=tmp_path / "work").documents) == 17
    write_step(tmp_path, "return Drop('mine') if document['year'] < 1905 else document")
    assert len(build(source, name, folder=tmp_path / "work").documents) == 9
