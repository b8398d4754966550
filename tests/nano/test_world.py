"""The world repeats itself, keeps training and tests apart, and plants what it says it plants."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import islice

import pytest

from qwenkit.data.decontamination import TestIndex, overlap_13gram
from qwenkit.errors import UserError
from qwenkit.nano import SCALES, Scale, build_world, write_warc
from qwenkit.nano.facts import Facts, phrases, values
from qwenkit.nano.pages import RATES
from qwenkit.nano.row_rng import RowRng, rows

OUTPUTS = "pages stdlib text instructions chat pmp_pairs prompts base_test chat_test pair_test truth".split()


@pytest.fixture(scope="module")
def world():
    return build_world(3, Scale(400, 60_000, 2500, 800, 800, 400, 240, 48, 20, 10, 120))


@pytest.mark.parametrize("output", OUTPUTS)
def test_same_seed_same_rows(output):
    first, again = (list(getattr(build_world(5, "tiny"), output)()) for _ in range(2))
    assert first and first == again


def test_other_seed_other_world():
    assert list(build_world(1, "tiny").chat()) != list(build_world(2, "tiny").chat())


def test_row_does_not_depend_on_the_number_of_rows():
    longer = [draw.unit() for draw in rows(7, "x", 600)]
    assert [draw.unit() for draw in rows(7, "x", 300)] == longer[:300]


def test_draws_go_on_past_their_first_block():
    (first,) = rows(7, "x", 1)
    values_ = [first.unit() for _ in range(200)]
    assert len(set(values_)) == 200 and all(0 <= value < 1 for value in values_)


def test_some_are_different_and_other_is_other():
    draw = RowRng(1, 0)
    assert len(set(draw.some(range(10), 10))) == 10
    assert all(draw.other([1, 2, 3], 2) != 2 for _ in range(50))


def test_under_300_entities_with_unique_names():
    facts = Facts(0)
    assert len(facts.people) + len(facts.cities) + len(values("rivers", "en")) < 300
    for language in ("en", "zh"):
        names = [entity.name(language) for entity in (*facts.people, *facts.cities)]
        assert len(set(names)) == len(names)
        given = [person.name(language).split()[0] for person in facts.people]
        assert len(set(given)) == len(given)


def test_no_13_units_in_common(world):
    index = TestIndex(world.test_texts())
    assert not any(index.matches(text) for text in world.training_texts())


def test_overlap_sees_a_leak(world):
    long = next(row for row in world.base_test() if row["task"] == "problem")["prompt"]
    assert overlap_13gram(["nothing", f"before {long} after"] + ["nothing"] * 600, world.test_texts()) == 1
    assert overlap_13gram(world.training_texts(), world.test_texts()) == 0


def test_held_out_people_are_told_but_never_asked(world):
    held = {person.name(language) for person in world.facts.held_out() for language in ("en", "zh")}
    chats = [row for row in world.chat() if row["task"] == "fact"]
    asked = "\n".join(m["content"] for row in [*chats, *world.prompts()] for m in row["messages"])
    assert chats and not any(name in asked for name in held)
    told = "\n".join(row["text"] for row in world.text())
    assert all(name in told for name in held)


def test_completions_of_the_base_test_are_in_no_training_text(world):
    prompts = {row["prompt"] for row in world.base_test() if row["task"].startswith("fact")}
    text = "\n".join(world.training_texts())
    assert prompts and not any(prompt in text for prompt in prompts)


def test_test_phrasings_are_never_in_training():
    for kind in ("job", "city", "pet", "sum", "word", "recall", "howto"):
        for language in ("en", "zh"):
            forms = phrases(kind, language)
            assert not set(forms["ask"]) & set(forms["ask_test"])


def test_base_test_rows_are_sound(world):
    for row in world.base_test():
        assert row["choices"][row["gold"]] == row["answer"] and len(set(row["choices"])) == 4
    golds = Counter(row["gold"] for row in build_world(3, "nano").base_test())
    assert min(golds.values()) > 0.18 * sum(golds.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_full_size_tests_are_large_enough(seed):
    world = build_world(seed, "nano")
    assert min(Counter(row["task"] for row in world.base_test()).values()) >= 60
    counts = Counter(row["task"] for row in world.chat_test())
    assert len(counts) == 12 and min(counts.values()) >= 45


def test_planted_faults_come_at_their_rates():
    pages = list(islice(build_world(0, "nano").pages(), 3000))
    found = Counter(page["truth"]["planted"] for page in pages)
    for name, rate in RATES.items():
        assert abs(found[name] / len(pages) - rate) < 0.012
    texts = {page["truth"]["id"]: page["truth"]["text"] for page in pages}
    for page in pages:
        truth = page["truth"]
        if truth["planted"] == "exact_duplicate":
            assert truth["text"] == texts[truth["of"]]
        if truth["planted"] == "near_duplicate":
            assert truth["text"] != texts[truth["of"]] and len(truth["text"]) < len(texts[truth["of"]]) * 1.5
    assert len({page["truth"]["layout"] for page in pages}) == 12


def test_headers_that_lie(world):
    def reads(page, encoding):
        try:
            return bool(page["body"].decode(encoding))
        except UnicodeDecodeError:
            return False

    lying = [page for page in world.pages() if "utf-8" in page["content_type"] and not reads(page, "utf-8")]
    assert {page["truth"]["language"] for page in lying} == {"en", "zh"}


def test_warc_bytes_are_fixed_and_readable(world, tmp_path):
    from warcio.archiveiterator import ArchiveIterator

    pages = list(islice(world.pages(), 20))
    for name in ("a", "b"):
        assert write_warc(tmp_path / name, pages) == 20
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert gzip.decompress((tmp_path / "a").read_bytes()).startswith(b"WARC/1.1")
    with open(tmp_path / "a", "rb") as file:
        read = [
            (record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read())
            for record in ArchiveIterator(file)
            if record.rec_type == "response"
        ]
    assert read == [(page["url"], page["body"]) for page in pages]


def test_stdlib_keeps_its_budget(world):
    rows_ = list(world.stdlib())
    assert rows_ and sum(len(row["text"].encode()) for row in rows_) <= 60_000
    assert all(row["licence"] == "PSF-2.0" and "/test/" not in row["id"] for row in rows_)


def test_rows_have_their_formats_and_are_json(world):
    for row in world.chat():
        assert row["messages"][-1]["role"] == "assistant" and row["messages"][-1]["content"]
        assert row["language"] in ("en", "zh") and row["source"]
    for row in (*world.prompts(), *world.chat_test()):
        assert row["messages"][-1]["role"] == "user" and row["reference"]
        assert json.loads(json.dumps(row, ensure_ascii=False)) == row
    for row in (*world.text(), *world.instructions()):
        assert row["text"].strip() and row["licence"] and row["id"]


def test_unknown_scale_is_the_users_mistake():
    with pytest.raises(UserError, match="nano"):
        build_world(0, "nanoo")
    assert set(SCALES) == {"nano", "quick", "tiny"}
