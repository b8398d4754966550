"""Chats to shards in splits: any cut, any workers, any kill: the same tokens, and every row is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenkit.chat import load_tokenizer
from qwenkit.data.chats.datasets import read_chats
from qwenkit.data.documents import train_validation_split
from qwenkit.data.tokens import chat_shards, row_shards
from qwenkit.data.tokens.chat_shards import CHAT_ROWS, chat_examples, open_chats
from qwenkit.data.tokens.dataset import InMemoryTokenDataset
from qwenkit.data.tokens.row_shards import OUTCOMES, TokenizedRows, tokenize_rows
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, write_jsonl
from tests.data.tokens.integrity import is_intact
from tests.data.tokens.rows import ANSWER, ROW, SEED, SIZE, digest, kill_and_compare, make_desk, messages, plan
from tests.stages.conftest import chat_rows


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_desk(tmp_path_factory.mktemp("chats"))


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_shards, "SPLIT_BYTES", SIZE)


def work(desk: Path, folder: Path, workers: int = 1, tests: bool = False, **given: Any) -> TokenizedRows:
    digests = ["1", "2", "3"] if tests else ["1", "2"]
    return tokenize_rows(
        CHAT_ROWS, [desk / "chats.jsonl"], digests, plan(desk, tests, **given), folder, workers=workers
    )


@pytest.mark.parametrize("too_long", ["drop", "split", "truncate"])
def test_shards_are_the_examples_of_memory(desk: Path, tmp_path: Path, too_long: Any) -> None:
    """In the order of the file, and whatever happened to a row is counted once."""
    tokens = work(desk, tmp_path, tests=True, too_long=too_long)
    store = open_chats(tokens)
    assert tokens.shard_count > 5 and is_intact(store)
    tok = load_tokenizer(desk / "tokenizer")
    rows = read_chats(desk / "chats.jsonl", Quarantine())
    sound = [row for row in rows if ANSWER not in str(row["messages"])]
    kept, held = train_validation_split(sound, 0.2, SEED)
    made = [chat_examples(tok, row, "qwen", ROW, too_long) for row in kept]
    examples = [example for found, _ in made for example in found]
    memory = InMemoryTokenDataset(examples)
    assert store.digest == memory.digest and [*store.ids] == memory.ids and max(store.lengths) <= ROW
    counts = tokens.counts
    assert counts["read"] == len(rows) + 2 == sum(counts[outcome] for outcome in OUTCOMES)
    assert counts["test_overlap"] == len(rows) - len(sound) == 4 and counts["overlap_13gram"] == 0
    assert counts["held_out"] == len(held) and [row["id"] for row in tokens.validation] == [row["id"] for row in held]
    assert counts["kept"] == sum(bool(found) for found, _ in made) and counts["too_long"] == len(kept) - counts["kept"]
    assert counts["turns_left_out"] == sum(lost for found, lost in made if found)
    assert counts["tokens"] == store.lengths.sum() and counts["parts"] == len(store.lengths)
    assert counts["quarantined"] == len(tokens.quarantined) == 2 and sum(tokens.reasons.values()) == 2


def test_workers_make_the_same_bytes(desk: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        open_chats(work(desk, tmp_path / f"{workers}", workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_ids_and_weights_of_a_split_chat_by_hand(desk: Path) -> None:
    """Each part is a conversation of its own: system turn, whole turns, the mask of a conversation."""
    tok = load_tokenizer(desk / "tokenizer")
    row = {"id": "c", "messages": messages(("q1", "a1"), ("q2", "a2"), ("q3", "a3"), system="s")}

    def turn(role: str, text: str) -> tuple[list[int], list[float]]:
        head, body = tok.encode(f"{role}\n"), tok.encode(text)
        ids = [tok.im_start_id, *head, *body, tok.im_end_id, *tok.encode("\n")]
        return ids, [1.0, *[0.0] * len(head), *[float(role == "assistant")] * len(body), 1.0, 1.0]

    def part(*numbers: int) -> tuple[list[int], list[float]]:
        said = [(role, f"{letter}{n}") for n in numbers for role, letter in (("user", "q"), ("assistant", "a"))]
        turns = [turn(*each) for each in (("system", "s"), *said)]
        return [i for ids, _ in turns for i in ids], [w for _, weights in turns for w in weights]

    two = len(part(1, 2)[0])
    found, left_out = chat_examples(tok, row, "qwen", two, "split")
    assert left_out == 0 and [example.id for example in found] == ["c/0", "c/1"]
    assert [(list(e.ids), list(e.weights)) for e in found] == [part(1, 2), part(3)]
    (newest,), left_out = chat_examples(tok, row, "qwen", two, "truncate")
    assert left_out == 1 and (newest.id, list(newest.ids), list(newest.weights)) == ("c", *part(2, 3))
    assert chat_examples(tok, row, "qwen", two, "drop") == ([], 3)


def test_chats_without_an_answer_to_learn_are_quarantined(desk: Path, tmp_path: Path) -> None:
    """Marks alone would be trained; and where nothing else is left, it is said why."""
    silent = [{"id": "x", "messages": messages(("q", ""))}]
    write_jsonl(tmp_path / "c.jsonl", [*chat_rows(), *silent])
    source = [tmp_path / "c.jsonl"]
    tokens = tokenize_rows(CHAT_ROWS, source, [], plan(desk, False, validation_share=0.0), tmp_path / "a")
    assert tokens.counts["quarantined"] == 1 and tokens.counts["kept"] == len(chat_rows())
    write_jsonl(tmp_path / "c.jsonl", [*silent * 3, {"id": "y", "messages": messages(("q", "long " * 99))}])
    with pytest.raises(UserError, match="none of 4 chats is left to learn from: 3 quarantined, 1 too long"):
        tokenize_rows(CHAT_ROWS, source, [], plan(desk, False, validation_share=0.0), tmp_path / "b")


def test_a_chat_that_the_template_refuses_is_quarantined(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat, not the whole file; and a folder that can render none is refused before anything is read."""
    usual = chat_shards.chat_example

    def refusing(tok: Any, row: Any, mask: str) -> Any:
        if row["id"] == "c5":
            raise UserError("the template knows no such turn")
        return usual(tok, row, mask)

    monkeypatch.setattr(chat_shards, "chat_example", refusing)
    write_jsonl(tmp_path / "c.jsonl", chat_rows())
    source = [tmp_path / "c.jsonl"]
    tokens = tokenize_rows(CHAT_ROWS, source, [], plan(desk, False, validation_share=0.0), tmp_path / "a")
    assert tokens.reasons == {"the template knows no such turn": 1} and tokens.counts["kept"] == len(chat_rows()) - 1
    assert (tokens.quarantined[0]["file"], tokens.quarantined[0]["line"]) == ("c.jsonl", 6)
    with pytest.raises(UserError, match="style"):
        tokenize_rows(CHAT_ROWS, source, [], replace(plan(desk, False), style="qwen3"), tmp_path / "b")


def test_the_key_of_the_work_keeps_its_names(desk: Path) -> None:
    """It is hashed into the mark of the phase: another key would throw away what an interrupted run has made."""
    names = {"style": "own", "row": ROW, "too_long": "drop", "share": 0.2, "seed": SEED, "mask": "qwen"}
    assert plan(desk).key() == names


@pytest.mark.parametrize(("kills", "workers"), [(2, 1), pytest.param(20, 2, marks=pytest.mark.soak)])
def test_kills_lose_no_more_than_a_split(desk: Path, tmp_path: Path, kills: int, workers: int) -> None:
    kill_and_compare(desk, tmp_path, "qwenkit.data.tokens.chat_shards:CHAT_ROWS", open_chats, kills, workers)
