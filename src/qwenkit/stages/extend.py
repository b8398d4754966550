"""`extend`: teach a vocabulary new merges, as the report made its own from cl100k (report §2.2).

Ids that were there stay, special tokens included; new tokens follow from the old size on. With `model`, its embeddings
and its head grow along and the artifact is a model's folder: the row of a new token starts as the mean of the rows of
the old tokens it replaces.
"""

from __future__ import annotations

from typing import Any

from qwenkit.chat.publish import save_extended_tokenizer
from qwenkit.config import StageConfig, content, edge
from qwenkit.data.documents import train_validation_split
from qwenkit.data.readers.texts import read_texts
from qwenkit.errors import UserError
from qwenkit.stages.base import Input, Result, StageContext, many
from qwenkit.tokenizer.compare import compression_change, encoding_change

SUMMARY = "add merges to a vocabulary, and rows to a model's embeddings"
EXAMPLE = "--tokenizer runs/nano/tokenizer --corpus greek.jsonl --keep runs/nano/corpus --merges 1000"
ORDER = 50
VERSION = 3  # 3: what the old tokenizer says of its use is kept; 2: documents are told apart by their whole id
PRODUCES = ("tokenizer", "model")


class Config(StageConfig):
    """What is extended, by which text, and by how much."""

    tokenizer: str | None = edge(
        None, doc="the vocabulary: a folder, a tokenizer.json, a .tiktoken; none: the model's", accepts="tokenizer"
    )
    model: str | None = edge(None, doc="a model whose embeddings and head grow with its vocabulary", accepts="model")
    corpus: str = edge(
        doc="text of what is new, to learn merges from: a corpus, JSONL, or a folder of text",
        accepts=("documents", "text"),
    )
    keep: list[str] = edge(
        [],
        doc="text of what was there before: how much of it changes is measured",
        many=True,
        accepts=("documents", "text"),
    )
    merges: int = content(10_000, doc="tokens to add", ge=1)
    min_count: int = content(2, doc="a pair that occurs less often is not joined (ours)", ge=1)
    pad_to: int = content(128, doc="rows of the embedding are a multiple of this (of the released 1.8B and 7B)", ge=1)
    validation_share: float = content(
        0.02, doc="share of documents in the validation split, which measures compression", ge=0, lt=0.5
    )


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Learn from all but the validation documents, publish, measure what is gained and what changes."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.tokenizer import extend_bpe

    source = inputs.get("tokenizer") or inputs.get("model")
    if source is None:
        raise UserError("nothing to extend", expected="`tokenizer`, `model`, or both")
    old = load_tokenizer(source.path)
    train, validation = train_validation_split(
        read_texts(inputs["corpus"].path), config.validation_share, context.seed_for("held-out")
    )
    new = extend_bpe(
        old,
        [row["text"] for row in train],
        config.merges,
        min_count=config.min_count,
        multiple=config.pad_to,
        workers=context.threads,
        progress=context.progress,
    )
    new = old.over(new)
    if "model" in inputs:
        from qwenkit.model.publish import resize_for_tokenizer

        new = resize_for_tokenizer(inputs["model"].path, old, new, context.out)
    save_extended_tokenizer(old, new, source.path, context.out)
    metrics = {
        "vocab_size": new.n_tokens,
        "rows": new.vocab_size,
        "first_id": old.n_tokens,
        "bytes_per_token": compression_change(old, new, validation),
        "changed": {
            each.title: encoding_change(old, new, read_texts(each.path), context.progress)
            for each in many(inputs, "keep")
        },
    }
    return Result(metrics, summary(metrics, config.merges))


def summary(metrics: dict[str, Any], merges: int) -> str:
    """Return in one line what was added, what is gained and what changes."""
    gain = metrics["bytes_per_token"].get("all")
    gained = f"held-out bytes per token {gain['before']:.2f} -> {gain['after']:.2f}" if gain else "nothing held out"
    kept = metrics["changed"].values()
    total = sum(row["documents"] for row in kept)
    share = f"; {sum(row['changed'] for row in kept)} of {total} kept documents change" if total else ""
    return f"{merges} tokens from {metrics['first_id']} on; {gained}{share}"
