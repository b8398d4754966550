"""Byte-level BPE in Qwen's way: encode, decode, train, extend, publish (report §2.2). No torch here."""

from .added import Edges, Part, split_special
from .batch import batch
from .core import TextStream, Tokenizer, normalize
from .folder import load
from .patterns import ENDOFTEXT, IM_END, IM_START, PATTERNS, special_names
from .publish import chatml_template, save_tokenizer
from .settings import read_config, read_names, read_template, read_templates
from .tiktoken_file import ranks_text, save_tiktoken
from .train import extend_bpe, train_bpe

__all__ = [
    "ENDOFTEXT",
    "IM_END",
    "IM_START",
    "PATTERNS",
    "Edges",
    "Part",
    "TextStream",
    "Tokenizer",
    "batch",
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
