"""Byte-level BPE in Qwen's way: encode, decode, train, extend, publish (report §2.2). No torch here."""

from .batch import batch
from .core import TextStream, Tokenizer, normalize, split_special
from .folder import load, read_config, read_template
from .patterns import ENDOFTEXT, IM_END, IM_START, PATTERNS, special_names
from .publish import chatml_template, save_tokenizer
from .tiktoken_file import ranks_text, save_tiktoken
from .train import extend_bpe, train_bpe

__all__ = [
    "ENDOFTEXT",
    "IM_END",
    "IM_START",
    "PATTERNS",
    "TextStream",
    "Tokenizer",
    "batch",
    "chatml_template",
    "extend_bpe",
    "load",
    "normalize",
    "ranks_text",
    "read_config",
    "read_template",
    "save_tiktoken",
    "save_tokenizer",
    "special_names",
    "split_special",
    "train_bpe",
]
