"""Pairs to shards in splits: any cut, any workers, any kill: the same tokens, and every row is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenkit.alignment import encode_pairs
from qwenkit.alignment.pair_shards import PAIR_ROWS, open_pairs
from qwenkit.chat import load_tokenizer
from qwenkit.data.chats.datasets import prompt_of, read_pairs
from qwenkit.data.documents import train_validation_split
from qwenkit.data.tokens import row_shards
from qwenkit.data.tokens.row_shards import TokenizedRows, tokenize_rows
from qwenkit.records import Quarantine
from tests.data.tokens.rows import ROW, SEED, SIZE, digest, kill_and_compare, make_desk, messages, plan


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_desk(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_shards, "SPLIT_BYTES", SIZE)


def work(desk: Path, folder: Path, workers: int = 1, **given: Any) -> TokenizedRows:
    source = [desk / "pairs.jsonl"]
    return tokenize_rows(PAIR_ROWS, source, ["1", "2"], plan(desk, False, **given), folder, workers=workers)


def test_pairs_are_the_pairs_of_memory(desk: Path, tmp_path: Path) -> None:
    tok = load_tokenizer(desk / "tokenizer")
    kept, held = train_validation_split(
        read_pairs(desk / "pairs.jsonl", "pairs.jsonl", Quarantine()), 0.2, SEED, prompt_of
    )
    for too_long in ("drop", "truncate"):
        tokens = work(desk, tmp_path / too_long, too_long=too_long)
        pairs, counts = encode_pairs(kept, tok, ROW, too_long)
        found = open_pairs(tokens)
        assert list(found) == pairs and found[-1] == pairs[-1] and found[1:3] == pairs[1:3] and len(found) == len(pairs)
        assert {name: tokens.counts[name] for name in counts} == counts and counts["too_long"]
        assert not tokens.counts["quarantined"] and counts["same_text"]
        assert tokens.counts["read"] == 129 and tokens.counts["held_out"] == len(held) == len(tokens.validation)
    assert counts["cut"] and tokens.counts["too_long"] < work(desk, tmp_path / "drop").counts["too_long"]


def test_workers_make_the_same_bytes(desk: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        open_pairs(work(desk, tmp_path / f"{workers}", workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_truncation_of_a_pair_is_the_same_for_both_sides(desk: Path) -> None:
    """The oldest turns go until the longer side fits; the answers are whole."""
    tok = load_tokenizer(desk / "tokenizer")
    row = {"id": "p", "messages": messages(("one", "1"), ("two", "2"), ("three", ""), system="S")[:-1],
           "chosen": "river", "rejected": "river " * 9}  # fmt: skip
    (whole,), _ = encode_pairs([row], tok, 1000)
    (cut,), counts = encode_pairs([row], tok, whole.tokens - 1, "truncate")
    rest = {**row, "messages": [row["messages"][0], *row["messages"][3:]]}
    assert [cut] == encode_pairs([rest], tok, 1000)[0] and counts["cut"] == 1
    last = {**row, "messages": [row["messages"][0], row["messages"][-1]]}
    (shortest,), _ = encode_pairs([last], tok, 1000)
    assert encode_pairs([row], tok, shortest.tokens, "truncate")[0] == [shortest]
    assert encode_pairs([row], tok, shortest.tokens - 1, "truncate")[1]["too_long"] == 1


@pytest.mark.parametrize(("kills", "workers"), [(2, 1), pytest.param(20, 2, marks=pytest.mark.soak)])
def test_kills_lose_no_more_than_a_split(desk: Path, tmp_path: Path, kills: int, workers: int) -> None:
    kill_and_compare(desk, tmp_path, "qwenkit.alignment.pair_shards:PAIR_ROWS", open_pairs, kills, workers)
