"""A tiny model, a tiny corpus, and a run of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.training import Batches, RunState, build_optimizer, build_schedule, train_update

VOCAB = 48


def make_model(seed: int = 0, **changes) -> Transformer:
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return init_weights(Transformer(ModelConfig(**{**sizes, **changes})), seed=seed)


def make_store(count: int = 40, seed: int = 0, low: int = 4, high: int = 30) -> InMemoryTokenDataset:
    """Documents that count upwards, with some weights of zero: something that can be learnt."""
    random = np.random.default_rng(seed)

    def example(number: int) -> Example:
        start, length = random.integers(0, VOCAB), random.integers(low, high)
        weights = (random.random(length) < 0.8).astype(float)
        weights[-1] = 1.0
        return Example(f"doc-{number}", (start + np.arange(length)) % VOCAB, weights)

    return InMemoryTokenDataset(example(number) for number in range(count))


class Run:
    """Everything a training needs, built from seeds, with a log that keeps its events."""

    def __init__(self, total: int = 12, optimizer: str = "muon", dropout: float = 0.1, lr: float = 0.01, **options):
        self.model = make_model(dropout=dropout)
        self.optimizer = build_optimizer(self.model, optimizer, lr)
        self.store = make_store()
        self.order = EpochOrder(self.store.digest, 1, self.store.lengths, 32, split_documents=True)
        self.batches = Batches(self.store, self.order, batch_size=4, micro_batch_size=2)
        self.state = RunState({"model": self.model}, {"main": self.optimizer})
        schedule = build_schedule("cosine", total, warmup=2)
        self.update = train_update(self.model, self.optimizer, self.batches, schedule, **options)
        self.events: list[dict] = []

    def log(self, event: str, **fields) -> None:
        self.events.append({"event": event, **fields})

    def named(self, event: str) -> list[dict]:
        return [row for row in self.events if row["event"] == event]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.named("step")]

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([param.detach().flatten() for param in self.model.parameters()]).clone()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
