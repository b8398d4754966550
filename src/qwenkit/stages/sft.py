"""`sft`: teach a model to chat (report §3.1): ChatML, system and user turns masked, whole conversations in a row.

`replay` mixes documents of the base corpus in, so that what was learnt there is not lost: ours, off by default. Those
that the base model was measured on are not among them.
Conversations longer than a row are left out, or cut between turns (`too_long`), and counted either way; instruction
data that shares a 13-gram with a test question is dropped, as in pretraining. Chats go through shards on disk, so their
number is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from qwenkit.chat import TooLong
from qwenkit.chat.publish import STYLE, Style, chat_tokenizer
from qwenkit.config import content, edge
from qwenkit.data.chats.datasets import notes, write_quarantine
from qwenkit.data.tokens.chat_shards import CHAT_ROWS, chat_metrics, chat_summary, open_chats
from qwenkit.data.tokens.replay import Replay, replay_overlap, tokenize_replay
from qwenkit.data.tokens.row_shards import TokenizePlan, tokenize_rows
from qwenkit.stages.base import CHATS, Input, Result, StageContext, digests, max_bad, sources, summary_part
from qwenkit.stages.claims import Claim, learning_claims
from qwenkit.stages.results import Metrics, NodeResults, loss_number
from qwenkit.stages.training_config import AdapterConfig, PackedTrainingConfig
from qwenkit.training.settings import MOMENT_BYTES, ScheduleShape
from qwenkit.training.trainer import precision_warnings, train_packed, usable_precision

SUMMARY = "teach a base model to chat (supervised fine-tuning)"
EXAMPLE = "--model runs/nano/base --data runs/nano/world --epochs 2 --warmup-steps 20"
ORDER = 70
CHAT_MODEL = True
VERSION = 7  # 7: as pretrain; 6: chats too long for a row have no place in the order
PRODUCES = ("model", "tokenizer")
SEED_METRICS = ("heldout_loss.*",)
card_number = loss_number


class Config(PackedTrainingConfig, AdapterConfig):
    """What to learn from; defaults of the report (§3.1.2)."""

    model: str = edge(doc="the base model", accepts="model", hub="model")
    data: str = edge(doc=CHATS, accepts="chats", several=True)
    replay: str | None = edge(None, doc="a corpus whose documents are mixed in", accepts="documents")
    decontaminate: str | None = edge(None, doc="test sets whose 13-grams no chat may hold", accepts="tests")
    replay_share: float = content(0.2, doc="share of replayed tokens, where there is a replay (ours)", ge=0, lt=1)
    epochs: float = content(0, doc="passes over the chats; 0: as many as `steps` say", ge=0)
    steps: int = content(4000, doc="steps, where `epochs` is 0", ge=1)
    batch_size: int = content(128, doc="rows in a batch", ge=1)
    lr: float = content(2e-6, doc="peak learning rate of AdamW", gt=0)
    warmup_steps: int = content(1430, doc="steps of linear warm-up", ge=0)
    weight_decay: float = content(0.1, doc="weight decay of matrices only", ge=0)
    max_grad_norm: float = content(1.0, doc="largest gradient norm", gt=0)
    schedule: ScheduleShape = content(
        "constant", doc="learning rate after warm-up: constant (ours: the report names no decay)"
    )
    dropout: float = content(0.1, doc="dropout on residual branches", ge=0, lt=1)
    mask: Literal["qwen", "assistant"] = content("qwen", doc="qwen (the authors') or assistant")
    too_long: TooLong = content(
        "drop", doc="chats longer than a row: drop, split between turns, or truncate the oldest turns (ours)"
    )
    style: Style = content("own", doc=STYLE)
    validation_share: float = content(
        0.02, doc="share of chats in the validation split, which measures the loss (ours)", ge=0, lt=0.5
    )
    corpus_validation: float = content(
        0.01,
        doc="share of documents that are never replayed; as `validation_share` of the base model (ours)",
        ge=0,
        lt=0.5,
    )
    max_bad: float = max_bad()


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Render, mask, pack, train, measure, publish."""
    from dataclasses import replace

    from qwenkit.data.tokens.order import EpochOrder
    from qwenkit.model.adapted import Trunks, for_chats, load_trained, tell_plan, trained_part
    from qwenkit.model.publish import save_chat_model
    from qwenkit.training import validation_chats, validation_losses

    folder, data = inputs["model"].path, sources(inputs, "data")
    tests = inputs["decontaminate"].path if "decontaminate" in inputs else None
    tok = chat_tokenizer(folder, config.style)
    plan = TokenizePlan(folder, config.style, config.seq_length, config.too_long, config.validation_share,
                        context.seed_for("held-out"), config.mask, tests)  # fmt: skip
    chats = tokenize_rows(
        CHAT_ROWS, data, digests(inputs, "data", "model", "decontaminate"), plan, context.scratch,
        max_bad=config.max_bad, workers=context.threads, progress=context.progress,
    )  # fmt: skip
    replay = draw_replay(config, inputs, context, chats.counts["tokens"])
    dataset = open_chats(chats, replay.documents, replay.numbers)
    order = EpochOrder(dataset.digest, context.seed, dataset.lengths, config.seq_length, split_documents=False)
    steps = order.steps(config.epochs, config.batch_size) if config.epochs else config.steps
    validation = validation_chats(tok, chats.validation, config.seq_length, config.mask, config.too_long)
    bf16 = usable_precision(config.precision, context.device) == "bf16"
    lora = for_chats(config.lora, folder, tok.im_end_id)
    model = load_trained(folder, Trunks(context.device), lora, context.seed_for("adapter"), bf16=bf16)
    tell_plan(model, folder, MOMENT_BYTES[config.moments])
    model.config = replace(model.config, dropout=config.dropout)
    training = train_packed(config, model, dataset, order, steps, validation, **context.training())
    save_chat_model(model, tok, folder, context.out, context.base_of(inputs["model"]))
    validation_loss = validation_losses(model, validation)  # of the model as it is stored, rounded where its source is
    write_quarantine(chats.quarantined, context.out)
    metrics = {
        **chat_metrics(chats),
        "replayed_documents": len(replay.numbers), "replay_too_long": replay.too_long, "steps": steps,
        **({"overlap_13gram": replay_overlap(replay, tok, tests)} if tests else {}),
        "tokens": training.tokens, "fill": round(order.fill, 4), "epochs": training.epochs,
        "train_loss": training.train_loss, "heldout_loss": validation_loss, **trained_part(model),
    }  # fmt: skip
    losses = ", ".join(f"{loss:.3f}" for loss in validation_loss.values())
    words = ", ".join(
        [chat_summary(metrics), *replay.summary_notes(), f"{steps} steps{summary_part('held-out loss', losses)}"]
    )
    return Result(metrics, words, (*precision_warnings(config.precision, context.device), *notes(data, "chats")))


def draw_replay(config: Config, inputs: dict[str, Input], context: StageContext, chat_tokens: int) -> Replay:
    """Draw the documents that are mixed in, where there is a corpus to draw from."""
    if "replay" not in inputs or not config.replay_share:
        return Replay()
    return tokenize_replay(
        inputs["replay"], inputs["model"], context.scratch, share=config.replay_share, other_tokens=chat_tokens,
        seq_length=config.seq_length, seed=context.seed_for("replay"), validation_share=config.corpus_validation,
        validation_seed=context.seed_for("held-out"), workers=context.threads, progress=context.progress,
    )  # fmt: skip


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set whether the model learnt: its validation loss fell."""
    return learning_claims(nodes)
