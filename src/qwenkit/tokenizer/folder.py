"""Read a tokenizer: a Hugging Face folder, a tokenizer.json, a GGUF file, or Qwen's own `.tiktoken` vocabulary.

    tok = load(path)            # qwenkit.chat.load_tokenizer adds rendering
    tok = load("qwen.tiktoken", extra_vocab="qwen_extra.tiktoken")

A folder may hold either file, or vocab.json with merges.txt; the model's `config.json` beside it, when there is one,
gives the number of embedding rows. Files that are not byte-level BPE, or whose merges do not give what ranks give, are
refused: they would encode, but differently. That a file's merges do is proved when it is read (`bytelevel.strays`).
What changes no id but is asked for and not done is named in `remarks`, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenkit.adapter_files import described_at
from qwenkit.errors import UserError
from qwenkit.files import read_text
from qwenkit.gguf_file import is_gguf
from qwenkit.records import read_object
from qwenkit.tokenizer.added import Edges
from qwenkit.tokenizer.bytelevel import from_printable, is_complete, strays
from qwenkit.tokenizer.core import DEFAULT_MULTIPLE, Tokenizer
from qwenkit.tokenizer.patterns import GPT2, PATTERNS, refuse_broken
from qwenkit.tokenizer.publish import CONFIG, TOKENIZER
from qwenkit.tokenizer.settings import ADDED, read_config, read_names, read_optional, remarks
from qwenkit.tokenizer.tiktoken_file import load_tiktoken

VOCAB, MERGES = "vocab.json", "merges.txt"


def load(path: str | Path, extra_vocab: str | Path | None = None) -> Tokenizer:
    """Return a tokenizer from a folder or a file; an extra vocabulary belongs to a `.tiktoken` one.

    Raises a `UserError` for files that are missing, corrupted or not supported."""
    path, extra = Path(path), Path(extra_vocab) if extra_vocab else None
    if is_gguf(path):
        from qwenkit.tokenizer.gguf_vocabulary import read_vocabulary

        _refuse_extra(extra, path)
        return read_vocabulary(path).tok
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


def _load_folder(folder: Path, extra: Path | None) -> Tokenizer:
    """Return the tokenizer of a folder: tokenizer.json first; else the only .tiktoken file, or vocab.json with
    merges.txt; with the settings of the other files."""
    rows = _rows(folder)
    files = sorted(folder.glob("*.tiktoken"))
    if (folder / TOKENIZER).exists():
        _refuse_extra(extra, folder)
        tok = _load_json(folder / TOKENIZER, rows, folder)
    elif not files and (folder / VOCAB).is_file():
        _refuse_extra(extra, folder)
        tok = from_content(_slow(folder), folder / VOCAB, rows, folder)
    else:
        tok = _load_ranks(folder, files, extra, rows)
    tok.remarks = (*tok.remarks, *remarks(folder))
    return tok


def _load_ranks(folder: Path, files: Sequence[Path], extra: Path | None, rows: int | None) -> Tokenizer:
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"several vocabularies and no {TOKENIZER}: {names}" if files else "no tokenizer in this folder",
            where=str(folder),
            expected=f"{TOKENIZER}, or one .tiktoken file, or {VOCAB} with {MERGES}",
            hint="name the file; an extra vocabulary goes beside it as extra_vocab" if files else None,
        )
    config = read_config(folder)
    known = {key: config[key] for key in ("pattern", "nfc") if key in config}
    if added := _config_added(folder, {}):
        known |= _added(added, folder / CONFIG)
    return load_tiktoken(files[0], extra, vocab_size=rows, **known)


def _refuse_extra(extra: Path | None, path: Path) -> None:
    if extra is not None:
        raise UserError(
            "an extra vocabulary goes with a .tiktoken one, not with a tokenizer.json",
            where=str(path),
            hint="`qwenkit extend` adds merges to either",
        )


def _rows(folder: Path) -> int | None:
    """Return the number of embedding rows: the model's first, then the tokenizer's."""
    rows = read_optional(_described(folder) / "config.json").get("vocab_size") or read_config(folder).get(
        "model_vocab_size"
    )
    if rows is not None and (type(rows) is not int or not 0 < rows < 2**31):
        raise UserError(f"vocab_size = {str(rows)[:40]}", where=str(folder), expected="a number of rows")
    return rows


def _described(folder: Path) -> Path:
    """Return the folder with the config.json of the model: an adapter's is that of its model, where it is here."""
    try:
        return described_at(folder)
    except UserError:
        return folder


def _load_json(path: Path, rows: int | None = None, folder: Path | None = None) -> Tokenizer:
    return from_content(read_object(path), path, rows, folder)


def from_content(
    content: dict[str, Any], path: Path, rows: int | None, folder: Path | None = None, incomplete: bool = False
) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json. `folder` holds the files beside it, `incomplete` is `Tokenizer`'s.

    Raises a `UserError` for one in another form than `tokenizers` writes."""
    try:
        return _byte_level(content, path, rows, folder, incomplete)
    except KeyError as error:
        raise UserError(f"not a tokenizer as `tokenizers` writes it: {error} is missing", where=str(path)) from None
    except (AttributeError, TypeError, ValueError, OverflowError):  # whose messages are for programmers
        what = "not a tokenizer as `tokenizers` writes it: a value is of another kind than what belongs there"
        raise UserError(what, where=str(path)) from None


def _byte_level(
    content: dict[str, Any], path: Path, rows: int | None, folder: Path | None, incomplete: bool
) -> Tokenizer:
    model = content.get("model") or {}
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UserError(f"a {model.get('type', 'nameless')} tokenizer", where=str(path), expected="a byte-level BPE")
    _refuse_other_rules(content, path)
    listed = content.get("added_tokens") or []
    own = {entry["id"]: entry for entry in listed}
    for entry in listed:
        if own[entry["id"]] is not entry:
            raise UserError(
                f"token id {str(entry['id'])[:20]} is used twice", where=str(path), expected="one token for each id"
            )
    if folder is not None:
        own |= {entry["id"]: entry for entry in _config_added(folder, own, model["vocab"])}
    known = _added(own.values(), path)
    vocab = {token: i for token, i in model["vocab"].items() if token not in known["special"]}
    for name, i in known["special"].items():
        if (other := model["vocab"].get(name, i)) != i:
            raise UserError(f"the added token {name!r} is {i} and {other}", where=str(path), expected="one id")
    try:
        ranks = {from_printable(token): i for token, i in vocab.items()}
        _check_merges(model, vocab, path)
    except KeyError as error:
        raise UserError(f"{error.args[0]!r} is not a byte-level token", where=str(path)) from None
    nfc = content.get("normalizer") is not None
    tok = Tokenizer(
        ranks,
        pattern=_pattern(content, path),
        vocab_size=rows,
        multiple=DEFAULT_MULTIPLE,
        nfc=nfc,
        incomplete=incomplete,
        **known,
    )
    tok.remarks = tuple(_remarks(content))
    return tok


# ---- vocab.json and merges.txt --------------------------------------------------------------------------------------

_CLASSES = {"Qwen2Tokenizer": ("qwen", True), "PreTrainedTokenizer": ("qwen", True), "GPT2Tokenizer": (GPT2, False)}
"""The settings that the older form leaves to its class: the pattern, and whether text is normalised to NFC."""


def _slow(folder: Path) -> dict[str, Any]:
    """Return the older form as a tokenizer.json. Two classes of transformers read it; an unnamed one is Qwen's."""
    named = str(read_config(folder).get("tokenizer_class") or "Qwen2Tokenizer")
    if named.removesuffix("Fast") not in _CLASSES:
        raise UserError(
            f"tokenizer_class = {named[:60]!r} over {VOCAB} and {MERGES}",
            where=str(folder),
            expected="Qwen2Tokenizer or GPT2Tokenizer",
            hint=f"save the tokenizer with a {TOKENIZER}",
        )
    pattern, nfc = _CLASSES[named.removesuffix("Fast")]
    regex = PATTERNS.get(pattern, pattern)
    return {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"},
                {"type": "ByteLevel", "use_regex": False},
            ],
        },
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": read_object(folder / VOCAB), "merges": _merges(folder / MERGES)},
    }


def _merges(path: Path) -> list[str]:
    """Return the lines of merges.txt, except a first one that only names a version."""
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected=f"the merges that go with {VOCAB}")
    lines = read_text(path, expected="two tokens a line").split("\n")
    return [
        line.strip() for n, line in enumerate(lines) if line.strip() and not (n == 0 and line.startswith("#version:"))
    ]


# ---- added tokens ---------------------------------------------------------------------------------------------------

_FLAGS = {"special": False, "normalized": True, "lstrip": False, "rstrip": False, "single_word": False}


def _config_added(
    folder: Path, own: Mapping[int, Mapping[str, Any]], vocab: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Return the added tokens of the files beside the vocabulary; they must agree with its own."""
    config, where = read_config(folder), str(folder / CONFIG)
    entries = {}
    for i, entry in (config.get("added_tokens_decoder") or {}).items():
        if not str(i).isdecimal() or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise UserError("an added token that is not one", where=where, expected='"id": {"content": ...}')
        entries[int(i)] = {**_FLAGS, **entry, "id": int(i)}
    names = read_names(folder)
    marks = [name for name in [*names.values(), *names.get("additional_special_tokens", ())] if isinstance(name, str)]
    for name, i in read_optional(folder / ADDED).items():
        rules = {"special": name in marks, "normalized": name not in marks}
        entries.setdefault(i, {**_FLAGS, **rules, **own.get(i, {}), "id": i, "content": name})
        if entries[i]["content"] != name:
            _disagree(i, entries[i]["content"], name, folder / ADDED)
    for i, entry in entries.items():
        if i in own:
            _compare(own[i], entry, where)
    contents = {entry["content"] for entry in [*own.values(), *entries.values()]}
    for name in dict.fromkeys(marks):  # named, and only in the vocabulary: transformers makes it an added token
        if vocab is not None and name not in contents and name in vocab and not own:
            entries[vocab[name]] = {**_FLAGS, "special": True, "normalized": False, "id": vocab[name], "content": name}
    return list(entries.values())


def _compare(own: Mapping[str, Any], other: Mapping[str, Any], where: str) -> None:
    """Refuse two descriptions of an id that would make a text into other ids, or ids into another text."""
    if own["content"] != other["content"]:
        _disagree(other["id"], own["content"], other["content"], where)
    for flag, usual in _FLAGS.items():
        if bool(own.get(flag, usual)) != bool(other.get(flag, usual)):
            value = str(bool(other.get(flag, usual))).lower()
            raise UserError(
                f"the added token {other['content']!r} has {flag} = {value} here and the other in {TOKENIZER}",
                where=where,
                expected="one of them",
                hint="save the tokenizer again with the program that made it",
            )


def _disagree(i: object, one: object, other: object, where: object) -> None:
    raise UserError(
        f"the added token {i} is {str(one)[:60]!r} in one file and {str(other)[:60]!r} in another",
        where=str(where),
        expected="one name for each id",
        hint="save the tokenizer again with the program that made it",
    )


def _added(entries: Any, path: Path) -> dict[str, Any]:
    """Return added tokens as arguments of `Tokenizer`."""
    by_name: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if by_name.setdefault(entry["content"], entry)["id"] != entry["id"]:
            raise UserError(f"the added token {entry['content']!r} has two ids", where=str(path), expected="one")
    edges = {name: Edges(*(bool(entry.get(key)) for key in Edges._fields)) for name, entry in by_name.items()}
    return {
        "special": {name: entry["id"] for name, entry in by_name.items()},
        "visible": {name for name, entry in by_name.items() if not entry.get("special", True)},
        "special_first": {name for name, entry in by_name.items() if not entry.get("normalized", True)},
        "edges": {name: edge for name, edge in edges.items() if any(edge)},
    }


# ---- rules that would change ids ------------------------------------------------------------------------------------

_KEYS = frozenset(
    "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model".split()
)
_MODEL_KEYS = frozenset(
    "type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback ignore_merges vocab "
    "merges".split()
)


def _remarks(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield remarks about settings of tokenizer.json that are not followed, or not known here."""
    unknown = [*(content.keys() - _KEYS), *(f"model.{key}" for key in content["model"].keys() - _MODEL_KEYS)]
    for key in sorted(key for key in unknown if not key.split(".")[-1].startswith("_")):
        yield f"{TOKENIZER}: {key[:60]} is not known here, and passed over"
    steps = _steps(content.get("post_processor") or {}, "processors")
    if odd := [step for step in steps if step.get("type") not in ("ByteLevel", None)]:
        yield f"{TOKENIZER}: tokens put around every text ({str(odd[0].get('type'))[:40]}) are not put there here"


def _refuse_other_rules(content: dict[str, Any], path: Path) -> None:
    """Raise a `UserError` for settings that would change ids and are not supported."""
    model, normalizer = content["model"], content.get("normalizer")
    if normalizer is not None and _steps(normalizer, "normalizers") != [{"type": "NFC"}]:
        raise UserError("text is normalised in another way than NFC", where=str(path), expected='"NFC" or nothing')
    decoders = {step.get("type") for step in _steps(content.get("decoder") or {}, "decoders")}
    if decoders - {"ByteLevel", None}:
        raise UserError("tokens become text in another way than byte by byte", where=str(path), expected="ByteLevel")
    asked = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
    if odd := [key for key in asked if model.get(key)]:
        raise UserError(f"not supported in a model of type BPE: {', '.join(odd)}", where=str(path))


def _steps(step: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return step.get(key, []) if step.get("type") == "Sequence" else [step]


def _pattern(content: dict[str, Any], path: Path) -> str:
    """Return the name of the pre-tokenizer's pattern, or the pattern itself when it has no name here."""
    steps = _steps(content.get("pre_tokenizer") or {}, "pretokenizers")
    splits = [step for step in steps if step.get("type") == "Split"]
    regex = (splits[0].get("pattern") or {}).get("Regex") if len(splits) == 1 else None
    again = [step for step in steps if step.get("type") == "ByteLevel" and step.get("use_regex", True)]
    other = [step for step in steps if step.get("type") not in ("Split", "ByteLevel")]
    if regex is None or again or other or any(step.get("add_prefix_space") for step in steps):
        raise UserError(
            "text is not cut by one pattern",
            where=str(path),
            expected="pre-tokenizers of type Split with a Regex, and ByteLevel with use_regex false",
        )
    behaviour = (splits[0].get("behavior"), bool(splits[0].get("invert")))
    if behaviour not in (("Isolated", False), ("Removed", True)):
        raise UserError(f"the pattern is used as {behaviour[0]}", where=str(path), expected="Isolated")
    return next((name for name, known in PATTERNS.items() if known == regex), None) or refuse_broken(regex, str(path))


def _check_merges(model: dict[str, Any], vocab: Mapping[str, int], path: Path) -> None:
    """Raise a `UserError` where merging by rank may differ from merging by list. They are equal where the list is in
    the order of the ids, and every token is made of its own bytes or every way to make it is listed."""
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
