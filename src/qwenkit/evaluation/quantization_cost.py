"""What quantization costs: perplexity before and after, paired by text, the accuracy of base tasks, and speed.

    calibration, texts = calibration_split(tok, corpus, 128, 64, 512)      # disjoint: the cost is that of unread text
    before = measure(model, tok, texts, questions)
    ...
    quantization_cost(before, measure(small, tok, texts, questions))

Speed depends on the machine, so it is in no metric: `speed_change` says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenkit.data.documents import iter_documents
from qwenkit.errors import UserError
from qwenkit.evaluation.engine_measures import text_losses, tokens_per_second
from qwenkit.evaluation.tasks import aggregate_components, multiple_choice
from qwenkit.inference import Engine
from qwenkit.records import Row
from qwenkit.statistics import paired_difference

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.model import Transformer

SHORTEST = 8  # tokens of a text


@dataclass(frozen=True)
class Measured:
    """What is measured of a model."""

    losses: list[float]
    """Mean loss of each text, in nats per token."""
    base_tasks: Row | None
    """Share of right choices with its interval, where there are questions."""
    speed: float
    """Tokens per second of one greedy answer."""

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss over texts, rounded to five places."""
        return round(math.exp(sum(self.losses) / len(self.losses)), 5)


def calibration_split(
    tok: ChatTokenizer, corpus: Path, samples: int, measured: int, longest: int
) -> tuple[list[Tensor], list[list[int]]]:
    """Return up to `samples` texts to calibrate on, as ids [1, T] with T <= `longest`, and `measured` others to measure
    on, as lists of ids.

    Raises a `UserError` where the corpus has too few texts of 8 tokens or more for that.
    """
    wanted, ids = samples + measured, []
    for document in iter_documents(corpus):
        tokens = tok.encode(document["text"])[:longest]
        if len(tokens) >= SHORTEST:
            ids.append(tokens)
        if len(ids) == wanted:
            break
    if len(ids) < measured + 1:
        expected = f"{measured} to measure on, and at least one to calibrate on"
        raise UserError(f"{len(ids)} texts of {SHORTEST} tokens or more", where=str(corpus), expected=expected)
    return [torch.tensor([tokens]) for tokens in ids[measured:]], ids[:measured]


def measure(
    model: Transformer,
    tok: ChatTokenizer,
    texts: Sequence[Sequence[int]],
    questions: Sequence[Row] | None = None,
    seed: int = 0,
) -> Measured:
    """Return what a model does on texts (lists of ids) and, where some are given, on base tasks with choices."""
    right = None
    if questions is not None:
        choices = [row for row in questions if row.get("choices")]
        right = aggregate_components(multiple_choice(Engine(model, tok), choices), seed=seed).get("right")
    return Measured(text_losses(Engine(model), texts), right, tokens_per_second(Engine(model)))


def quantization_cost(before: Measured, after: Measured) -> Row:
    """Return the perplexity and the base tasks of both, and the mean increase of the loss, paired by text."""
    return {
        "perplexity_before": before.perplexity,
        "perplexity": after.perplexity,
        "loss_increase": paired_difference(after.losses, before.losses)._asdict(),
        "base_tasks_before": before.base_tasks,
        "base_tasks": after.base_tasks,
    }


def speed_change(before: Measured, after: Measured) -> str:
    """Return in words what became of the speed on this machine."""
    slower = after.speed < before.speed
    verdict = "SLOWER here than the original" if slower else f"{after.speed / before.speed:.2f} times the original"
    return f"one answer at a time: {after.speed} tokens a second, {verdict} ({before.speed})"
