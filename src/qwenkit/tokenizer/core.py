"""Byte-level BPE in Qwen's way: NFC, the pattern, then merges by rank (report §2.2).

    tok = train_bpe(texts, vocab_size=768)          # or: qwenkit.chat.load_tokenizer(path)
    tok.decode(tok.encode("你好, world 2023"))

`encode` treats its text as data: a special token's name inside it is ordinary text unless it is allowed by name or
with "all". Nothing raises: lone surrogates become U+FFFD. Caveat: text is NFC-normalised, so `decode(encode(text))`
is `normalize(text)`, not always `text`.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import struct
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

import regex
import tiktoken

from ..errors import UserError, nearest
from .patterns import ENDOFTEXT, IM_END, IM_START, PATTERNS

DEFAULT_MULTIPLE = 64
_ENDLESS = 500_000


def normalize(text: str) -> str:
    """NFC; surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    text = unicodedata.normalize("NFC", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def split_special(text: str, names: frozenset[str]) -> list[str]:
    """Text cut around names of special tokens (the longest where two fit); empty parts are dropped."""
    parts = _cutter(names).split(text) if names else [text]
    return [part for part in parts if part]


@lru_cache(maxsize=64)
def _cutter(names: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def _has_endless_space(text: str) -> bool:
    """Whether a run of white space is long enough to exhaust tiktoken's cutter, whose limit is near 10^6."""
    return len(text) >= _ENDLESS and re.search(rf"\s{{{_ENDLESS}}}", text) is not None


class TextStream:
    """Text of ids that arrive one by one; holds back the bytes of a character until it is whole."""

    def __init__(self, tok: Tokenizer, skip_special_tokens: bool = False) -> None:
        self._tok, self._skip = tok, skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes; may be empty."""
        return self._decoder.decode(self._tok.decode_bytes([token_id], self._skip))

    def flush(self) -> str:
        """What is left of an unfinished character (U+FFFD), at the end of the stream."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """A vocabulary: ranks of byte strings, special tokens, the pattern that cuts text, and the model's row count.

    `n_tokens` is one more than the highest id that means something; `vocab_size` is the number of embedding rows a
    model needs: `n_tokens` rounded up to `multiple`, or the number given.
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special: Mapping[str, int],
        pattern: str = "qwen",
        *,
        vocab_size: int | None = None,
        multiple: int = DEFAULT_MULTIPLE,
    ) -> None:
        self.ranks, self.special, self.pattern = dict(ranks), dict(special), pattern
        _check_ids(self.ranks, self.special)
        self.n_tokens = 1 + max([*self.ranks.values(), *self.special.values()])
        self.vocab_size = vocab_size or -(-self.n_tokens // multiple) * multiple
        if self.vocab_size < self.n_tokens:
            raise UserError(
                f"vocab_size {self.vocab_size} is smaller than the tokenizer's {self.n_tokens} tokens",
                expected=f"at least {self.n_tokens}",
            )
        self.special_names, self._special_ids = frozenset(self.special), frozenset(self.special.values())

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        pattern = PATTERNS.get(self.pattern, self.pattern)
        return tiktoken.Encoding("qwenkit", pat_str=pattern, mergeable_ranks=self.ranks, special_tokens=self.special)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        table = {rank: token for token, rank in self.ranks.items()}
        return table | {i: name.encode() for name, i in self.special.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that changes ids: ranks, special tokens, pattern, row count."""
        sha = hashlib.sha256(PATTERNS.get(self.pattern, self.pattern).encode())
        sha.update(struct.pack("<QQ", self.vocab_size, len(self.ranks)))
        special = {name.encode(): i for name, i in self.special.items()}
        for table in (self.ranks, special):
            for token, i in sorted(table.items(), key=lambda item: item[1]):
                sha.update(struct.pack("<II", i, len(token)) + token)
        return sha.hexdigest()

    @property
    def eot_id(self) -> int:
        """`<|endoftext|>`: ends a document, pads a batch."""
        return self._named(ENDOFTEXT)

    @property
    def im_start_id(self) -> int:
        """`<|im_start|>`: opens a turn."""
        return self._named(IM_START)

    @property
    def im_end_id(self) -> int:
        """`<|im_end|>`: closes a turn."""
        return self._named(IM_END)

    def _named(self, name: str) -> int:
        if name not in self.special:
            raise UserError(f"this tokenizer has no special token {name}", nearest=nearest(name, self.special))
        return self.special[name]

    normalize = staticmethod(normalize)

    def encode(self, text: str, allowed_special: Collection[str] | str = frozenset()) -> list[int]:
        """Ids of a text. Special tokens' names are plain text unless allowed by name, or all by "all"."""
        text = normalize(text)
        allowed = self.special_names & (self.special_names if allowed_special == "all" else set(allowed_special))
        if _has_endless_space(text):
            return self._encode_piecewise(text, allowed)
        if not allowed:
            return self._encoding.encode_ordinary(text)
        return self._encoding.encode(text, allowed_special=set(allowed), disallowed_special=())

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text, as plain data."""
        return [self.encode(text) for text in texts]

    def _encode_piecewise(self, text: str, allowed: frozenset[str]) -> list[int]:
        """The same ids, cut by Python's `regex`: tiktoken's cutter panics on a million spaces in a row."""
        cut = regex.compile(PATTERNS.get(self.pattern, self.pattern))
        ids: list[int] = []
        for part in split_special(text, allowed):
            if part in allowed:
                ids.append(self.special[part])
                continue
            for piece in cut.finditer(part):
                ids += self._encoding._encode_single_piece(piece[0])
        return ids

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = False) -> bytes:
        """The bytes of ids, joined. Ids that mean nothing (padding rows) are a mistake."""
        skip = self._special_ids if skip_special_tokens else frozenset()
        try:
            return b"".join(self._bytes[i] for i in map(int, ids) if i not in skip)
        except KeyError as missing:
            raise UserError(
                f"token id {missing.args[0]} means nothing in this tokenizer",
                expected=f"ids from 0 to {self.n_tokens - 1}; rows up to {self.vocab_size - 1} are padding",
            ) from None

    def decode(
        self, ids: Sequence[int] | Iterable[int] | int, errors: str = "replace", skip_special_tokens: bool = False
    ) -> str:
        """The text of ids: bytes joined first, then read as UTF-8 with `errors`."""
        ids = [ids] if isinstance(ids, int) else ids
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors)

    def stream(self, skip_special_tokens: bool = False) -> TextStream:
        """A decoder for ids that arrive one by one."""
        return TextStream(self, skip_special_tokens)


def _check_ids(ranks: Mapping[bytes, int], special: Mapping[str, int]) -> None:
    """Every byte must be known (else encoding could fail), and no id may mean two things."""
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise UserError(f"the vocabulary lacks {len(missing)} single bytes, the first is 0x{missing[0]:02x}")
    ids = [*ranks.values(), *special.values()]
    if len(set(ids)) < len(ids):
        twice = next(i for n, i in enumerate(sorted(ids)) if i == sorted(ids)[n - 1])
        raise UserError(f"token id {twice} is used twice", expected="one token for each id")
