"""`tokenizer`: byte-level BPE in Qwen's way, trained on a corpus (report §2.2).

The folder opens with `transformers.AutoTokenizer` and encodes the same ids there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import field_validator

from qwenkit.config import StageConfig, content, edge
from qwenkit.data.documents import iter_documents, row_batches, train_validation_split
from qwenkit.records import Row
from qwenkit.stages.base import Input, Result, StageContext, summary_part
from qwenkit.stages.card import CardPart, compression_view
from qwenkit.stages.results import Metrics, counted
from qwenkit.tokenizer.compare import bytes_per_token, group_of

SUMMARY = "train a byte-level BPE tokenizer on a corpus"
EXAMPLE = "--corpus runs/nano/corpus --vocab-size 1536"
ORDER = 40
VERSION = 3  # 3: a document is what its id says, whatever signs are in it; 2: copies are held out together
PRODUCES = ("tokenizer",)
SEED_METRICS = ("bytes_per_token.*",)
CARD_PARTS = (CardPart("data", "Tokenizer", "compression", compression_view),)
CHATML_TOKENS = 3
NAMED = ("qwen", "cl100k")
GROUPS = {"en": "English", "zh": "Chinese", "code": "code"}


class Config(StageConfig):
    """What the tokenizer learns from, and its size."""

    corpus: str = edge(doc="the corpus to learn merges from", accepts="documents")
    vocab_size: int = content(151643, doc="regular tokens, without the special ones", ge=256, le=2**24)
    fewer: bool = content(False, doc="take fewer tokens where the texts hold no more, and refuse nothing (ours)")
    extras: int = content(205, doc="<|extra_N|> tokens after the three of ChatML", ge=0, le=2**16)
    pattern: str = content("qwen", doc="pre-token pattern: qwen (single digits), cl100k, or a regular expression")
    pad_to: int = content(
        128, doc="rows of the embedding are a multiple of this (of the released 1.8B and 7B)", ge=1, le=2**16
    )
    validation_share: float = content(
        0.02, doc="share of documents in the validation split, which measures compression (ours)", ge=0, lt=0.5
    )

    @field_validator("pattern")
    @classmethod
    def _no_other_name(cls, pattern: str) -> str:
        """A misspelt name is refused before anything runs; whether an expression is one, only the engines can say."""
        if re.fullmatch(r"[\w.-]*", pattern) and pattern not in NAMED:
            raise ValueError(" or ".join(f"'{name}'" for name in NAMED) + ", or a regular expression")
        return pattern


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Train on all but the validation documents, publish, measure bytes per token."""
    from qwenkit.tokenizer import save_tokenizer, train_bpe

    validation: list[Row] = []

    def learnt() -> Iterator[str]:
        for block in row_batches(iter_documents(inputs["corpus"].path)):
            train, drawn = train_validation_split(block, config.validation_share, context.seed_for("held-out"))
            validation.extend(drawn)
            yield from (row["text"] for row in train)

    tok = train_bpe(
        learnt(),
        config.vocab_size,
        config.pattern,
        extras=config.extras,
        multiple=config.pad_to,
        fewer=config.fewer,
        workers=context.threads,
        progress=context.progress,
    )
    save_tokenizer(tok, context.out)
    ratio = {group: bytes_per_token(tok, [r["text"] for r in validation if group_of(r) == group]) for group in GROUPS}
    measured = {group: value for group, value in ratio.items() if value is not None}
    metrics = {"vocab_size": tok.n_tokens, "rows": tok.vocab_size, "bytes_per_token": measured}
    words = ", ".join(f"{GROUPS[group]} {value:.2f}" for group, value in measured.items())
    return Result(metrics, f"{len(tok.ranks)} tokens{summary_part('bytes per token:', words)}")


def vocab_rows(config: Config) -> int:
    """Rows of the embedding of a tokenizer that is yet to be trained."""
    return -(-(config.vocab_size + CHATML_TOKENS + config.extras) // config.pad_to) * config.pad_to


def card_number(metrics: Metrics) -> str:
    """Return the size of the vocabulary."""
    return counted(metrics.get("vocab_size"), "tokens")
