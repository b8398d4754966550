"""Deduplication against brute force, against planted truth, in English and Chinese, in any order."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit import rng
from qwenkit.data import near_duplicates
from qwenkit.data.dedup.exact import exact_key
from qwenkit.data.dedup.lines import collapse_repeated_lines, line_keys, without_lines
from qwenkit.data.dedup.minhash import (
    bands_for,
    jaccard,
    shingle,
    signature,
    signatures_of,
    sketches,
)

ZH = "杭州的西湖边上有一座小小的茶馆，茶馆的主人姓王，今年六十岁，每天早上五点起床，烧水，扫地，等第一位客人来喝茶。"
ZH += "客人大多是附近的老人，他们喝茶，下棋，说说家里的事情，到了中午才慢慢走回家去吃饭。"
EN = " ".join(f"word{n}" for n in range(60))


def brute_force(texts: list[str], threshold: float) -> list[list[int]]:
    group = list(range(len(texts)))
    sets = [shingle(text) for text in texts]
    for left, right in itertools.combinations(range(len(texts)), 2):
        if jaccard(sets[left], sets[right]) >= threshold:
            group = [group[left] if label == group[right] else label for label in group]
    clusters = [[i for i, label in enumerate(group) if label == name] for name in set(group)]
    return sorted(cluster for cluster in clusters if len(cluster) > 1)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(seed: int) -> None:
    """Random texts with edits of every size. At the threshold itself LSH may miss 1 in 200, never far above it."""
    texts = []
    for base in range(12):
        words = [f"w{value}" for value in (rng.uniform(seed, base, np.arange(80)) * 500).astype(int)]
        texts.append(" ".join(words))
        for edit in range(3):
            changed = rng.uniform(seed, base, edit, np.arange(80)) < 0.01 * edit
            texts.append(" ".join("x" if bad else word for word, bad in zip(words, changed)))
    assert near_duplicates(texts, 0.8) == brute_force(texts, 0.8)


def test_chinese_near_duplicates() -> None:
    news = "今天的新闻说，北方下了很大的雪，学校都放假了，孩子们在外面堆雪人，玩得很高兴。"
    texts = [ZH, ZH.replace("六十", "六一"), news, ZH]
    assert near_duplicates(texts) == [[0, 1, 3]]


def test_planted_articles(real_data: Path) -> None:
    folder = real_data / "dedup_minhash_articles"
    lines = gzip.decompress((folder / "articles_1000.train.gz").read_bytes()).decode().splitlines()
    rows = [line.split(" ", 1) for line in lines if " " in line]
    truth = {frozenset(line.split()) for line in (folder / "articles_1000.truth").read_text().splitlines() if line}
    found = near_duplicates([text for _, text in rows], 0.8)
    assert {frozenset(rows[index][0] for index in cluster) for cluster in found} == truth


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)))
def test_order_does_not_matter(order: list[int]) -> None:
    texts = [EN, EN + " tail", "other " * 3 + ZH, ZH, ZH + "！", "short", "", EN.replace("word30", "thing")]
    expected = {frozenset(texts[i] for i in cluster) for cluster in near_duplicates(texts)}
    shuffled = [texts[i] for i in order]
    assert {frozenset(shuffled[i] for i in cluster) for cluster in near_duplicates(shuffled)} == expected


def test_minhash_estimates_jaccard() -> None:
    left, right = np.arange(1000, dtype=np.uint64), np.arange(250, 1250, dtype=np.uint64)
    mixed = [rng.random_bits(0, values.astype(np.int64)) for values in (left, right)]
    agree = np.mean(signature(mixed[0], 2048) == signature(mixed[1], 2048))
    assert abs(agree - 750 / 1250) < 0.04


@pytest.mark.parametrize("size", [4, 10, 40, 150, 1000])
def test_sets_of_every_size_are_found_as_by_independent_permutations(size: int) -> None:
    """Each value agrees with the probability of the similarity, and bands find as many pairs as theory says."""
    bands, rows = bands_for(0.8)
    for similarity in (0.4, 0.6, 0.7, 0.8):
        common = round(2 * size * similarity / (1 + similarity))
        exact, pairs = common / (2 * size - common), 1000
        values = rng.random_bits(5, np.arange(pairs)[:, None], common, np.arange(2 * size - common))
        owner = np.repeat(np.arange(pairs), size)
        sides = (values[:, :size], values[:, size - common :])
        left, right = (signatures_of(side.ravel(), owner, pairs, bands * rows) for side in sides)
        equal = left == right
        found = equal.reshape(pairs, rows, bands).all(axis=1).any(axis=1).mean()
        assert equal.mean() == pytest.approx(exact, abs=0.006)
        assert found == pytest.approx(1 - (1 - exact**rows) ** bands, abs=0.05)


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=30), max_size=8))
def test_a_signature_is_the_sets_alone(sets: list[list[int]]) -> None:
    """Whatever else is signed with it, in whatever order, with whatever repeats; of no shingles it is empty."""
    flat = np.array([value for values in sets for value in values * 2], dtype=np.uint64)
    owner = np.repeat(np.arange(len(sets)), [2 * len(values) for values in sets])
    together = signatures_of(flat, owner, len(sets), 32)
    for row, values in zip(together, sets):
        assert row.tolist() == signature(np.array(sorted(set(values)), dtype=np.uint64), 32).tolist()
        assert (row == 2**32 - 1).all() == (not values)


@given(st.floats(0.3, 0.99))
def test_bands_find_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= 0.995


def test_many_copies_are_quick_and_one_cluster() -> None:
    assert near_duplicates([EN] * 3000) == [list(range(3000))]


def test_pages_of_one_template_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are copies among them missed."""
    rng = np.random.default_rng(0)
    frame = " ".join(f"frame{n}" for n in range(400))
    pages = [f"{frame} " + " ".join(f"own{n}" for n in rng.integers(0, 10**9, 70)) for _ in range(400)]
    pages += [pages[7] + " end", pages[300].replace("frame3 ", "")]
    count = 0

    def counted(left: np.ndarray, right: np.ndarray) -> float:
        nonlocal count
        count += 1
        return jaccard(left, right)

    monkeypatch.setattr("qwenkit.data.dedup.minhash.jaccard", counted)
    assert near_duplicates(pages) == [[7, 400], [300, 401]]
    assert count < 400 * 16 * 12  # all pairs are 80,000, and every band would find its own


def test_signs_tell_code_and_sums_apart() -> None:
    texts = ["return a + b", "return a - b", "return  a + b"]
    loose, _ = sketches(texts, 0.8, False)
    strict, _ = sketches(texts, 0.8, False, strict=True)
    assert len({*map(tuple, loose.tolist())}) == 1 and (strict[0] == strict[2]).all()
    assert strict[0].tolist() != strict[1].tolist()


def test_empty_and_tiny_texts() -> None:
    assert near_duplicates([]) == near_duplicates(["", "", "  "]) == [] and near_duplicates(["hi", "hi"]) == [[0, 1]]


def test_exact_after_normalisation() -> None:
    texts = ["Hello,  World", "hello world!", "ＨＥＬＬＯ world", "hello worlds", "你好。", "你好"]
    keys = [exact_key(text) for text in texts]
    assert [keys.index(key) for key in keys] == [0, 0, 0, 3, 4, 4]


def test_lines() -> None:
    assert collapse_repeated_lines("a\na\nb\n\n\nb\na") == "a\nb\n\n\nb\na"
    texts = ["Menu\nfirst story", "menu!\n\nsecond story", "Menu\nthird story"]
    keys = [line_keys(text) for text in texts]
    assert keys[0][0] == keys[1][0] == keys[2][0] != keys[0][1] and keys[1][1] == 0
    assert without_lines(texts[1], {keys[0][0]}) == "\nsecond story" and line_keys("") == line_keys("--") == [0]


@settings(deadline=None)
@given(st.text())
def test_every_line_has_its_own_key(text: str) -> None:
    keys = line_keys(text)
    assert keys == [line_keys(line)[0] for line in text.split("\n")]
