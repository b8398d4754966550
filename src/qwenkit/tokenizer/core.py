"""Byte-level BPE in Qwen's way: NFC, the pattern, then merges by rank (report §2.2).

    tok = train_bpe(texts, vocab_size=768)          # or: qwenkit.chat.load_tokenizer(path)
    tok.decode(tok.encode("你好, world 2023"))

`encode` treats its text as data: a special token's name inside it is ordinary text unless it is allowed by name or
with "all". Nothing raises: lone surrogates become U+FFFD. Caveat: text is NFC-normalised, so `decode(encode(text))`
is `normalize(text)`, not always `text`.

Later families add four things, which a folder's files tell: added tokens that are not called special (`visible`), which
are there after `skip_special_tokens`; added tokens that are looked for before NFC (`special_first`: all, none or their
names); added tokens that mind the text beside them (`edges`); and vocabularies without NFC (`nfc=False`, as cl100k).
A vocabulary that lacks single bytes (`incomplete=True`, as SmolLM's) reads characters with such bytes as U+FFFD.
Of the visible ones, some are marks that belong to a program's text (`<think>`, `<tool_call>`, `<|fim_prefix|>`); the
rest are `words`, and one token each in any text, as in `tokenizers`.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import struct
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TypedDict

import regex
import tiktoken

from qwenkit.errors import UserError, nearest
from qwenkit.tokenizer.added import Edges, Part, Token, split_special, stretches
from qwenkit.tokenizer.patterns import ENDOFTEXT, IM_END, IM_START, PATTERNS, is_control, is_mark, refuse_unknown
from qwenkit.tokenizer.token_checks import check_vocabulary, checked_id, checked_list, checked_text, name_set, shown

DEFAULT_MULTIPLE = 64
_NONE: frozenset[str] = frozenset()
_ENDLESS = 500_000
UNKNOWN = "\ufffd".encode()
"""The text of an id without a meaning: an untrained model may choose one."""
_CHUNK = 1 << 16
"""Characters that a thread encodes at once: one text each would cost more than the texts."""


def normalize(text: str, nfc: bool = True) -> str:
    """Return text in NFC (unless `nfc` is false), surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    if nfc and not text.isascii():
        text = unicodedata.normalize("NFC", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@lru_cache(maxsize=64)
def _looks(names: frozenset[str], nfc: bool) -> dict[str, str]:
    """Return names by how they look in a normal form."""
    return {normalize(name, nfc): name for name in names}


@lru_cache(maxsize=8)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)


def _chunks(texts: Iterable[str]) -> list[list[str]]:
    """Return texts in order, in lists of about `_CHUNK` characters."""
    out: list[list[str]] = []
    room = 0
    for text in texts:
        if room <= 0:
            out.append([])
            room = _CHUNK
        out[-1].append(text)
        room -= len(text) + 64
    return out


def _has_endless_space(text: str) -> bool:
    """Return whether a run of white space is long enough to exhaust tiktoken's splitter, whose limit is near 10^6."""
    for at in range(_ENDLESS - 1, len(text), _ENDLESS):  # a run that long contains one of these positions
        if text[at].isspace():
            before, after = text[at + 1 - _ENDLESS : at + 1], text[at + 1 : at + _ENDLESS]
            if len(before) - len(before.rstrip()) + len(after) - len(after.lstrip()) >= _ENDLESS:
                return True
    return False


class TextStream:
    """The text of ids that arrive one by one; it holds back the bytes of a character until it is complete."""

    def __init__(self, tok: Tokenizer, skip_special_tokens: bool = False) -> None:
        """Start an empty text."""
        self._tok, self._skip = tok, skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the text that this id completes, which may be ""."""
        return self._decoder.decode(self._tok.decode_bytes([token_id], self._skip, unknown=UNKNOWN))

    def flush(self) -> str:
        """Return the rest at the end of the stream: U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)


class Flags(TypedDict, total=False):
    """The arguments of `Tokenizer` that say how special tokens and normal forms are treated."""

    visible: frozenset[str]
    special_first: bool | frozenset[str]
    nfc: bool
    edges: dict[str, Edges]
    incomplete: bool


class Tokenizer:
    """A vocabulary: ranks of byte strings, special tokens, the pattern of the pre-tokenizer, and the model's row count.

    `n_tokens` is one more than the highest id with a meaning; `vocab_size` is the number of embedding rows that a model
    needs: `n_tokens` rounded up to `multiple`, or the number given."""

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special: Mapping[str, int],
        pattern: str = "qwen",
        *,
        vocab_size: int | None = None,
        multiple: int = DEFAULT_MULTIPLE,
        visible: Collection[str] = (),
        special_first: bool | Collection[str] = False,
        edges: Mapping[str, Edges] | None = None,
        nfc: bool = True,
        incomplete: bool = False,
    ) -> None:
        """Build a tokenizer; raises a `UserError` for a vocabulary or pattern that cannot work."""
        refuse_unknown(pattern)
        self.ranks, self.special, self.pattern = dict(ranks), dict(special), pattern
        self.visible, self.edges, self.nfc = frozenset(visible), dict(edges or {}), nfc
        every = frozenset(special)
        named = {*special_first} if not isinstance(special_first, bool) else every if special_first else _NONE
        self.first = every & named
        self.lacking = frozenset(b for b in range(256) if bytes([b]) not in self.ranks)
        """Bytes that are not tokens. Only an `incomplete` vocabulary may lack any, and none of U+FFFD."""
        check_vocabulary(self.ranks, self.special, self.lacking & set(UNKNOWN) if incomplete else self.lacking)
        self.n_tokens = 1 + max([*self.ranks.values(), *self.special.values()])
        self.vocab_size = vocab_size or -(-self.n_tokens // multiple) * multiple
        if self.vocab_size < self.n_tokens:
            raise UserError(
                f"vocab_size {self.vocab_size} is smaller than the tokenizer's {self.n_tokens} tokens",
                expected=f"at least {self.n_tokens}",
            )
        self.special_names = frozenset(self.special)
        self.remarks: tuple[str, ...] = ()
        """Remarks about settings of its files that are not followed."""
        self.words = frozenset(name for name in self.visible if not is_mark(name))
        """Added tokens that are one token wherever a text holds them."""
        self.spoken = frozenset(name for name in self.visible if not is_control(name))
        """What an assistant may write as one token: the words, and marks such as `<think>`."""
        self._hidden_ids = frozenset(i for name, i in self.special.items() if name not in self.visible)

    @property
    def flags(self) -> Flags:
        """Return the keyword arguments that make an equal tokenizer: the treatment of special tokens and normal
        forms."""
        flags: Flags = {"visible": self.visible, "special_first": self.special_first, "nfc": self.nfc}
        if self.edges:
            flags["edges"] = self.edges
        if self.lacking:
            flags["incomplete"] = True
        return flags

    @property
    def special_first(self) -> bool | frozenset[str]:
        """Return whether added tokens are located before NFC: all of them, none, or those named."""
        return bool(self.first) if self.first in (_NONE, self.special_names) else self.first

    @property
    def regex(self) -> str:
        """Return the regular expression of the pre-tokenizer."""
        return PATTERNS.get(self.pattern, self.pattern)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding("qwenkit", pat_str=self.regex, mergeable_ranks=self.ranks, special_tokens=self.special)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return self.tokens() | {i: name.encode() for name, i in self.special.items()}

    def tokens(self) -> dict[int, bytes]:
        """Return the bytes of every regular token by its id."""
        return {rank: token for token, rank in self.ranks.items()}

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of everything that changes ids or text: ranks, special tokens, pattern, row count,
        flags."""
        sha = hashlib.sha256(self.regex.encode())
        sha.update(struct.pack("<QQ", self.vocab_size, len(self.ranks)))
        special = {name.encode(): i for name, i in self.special.items()}
        for table in (self.ranks, special):
            for token, i in sorted(table.items(), key=lambda item: item[1]):
                sha.update(struct.pack("<II", i, len(token)) + token)
        first = self.special_first if isinstance(self.special_first, bool) else sorted(self.first)
        sha.update(repr((sorted(self.visible), first, self.nfc)).encode())
        if self.edges:
            sha.update(repr(sorted((name, *edge) for name, edge in self.edges.items())).encode())
        return sha.hexdigest()

    @property
    def eot_id(self) -> int:
        """Return the id of `<|endoftext|>`, which ends a document and pads a batch."""
        return self.special_id(ENDOFTEXT)

    @property
    def im_start_id(self) -> int:
        """Return the id of `<|im_start|>`, which begins a turn."""
        return self.special_id(IM_START)

    @property
    def im_end_id(self) -> int:
        """Return the id of `<|im_end|>`, which ends a turn."""
        return self.special_id(IM_END)

    def special_id(self, name: str) -> int:
        """Return the id of a special token; raises a `UserError` for an unknown name."""
        if name not in self.special:
            raise UserError(f"this tokenizer has no special token {name}", nearest=nearest(name, self.special))
        return self.special[name]

    def normalize(self, text: str) -> str:
        """Return the text as it is encoded: in NFC, without lone surrogates and characters that it cannot spell."""
        text = normalize(text, self.nfc)
        return _spelled(text, self.lacking) if self.lacking else text

    def pretokenize(self, text: str) -> list[str]:
        """Return the pre-tokens of a text; no token crosses the border of one."""
        return _compiled(self.regex).findall(self.normalize(text))

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] | str = frozenset(),
        disallowed_special: Collection[str] | str = frozenset(),
    ) -> list[int]:
        """Return the ids of a text. Names of special tokens are plain text unless allowed by name, or all by "all";
        `words` are one token each wherever they occur.

        A text that `disallowed_special` lists raises a `UserError`, as in tiktoken, also where it is allowed or not a
        special token. "all" means every special token that is not allowed."""
        checked_text(text)
        allowed = self._names(allowed_special)
        every = isinstance(disallowed_special, str) and disallowed_special == "all"
        refused = self.special_names - allowed if every else name_set(disallowed_special)
        if refused:
            self._refuse(text, refused)
        return self._encode(text, allowed)

    def encode_batch(
        self,
        texts: Iterable[str],
        allowed_special: Collection[str] | str = frozenset(),
        threads: int | None = None,
    ) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores; each thread is given several texts at a time."""
        allowed, threads = self._names(allowed_special), threads or os.cpu_count() or 1
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise UserError(f"texts = {shown(texts)}", expected="a list of strings", hint="encode_batch([text])")
        chunks = _chunks(map(checked_text, texts))
        if threads == 1 or len(chunks) < 2:
            return [self._encode(text, allowed) for chunk in chunks for text in chunk]
        with ThreadPoolExecutor(threads) as pool:
            encoded = pool.map(lambda chunk: [self._encode(text, allowed) for text in chunk], chunks)
            return [ids for chunk in encoded for ids in chunk]

    def _names(self, names: Collection[str] | str) -> frozenset[str]:
        """Return the names that count in a text: the words and the allowed special tokens; other names are ignored, as
        in `tiktoken`."""
        every = isinstance(names, str) and names == "all"
        return self.special_names if every else self.words | (self.special_names & name_set(names))

    def _refuse(self, text: str, refused: frozenset[str]) -> None:
        name = next((part for part in split_special(self.normalize(text), refused) if part in refused), None)
        if name is not None:
            raise UserError(
                f"the text holds the disallowed special token {name}",
                expected="text without it",
                hint="do not disallow it: then it is plain text, or that token where `allowed_special` names it",
            )

    def _encode(self, text: str, allowed: frozenset[str]) -> list[int]:
        return self.encode_parts([Part(text, allowed)])[0] if allowed else self._ordinary(self.normalize(text))

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text in which no name counts, not even that of a word."""
        return self._ordinary(self.normalize(text))

    def encode_parts(self, parts: Sequence[Part]) -> tuple[list[int], list[int]]:
        """Return the ids of the parts of one text, and the owner of each id: that of the part in which its first byte
        lies.

        In every part only the names that it allows count. Names are cut out before or after NFC; the text between two
        names is encoded as one string, across parts."""
        names = frozenset[str]().union(*(part.allowed for part in parts))
        ids: list[int] = []
        owners: list[int] = []
        for raw in stretches(parts, {name: name for name in self.first & names}, self.edges):
            if isinstance(raw, Token):
                pieces: Iterable[Token | list[Part]] = [raw]
            else:
                normal = [part._replace(text=self.normalize(part.text)) for part in raw]
                pieces = stretches(normal, _looks(names - self.first, self.nfc), self.edges)
            for stretch in pieces:
                if isinstance(stretch, Token):
                    ids.append(self.special[stretch.name])
                    owners.append(stretch.owner)
                else:
                    more = self.encode_ordinary("".join(part.text for part in stretch))
                    ids += more
                    owners += self._owners(more, stretch)
        return ids, owners

    def _owners(self, ids: Sequence[int], parts: Sequence[Part]) -> list[int]:
        """Return, for each id, the owner of the part in which its first byte lies."""
        if len(parts) == 1:
            return [parts[0].owner] * len(ids)
        ends = list(accumulate(len(part.text.encode()) for part in parts))
        owners: list[int] = []
        at, which = 0, 0
        for number, token in enumerate(ids):
            while at >= ends[which] and which < len(parts) - 1:
                which += 1
            if which == len(parts) - 1:  # the rest is its own: the bytes of the last part need not be counted
                return owners + [parts[which].owner] * (len(ids) - number)
            owners.append(parts[which].owner)
            at += len(self._bytes[token])
        return owners

    def _ordinary(self, text: str) -> list[int]:
        """Return the ids of normalised text. tiktoken's splitter panics on a million spaces in a row; Python's `regex`
        does not."""
        if not _has_endless_space(text):
            try:
                return self._encoding.encode_ordinary(text)
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # of a pattern that tries too often; no class to import
                    raise
                raise UserError("the tokenizer's pattern gives up on this text", where=shown(text)) from None
        return [i for piece in _compiled(self.regex).finditer(text) for i in self.encode_piece(piece[0].encode())]

    def encode_piece(self, piece: bytes) -> list[int]:
        """Return the ids of bytes that the pattern does not cut."""
        return self._encoding._core_bpe.encode_single_piece(piece)

    def decode_bytes(
        self, ids: Iterable[int], skip_special_tokens: bool = False, unknown: bytes | None = None
    ) -> bytes:
        """Return the joined bytes of ids. An id without a meaning raises a `UserError`, unless `unknown` says what it
        shows.

        With `skip_special_tokens`, ids beyond all tokens (padding rows) are skipped too, as in the official code."""
        skip, end = (self._hidden_ids, self.n_tokens) if skip_special_tokens else (frozenset(), float("inf"))
        known = (i for i in map(checked_id, checked_list(ids)) if i not in skip and i < end)
        if unknown is not None:
            return b"".join(self._bytes.get(i, unknown) for i in known)
        try:
            return b"".join(self._bytes[i] for i in known)
        except KeyError as missing:
            raise UserError(
                f"token id {missing.args[0]} means nothing in this tokenizer",
                expected=f"ids from 0 to {self.n_tokens - 1}; rows up to {self.vocab_size - 1} are padding",
            ) from None

    def decode(
        self, ids: Sequence[int] | Iterable[int] | int, errors: str | None = None, skip_special_tokens: bool = False
    ) -> str:
        """Return the text of ids: the bytes are joined first, then read as UTF-8 with `errors` (None: "replace")."""
        ids = [ids] if isinstance(ids, int) else ids
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors or "replace")

    def stream(self, skip_special_tokens: bool = False) -> TextStream:
        """Return a decoder for ids that arrive one by one."""
        return TextStream(self, skip_special_tokens)


def _spelled(text: str, lacking: frozenset[int]) -> str:
    """Return the text with U+FFFD for every character that has one of these bytes in UTF-8."""
    data = text.encode()
    if len(data.translate(None, bytes(lacking))) == len(data):
        return text
    return "".join(sign if lacking.isdisjoint(sign.encode()) else "\ufffd" for sign in text)
