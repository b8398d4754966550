"""The whole room: planted faults are dropped under their rules, the rest is kept, and the books balance."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qwenkit.data import CorpusConfig, CorpusResult, Source, build_corpus
from qwenkit.data.filters.classifier import QualityClassifier
from qwenkit.data.parquet_io import read as read_tables
from qwenkit.data.pipeline import executor
from qwenkit.errors import Stopped, UserError
from qwenkit.records import read_json, write_json

PLACES = ["Aln", "Bree", "Cove", "Dunmore", "Esk", "Firth", "Glen", "Hythe"]
TRADES = ["wool", "timber", "salt", "wine"]
ZH_PLACES = ["阿林", "布里", "科夫", "东摩", "埃斯", "弗思"]


def story(place: str, trade: str) -> str:
    return (
        f"The town of {place} lies on the coast and has lived from {trade} for as long as anybody can remember.\n"
        f"When the harbour of {place} was built, merchants brought {trade} from the hills, and ships took it south."
    )


def story_zh(place: str) -> str:
    return (
        f"{place}是一座海边的小城，那里的人们从很久以前就靠打鱼为生。\n"
        f"每年秋天，{place}的港口都会举行一次很大的集市，附近的人都来买鱼。"
    )


def page(text: str) -> str:
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return f"<html><body><nav><a href=/>Home</a></nav><article>{paragraphs}</article></body></html>"


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    )
    return path


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    pages = {f"{place}-{trade}": story(place, trade) for place in PLACES for trade in TRADES}
    pages |= {f"zh-{place}": story_zh(place) for place in ZH_PLACES}
    long = (
        "Nobody knows who first planted the vineyards above the bay. A monk wrote in 1240 that grapes grew there, and\n"
        "travellers praised the wine for three hundred years. Then a cold century came, the vines froze, and farmers\n"
        "turned to apples instead. Only one family kept a row of old plants behind their barn, more out of habit than\n"
        "hope, and from these few roots the slopes were planted again when the summers grew warm."
    )
    pages |= {
        "copy": story("Aln", "wool").upper(),
        "long": long,
        "near": long + " One more sentence was added at the end of this copy.",
        "german": "Die Stadt liegt am Meer und lebt seit langer Zeit vom Handel mit Holz und Wein aus dem Süden.",
        "rude": "You are a stupid idiot and a moron, and your friends are bastards and whores, you piece of shit.",
        "leak": "He asked: which of the northern lords sent his ships along the river Esk to fetch timber in winter?",
    }
    web = [{"id": name, "html": page(text), "licence": "CC-BY"} for name, text in pages.items()]
    tasks = [{"id": f"t{n}", "text": f"Question: what is {n} plus {n}? Answer: {2 * n}."} for n in range(30)]
    tasks.append(
        {
            "id": "leaked",
            "text": "Tell me, which of the northern lords sent his ships along the river Esk to fetch timber?",
        }
    )
    code = [
        {"id": "a.py", "text": "def f(x: int) -> int:\n    return x + 1\n"},
        {"id": "b.py", "text": "# do not edit\nx=1"},
    ]
    return [
        Source(
            "web", write(tmp_path / "web.jsonl", [*web, '{"html": "cut', {"id": "empty", "html": "<p></p>"}]), "html"
        ),
        Source("tasks", write(tmp_path / "tasks.jsonl", tasks), "instruction", weight=2, licence="own"),
        Source("code", write(tmp_path / "code.jsonl", code), "code", licence="PSF-2.0"),
    ]


TESTS = ["Which of the northern lords sent his ships along the river Esk to fetch timber in winter?"]
CONFIG = CorpusConfig(seed=3, languages=("en", "zh"))


def test_losses_are_told_by_source(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", [{"text": "one text of my own"}, {"text": "one text of my own"}, "{", "["])
    other = write(tmp_path / "other.jsonl", [{"text": "   "}, {"text": "one more text that is all different"}])
    found = build_corpus([Source("mine", mine), Source("other", other)]).sources
    assert found == {
        "mine": {
            "file": "mine.jsonl",
            "read": 4,
            "kept": 1,
            "dropped": {"exact_copy": 1},
            "quarantined": {"broken JSON": 2},
        },
        "other": {"file": "other.jsonl", "read": 2, "kept": 1, "dropped": {"no_text": 1}, "quarantined": {}},
    }


def test_books_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    """Also where Python was told to pass over assertions."""
    mine = write(tmp_path / "mine.jsonl", [{"text": "one text of my own"}, {"text": "two texts of my own, no copy"}])
    other = write(tmp_path / "other.jsonl", [{"text": "one more text that is all different"}])
    sources = [Source("mine", mine), Source("other", other)]
    build_corpus(sources, folder=tmp_path / "work")
    marks = (tmp_path / "work/1-read").glob("*/mark.json")
    mark = next(path for path in marks if '"source": "mine"' in path.read_text())
    said = {key: value for key, value in read_json(mark).items() if key != "digest"} | {"read": 3}
    write_json(mark, {**said, "digest": executor._content(mark.parent, said)})
    with pytest.raises(Stopped, match="lost or counted twice") as caught:
        build_corpus(sources, folder=tmp_path / "work")
    assert caught.value.where == "mine: 3 read, 2 kept, 0 dropped, 0 quarantined"


def dropped(result: CorpusResult) -> dict[str, int]:
    return {row["rule"]: row["dropped"] for row in result.funnel if row["dropped"]}


def test_planted_faults_are_dropped_under_their_rules(sources: list[Source]) -> None:
    result = build_corpus(sources, TESTS, CONFIG)
    assert dropped(result) == {
        "quarantined": 1,
        "no_text": 1,
        "unwanted_language": 1,
        "exact_copy": 1,
        "near_copy": 1,
        "offensive": 1,
        "code_generated": 1,
        "test_overlap": 2,
    }
    ids = {row["id"] for row in result.documents}
    assert {"long", "near"} & ids == {"near"} and "Aln-wool" in ids and {f"zh-{p}" for p in ZH_PLACES} <= ids
    assert len([row for row in result.documents if row["source"] == "web"]) == 32 + 6 + 1
    assert len([row for row in result.documents if row["source"] == "tasks"]) == 60


def test_books_balance_and_rows_are_complete(sources: list[Source]) -> None:
    result = build_corpus(sources, TESTS, CONFIG)
    lefts = [row["left"] for row in result.funnel]
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[0] - sum(row["dropped"] for row in result.funnel[1:]) == lefts[-1]
    assert {row["licence"] for row in result.documents} == {"CC-BY", "own", "PSF-2.0"}
    assert result.counts["language"]["zh"]["documents"] == 6
    assert sum(part["documents"] for part in result.counts["source"].values()) == len(result.documents)
    assert {(row["id"], row["source"]) for row in result.contaminated} == {("leak", "web"), ("leaked", "tasks")}
    assert {row["rule"] for row in result.samples} >= {"offensive", "near_copy", "test_overlap", ""}


def test_two_builds_are_equal(sources: list[Source]) -> None:
    first, second = (build_corpus(sources, TESTS, CONFIG) for _ in range(2))
    assert (first.documents, first.funnel, first.samples) == (second.documents, second.funnel, second.samples)


def test_equal_in_another_process(sources: list[Source]) -> None:
    """Python's own `hash` differs between processes; nothing here may depend on it."""
    program = (
        "import json, sys; from qwenkit.data import *\n"
        "sources = [Source(*each) for each in json.loads(sys.argv[1])]\n"
        "r = build_corpus(sources, [], CorpusConfig(seed=3)); print(json.dumps([r.documents, r.samples]))"
    )
    given = json.dumps([[s.name, str(s.path), s.kind, s.weight, s.licence] for s in sources])
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, given], capture_output=True, text=True, env={"PYTHONHASHSEED": n}
        )
        for n in ("1", "2")
    ]
    assert outputs[0].stdout == outputs[1].stdout != "", outputs[0].stderr


def test_steps_can_be_skipped_and_instruction_data_alone_decontaminated(sources: list[Source]) -> None:
    web = Source("web", sources[0].path, "html", skip=("near_duplicates", "quality"))
    result = build_corpus([web, *sources[1:]], TESTS, CorpusConfig(languages=("en", "zh"), decontaminate_all=False))
    assert dropped(result).keys().isdisjoint({"near_copy", "offensive"})
    assert [row["id"] for row in result.contaminated] == ["leaked"]


def test_chosen_text_keeps_its_sums_and_web_text_does_not(tmp_path: Path) -> None:
    rows = [{"text": f"{n}+{n + 9}={2 * n + 9}, {n}-1={n - 1}, {n}*3={3 * n}"} for n in range(100, 150)]
    rows.append({"text": "You stupid idiot, you moron, you piece of shit and son of whores."})
    path = write(tmp_path / "sums.jsonl", rows)
    assert dropped(build_corpus([Source("sums", path, "text")])) == {"offensive": 1}
    assert not build_corpus([Source("sums", path, "web")]).documents


def test_heavier_source_keeps_its_copy(tmp_path: Path) -> None:
    text = story("Aln", "wool")
    light = Source("light", write(tmp_path / "a.jsonl", [{"id": "1", "text": text}]))
    heavy = Source("heavy", write(tmp_path / "b.jsonl", [{"id": "1", "text": text + " "}]), weight=2)
    found = build_corpus([light, heavy]).documents
    assert [(row["id"], row["copy"]) for row in found] == [("heavy/1", 0), ("heavy/1", 1)]


def test_a_copy_is_no_document_of_a_like_name(tmp_path: Path) -> None:
    """Whatever signs an id is made of, it names one document, and its copies are numbered."""
    rows = [{"id": name, "text": story(*words)} for name, *words in (("a", "Aln", "wool"), ("a~1", "Wye", "salt"))]
    result = build_corpus([Source("mine", write(tmp_path / "a.jsonl", rows), weight=2)])
    assert [(row["id"], row["copy"]) for row in result] == [("a", 0), ("a", 1), ("a~1", 0), ("a~1", 1)]
    assert len({(row["id"], row["text"]) for row in result}) == 2


def test_repeated_lines_and_personal_data(tmp_path: Path) -> None:
    rows = [
        {
            "id": place,
            "html": page(
                "Subscribe to our letter, which comes every week, at a@b.org now.\n"
                f"{story(place, 'salt')} Ask x@{place}.org."
            ),
        }
        for place in PLACES
    ]
    config = CorpusConfig(max_line_repeats=4, scrub_pii=True)
    result = build_corpus([Source("web", write(tmp_path / "w.jsonl", rows), "html")], config=config)
    assert len(result.documents) == 8 and not any("Subscribe" in row["text"] for row in result.documents)
    assert result.pii == {"email": 8}


def tables_of(path: Path) -> list[dict]:
    return [row for batch in read_tables(path) for row in batch]


def test_learned_scorer_drops_what_resembles_the_rejected(tmp_path: Path) -> None:
    good = [{"text": story(place, trade)} for place in PLACES for trade in TRADES]
    spam = "Buy {0} pills now\nCheap {0} pills online\nClick here for {0} pills\nBest price for {0} pills today"
    bad = [{"text": spam.format(place + trade)} for place in PLACES for trade in TRADES]
    web = [
        {"text": "Buy cheap pills online now, click here for the best price of pills today."},
        {"text": story("Oban", "fish")},
    ]
    sources = [
        Source("books", write(tmp_path / "g.jsonl", good)),
        Source("web", write(tmp_path / "b.jsonl", [*bad, *web]), "web", skip=("near_duplicates",)),
    ]
    scorer = QualityClassifier.train([row["text"] for row in good], [row["text"] for row in bad])
    scorer.save(tmp_path / "filter.npz")
    result = build_corpus(sources, config=CorpusConfig(classifiers=((str(tmp_path / "filter.npz"), 0.4),)))
    assert {row["score"] > 0.4 for row in tables_of(result.attribute_files[1]) if row["score"] is not None} == {
        True,
        False,
    }
    assert dropped(result) == {"unfinished_lines": 32, "low_score": 1}


def test_each_filter_has_its_own_least_score(tmp_path: Path) -> None:
    texts = [story(place, "wool") for place in PLACES]
    rude = [f"You greedy people of {place}, you are all thieves, and I hate you." for place in PLACES]
    dull = [f"Prices of wool in {place}: up, down, up, down, and up again." for place in PLACES]
    for name, bad in (("rude", rude), ("dull", dull)):
        QualityClassifier.train(texts, bad).save(tmp_path / f"{name}.npz")
    web = Source("web", write(tmp_path / "w.jsonl", [{"text": t} for t in (texts[0], rude[0], dull[0])]), "web")
    paths = [str(tmp_path / f"{name}.npz") for name in ("rude", "dull")]
    both = build_corpus([web], config=CorpusConfig(classifiers=((paths[0], 0.3), (paths[1], 0.4))))
    assert dropped(both) == {"low_score": 1, "low_score1": 1}
    assert dropped(build_corpus([web], config=CorpusConfig(classifiers=((paths[0], 0.3), (paths[1], 0.0))))) == {
        "low_score": 1
    }
    assert {"score", "score1"} <= set(tables_of(both.attribute_files[0])[0])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: ([], CONFIG), "no sources"),
        (lambda s: ([s[0], s[0]], CONFIG), "2 sources are called 'web'"),
        (lambda s: ([Source("w", s[0].path, skip=("nearduplicates",))], CONFIG), "near_duplicates"),
        (lambda s: (s, CorpusConfig(thresholds={"lenght": (1, 2)})), "nearest: length"),
        (lambda s: (s, CorpusConfig(rules=("goper",))), "nearest: gopher"),
    ],
)
def test_mistakes_are_named_before_reading(sources: list[Source], change, what: str) -> None:
    with pytest.raises(UserError, match=what):
        build_corpus(*change(sources)[:1], config=change(sources)[1])


def test_every_source_has_kept_samples_and_its_own_of_every_rule(tmp_path: Path) -> None:
    sources = []
    for name in ("one", "two"):
        rows = [{"id": f"{name}{n}", "text": f"{story(PLACES[n], name)} It has {n} gates."} for n in range(8)]
        rows += [{"id": f"{name}-short{n}", "text": f"Too short {n}, {name}."} for n in range(4)]
        sources.append(Source(name, write(tmp_path / f"{name}.jsonl", rows), "web", skip=("near_duplicates",)))
    result = build_corpus(sources, config=CorpusConfig(samples_per_rule=3))
    counts = Counter((row["source"], row["step"], row["rule"]) for row in result.samples)
    wanted = [(name, *fate) for name in ("one", "two") for fate in (("kept", ""), ("quality", "length"))]
    assert counts == dict.fromkeys(wanted, 3)


def test_an_overlap_is_told_with_what_stands_around_it(sources: list[Source]) -> None:
    (leak,) = [row for row in build_corpus(sources, TESTS, CONFIG).contaminated if row["id"] == "leak"]
    assert (leak["before"], leak["after"]) == ("He asked: ", "?")
    assert leak["matched"].startswith("which of the northern lords")
