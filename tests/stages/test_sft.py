"""What `sft` reads beside its chats: the replay, and the tests that nothing may repeat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenkit.data.documents import iter_documents, train_validation_split
from qwenkit.stages import sft
from qwenkit.stages.base import Input
from qwenkit.stages.sft import Config, draw_replay
from tests.stages.conftest import Desk, chat_rows

ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}


def test_a_replay_leaves_out_what_the_base_model_was_measured_on(desk: Desk, folder: Callable[..., Path]) -> None:
    """The same rule, seed and share as in pretraining."""
    path = desk.rows("text.jsonl", [{"id": n, "text": f"text {n}"} for n in range(200)])
    inputs = {"replay": Input("replay", path, ""), "model": Input("model", folder(), "")}
    config = Config(model="m", data="d", seq_length=64, replay_share=0.5, corpus_validation=0.3)
    replay = draw_replay(config, inputs, desk.context(), 10_000)
    _, validation = train_validation_split(list(iter_documents(path)), 0.3, desk.context().seed_for("held-out"))
    measured = {row["id"] for row in validation}
    assert len(replay.numbers) == 200 - len(measured) and len(measured) > 30
    assert replay.documents is not None
    assert not measured & {replay.documents.ids[number] for number in replay.numbers}


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
