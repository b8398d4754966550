"""Read a tokenizer: a Hugging Face folder, a tokenizer.json, or Qwen's own `.tiktoken` vocabulary.

    tok = load(path)            # qwenkit.chat.load_tokenizer adds rendering
    tok = load("qwen.tiktoken", extra_vocab="qwen_extra.tiktoken")

A folder may hold either file; the model's `config.json` beside it, when there is one, gives the number of embedding
rows. Files that are not byte-level BPE, or whose merges do not give what ranks give, are refused: they would encode,
but differently. That a file's merges do is proved when it is read (`bytelevel.strays`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, within
from ..files import read_text
from ..records import json_kind, read_object
from .bytelevel import from_printable, is_complete, strays
from .core import DEFAULT_MULTIPLE, Tokenizer
from .patterns import PATTERNS, refuse_unusable
from .publish import CONFIG, TEMPLATE, TOKENIZER
from .tiktoken_file import load_tiktoken


def load(path: str | Path, extra_vocab: str | Path | None = None) -> Tokenizer:
    """A tokenizer from a folder or a file; an extra vocabulary goes with a `.tiktoken` one."""
    path, extra = Path(path), Path(extra_vocab) if extra_vocab else None
    if extra is not None and not extra.is_file():
        raise UserError("no such file", where=str(extra), expected="an extra vocabulary in the form of a .tiktoken")
    if path.is_dir():
        return _load_folder(path, extra)
    if not path.is_file():
        raise UserError("no such file or folder", where=str(path), expected="a tokenizer folder, .tiktoken or .json")
    if path.suffix != ".json":
        return load_tiktoken(path, extra)
    _refuse_extra(extra, path)
    return _load_json(path)


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json of a folder, or nothing."""
    return read_object(folder / CONFIG) if (folder / CONFIG).exists() else {}


def read_template(folder: Path) -> str | None:
    """The folder's chat template, from its own file or from tokenizer_config.json."""
    if (folder / TEMPLATE).exists():
        return read_text(folder / TEMPLATE)
    template = read_config(folder).get("chat_template")
    if isinstance(template, list):
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = next((t.get("template") for t in named), None)
    if template is not None and not isinstance(template, str):
        raise UserError(f"`chat_template` is {json_kind(template)}", where=str(folder / CONFIG), expected="a template")
    return template


def _load_folder(folder: Path, extra: Path | None) -> Tokenizer:
    """tokenizer.json first; else the only .tiktoken file, with what tokenizer_config.json says of it."""
    rows = _rows(folder)
    if (folder / TOKENIZER).exists():
        _refuse_extra(extra, folder)
        return _load_json(folder / TOKENIZER, rows)
    found = sorted(folder.glob("*.tiktoken"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise UserError(
            f"several vocabularies and no {TOKENIZER}: {names}" if found else "no tokenizer in this folder",
            where=str(folder),
            expected=f"{TOKENIZER}, or one .tiktoken file",
            mend="name the file; an extra vocabulary goes beside it as extra_vocab" if found else None,
        )
    config = read_config(folder)
    with _as_written(folder / CONFIG):
        known = {key: config[key] for key in ("pattern", "nfc") if key in config}
        if added := config.get("added_tokens_decoder"):
            known |= _added([{"id": int(i), **entry} for i, entry in added.items()], folder / CONFIG)
        return load_tiktoken(found[0], extra, vocab_size=rows, **known)


def _refuse_extra(extra: Path | None, path: Path) -> None:
    if extra is not None:
        raise UserError(
            "an extra vocabulary goes with a .tiktoken one, not with a tokenizer.json",
            where=str(path),
            mend="`qwenkit extend` adds merges to either",
        )


def _rows(folder: Path) -> int | None:
    """Embedding rows: the model's own word first, then the tokenizer's."""
    model = read_object(folder / "config.json") if (folder / "config.json").exists() else {}
    return model.get("vocab_size") or read_config(folder).get("model_vocab_size")


def _load_json(path: Path, rows: int | None = None) -> Tokenizer:
    content = read_object(path)
    with _as_written(path):
        return _byte_level(content, path, rows)


@contextlib.contextmanager
def _as_written(path: Path) -> Generator[None, None, None]:
    """A file that is not of the form that `tokenizers` writes is told of, and no fault of ours."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"not a tokenizer as `tokenizers` writes it: {error} is missing", where=str(path)) from None
    except (AttributeError, TypeError, ValueError, OverflowError):
        what = "not a tokenizer as `tokenizers` writes it: a value is of another kind than what belongs there"
        raise UserError(what, where=str(path)) from None


def _byte_level(content: dict[str, Any], path: Path, rows: int | None) -> Tokenizer:
    model = content.get("model") or {}
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UserError(f"a {model.get('type', 'nameless')} tokenizer", where=str(path), expected="a byte-level BPE")
    _refuse_other_rules(content, path)
    known = _added(content.get("added_tokens") or [], path)
    vocab = {token: i for token, i in model["vocab"].items() if token not in known["special"]}
    try:
        ranks = {from_printable(token): i for token, i in vocab.items()}
        _check_merges(model, vocab, path)
    except KeyError as error:
        raise UserError(f"{error.args[0]!r} is not a byte-level token", where=str(path)) from None
    nfc = content.get("normalizer") is not None
    return Tokenizer(
        ranks, pattern=_pattern(content, path), vocab_size=rows, multiple=DEFAULT_MULTIPLE, nfc=nfc, **known
    )


def _added(entries: Iterable[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Added tokens, as arguments of `Tokenizer`."""
    found = {entry["content"]: entry for entry in entries}
    if odd := [name for name, e in found.items() if any(e.get(key) for key in ("single_word", "lstrip", "rstrip"))]:
        raise UserError(f"the added token {odd[0]!r} takes or needs white space around it", where=str(path))
    first = {not entry.get("normalized", True) for entry in found.values()}
    if len(first) > 1:
        raise UserError("some added tokens are looked for before NFC and some after it", where=str(path))
    return {
        "special": {name: entry["id"] for name, entry in found.items()},
        "visible": {name for name, entry in found.items() if not entry.get("special", True)},
        "special_first": first == {True},
    }


def _refuse_other_rules(content: dict[str, Any], path: Path) -> None:
    """Settings that would change ids and are not supported."""
    model, normalizer = content["model"], content.get("normalizer")
    if normalizer is not None and _steps(normalizer, "normalizers") != [{"type": "NFC"}]:
        raise UserError("text is normalised in another way than NFC", where=str(path), expected='"NFC" or nothing')
    asked = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
    if odd := [key for key in asked if model.get(key)]:
        raise UserError(f"not supported in a model of type BPE: {', '.join(odd)}", where=str(path))


def _steps(step: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return step.get(key, []) if step.get("type") == "Sequence" else [step]


def _pattern(content: dict[str, Any], path: Path) -> str:
    """The name of the cutting pattern, or the pattern itself when it has no name here."""
    steps = _steps(content.get("pre_tokenizer") or {}, "pretokenizers")
    splits = [step for step in steps if step.get("type") == "Split"]
    regex = (splits[0].get("pattern") or {}).get("Regex") if len(splits) == 1 else None
    again = [step for step in steps if step.get("type") == "ByteLevel" and step.get("use_regex", True)]
    if regex is None or again or any(step.get("add_prefix_space") for step in steps):
        raise UserError(
            "text is not cut by one pattern",
            where=str(path),
            expected="pre-tokenizers of type Split with a Regex, and ByteLevel with use_regex false",
        )
    behaviour = (splits[0].get("behavior"), bool(splits[0].get("invert")))
    if behaviour not in (("Isolated", False), ("Removed", True)):
        raise UserError(f"the pattern is used as {behaviour[0]}", where=str(path), expected="Isolated")
    name = next((name for name, known in PATTERNS.items() if known == regex), None)
    if name is None:
        with within(str(path)):
            refuse_unusable(regex)
    return name or regex


def _check_merges(model: dict[str, Any], vocab: Mapping[str, int], path: Path) -> None:
    """Merging by rank equals merging by list where the list is in the order of the ids, and every token is made of its
    own bytes or every way to make it is listed."""
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    merges = [(left, right) for left, right in pairs]
    last = -1
    for left, right in merges:
        rank = vocab[left + right]
        if rank < last:
            raise UserError(
                f"merge {left!r} + {right!r} is out of the order of its id {rank}",
                where=str(path),
                expected="merges in the order of the tokens' ids, as Qwen's are",
            )
        last = rank
    odd = strays(merges, vocab)
    if odd and not (model.get("ignore_merges") and is_complete(merges, vocab)):
        raise UserError(
            f"the merges do not make {len(odd)} tokens of the vocabulary out of their bytes, the first is {odd[0]!r}",
            where=str(path),
            expected="merges that give what ranks give",
        )
