"""The invented world's pages carry planted faults and their truth: the corpus must find each, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.data import CorpusConfig, Source, build_corpus
from qwenkit.data.text_units import units
from qwenkit.nano.facts import Facts
from qwenkit.nano.pages import pages
from qwenkit.nano.warc import write_warc


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """(Truth by URL, kept rows by URL) of 500 pages."""
    rows = list(pages(Facts(5), 5, 500))
    path: Path = tmp_path_factory.mktemp("world") / "pages.warc.gz"
    write_warc(path, rows)
    result = build_corpus([Source("pages", path, "html")], config=CorpusConfig(seed=5))
    return {row["url"]: row["truth"] for row in rows}, {row["url"]: row for row in result.documents}


@pytest.mark.parametrize("fault", ["spam", "garbled", "offensive"])
def test_faulty_pages_are_gone(world: tuple[dict, dict], fault: str) -> None:
    truth, kept = world
    planted = {url for url, page in truth.items() if page["planted"] == fault}
    assert len(planted) > 5 and len(planted & kept.keys()) <= 0.05 * len(planted)


def test_of_every_duplicate_and_its_original_one_stays(world: tuple[dict, dict]) -> None:
    truth, kept = world
    url_of = {page["id"]: url for url, page in truth.items()}
    pairs = [(url, url_of[page["of"]]) for url, page in truth.items() if page["of"]]
    assert len(pairs) > 30 and not any(copy in kept and original in kept for copy, original in pairs)


def test_good_pages_stay_with_their_text_and_language(world: tuple[dict, dict]) -> None:
    truth, kept = world
    copied = {page["of"] for page in truth.values()}
    good = {url: page for url, page in truth.items() if page["planted"] is None and page["id"] not in copied}
    assert len(good.keys() & kept.keys()) >= 0.99 * len(good)
    for url in good.keys() & kept.keys():
        assert kept[url]["language"] == good[url]["language"]
        words, found = set(units(good[url]["text"])), set(units(kept[url]["text"]))
        assert len(words & found) >= 0.98 * len(words), url
        assert len(words & found) >= 0.75 * len(found), url
