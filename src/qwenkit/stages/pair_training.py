"""How a preference model and a reward model learn from pairs: their common keys, and one pass of pairwise training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qwenkit.alignment.pair_encoding import PairTooLong
from qwenkit.chat.publish import STYLE, Style, chat_tokenizer
from qwenkit.config import content
from qwenkit.data.chats.datasets import notes, read_pairs
from qwenkit.records import Row, read_json, write_jsonl
from qwenkit.stages.base import TRAINED, Input, Result, StageContext, max_bad, sources, told
from qwenkit.stages.chat_tokens import Plan, Tokens, open_pairs, outcomes, put_aside, tokenize_rows
from qwenkit.stages.training_config import Schedule, TrainingConfig
from qwenkit.training.trainer import precision_warnings

if TYPE_CHECKING:
    from qwenkit.alignment import Pair
    from qwenkit.model import ScalarModel


class PairConfig(TrainingConfig):
    """How a model learns from pairs; defaults of the report (§3.2.1)."""

    seq_length: int = content(2048, doc="longest text in tokens", ge=8)
    too_long: PairTooLong = content(
        "drop", doc="pairs longer than that: drop, or truncate the oldest turns of the prompt (ours)"
    )
    batch_size: int = content(64, doc="pairs in a batch", ge=1)
    micro_batch_size: int = content(8, doc="pairs in one forward pass; the rest is accumulated (ours)", ge=1)
    lr: float = content(3e-6, doc="learning rate", gt=0)
    schedule: Schedule = content("constant", doc="the report: constant")
    warmup_steps: int = content(0, doc="steps of linear warm-up", ge=0)
    optimizer: Literal["adamw", "muon"] = content(
        "adamw", doc="adamw, or muon for the matrices (ours, as in pretraining)"
    )
    weight_decay: float = content(0.1, doc="of matrices only (ours, as in pretraining)", ge=0)
    max_grad_norm: float = content(1.0, doc="largest gradient norm (ours, as in pretraining)", gt=0)
    beta1: float = content(0.9, doc="AdamW (ours, as in pretraining)", ge=0, lt=1)
    beta2: float = content(0.95, doc="AdamW (ours, as in pretraining)", ge=0, lt=1)
    eps: float = content(1e-8, doc="AdamW (ours, as in pretraining)", gt=0)
    epochs: float = content(1.0, doc="passes over the pairs", gt=0)
    style: Style = content("own", doc=STYLE)
    validation_share: float = content(
        0.05, doc="share of prompts whose pairs only measure the accuracy (ours)", ge=0, lt=0.5
    )
    max_bad: float = max_bad()


def load_scorer(path: Path, context: StageContext) -> ScalarModel:
    """A scalar model as it is, or a language model with a new scalar head."""
    from qwenkit.model import ScalarModel, load_model, load_scalar

    architecture = read_json(path / "config.json").get("architectures", [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return load_scalar(path, TRAINED, context.device)
    return ScalarModel(load_model(path, TRAINED, context.device), seed=context.seed_for("head"))


def train_pairs(config: PairConfig, inputs: dict[str, Input], context: StageContext) -> Result:
    """One pass of pairwise training from `inputs["model"]` on `inputs["data"]`, measured and published."""
    from qwenkit.alignment import (
        PairBatches,
        PairwiseObjective,
        encode_pairs,
        margin_rows,
        ranking_accuracy,
        ranking_metrics,
        true_label,
    )
    from qwenkit.model.publish import save_scorer
    from qwenkit.training import train

    tok = chat_tokenizer(inputs["model"].path, config.style)
    plan = Plan(inputs["model"].path, config.style, config.seq_length, config.too_long, config.validation_share,
                context.seed_for("held-out"))  # fmt: skip
    tokens = tokenize_rows("pairs", inputs, plan, context.scratch, max_bad=config.max_bad, workers=context.threads,
                           progress=context.progress)  # fmt: skip
    pairs = open_pairs(tokens)

    def encoded(rows: list[Row]) -> tuple[list[Pair], dict[str, int]]:
        return encode_pairs(rows, tok, config.seq_length, config.too_long)

    measured = {"held out": encoded([true_label(row) for row in tokens.aside])}
    watched, _ = measured["held out"]
    model = load_scorer(inputs["model"].path, context)
    batches = PairBatches(pairs, config.batch_size, context.seed_for("order"), config.rows_per_pass)
    steps = batches.steps(config.epochs)
    evaluate = (lambda _: ranking_metrics(model, watched)) if watched else None
    last = train(config, model, batches, steps, **context.training(), objective=PairwiseObjective(), evaluate=evaluate)
    save_scorer(model, tok, inputs["model"].path, context.out)
    put_aside(tokens.bad, context.out)
    if "tests" in inputs:
        measured["unseen policies"] = encoded(read_pairs(inputs["tests"].path, "pairs.jsonl"))
    items = [item for name, (pairs_of_set, _) in measured.items() for item in margin_rows(model, pairs_of_set, name)]
    write_jsonl(context.out / "margins.jsonl", items)
    accuracy = ranking_accuracy(items, context.seed)
    metrics = {**books(tokens), "steps": steps, "measured": {name: counts for name, (_, counts) in measured.items()},
               "train_loss": last.get("loss"), "accuracy": accuracy}  # fmt: skip
    words = ", ".join(f"{k} {100 * v['mean']:.1f} %" for k, v in accuracy.items())
    note = (*precision_warnings(config.precision, context.device), *notes(sources(inputs, "data"), "pairs"))
    return Result(metrics, f"{summary(metrics)}{told('accuracy:', words)}", note)


def books(tokens: Tokens) -> dict[str, int]:
    """What became of every pair: read = quarantined + held out + too long + same text + pairs."""
    names = {"read": "read", "quarantined": "quarantined", "held_out": "held_out", "too_long": "too_long",
             "same_text": "same_text", "pairs": "kept", "cut": "cut"}  # fmt: skip
    return {name: tokens.counts[count] for name, count in names.items()}


NOT_LEARNT = {
    "too_long": "longer than `seq_length` and left out",
    "cut": "longer than `seq_length` and without the oldest turns",
    "same_text": "with two equal answers left out",
    "quarantined": "not usable and put aside",
}


def summary(counts: dict[str, int]) -> str:
    """The pairs that were learnt from, and those that were not."""
    return ", ".join([f"{counts['pairs']} pairs", *outcomes(counts, NOT_LEARNT)])
