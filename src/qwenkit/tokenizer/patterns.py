"""How text is cut before BPE, and which special tokens Qwen has (report §2.2).

`PATTERNS["qwen"]` is cl100k's pattern with one digit per token instead of up to three, so that every number is
spelled out digit by digit; `PATTERNS["cl100k"]` is the pattern it came from. Both run in tiktoken, in `tokenizers`
and in Python's `regex`.
"""

from __future__ import annotations

_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PATTERNS: dict[str, str] = {
    "qwen": _HEAD + r"\p{N}" + _TAIL,
    "cl100k": _HEAD + r"\p{N}{1,3}" + _TAIL,
}

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
OFFICIAL_EXTRAS = 205
"""Qwen's `<|extra_0|>` .. `<|extra_204|>`: 208 special tokens in all."""


def special_names(extras: int = OFFICIAL_EXTRAS) -> tuple[str, ...]:
    """Names of the special tokens in Qwen's order: end of text, the two ChatML marks, then the spare ones."""
    return (ENDOFTEXT, IM_START, IM_END, *(f"<|extra_{i}|>" for i in range(extras)))
