"""What `sft` reads beside its chats: the replay, and the tests that nothing may repeat."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenkit import rng
from qwenkit.data.documents import iter_documents, train_validation_split
from qwenkit.data.tokens.replay import draw_documents
from qwenkit.records import write_jsonl
from qwenkit.stages import sft
from qwenkit.stages.base import Input
from qwenkit.stages.chat_tokens import overlapping, without_overlap
from qwenkit.stages.sft import Config, replay
from qwenkit.training import validation_sets
from tests.stages.conftest import Desk, chat_rows

ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


class Letters:
    """A tokenizer of one id a letter."""

    eot_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def replayed(desk: Desk, model: Path, *texts: str, row: int = 8, corpus_validation: float = 0.0) -> tuple[Any, ...]:
    path = desk.rows("text.jsonl", [{"id": n, "text": text} for n, text in enumerate(texts)])
    inputs = {"replay": Input("replay", path, ""), "model": Input("model", model, "")}
    config = Config(model="m", data="d", seq_length=row, replay_share=0.5, corpus_validation=corpus_validation)
    return replay(inputs, config, desk.context(), chat_tokens=10_000)


def test_documents_too_long_to_replay_are_counted(desk: Desk, folder: Callable[..., Path]) -> None:
    store, numbers, too_long = replayed(desk, folder(), "short", "much longer than a row", "brief", "longer than a row")
    assert sorted(store.ids[number] for number in numbers) == ["0", "2"] and too_long == 2


def test_a_replay_ends_with_the_document_that_fills_its_share() -> None:
    """As one after the other would be taken: those too long are passed over, and count for nothing."""
    luck = random.Random(2)
    for budget in (0.5, 7, 100, 1e6):
        lengths = [luck.randrange(1, 30) for _ in range(40)]
        expected, used, too_long = [], 0, 0
        for number in rng.permutation(9, 40):
            if lengths[number] > 20:
                too_long += 1
            else:
                expected.append(number)
                used += lengths[number]
            if used >= budget:
                break
        assert draw_documents(np.array(lengths), 20, budget, 9) == (expected, too_long)


def chat(text: str | list[Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}


def test_chats_that_hold_an_answer_of_a_test_are_dropped(tmp_path: Path) -> None:
    """Whichever field holds it: a test's answer, its choices, or a side of a comparison."""
    chats = [chat(f"Well, {ANSWER}."), chat("another answer")]
    for number, test in enumerate((
        {"answer": ANSWER}, {"reference": ANSWER}, {"choices": ["no", ANSWER]}, {"chosen": ANSWER},
        {"rejected": ANSWER}, {"prompt": ANSWER}, {"messages": chats[0]["messages"]},
    )):  # fmt: skip
        write_jsonl(tmp_path / f"{number}.jsonl", [test])
        assert without_overlap(chats, tmp_path / f"{number}.jsonl") == chats[1:]
        assert overlapping(chats * 2, tmp_path / f"{number}.jsonl")[::2] in ([1, 1], [2, 2])
    assert without_overlap(chats, None) == chats


def test_what_is_left_of_the_tests_is_counted(desk: Desk, folder: Callable[..., Path]) -> None:
    """Of what is trained on, wherever it came from: a replayed document is not dropped, so it is told."""
    corpus = desk.rows("text.jsonl", [{"text": f"So {ANSWER}."}])
    tests = desk.rows("tests.jsonl", [{"answer": ANSWER}])
    data = desk.rows("c.jsonl", [{"messages": chat("yes")["messages"]} for _ in range(4)] + [chat(f"So {ANSWER}!")])
    edges = {"model": folder(), "data": data, "replay": corpus, "decontaminate": tests}
    keys: dict[str, Any] = {"seq_length": 200, "steps": 1, "batch_size": 1, "validation_share": 0.0, "warmup_steps": 0}
    found = desk.run(sft, edges, **keys, corpus_validation=0.0)
    assert found.metrics["overlap_13gram"] == found.metrics["replayed_documents"] == 1
    assert found.metrics["dropped_test_overlap"] == 1 and found.metrics["chats"] == 4
    assert "overlap_13gram" not in desk.run(sft, {"model": edges["model"], "data": data}, **keys).metrics


def test_content_in_parts_and_calls_without_content_are_compared_too(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    user = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    chats = [chat([{"type": "text", "text": f"Well, {ANSWER}."}]), {"messages": [user, call]}]
    write_jsonl(tmp_path / "tests.jsonl", [chats[0]])
    assert without_overlap(chats, tmp_path / "tests.jsonl") == chats[1:]


def test_a_replay_leaves_out_what_the_base_model_was_measured_on(desk: Desk, folder: Callable[..., Path]) -> None:
    """The same rule, seed and share as in pretraining."""
    texts = [f"text {n}" for n in range(200)]
    store, numbers, _ = replayed(desk, folder(), *texts, row=64, corpus_validation=0.3)
    _, aside = train_validation_split(
        list(iter_documents(desk.tmp / "text.jsonl")), 0.3, desk.context().seed_for("held-out")
    )
    measured = {row["id"] for row in aside}
    assert len(numbers) == 200 - len(measured) and len(measured) > 30
    assert not measured & {store.ids[number] for number in numbers}


TOO_LONG = {"drop": "16 chats, 16 too long for a row and left out, 2 steps", 
            "split": "32 chats in 48 parts, 16 too long for a row and cut between turns, 2 steps",
            "truncate": "32 chats, 16 too long for a row and cut between turns, 2 steps"}  # fmt: skip


@pytest.mark.parametrize("too_long", TOO_LONG)
def test_what_becomes_of_chats_too_long_is_told(desk: Desk, folder: Callable[..., Path], too_long: str) -> None:
    """In the headline, and in numbers that add up."""
    rows = chat_rows()
    for row in rows[::2]:
        row["messages"] = [*row["messages"], *rows[1]["messages"]]
    edges = {"model": folder(), "data": desk.rows("chat.jsonl", rows)}
    keys: dict[str, Any] = {"seq_length": 48, "steps": 2, "batch_size": 2, "validation_share": 0.0, "warmup_steps": 0}
    found = desk.run(sft, edges, too_long=too_long, **keys)
    assert found.summary == TOO_LONG[too_long]
    m = found.metrics
    assert m["read"] == 32 == m["quarantined"] + m["dropped_test_overlap"] + m["dropped_too_long"] + m["chats"]


def test_held_out_chats_that_are_all_too_long_measure_nothing(desk: Desk, folder: Callable[..., Path]) -> None:
    rows = [{"id": row["id"], **chat("long " * 80)} if n % 2 else row for n, row in enumerate(chat_rows())]
    ids = {row["id"] for row in train_validation_split(rows, 0.3, desk.context().seed_for("held-out"))[1]}
    rows = [{**row, "messages": chat("long " * 80 if row["id"] in ids else "yes")["messages"]} for row in rows]
    edges = {"model": folder(), "data": desk.rows("chat.jsonl", rows)}
    found = desk.run(sft, edges, seq_length=64, steps=1, batch_size=2, validation_share=0.3, warmup_steps=0)
    assert found.metrics["heldout_loss"] == {} and found.metrics["held_out"] == len(ids) > 0


def test_copies_of_a_document_are_held_out_together() -> None:
    """What `upsample` makes of a document has its id; another id is another document, whatever signs are in it."""
    rows = [{"id": f"doc-{n}", "copy": copy} for n in range(100) for copy in range(3)]
    kept, aside = train_validation_split(rows, 0.3, 1)
    assert 0 < len(aside) < 300 and not {row["id"] for row in kept} & {row["id"] for row in aside}
    assert all(train_validation_split([{"id": f"user~{n}"} for n in range(100)], 0.3, 1))


def test_documents_without_a_source_are_measured() -> None:
    rows = [
        {"id": "a", "text": "one"},
        {"id": "b", "text": "two", "source": None},
        {"id": "c", "text": "x", "source": "web"},
    ]
    found = validation_sets(Letters(), rows, seq_length=16)
    assert {name: sum(batch.tokens for batch in batches) for name, batches in found.items()} == {"text": 8, "web": 2}
