"""What a vocabulary contains, and what of it is never used: scripts, unused tokens, tokens that no text produces.

    composition(tok.tokens().values())         # {"ASCII": 94358, "Han": 25511, ...}
    unreachable(tok)                           # ids

A token that training text never held keeps the row it was born with, and a model that is shown it does what it likes:
such *glitch tokens* are found by counting, over text like that of the training, which ids occur rarely or never. Some
cannot occur at all: their own text is encoded otherwise, because of NFC or because the pattern cuts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import regex
import tokenizers

from qwenkit.errors import UserError
from qwenkit.files import read_bytes
from qwenkit.tokenizer.bytelevel import from_printable
from qwenkit.tokenizer.core import Tokenizer
from qwenkit.tokenizer.folder import TOKENIZER, load

SCRIPTS = (
    "Han",
    "Hangul",
    "Hiragana",
    "Katakana",
    "Cyrillic",
    "Arabic",
    "Hebrew",
    "Thai",
    "Greek",
    "Armenian",
    "Georgian",
    "Ethiopic",
    "Devanagari",
    "Bengali",
    "Gujarati",
    "Gurmukhi",
    "Kannada",
    "Malayalam",
    "Oriya",
    "Sinhala",
    "Tamil",
    "Telugu",
    "Khmer",
    "Lao",
    "Myanmar",
    "Tibetan",
    "Latin",
)
_TESTS = [(name, regex.compile(rf"\p{{Script={name}}}")) for name in SCRIPTS]
PARTIAL, ASCII, OTHER = "part of a character", "ASCII", "other"


class Coder(Protocol):
    """What is needed of any tokenizer, of this package or not."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        ...

    def tokens(self) -> Mapping[int, bytes]:
        """Return the bytes of every regular token by its id."""
        ...


class Foreign:
    """Any other tokenizer.json, read by the library `tokenizers`: it is measured, and used for nothing else."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises a `UserError` for one that is not a tokenizer."""
        data = read_bytes(path)
        try:
            self._tok = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:
            raise UserError(f"not a tokenizer: {error}", where=str(path)) from None
        self._tok.no_padding()
        self._tok.no_truncation()

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, without added special tokens."""
        return [encoding.ids for encoding in self._tok.encode_batch(texts, add_special_tokens=False)]

    def tokens(self) -> dict[int, bytes]:
        """Return the bytes of the regular tokens, in whichever way the file spells them."""
        added = set(self._tok.get_added_tokens_decoder())
        spelled = {i: token for token, i in self._tok.get_vocab().items() if i not in added}
        try:
            return {i: from_printable(token) for i, token in spelled.items()}
        except KeyError:
            return {i: _from_pieces(token) for i, token in spelled.items()}


def _from_pieces(token: str) -> bytes:
    """Return the bytes of SentencePiece's spelling: a bar for a space, `<0x0A>` for a byte."""
    if regex.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def open_coder(path: Path) -> Coder:
    """Return a tokenizer of this package where the file is one, otherwise whatever its tokenizer.json describes."""
    try:
        return load(path)
    except UserError:
        file = path / TOKENIZER if path.is_dir() else path
        if file.suffix != ".json" or not file.is_file():
            raise
        return Foreign(file)


def composition(tokens: Iterable[bytes]) -> dict[str, int]:
    """Return the number of tokens of each script, the largest first. A token belongs to the first of `SCRIPTS` in
    it."""
    return dict(Counter(map(script, tokens)).most_common())


def script(token: bytes) -> str:
    """Return the script of one token."""
    if token.isascii():
        return ASCII
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return PARTIAL
    return next((name for name, test in _TESTS if test.search(text)), OTHER)


def unreachable(tok: Tokenizer) -> list[int]:
    """Return the ids of tokens whose own text is encoded differently. Tokens with parts of characters cannot be tested
    alone and are left out."""
    whole = {i: token.decode() for i, token in tok.tokens().items() if script(token) != PARTIAL}
    ids = tok.encode_batch(whole.values())
    return [i for i, encoded in zip(whole, ids) if encoded != [i]]
