"""The tokenizer in a GGUF file: a byte-level BPE vocabulary, the kinds of its tokens, chat templates, names.

    vocabulary = read_vocabulary("model.gguf")
    vocabulary.tok, vocabulary.templates, vocabulary.names

A file does not say by which expression text is cut, only a name of llama.cpp's for it (`tokenizer.ggml.pre`). A name
that is not in `PRE_TOKENIZERS` is refused: under a wrong expression text would become other ids. NFC, which a file does
not speak of either and llama.cpp never does, is done where the family's own tokenizer does it; a file that was written
here says it, and its own expression (`qwenkit.nfc`, `qwenkit.pattern`). A vocabulary may lack single bytes: characters
with them are read as U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qwenkit.errors import UserError, nearest
from qwenkit.gguf_file import GGUFFile, read_gguf
from qwenkit.records import Row
from qwenkit.tokenizer.core import Tokenizer
from qwenkit.tokenizer.folder import from_content
from qwenkit.tokenizer.patterns import GPT2, PATTERNS, SMOLLM
from qwenkit.tokenizer.settings import DEFAULT

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""GGUF's kinds of tokens. Programs print those that a user defined, and hide controls."""
NFC, PATTERN = "qwenkit.nfc", "qwenkit.pattern"
"""Our own keys: whether text is normalised to NFC, and an expression that llama.cpp has no name for."""


class PreTokenizer(NamedTuple):
    """How text is cut under a name, and whether it is normalised to NFC before."""

    regex: str
    nfc: bool = False


PRE_TOKENIZERS = {
    "qwen2": PreTokenizer(PATTERNS["qwen"], nfc=True),
    "deepseek-r1-qwen": PreTokenizer(PATTERNS["qwen"]),
    "llama-bpe": PreTokenizer(PATTERNS["cl100k"]),
    "llama3": PreTokenizer(PATTERNS["cl100k"]),
    "llama-v3": PreTokenizer(PATTERNS["cl100k"]),
    "smaug-bpe": PreTokenizer(PATTERNS["cl100k"]),
    "gpt-2": PreTokenizer(GPT2),
    "phi-2": PreTokenizer(GPT2),
    "olmo": PreTokenizer(GPT2),
    "smollm": PreTokenizer(SMOLLM),
    "starcoder": PreTokenizer(SMOLLM),
    "refact": PreTokenizer(SMOLLM),
    "codeshell": PreTokenizer(SMOLLM),
}
"""By llama.cpp's names. The first name of an expression is the one that is written."""
_KEY = "tokenizer.ggml."
_IDS = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id", "eot_token": "eot_token_id"}  # fmt: skip
"""Special tokens by the names that chat templates have for them."""
_TEMPLATE = "tokenizer.chat_template"
_NEUTRAL = {"add_bos_token": False, "add_eos_token": False, "add_sep_token": False, "add_space_prefix": False,
            "remove_extra_whitespaces": False}  # fmt: skip
"""Switches with the value that is assumed here."""


class GGUFVocabulary(NamedTuple):
    """What a file says of text: the tokenizer, chat templates by name, and special tokens by the names of templates."""

    tok: Tokenizer
    templates: dict[str, str]
    names: Row


def read_vocabulary(path: Path) -> GGUFVocabulary:
    """Return the tokenizer of a file with what goes with it; raises a `UserError` that names file and key."""
    file = read_gguf(path)
    tokens, kinds = file.texts(f"{_KEY}tokens"), file.integers(f"{_KEY}token_type")
    if len(kinds) != len(tokens):
        raise UserError(f"{len(kinds)} kinds of {len(tokens)} tokens", where=file.where(f"{_KEY}token_type"))
    tok = from_content(_content(file, tokens, kinds), path, len(tokens), incomplete=True)
    tok.remarks = (*tok.remarks, *_remarks(file, tok))
    return GGUFVocabulary(tok, _templates(file), _names(file, tokens))


def _content(file: GGUFFile, tokens: list[str], kinds: list[int]) -> Row:
    """Return the vocabulary as a tokenizer.json describes it, so that one reader checks both."""
    pre = _pre_tokenizer(file)
    nfc = file.flag(NFC, pre.nfc)
    split = {"type": "Split", "pattern": {"Regex": pre.regex}, "behavior": "Isolated"}
    return {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]},
        "decoder": {"type": "ByteLevel"},
        "added_tokens": list(_added(file, tokens, kinds)),
        "model": {"type": "BPE", "ignore_merges": True, "vocab": _vocab(file, tokens, kinds), "merges": _merges(file)},
    }


def _pre_tokenizer(file: GGUFFile) -> PreTokenizer:
    """Return how the file's text is cut; raises a `UserError` for other models than byte-level BPE."""
    key = f"{_KEY}model"
    if (model := file.text(key)) != "gpt2":
        raise UserError(
            f"a tokenizer of the kind {model!r:.80}", where=file.where(key), expected="gpt2: byte-level BPE"
        )
    if PATTERN in file:
        return PreTokenizer(file.text(PATTERN))
    name = file.text(f"{_KEY}pre")
    if name not in PRE_TOKENIZERS:
        raise UserError(f"text is cut by the unknown expression {name!r:.80}", where=file.where(f"{_KEY}pre"),
                        expected=", ".join(PRE_TOKENIZERS), nearest=nearest(name, PRE_TOKENIZERS))  # fmt: skip
    return PRE_TOKENIZERS[name]


def _vocab(file: GGUFFile, tokens: list[str], kinds: list[int]) -> dict[str, int]:
    """Return the ids of the regular tokens; raises a `UserError` for a kind that a byte-level vocabulary has not."""
    known = (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED)
    if odd := [i for i, kind in enumerate(kinds) if kind not in known]:
        raise UserError(f"token {odd[0]} is of kind {kinds[odd[0]]}", where=file.where(f"{_KEY}token_type"),
                        expected=", ".join(map(str, known)))  # fmt: skip
    vocab: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if kinds[i] == NORMAL and vocab.setdefault(token, i) != i:
            raise UserError(f"the tokens {vocab[token]} and {i} are both {token!r:.60}",
                            where=file.where(f"{_KEY}tokens"), expected="each token once")  # fmt: skip
    return vocab


def _added(file: GGUFFile, tokens: list[str], kinds: list[int]) -> Iterator[Row]:
    """Yield the tokens that are found in a text before it is cut, by the fields of `tokenizers`."""
    for i, (token, kind) in enumerate(zip(tokens, kinds)):
        if kind in (UNKNOWN, CONTROL, USER_DEFINED):
            yield {"id": i, "content": token, "special": kind != USER_DEFINED, "normalized": False}


def _merges(file: GGUFFile) -> list[str]:
    """Return the merges, two tokens each; raises a `UserError` where there are none."""
    key = f"{_KEY}merges"
    merges = file.texts(key)
    if odd := [merge for merge in merges if len(merge.split(" ")) != 2]:
        raise UserError(f"the merge {odd[0]!r:.80}", where=file.where(key), expected="two tokens and a space")
    return merges


def _templates(file: GGUFFile) -> dict[str, str]:
    """Return the chat templates by name; the one without a name is the default."""
    names = {key: key.removeprefix(f"{_TEMPLATE}.") for key in file if key.startswith(f"{_TEMPLATE}.")}
    templates = {name: file.text(key) for key, name in names.items()}
    return {DEFAULT: file.text(_TEMPLATE), **templates} if _TEMPLATE in file else templates


def _names(file: GGUFFile, tokens: list[str]) -> Row:
    """Return the special tokens by the names that templates have for them."""
    names: Row = {}
    for name, key in _IDS.items():
        if f"{_KEY}{key}" in file:
            i = file.integer(f"{_KEY}{key}")
            if not 0 <= i < len(tokens):
                raise UserError(f"it is {i}", where=file.where(f"{_KEY}{key}"), expected=f"one of {len(tokens)} tokens")
            names[name] = tokens[i]
    return names


def _remarks(file: GGUFFile, tok: Tokenizer) -> Iterator[str]:
    """Yield remarks about settings that are not followed, and characters that cannot be spelled."""
    for name, value in _NEUTRAL.items():
        if file.flag(f"{_KEY}{name}", value) != value:
            yield f"{_KEY}{name} = true is not done here"
    if tok.lacking:
        signs = ", ".join(f"0x{b:02x}" for b in sorted(tok.lacking)[:4])
        yield f"{len(tok.lacking)} bytes are not in the vocabulary ({signs}, ...): characters with them become U+FFFD"
