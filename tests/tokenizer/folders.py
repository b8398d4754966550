"""Tokenizer folders as other people publish them: single bytes and added tokens, in files of every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from qwenkit.tokenizer.bytelevel import to_printable

PATTERN = r"\p{N}|[^\s\p{N}]+|\s+"
MARKS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True}
"""Added tokens: whether each is special."""
LATER = {**MARKS, **dict.fromkeys(("<think>", "</think>", "<tool_call>", "</tool_call>"), False)}


def added(names: dict[str, bool], **flags: Any) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": 256 + n, "content": name, **plain, **flags, "special": special}
        for n, (name, special) in enumerate(names.items())
    ]


def content(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """tokenizer.json"""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {to_printable(bytes([b])): b for b in range(256)}, "merges": []},
    }


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def config(tokens: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """tokenizer_config.json"""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokens},
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        **more,
    }


def publish(folder: Path, names: dict[str, bool] | None = None, template: Any = None, **more: Any) -> Path:
    """A folder of tokenizer.json and tokenizer_config.json."""
    tokens = added(MARKS if names is None else names)
    write(folder / "tokenizer.json", content(tokens))
    write(
        folder / "tokenizer_config.json",
        config(tokens, **({} if template is None else {"chat_template": template}), **more),
    )
    return folder


def theirs(folder: Path) -> Any:
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
