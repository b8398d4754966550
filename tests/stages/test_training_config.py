"""`train` of a recipe's keys: a schedule that is walked in pieces is the schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.errors import UserError
from qwenkit.lineage.recipe import Node, build, load_recipe
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.stages.base import StageContext
from qwenkit.stages.training_config import TrainingConfig
from qwenkit.training import Batches, train


def test_training_in_pieces_is_training_at_once(tmp_path):
    store = InMemoryTokenDataset(Example(f"{n}", [n + k for k in range(9)], [1.0] * 9) for n in range(12))
    batches = Batches(store, EpochOrder(store.digest, 1, store.lengths, 16, split_documents=False), 2)
    shape = ModelConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                        num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    keys = TrainingConfig(seq_length=16, batch_size=2, lr=0.01, warmup_steps=2)

    def trained(name, *ends):
        model, rates = init_weights(Transformer(shape), 1), []
        log = lambda event, **fields: rates.append(fields["lr"]) if event == "step" else None  # noqa: E731
        place = tmp_path / name
        context = StageContext(name, place, place, place, 1, 1, "cpu", log, lambda *_, **__: None)
        for end in ends:
            train(keys, model, batches, 8, **context.training(), until=end)
        return model, rates

    (whole, rates), (pieces, others) = trained("whole", None), trained("pieces", 3, 5, 8)
    assert len(rates) == 8 and rates == others and rates[-1] < rates[2]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters()))


def chat_recipe(tmp_path: Path, *changes: str) -> Node:
    """The `chat` node of a small recipe, with keys of its table."""
    (tmp_path / "chats.jsonl").write_text("")
    lines = ["[chat]", 'kind = "sft"', 'model = "org/name"', f'data = "{tmp_path / "chats.jsonl"}"', *changes]
    (tmp_path / "my.toml").write_text("\n".join(lines))
    return load_recipe(str(tmp_path / "my.toml")).nodes["chat"]


def test_a_batch_in_tokens_is_the_nearest_number_of_rows(tmp_path: Path) -> None:
    """It is another way to give `batch_size`: the node is the same one."""
    rows = chat_recipe(tmp_path, "batch_size = 12", "seq_length = 100")
    tokens = chat_recipe(tmp_path, "batch_tokens = 1249", "seq_length = 100")
    assert tokens.config.batch_size == 12 and tokens.identity() == rows.identity()
    assert "batch_tokens" not in tokens.identity()
    assert chat_recipe(tmp_path, "batch_tokens = 1").config.batch_size == 1
    assert chat_recipe(tmp_path, "batch_tokens = 4e6").config.batch_size == round(4e6 / 2048)


def test_a_batch_in_rows_and_in_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`batch_size` and `batch_tokens` are two ways to say one thing"):
        chat_recipe(tmp_path, "batch_size = 12", "batch_tokens = 4096")
    with pytest.raises(UserError, match=r"`chat\.batch_tokens` is 0"):
        chat_recipe(tmp_path, "batch_tokens = 0")
    with pytest.raises(UserError, match=r"unknown key `pmp\.batch_tokens`"):
        build({"pmp": {"kind": "preference", "batch_tokens": 64}}, {}, "my.toml", tmp_path)
