"""`extend`: teach a vocabulary new merges, as the report made its own from cl100k (report §2.2).

Ids that were there stay, special tokens included; new tokens follow from the old size on. With `model`, its embeddings
and its head grow along and the artifact is a model's folder: the row of a new token starts as the mean of the rows of
the old tokens it replaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.compression import unpacked_name
from qwenkit.config import StageConfig, content, edge
from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.stages.base import Input, Progress, Result, StageContext, many
from qwenkit.stages.documents import DOCUMENTS, documents, split
from qwenkit.stages.tokenizer import bytes_per_token, group_of

if TYPE_CHECKING:
    from qwenkit.tokenizer import Tokenizer

VERSION = 3  # 3: what the old tokenizer says of its use is kept; 2: documents are told apart by their whole id
PRODUCES = ("tokenizer", "model")
EXTRA = "extra.tiktoken"
_CHUNK = 1000


class Config(StageConfig):
    """What is extended, by which text, and by how much."""

    tokenizer: str | None = edge(
        None, doc="the vocabulary: a folder, a tokenizer.json, a .tiktoken; none: the model's", accepts="tokenizer"
    )
    model: str | None = edge(None, doc="a model whose embeddings and head grow with its vocabulary", accepts="model")
    corpus: str = edge(
        doc="text of what is new, to learn merges from: a corpus, JSONL, or a folder of text", accepts="documents"
    )
    keep: list[str] = edge(
        [], doc="text of what was there before: how much of it changes is measured", many=True, accepts="documents"
    )
    merges: int = content(10_000, doc="tokens to add", ge=1)
    min_count: int = content(2, doc="a pair that occurs less often is not joined (ours)", ge=1)
    pad_to: int = content(128, doc="rows of the embedding are a multiple of this (of the released 1.8B and 7B)", ge=1)
    validation_share: float = content(0.02, doc="share of documents kept aside to measure compression", ge=0, lt=0.5)


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Learn from all but the held-out documents, publish, measure what is gained and what changes."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.tokenizer import extend_bpe

    source = inputs.get("tokenizer") or inputs.get("model")
    if source is None:
        raise UserError("nothing to extend", expected="`tokenizer`, `model`, or both")
    old = load_tokenizer(source.path)
    kept, aside = split(read_texts(inputs["corpus"].path), config.validation_share, context.seed_for("held-out"))
    new = extend_bpe(
        old,
        [row["text"] for row in kept],
        config.merges,
        min_count=config.min_count,
        multiple=config.pad_to,
        workers=context.threads,
        progress=context.progress,
    )
    new = old.over(new)
    if "model" in inputs:
        new = grow_model(inputs["model"].path, old, new, context.out)
    publish(old, new, source.path, context.out)
    metrics = {
        "vocab_size": new.n_tokens,
        "rows": new.vocab_size,
        "first_id": old.n_tokens,
        "bytes_per_token": compared(old, new, aside),
        "changed": {
            each.title: changed(old, new, read_texts(each.path), context.progress) for each in many(inputs, "keep")
        },
    }
    return Result(metrics, summary(metrics, config.merges))


def read_texts(path: Path) -> list[Row]:
    """Documents of a corpus artifact or of JSONL; otherwise whatever the readers of the data room can read."""
    from qwenkit.data.readers.documents import Source, read_documents
    from qwenkit.records import Quarantine

    if any(path.glob(DOCUMENTS)) or unpacked_name(path).suffix == ".jsonl":
        return list(documents(path))
    quarantine = Quarantine()
    rows = [{"id": d.id, **d.fields, "text": d.body} for d in read_documents(Source("text", path), quarantine)]
    if len(quarantine) or not all(isinstance(row["text"], str) for row in rows):
        first = quarantine.rows[0] if len(quarantine) else {"reason": "pages are not text"}
        raise UserError(
            f"{len(quarantine)} records cannot be read as text, the first: {first['reason']}",
            where=str(first.get("file", path)),
            hint="`qwenkit corpus` reads pages and damaged files; name its artifact here",
        )
    return rows


def publish(old: Any, new: Any, source: Path, out: Path) -> None:
    """The tokenizer's folder, with what the old one's says of its use, and the new tokens alone as the authors' extra
    vocabulary."""
    from qwenkit.stages.models import carry_settings, drop_unknown_names
    from qwenkit.tokenizer import ranks_text

    new.save(out)
    carry_settings(source, out)
    drop_unknown_names(new, out)
    added = {token: i for token, i in new.ranks.items() if i >= old.n_tokens}
    (out / EXTRA).write_bytes(ranks_text(added))


def compared(old: Tokenizer, new: Tokenizer, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Bytes for each token of held-out documents, of all and by language, before and after."""
    found = {}
    for group in ["all", *sorted({group_of(row) for row in rows})]:
        texts = [row["text"] for row in rows if group in ("all", group_of(row))]
        before, after = bytes_per_token(old, texts), bytes_per_token(new, texts)
        if before is not None and after is not None:
            found[group] = {"before": before, "after": after}
    return found


def changed(old: Tokenizer, new: Tokenizer, rows: Sequence[Row], progress: Progress) -> dict[str, float]:
    """How many documents of known languages are encoded otherwise, and by how many tokens fewer.

    `moved` counts those that changed although none of their tokens is new: a new merge inside an old token.
    """
    count: Counter[str] = Counter()
    for start in range(0, len(rows), _CHUNK):
        texts = [row["text"] for row in rows[start : start + _CHUNK]]
        for before, after in zip(old.encode_batch(texts), new.encode_batch(texts)):
            count["before"] += len(before)
            count["after"] += len(after)
            count["changed"] += before != after
            count["moved"] += before != after and max(after) < old.n_tokens
        progress(min(start + _CHUNK, len(rows)), len(rows))
    return {
        "documents": len(rows),
        "changed": count["changed"],
        "share": round(count["changed"] / max(1, len(rows)), 6),
        "moved": count["moved"],
        "tokens_before": count["before"],
        "tokens_after": count["after"],
    }


def summary(metrics: dict[str, Any], merges: int) -> str:
    """One line: what was added, what is gained, what changes."""
    gain = metrics["bytes_per_token"].get("all")
    gained = f"held-out bytes per token {gain['before']:.2f} -> {gain['after']:.2f}" if gain else "nothing held out"
    kept = metrics["changed"].values()
    total = sum(row["documents"] for row in kept)
    share = f"; {sum(row['changed'] for row in kept)} of {total} kept documents change" if total else ""
    return f"{merges} tokens from {metrics['first_id']} on; {gained}{share}"


def grow_model(source: Path, old: Any, new: Any, out: Path) -> Any:
    """Write the model with rows for every new token; returns the tokenizer with the model's number of rows."""
    from qwenkit.model import load_model, save_model
    from qwenkit.model.resize_token_embeddings import resize_token_embeddings
    from qwenkit.stages.models import copy_papers, save_settings
    from qwenkit.tokenizer import Tokenizer

    model = load_model(source, device="cpu")
    if model.config.vocab_size < old.n_tokens:
        raise UserError(
            f"the model has {model.config.vocab_size} rows, its tokenizer {old.n_tokens} tokens",
            where=str(source),
            expected="a model and its own tokenizer",
        )
    rows = max(model.config.vocab_size, new.vocab_size)
    parts = [old.encode_piece(token) for token, i in new.ranks.items() if i >= old.n_tokens]
    save_model(resize_token_embeddings(model, old.n_tokens, parts, rows), out)
    save_settings(source, out, rows)
    copy_papers(source, out)
    wide = Tokenizer(new.ranks, new.special, new.pattern, vocab_size=rows, **new.flags)
    return new.over(wide)
