"""Byte-level BPE in Qwen's way: encode, decode, train, publish (report §2.2). No torch here."""

from .core import TextStream, Tokenizer, normalize, split_special
from .folder import load, read_config, read_template
from .patterns import ENDOFTEXT, IM_END, IM_START, PATTERNS, special_names
from .publish import chatml_template, save_tokenizer
from .train import train_bpe

__all__ = [
    "ENDOFTEXT",
    "IM_END",
    "IM_START",
    "PATTERNS",
    "TextStream",
    "Tokenizer",
    "chatml_template",
    "load",
    "normalize",
    "read_config",
    "read_template",
    "save_tokenizer",
    "special_names",
    "split_special",
    "train_bpe",
]
