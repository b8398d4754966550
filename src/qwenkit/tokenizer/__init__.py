"""Byte-level BPE in Qwen's way: encode, decode, train, extend, publish (report §2.2). No torch here.

Names load on first use, so that a help page costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenkit.lazy import lazy

if TYPE_CHECKING:
    from qwenkit.tokenizer.added import Edges, Part, split_special
    from qwenkit.tokenizer.core import TextStream, Tokenizer, normalize
    from qwenkit.tokenizer.folder import load
    from qwenkit.tokenizer.patterns import ENDOFTEXT, IM_END, IM_START, PATTERNS, special_names
    from qwenkit.tokenizer.publish import chatml_template, save_tokenizer
    from qwenkit.tokenizer.settings import read_config, read_names, read_template, read_templates
    from qwenkit.tokenizer.tiktoken_file import ranks_text, save_tiktoken
    from qwenkit.tokenizer.train import extend_bpe, train_bpe

_HOME = {
    "ENDOFTEXT": "patterns",
    "IM_END": "patterns",
    "IM_START": "patterns",
    "PATTERNS": "patterns",
    "Edges": "added",
    "Part": "added",
    "TextStream": "core",
    "Tokenizer": "core",
    "chatml_template": "publish",
    "extend_bpe": "train",
    "load": "folder",
    "normalize": "core",
    "ranks_text": "tiktoken_file",
    "read_config": "settings",
    "read_names": "settings",
    "read_template": "settings",
    "read_templates": "settings",
    "save_tiktoken": "tiktoken_file",
    "save_tokenizer": "publish",
    "special_names": "patterns",
    "split_special": "added",
    "train_bpe": "train",
}

__all__ = [
    "ENDOFTEXT",
    "IM_END",
    "IM_START",
    "PATTERNS",
    "Edges",
    "Part",
    "TextStream",
    "Tokenizer",
    "chatml_template",
    "extend_bpe",
    "load",
    "normalize",
    "ranks_text",
    "read_config",
    "read_names",
    "read_template",
    "read_templates",
    "save_tiktoken",
    "save_tokenizer",
    "special_names",
    "split_special",
    "train_bpe",
]
__getattr__, __dir__ = lazy(__name__, _HOME)
