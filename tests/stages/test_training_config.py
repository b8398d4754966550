"""`train` of a recipe's keys: a schedule that is walked in pieces is the schedule."""

from __future__ import annotations

import torch

from qwenkit.data.tokens.order import Order
from qwenkit.data.tokens.shards import Example, Examples
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.stages.base import StageContext
from qwenkit.stages.training_config import TrainingConfig
from qwenkit.training import Batches, train


def test_training_in_pieces_is_training_at_once(tmp_path):
    store = Examples(Example(f"{n}", [n + k for k in range(9)], [1.0] * 9) for n in range(12))
    batches = Batches(store, Order(store.digest, 1, store.lengths, 16, split=False), 2)
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
