"""Train a byte-level BPE vocabulary (Sennrich et al., 2016) from raw text, or add merges to an existing one (report
§2.2).

    tok = train_bpe(texts, vocab_size=768, extras=5)
    longer = extend_bpe(tok, texts_of_a_new_language, merges=10_000, workers=2)

Training is extending the 256 bytes; both are `learn`. The same texts give the same bytes, in any order of the texts, on
any number of workers. Two progress reports come one after the other: of the texts that are cut, then of the merges.

`train_bpe`: `vocab_size` counts the regular tokens, the 256 bytes included; special tokens come after them in Qwen's
order. `extend_bpe`: no id that was there changes, special ones included; new tokens take the ids from `n_tokens` on, so
they lie *beyond* the special tokens, where the released models have padding. Text that holds none of the new tokens is
encoded as before, and no text gets longer: new merges rank below all old ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenkit.errors import UserError
from qwenkit.tokenizer.bytelevel import BYTES
from qwenkit.tokenizer.core import DEFAULT_MULTIPLE, Tokenizer
from qwenkit.tokenizer.count import Progress, count_pieces
from qwenkit.tokenizer.learn import learn
from qwenkit.tokenizer.patterns import resolve, special_names
from qwenkit.tokenizer.tiktoken_file import QWEN_MULTIPLE

NANO_EXTRAS = 5


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = "qwen",
    special: Iterable[str] | None = None,
    *,
    extras: int = NANO_EXTRAS,
    multiple: int = DEFAULT_MULTIPLE,
    fewer: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Tokenizer:
    """Return a tokenizer of `vocab_size` regular tokens learnt from texts, with special tokens after them.

    Texts with fewer distinct tokens are a `UserError`, or with `fewer` give a tokenizer of those that they have."""
    if vocab_size < len(BYTES):
        raise UserError(f"vocab_size {vocab_size} is too small", expected="at least 256, one for each byte")
    pieces = count_pieces(texts, resolve(pattern), True, workers, progress)
    new = learn(pieces, BYTES, vocab_size - len(BYTES), len(BYTES), min_count=1, progress=progress)
    if fewer:
        vocab_size = len(BYTES) + len(new)
    _refuse_few("tokens", len(BYTES) + len(new), vocab_size, "vocab_size")
    names = special_names(extras) if special is None else tuple(special)
    return Tokenizer(BYTES | new, {name: vocab_size + i for i, name in enumerate(names)}, pattern, multiple=multiple)


def extend_bpe(
    tok: Tokenizer,
    texts: Iterable[str],
    merges: int,
    *,
    min_count: int = 2,
    multiple: int = QWEN_MULTIPLE,
    workers: int = 1,
    progress: Progress | None = None,
) -> Tokenizer:
    """Return the tokenizer with `merges` further merges learnt from texts, each occurring `min_count` times or more.

    Its number of rows is a multiple of `multiple`, and no smaller than before."""
    if merges < 1:
        raise UserError(f"{merges} merges", expected="at least 1")
    pieces = count_pieces(texts, tok.regex, tok.nfc, workers, progress)
    new = learn(pieces, tok.ranks, merges, tok.n_tokens, min_count, tok.encode_piece, progress)
    _refuse_few("merges", len(new), merges, "merges")
    rows = -(-(tok.n_tokens + merges) // multiple) * multiple
    return Tokenizer(tok.ranks | new, tok.special, tok.pattern, vocab_size=max(rows, tok.vocab_size), **tok.flags)


def _refuse_few(what: str, count: int, wanted: int, key: str) -> None:
    if count < wanted:
        raise UserError(
            f"the texts hold only {count} different {what}, {wanted} were asked for",
            hint=f"give more text, or set {key} to at most {count}",
        )
