"""Replay: which documents of a corpus are mixed into a later training."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from qwenkit import rng
from qwenkit.data.documents import iter_documents, train_validation_split
from qwenkit.data.tokens.replay import Replay, draw_documents, tokenize_replay
from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.stages.conftest import TEXTS


def replayed(tmp_path: Path, *texts: str, seq_length: int = 8, validation_share: float = 0.0) -> Replay:
    save_tokenizer(train_bpe(TEXTS, 300, extras=1, multiple=8), tmp_path / "tokenizer")
    write_jsonl(tmp_path / "text.jsonl", [{"id": n, "text": text} for n, text in enumerate(texts)])
    corpus, tokenizer = (Input(name, tmp_path / name, "") for name in ("text.jsonl", "tokenizer"))
    return tokenize_replay(
        corpus, tokenizer, tmp_path / "work", share=0.5, other_tokens=10_000, seq_length=seq_length, seed=1,
        validation_share=validation_share, validation_seed=2,
    )  # fmt: skip


def test_documents_too_long_to_replay_are_counted(tmp_path: Path) -> None:
    texts = ["short", "much longer than a row", "brief", "longer than a row"]
    documents, numbers, too_long = replay = replayed(tmp_path, *texts)
    assert documents is not None and sorted(documents.ids[number] for number in numbers) == ["0", "2"]
    assert too_long == 2 and replay.summary_notes() == []
    assert replay._replace(numbers=[]).summary_notes() == [
        "nothing replayed: all 2 documents drawn are longer than a row"
    ]
    assert Replay().summary_notes() == []


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


def test_a_replay_leaves_out_what_the_base_model_was_measured_on(tmp_path: Path) -> None:
    """The same rule, seed and share as in pretraining."""
    texts = [f"text {n}" for n in range(200)]
    documents, numbers, _ = replayed(tmp_path, *texts, seq_length=64, validation_share=0.3)
    _, validation = train_validation_split(list(iter_documents(tmp_path / "text.jsonl")), 0.3, 2)
    measured = {row["id"] for row in validation}
    assert len(numbers) == 200 - len(measured) and len(measured) > 30
    assert documents is not None and not measured & {documents.ids[number] for number in numbers}
