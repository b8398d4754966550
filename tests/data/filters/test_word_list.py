"""A person's lists of words: read from files, found between borders, fast, and used by the rules of a corpus."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from qwenkit.data import CorpusConfig, Source, build_corpus
from qwenkit.data.filters.word_list import WordLists, read_lists
from qwenkit.errors import UserError

EN = "The {0} of the town was old. It had stood there for a long time. Nobody knew who had built it in those days."


def test_words_count_between_borders_and_over_lines() -> None:
    lists = WordLists({"en": ["Blorp", "two words", "s&m", "🖕"]})
    assert lists.counts("BLORP, blorp; two\n  words, blorps", "en") == [1, 2]
    assert lists.counts("Only S&M and 🖕 here", "en") == [1, 1]
    assert lists.counts("blorping ablorp words two", "en") == [] == lists.counts("blorp", "de")


def test_words_without_spaces_count_anywhere() -> None:
    lists = WordLists({"zh": ["坏话", "性", "ab"], "": ["粗"]})
    assert lists.counts("这是坏话，xaby也是坏话，性别不是", "zh") == [1, 2]
    assert lists.counts("这里很粗", "en") == [1]


def test_files_are_named_by_their_language(tmp_path: Path) -> None:
    for name, text in (("en", "one\n# a remark\n\n two words \n"), ("zh.txt", "坏话\n"), ("fr-CA-u-sd-caqc", "mot\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "README.md").write_text("About the lists.")
    assert read_lists(tmp_path) == {"en": ("one", "two words"), "fr": ("mot",), "zh": ("坏话",)}
    (tmp_path / "mine.txt").write_text("word\n")
    with pytest.raises(UserError, match="not a list of words"):
        read_lists(tmp_path)
    assert read_lists(tmp_path / "mine.txt") == {"": ("word",)}


@pytest.mark.parametrize(("data", "what"), [(b"# nothing\n", "no words in this list"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_without_words_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "en").write_bytes(data)
    with pytest.raises(UserError, match=what):
        read_lists(tmp_path / "en")


@pytest.mark.timeout(60)  # a search for each word by itself would not end
def test_long_lists_cost_little() -> None:
    lists = WordLists({"en": [f"word{n} of{n}" for n in range(20_000)], "zh": [chr(0x4E00 + n) for n in range(20_000)]})
    assert lists.counts("word7 of7 and word8 of9. " * 4000, "en") == [4000]


def test_a_page_with_one_listed_word_is_dropped_by_c4s_rules(tmp_path: Path) -> None:
    rows = [{"text": EN.format(word), "id": word} for word in ("harbour", "blorp", "blorps")]
    (tmp_path / "web.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source("web", tmp_path / "web.jsonl", "web", skip=("near_duplicates",))
    for rules, lists, kept in (
        (("c4",), {"en": ("blorp",)}, ["harbour", "blorps"]),
        (("c4",), {"de": ("blorp",)}, ["harbour", "blorp", "blorps"]),
        (("c4",), {}, ["harbour", "blorp", "blorps"]),
        (("own",), {"": ("blorp",)}, ["harbour", "blorps"]),  # one in 24 words is more than 2 in 100
    ):
        result = build_corpus([source], config=CorpusConfig(rules=rules, offensive_words=lists))
        assert [row["id"] for row in result.documents] == kept


def test_the_lists_of_c4_find_what_a_plain_search_finds(real_data: Path, tmp_path: Path) -> None:
    with tarfile.open(real_data / "badwords" / "lists.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    lists = read_lists(tmp_path)
    assert len(lists) == 27 and len(lists["en"]) == 403
    found = WordLists(lists)
    for language in ("en", "de", "ru", "hi", "zh", "ja", "th"):
        hits = [found.counts(f"x {word} x", language) for word in lists[language]]
        assert sum(map(bool, hits)) >= len(hits) - 3
