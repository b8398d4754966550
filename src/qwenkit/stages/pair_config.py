"""How a preference model and a reward model learn from pairs: their common keys, and the wiring of their training."""

from __future__ import annotations

from typing import Literal

from qwenkit.alignment.pair_encoding import PairTooLong, encode_pairs
from qwenkit.alignment.pair_shards import PAIR_ROWS, open_pairs, pair_metrics, pair_summary
from qwenkit.alignment.pair_training import measure_pairs, train_pairs
from qwenkit.chat.publish import STYLE, Style, chat_tokenizer
from qwenkit.config import content
from qwenkit.data.chats.datasets import notes, read_pairs, write_quarantine
from qwenkit.data.tokens.row_shards import TokenizePlan, tokenize_rows
from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input, Result, StageContext, digests, max_bad, sources, summary_part
from qwenkit.stages.training_config import AdapterConfig, TrainingConfig
from qwenkit.training.settings import MOMENT_BYTES, ScheduleShape
from qwenkit.training.trainer import precision_warnings, usable_precision


class PairConfig(TrainingConfig, AdapterConfig):
    """How a model learns from pairs; defaults of the report (§3.2.1)."""

    seq_length: int = content(2048, doc="longest text in tokens", ge=8)
    too_long: PairTooLong = content(
        "drop", doc="pairs longer than that: drop, or truncate the oldest turns of the prompt (ours)"
    )
    batch_size: int = content(64, doc="pairs in a batch", ge=1)
    micro_batch_size: int = content(8, doc="pairs in one forward pass; the rest is accumulated (ours)", ge=1)
    lr: float = content(3e-6, doc="learning rate", gt=0)
    schedule: ScheduleShape = content("constant", doc="shape of the learning rate; the report: constant")
    warmup_steps: int = content(0, doc="steps of linear warm-up", ge=0)
    optimizer: Literal["adamw", "muon"] = content(
        "adamw", doc="adamw, or muon for the matrices (ours, as in pretraining)"
    )
    weight_decay: float = content(0.1, doc="weight decay of matrices only (ours, as in pretraining)", ge=0)
    max_grad_norm: float = content(1.0, doc="largest gradient norm (ours, as in pretraining)", gt=0)
    beta1: float = content(0.9, doc="decay of AdamW's average of gradients (ours, as in pretraining)", ge=0, lt=1)
    beta2: float = content(
        0.95, doc="decay of AdamW's average of squared gradients (ours, as in pretraining)", ge=0, lt=1
    )
    eps: float = content(1e-8, doc="AdamW's epsilon (ours, as in pretraining)", gt=0)
    epochs: float = content(1.0, doc="passes over the pairs", gt=0)
    style: Style = content("own", doc=STYLE)
    validation_share: float = content(
        0.05, doc="share of prompts whose pairs only measure the accuracy (ours)", ge=0, lt=0.5
    )
    max_bad: float = max_bad()


def train_scorer(config: PairConfig, inputs: dict[str, Input], context: StageContext) -> Result:
    """Tokenize `inputs["data"]`, train `inputs["model"]` on its pairs, measure and publish."""
    from qwenkit.alignment import true_label
    from qwenkit.model.adapted import Trunks, load_trained_scorer, tell_plan, trained_part
    from qwenkit.model.publish import save_scorer

    folder, data = inputs["model"].path, sources(inputs, "data")
    tok = chat_tokenizer(folder, config.style)
    plan = TokenizePlan(folder, config.style, config.seq_length, config.too_long, config.validation_share,
                        context.seed_for("held-out"))  # fmt: skip
    rows = tokenize_rows(
        PAIR_ROWS, data, digests(inputs, "data", "model"), plan, context.scratch,
        max_bad=config.max_bad, workers=context.threads, progress=context.progress,
    )  # fmt: skip
    sets = {"held out": [true_label(row) for row in rows.validation]}
    if "tests" in inputs:
        sets["unseen policies"] = read_pairs(inputs["tests"].path, "pairs.jsonl")
    encoded = {name: encode_pairs(pairs, tok, config.seq_length, config.too_long) for name, pairs in sets.items()}
    bf16 = usable_precision(config.precision, context.device) == "bf16"
    model = load_trained_scorer(folder, Trunks(context.device), config.lora, context.seed, bf16=bf16)
    tell_plan(model, folder, MOMENT_BYTES[config.moments])
    measured = {name: pairs for name, (pairs, _) in encoded.items()}
    training = train_pairs(
        config, model, open_pairs(rows), config.epochs, validation=measured["held out"], **context.training()
    )
    save_scorer(model, tok, folder, context.out, context.base_of(inputs["model"]))
    margins, ranked = measure_pairs(model, measured, context.seed)  # as it is stored, rounded where its source is
    write_quarantine(rows.quarantined, context.out)
    write_jsonl(context.out / "margins.jsonl", margins)
    metrics = {
        **pair_metrics(rows), "steps": training.steps,
        "measured": {name: counts for name, (_, counts) in encoded.items()},
        "train_loss": training.train_loss, "accuracy": ranked, **trained_part(model),
    }  # fmt: skip
    words = ", ".join(f"{name} {100 * accuracy['mean']:.1f} %" for name, accuracy in ranked.items())
    warnings = (*precision_warnings(config.precision, context.device), *notes(data, "pairs"))
    return Result(metrics, f"{pair_summary(metrics)}{summary_part('accuracy:', words)}", warnings)
