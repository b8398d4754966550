"""Read a tokenizer: a Hugging Face folder, a tokenizer.json, or Qwen's own `.tiktoken` vocabulary.

    tok = load(path)            # qwenkit.chat.load_tokenizer adds rendering

A folder may hold either file; the model's `config.json` beside it, when there is one, gives the number of embedding
rows. Files that are not byte-level BPE, or whose merges do not follow the order of their ids, are refused: they
would encode, but differently.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from ..errors import UserError
from .bytelevel import from_printable
from .core import DEFAULT_MULTIPLE, Tokenizer
from .patterns import PATTERNS, special_names
from .publish import CONFIG, TEMPLATE, TOKENIZER

QWEN_MULTIPLE = 128
"""The released models round 151,851 tokens up to 151,936 rows."""


def load(path: str | Path) -> Tokenizer:
    """A tokenizer from a folder or a file."""
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise UserError("no such file or folder", where=str(path), expected="a tokenizer folder, .tiktoken or .json")
    return _load_json(path) if path.suffix == ".json" else _load_tiktoken(path)


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json of a folder, or nothing."""
    return _read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def read_template(folder: Path) -> str | None:
    """The folder's chat template, from its own file or from tokenizer_config.json."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text("utf-8")
    template = read_config(folder).get("chat_template")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    return template


def _load_folder(folder: Path) -> Tokenizer:
    """tokenizer.json first; else the only .tiktoken file."""
    rows = _rows(folder)
    if (folder / TOKENIZER).is_file():
        return _load_json(folder / TOKENIZER, rows)
    found = sorted(folder.glob("*.tiktoken"))
    if len(found) != 1:
        raise UserError(
            f"found {len(found)} .tiktoken files and no {TOKENIZER}" if found else "no tokenizer in this folder",
            where=str(folder),
            expected=f"{TOKENIZER}, or one .tiktoken file",
        )
    return _load_tiktoken(found[0], rows)


def _rows(folder: Path) -> int | None:
    """Embedding rows: the model's own word first, then the tokenizer's."""
    model = _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return model.get("vocab_size") or read_config(folder).get("model_vocab_size")


def _load_tiktoken(path: Path, rows: int | None = None) -> Tokenizer:
    """Lines of base64 and rank, LF or CRLF; Qwen's 208 special tokens follow the last rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(
                "not a line of a tiktoken vocabulary", where=f"{path}:{number}", expected="base64, a space, a rank"
            ) from None
    if not ranks:
        raise UserError("the vocabulary is empty", where=str(path))
    first = 1 + max(ranks.values())
    special = {name: first + i for i, name in enumerate(special_names())}
    return Tokenizer(ranks, special, "qwen", vocab_size=rows, multiple=QWEN_MULTIPLE)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not readable as JSON: {error}", where=str(path)) from None
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=str(path))
    return content


def _load_json(path: Path, rows: int | None = None) -> Tokenizer:
    """tokenizer.json of a byte-level BPE."""
    content = _read_json(path)
    model = content.get("model") or {}
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UserError(f"a {model.get('type', 'nameless')} tokenizer", where=str(path), expected="a byte-level BPE")
    if (content.get("normalizer") or {}).get("type") != "NFC":
        raise UserError("text is not normalised by NFC here", where=str(path), expected='"normalizer": {"type": "NFC"}')
    special = {added["content"]: added["id"] for added in content.get("added_tokens", [])}
    try:
        ranks = {from_printable(token): i for token, i in model["vocab"].items() if token not in special}
        _check_merges(model["merges"], ranks, path)
    except KeyError as error:
        raise UserError(f"{error.args[0]!r} is not a byte-level token", where=str(path)) from None
    return Tokenizer(ranks, special, _pattern(content, path), vocab_size=rows, multiple=DEFAULT_MULTIPLE)


def _pattern(content: dict[str, Any], path: Path) -> str:
    """The name of the cutting pattern, or the pattern itself when it has no name here."""
    steps = content.get("pre_tokenizer") or {}
    for step in steps.get("pretokenizers", [steps]):
        regex = (step.get("pattern") or {}).get("Regex")
        if regex is not None:
            return next((name for name, known in PATTERNS.items() if known == regex), regex)
    raise UserError("no cutting pattern", where=str(path), expected="a pre-tokenizer of type Split with a Regex")


def _check_merges(merges: list[str | list[str]], ranks: dict[bytes, int], path: Path) -> None:
    """Merging by rank equals merging by list only where the list is in the order of the ids."""
    last = -1
    for pair in merges:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        rank = ranks[from_printable(left + right)]
        if rank < last:
            raise UserError(
                f"merge {left!r} + {right!r} is out of the order of its id {rank}",
                where=str(path),
                expected="merges in the order of the tokens' ids, as Qwen's are",
            )
        last = rank
