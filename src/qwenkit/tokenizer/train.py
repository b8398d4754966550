"""Train a byte-level BPE vocabulary from raw text (report §2.2).

    tok = train_bpe(texts, vocab_size=768, extras=5)

The `tokenizers` library counts and merges; the result is kept as ranks. The same texts give the same bytes, in any
order of the texts: the library breaks ties between equally frequent pairs by id. Caveat: `vocab_size` counts the
regular tokens, the 256 bytes included; special tokens come after them in Qwen's order.
"""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from ..errors import UserError, nearest
from .bytelevel import from_printable
from .core import DEFAULT_MULTIPLE, Tokenizer, normalize
from .patterns import PATTERNS, special_names

NANO_EXTRAS = 5


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = "qwen",
    special: Iterable[str] | None = None,
    *,
    extras: int = NANO_EXTRAS,
    multiple: int = DEFAULT_MULTIPLE,
) -> Tokenizer:
    """A tokenizer of `vocab_size` regular tokens learned from texts, special tokens after them."""
    if pattern not in PATTERNS:
        raise UserError(
            f"unknown pattern {pattern!r}", expected=" or ".join(PATTERNS), nearest=nearest(pattern, PATTERNS)
        )
    if vocab_size < 256:
        raise UserError(f"vocab_size {vocab_size} is too small", expected="at least 256, one for each byte")
    ranks = _learn(texts, vocab_size, PATTERNS[pattern])
    if len(ranks) < vocab_size:
        raise UserError(
            f"the texts hold only {len(ranks)} different tokens, {vocab_size} were asked for",
            mend=f"give more text, or set vocab_size to at most {len(ranks)}",
        )
    names = special_names(extras) if special is None else tuple(special)
    return Tokenizer(ranks, {name: vocab_size + i for i, name in enumerate(names)}, pattern, multiple=multiple)


def _learn(texts: Iterable[str], vocab_size: int, regex: str) -> dict[bytes, int]:
    """Ranks learned by the library, through the pipeline that `publish` writes to tokenizer.json."""
    learner = tokenizers.Tokenizer(BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = byte_level(regex)
    learner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator(map(normalize, texts), trainer)
    return {from_printable(token): rank for token, rank in learner.get_vocab().items()}


def byte_level(regex: str) -> pre_tokenizers.PreTokenizer:
    """Cut by the pattern, then spell bytes as printable characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
