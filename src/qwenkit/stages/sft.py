"""`sft`: teach a model to chat (report §3.1): ChatML, system and user turns masked, whole conversations in a row.

`replay` mixes documents of the base corpus in, so that what was learnt there is not lost: ours, off by default. Those
that the base model was measured on are not among them.
Conversations longer than a row are left out, or cut between turns (`too_long`), and counted either way; instruction
data that shares a 13-gram with a test question is dropped, as in pretraining. Chats go through shards on disk, so their
number is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from qwenkit.chat import TooLong
from qwenkit.chat.publish import STYLE, Style, chat_tokenizer
from qwenkit.config import content, edge
from qwenkit.data.chats.datasets import notes
from qwenkit.data.decontamination import overlap_13gram
from qwenkit.data.test_sets import question_texts
from qwenkit.data.tokens.replay import draw_documents
from qwenkit.data.tokens.tokenize import tokenize
from qwenkit.records import Row
from qwenkit.stages.base import CHATS, TRAINED, Input, Result, StageContext, max_bad, sources, told
from qwenkit.stages.chat_tokens import Plan, Tokens, chat_examples, open_chats, outcomes, put_aside, tokenize_rows
from qwenkit.stages.results import Claim, Metrics, NodeResults, learning_claims, loss_number
from qwenkit.stages.training_config import PackedTrainingConfig, Schedule
from qwenkit.training.trainer import precision_warnings

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.tokens.shards import Shards
    from qwenkit.training import Batch

SUMMARY = "teach a base model to chat (supervised fine-tuning)"
EXAMPLE = "--model runs/nano/base --data runs/nano/world --epochs 2 --warmup-steps 20"
ORDER = 70
CHAT_MODEL = True
VERSION = 6  # 6: chats too long for a row have no place in the order; 5: rows are told apart by their whole id
PRODUCES = ("model", "tokenizer")
SEED_METRICS = ("heldout_loss.*",)
card_number = loss_number


class Config(PackedTrainingConfig):
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
    weight_decay: float = content(0.1, doc="of matrices only", ge=0)
    max_grad_norm: float = content(1.0, doc="largest gradient norm", gt=0)
    schedule: Schedule = content("constant", doc="after warm-up: constant (ours: the report names no decay)")
    dropout: float = content(0.1, doc="on residual branches", ge=0, lt=1)
    mask: Literal["qwen", "assistant"] = content("qwen", doc="qwen (the authors') or assistant")
    too_long: TooLong = content(
        "drop", doc="chats longer than a row: drop, split between turns, or truncate the oldest turns (ours)"
    )
    style: Style = content("own", doc=STYLE)
    validation_share: float = content(0.02, doc="share of chats kept aside to measure the loss (ours)", ge=0, lt=0.5)
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
    from qwenkit.model import load_model
    from qwenkit.model.publish import save_chat_model
    from qwenkit.training import Batches, train, validation_losses

    tok = chat_tokenizer(inputs["model"].path, config.style)
    tokens = tokenize_rows("chats", inputs, plan(config, inputs, context), context.scratch, max_bad=config.max_bad,
                           workers=context.threads, progress=context.progress)  # fmt: skip
    documents, numbers, replay_too_long = replay(inputs, config, context, tokens.counts["tokens"])
    store = open_chats(tokens, documents, numbers)
    order = EpochOrder(store.digest, context.seed, store.lengths, config.seq_length, split=False)
    batches = Batches(store, order, config.batch_size, config.rows_per_pass)
    steps = order.steps(config.epochs, config.batch_size) if config.epochs else config.steps
    groups = measured(tok, tokens.aside, config)
    model = load_model(inputs["model"].path, TRAINED, context.device)
    model.config = replace(model.config, dropout=config.dropout)
    last = train(
        config,
        model,
        batches,
        steps,
        **context.training(),
        evaluate=lambda _: validation_losses(model, groups),
        vocab_size=None,
    )
    save_chat_model(model, tok, inputs["model"].path, context.out)
    put_aside(tokens.bad, context.out)
    final_losses = validation_losses(model, groups)
    metrics = {
        **books(tokens), "replayed_documents": len(numbers), "replay_too_long": replay_too_long, "steps": steps,
        **overlap(documents, numbers, tok, inputs),
        "tokens": steps * config.batch_size * config.seq_length, "fill": round(order.fill, 4),
        "epochs": round(order.epoch_of(steps, config.batch_size), 3),
        "train_loss": last.get("loss"), "heldout_loss": final_losses,
    }  # fmt: skip
    words = ", ".join(f"{loss:.3f}" for loss in final_losses.values())
    note = (*precision_warnings(config.precision, context.device), *notes(sources(inputs, "data"), "chats"))
    return Result(metrics, f"{summary(metrics)}, {steps} steps{told('held-out loss', words)}", note)


def plan(config: Config, inputs: dict[str, Input], context: StageContext) -> Plan:
    """How the chats become tokens."""
    tests = inputs["decontaminate"].path if "decontaminate" in inputs else None
    return Plan(
        inputs["model"].path, config.style, config.seq_length, config.too_long, config.validation_share,
        context.seed_for("held-out"), config.mask, tests,
    )  # fmt: skip


def books(tokens: Tokens) -> dict[str, int]:
    """What became of every chat: read = quarantined + dropped + held out + chats."""
    counts = tokens.counts
    names = {"read": "read", "quarantined": "quarantined", "dropped_test_overlap": "test_overlap",
             "held_out": "held_out", "dropped_too_long": "too_long", "chats": "kept", "conversations": "parts",
             "cut": "cut", "turns_left_out": "turns_left_out"}  # fmt: skip
    return {name: counts[count] for name, count in names.items()}


NOT_LEARNT = {
    "dropped_test_overlap": "that overlap a test left out",
    "dropped_too_long": "too long for a row and left out",
    "cut": "too long for a row and cut between turns",
    "quarantined": "not usable and put aside",
}


def summary(counts: dict[str, int]) -> str:
    """The chats that were learnt from, and those that were not for their length."""
    chats = f"{counts['chats']} chats"
    if counts["conversations"] > counts["chats"]:
        chats += f" in {counts['conversations']} parts"
    words = [chats, *outcomes(counts, NOT_LEARNT)]
    if counts.get("replay_too_long") and not counts["replayed_documents"]:
        words.append(f"nothing replayed: all {counts['replay_too_long']} documents drawn are longer than a row")
    return ", ".join(words)


def measured(tok: ChatTokenizer, rows: list[Row], config: Config) -> dict[str, list[Batch]]:
    """The chats held out as batches; none where all are too long."""
    from qwenkit.data.tokens.dataset import InMemoryTokenDataset
    from qwenkit.training import validation_batches

    parts = (chat_examples(tok, row, config.mask, config.seq_length, config.too_long)[0] for row in rows)
    store = InMemoryTokenDataset(example for examples in parts for example in examples if example.learns)
    return {"chats": validation_batches(store, config.seq_length, 8, False)} if len(store.lengths) else {}


def overlap(documents: Shards | None, numbers: Sequence[int], tok: ChatTokenizer, inputs: dict[str, Input]) -> Row:
    """How many replayed documents share 13 units with a test; of the chats none does, for those are dropped."""
    if "decontaminate" not in inputs:
        return {}
    if documents is None or not numbers:
        return {"overlap_13gram": 0}
    replayed = (tok.decode(documents.tokens(number, 0, int(documents.lengths[number])).tolist()) for number in numbers)
    return {"overlap_13gram": overlap_13gram(replayed, question_texts(inputs["decontaminate"].path))}


def replay(
    inputs: dict[str, Input], config: Config, context: StageContext, chat_tokens: int
) -> tuple[Shards | None, Sequence[int], int]:
    """The documents that the base model learnt from; the numbers of those that are drawn until they make up their share
    of all tokens; and how many of those drawn were longer than a row and passed over."""
    if "replay" not in inputs or not config.replay_share:
        return None, [], 0
    store, _, _ = tokenize(
        inputs["replay"], inputs["model"], config.corpus_validation, context.seed_for("held-out"),
        context.scratch, workers=context.threads, progress=context.progress,
    )  # fmt: skip
    budget = chat_tokens * config.replay_share / (1 - config.replay_share)
    numbers, too_long = draw_documents(store.lengths, config.seq_length, budget, context.seed_for("replay"))
    return store, numbers, too_long


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set whether the model learnt: its validation loss fell."""
    return learning_claims(nodes)
