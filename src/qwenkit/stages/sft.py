"""`sft`: teach a model to chat (report §3.1): ChatML, system and user turns masked, whole conversations in a row.

`replay` mixes documents of the base corpus in, so that what was learnt there is not lost: ours, off by default. Those
that the base model was measured on are not among them.
Conversations longer than a row are counted and left out, never cut; instruction data that shares a 13-gram with a test
question is dropped, as in pretraining.
"""

from __future__ import annotations

from typing import Any, Literal

from qwenkit.config import content, edge
from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.stages.base import Input, Result, Work, told
from qwenkit.stages.documents import split
from qwenkit.stages.keys import Schedule, TrainingKeys, remarks, train
from qwenkit.stages.models import STYLE, TRAINED, Style, chat_tokenizer, save_chat_model
from qwenkit.stages.pretrain import corpus_split, losses
from qwenkit.stages.rows import read_chats
from qwenkit.stages.testsets import overlap_13gram, texts

VERSION = 5  # 5: rows are told apart by their whole id; 4: trained in float32 whatever the folder holds
GIVES = ("model", "tokenizer")


class Config(TrainingKeys):
    """What to learn from; defaults of the report (§3.1.2)."""

    model: str = edge(doc="the base model", wants="model", hub="model")
    data: str = edge(doc="chats with `messages`: JSONL, Parquet, or a world", wants="chats")
    replay: str | None = edge(None, doc="a corpus whose documents are mixed in", wants="documents")
    decontaminate: str | None = edge(None, doc="test sets whose 13-grams no chat may hold", wants="tests")
    replay_share: float = content(0.2, doc="share of replayed tokens, where there is a replay (ours)", ge=0, lt=1)
    epochs: float = content(0, doc="passes over the chats; 0: as many as `steps` say", ge=0)
    steps: int = content(4000, doc="steps, where `epochs` is 0", ge=1)
    batch_rows: int = content(128, doc="rows in a batch", ge=1)
    lr: float = content(2e-6, doc="peak learning rate of AdamW", gt=0)
    warmup_steps: int = content(1430, doc="steps of linear warm-up", ge=0)
    weight_decay: float = content(0.1, doc="of matrices only", ge=0)
    clip: float = content(1.0, doc="largest gradient norm", gt=0)
    schedule: Schedule = content("constant", doc="after warm-up: constant (ours: the report names no decay)")
    dropout: float = content(0.1, doc="on residual branches", ge=0, lt=1)
    mask: Literal["qwen", "assistant"] = content("qwen", doc="qwen (the authors') or assistant")
    style: Style = content("own", doc=STYLE)
    held_out: float = content(0.02, doc="share of chats kept aside to measure the loss (ours)", ge=0, lt=0.5)
    corpus_held_out: float = content(
        0.01, doc="share of documents that are never replayed; as `held_out` of the base model (ours)", ge=0, lt=0.5
    )


def run(config: Config, inputs: dict[str, Input], work: Work) -> Result:
    """Render, mask, pack, train, measure, publish."""
    from dataclasses import replace

    from qwenkit.data.order import Order
    from qwenkit.data.shards import Examples
    from qwenkit.model import load_model
    from qwenkit.training import Batches, held_out

    tok = chat_tokenizer(inputs["model"].path, config.style)
    rows, dropped = clean(read_chats(inputs["data"].path), inputs)
    kept, aside = split(rows, config.held_out, work.stream("held-out"))
    chats = [example(tok, row, config.mask) for row in kept]
    replayed, replay_too_long = replay(tok, inputs, config, work, sum(len(chat.ids) for chat in chats))
    store = Examples([*chats, *replayed])
    lost = store.without_content()
    if lost:
        what = f"{len(lost)} of {len(chats)} chats have no answer to learn from"
        raise UserError(what, where=f"chat `{lost[0]}`", expected="an assistant's turn that is not empty")
    order = Order(store.digest, work.seed, store.lengths, config.row, split=False)
    batches = Batches(store, order, config.batch_rows, min(config.micro_rows, config.batch_rows))
    steps = order.steps(config.epochs, config.batch_rows) if config.epochs else config.steps
    model = load_model(inputs["model"].path, TRAINED, work.device)
    model.config = replace(model.config, dropout=config.dropout)
    groups = {}
    if aside:
        groups = {"chats": held_out(Examples(example(tok, row, config.mask) for row in aside), config.row, 8, False)}
    last = train(config, work, model, batches, steps, evaluate=lambda _: losses(model, groups), vocab_size=None)
    save_chat_model(model, tok, inputs["model"].path, work.out)
    found = losses(model, groups)
    metrics = {
        "chats": len(kept), "dropped_test_overlap": dropped, "dropped_too_long": len(order.too_long),
        "replayed_documents": len(replayed), "replay_too_long": replay_too_long, "steps": steps,
        **overlap(kept, replayed, tok, inputs),
        "tokens": steps * config.batch_rows * config.row, "fill": round(order.fill, 4),
        "epochs": round(order.epoch_of(steps, config.batch_rows), 3),
        "train_loss": last.get("loss"), "heldout_loss": found,
    }  # fmt: skip
    words = ", ".join(f"{loss:.3f}" for loss in found.values())
    note = remarks(config.precision, work.device)
    return Result(metrics, f"{len(kept)} chats, {steps} steps{told('held-out loss', words)}", note)


def clean(rows: list[Row], inputs: dict[str, Input]) -> tuple[list[Row], int]:
    """Drop chats that share a 13-gram with a test question (report §2.1); return the rest and the number dropped."""
    if "decontaminate" not in inputs:
        return rows, 0
    from qwenkit.chat.messages import text
    from qwenkit.data.decontaminate import TestIndex

    tests = TestIndex(texts(inputs["decontaminate"].path))
    kept = [row for row in rows if not any(tests.matches(text(message)) for message in row["messages"])]
    return kept, len(rows) - len(kept)


def overlap(rows: list[Row], replayed: list[Any], tok: Any, inputs: dict[str, Input]) -> dict[str, int]:
    """How many of the texts that were trained on still share 13 units with a test, replayed documents included."""
    if "decontaminate" not in inputs:
        return {}
    from qwenkit.chat.messages import text

    said = (text(message) for row in rows for message in row["messages"])
    told = (tok.decode(document.ids) for document in replayed)
    return {"overlap_13gram": overlap_13gram([*said, *told], texts(inputs["decontaminate"].path))}


def example(tok: Any, row: Row, mask: str) -> Any:
    """A chat as ids with loss weights; its content is what assistants say, which the sentinel counts."""
    from qwenkit.data.shards import Example

    r = tok.render(row["messages"], tools=row.get("tools"), mask=mask)
    content = [False] * len(r.ids)
    for start, stop, role, kind in r.spans:
        if role == "assistant" and kind == "content":
            content[start:stop] = [True] * (stop - start)
    return Example(row["id"], r.ids, r.weights, content)


def replay(tok: Any, inputs: dict[str, Input], config: Config, work: Work, chat_tokens: int) -> tuple[list[Any], int]:
    """Documents that the base model learnt from, drawn until they make up their share of all tokens; and how many of
    those drawn were longer than a row and passed over."""
    from qwenkit import draws
    from qwenkit.data.shards import Example

    if "replay" not in inputs or not config.replay_share:
        return [], 0
    rows, _ = corpus_split(inputs["replay"], config.corpus_held_out, work)
    budget = chat_tokens * config.replay_share / (1 - config.replay_share)
    found, used, too_long = [], 0, 0
    for index in draws.permutation(work.stream("replay"), len(rows)):
        ids = [*tok.encode(rows[index]["text"]), tok.eot_id]
        if len(ids) <= config.row:
            found.append(Example(f"replay/{rows[index]['id']}", ids, [1.0] * len(ids)))
            used += len(ids)
        else:
            too_long += 1
        if used >= budget:
            break
    return found, too_long
