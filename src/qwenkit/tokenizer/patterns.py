r"""How text is cut before BPE (the pre-tokenizer), and which special tokens Qwen has (report §2.2).

`PATTERNS["qwen"]` is cl100k's pattern with one digit per token instead of up to three, so that every number is
spelled out digit by digit; `PATTERNS["cl100k"]` is the pattern it came from. Both run in tiktoken, in `tokenizers`
and in Python's `regex`. A pattern of your own must run in all three as well, and match everywhere:

    resolve("qwen"), resolve(r"\p{N}|\P{N}+")
"""

from __future__ import annotations

import re

import regex
import tiktoken

from qwenkit.errors import UserError, nearest

_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

PATTERNS: dict[str, str] = {
    "qwen": _HEAD + r"\p{N}" + _TAIL,
    "cl100k": _HEAD + r"\p{N}{1,3}" + _TAIL,
}

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2's tokenizers, for folders that leave it to their class."""
SMOLLM = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
"""The pattern of SmolLM and StarCoder: digits are cut off one by one, then the rest by GPT-2's, as one expression."""

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_PROBE = "The CAT's 1234567 \u0663\u2167x_y  \n e\u0301t\u00e9 \u4e2d\u6587\uff0c\u0e44\u0e17\u0e22 \r\n\n\t ok!!\n  "
_LONG = tuple(sign * 60 + end for sign in ("a", "A", "1", " ", "\n", "-", "\u4e2d", "a ") for end in ("", "!", "b"))
_LONGEST, _SECONDS = 10_000, 0.5
_BYTES_ONLY = {bytes([b]): b for b in range(256)}
OFFICIAL_EXTRAS = 205
"""Qwen's `<|extra_0|>` .. `<|extra_204|>`: 208 special tokens in all."""


MARKS = frozenset(
    f"<{slash}{name}>" for name in ("think", "tool_call", "tool_response", "tools") for slash in ("", "/")
)
"""What the chat styles write around thoughts and calls; in the vocabularies of later families each is a token."""
_CONTROL = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)


def is_control(name: str) -> bool:
    """Return whether an added token looks like one that only programs write: `<|fim_prefix|>`, or `<｜User｜>` of
    DeepSeek-R1."""
    return _CONTROL.fullmatch(name) is not None


def is_mark(name: str) -> bool:
    """Return whether an added token is written by programs only, so that the same text from a user stays text."""
    return name in MARKS or is_control(name)


def special_names(extras: int = OFFICIAL_EXTRAS) -> tuple[str, ...]:
    """Return the special tokens in Qwen's order: end of text, the two ChatML marks, then the spare ones."""
    return (ENDOFTEXT, IM_START, IM_END, *(f"<|extra_{i}|>" for i in range(extras)))


def refuse_unknown(pattern: str) -> None:
    """Raise a `UserError` for a misspelt name of a pattern: as a regular expression it would match only itself and lose
    all other text."""
    if pattern not in PATTERNS and re.fullmatch(r"[\w.-]+", pattern):
        expected = " or ".join(PATTERNS) + ", or a regular expression"
        raise UserError(f"unknown pattern {pattern!r}", expected=expected, nearest=nearest(pattern, PATTERNS))


def refuse_broken(pattern: str, where: str = "") -> str:
    """Return a user's pattern; raises a `UserError` where a regex engine rejects it, it matches nothing somewhere, or
    runs without end.

    The engines are tried in the order of how well they bear hostile patterns: tiktoken bounds what it builds, `regex`
    takes all memory for `a{999999999}`. Where tiktoken's own search gives up it does not raise but panics: hence the
    trials."""
    import tokenizers

    where = f"{where}, pattern {_shown(pattern)}" if where else f"pattern {_shown(pattern)}"
    try:
        if len(pattern) > _LONGEST:
            raise ValueError(f"more than {_LONGEST} characters")
        tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=_BYTES_ONLY, special_tokens={})
        tokenizers.Regex(pattern)
        compiled = regex.compile(pattern)
    except Exception as error:
        raise UserError(f"not a regular expression that every engine takes: {error}", where=where) from None
    try:
        spans = [match.span() for text in (_PROBE, *_LONG) for match in compiled.finditer(text, timeout=_SECONDS)]
    except TimeoutError:
        raise UserError("the pattern tries without end to find where it matches", where=where) from None
    if any(start == end for start, end in spans):
        raise UserError("the pattern matches nothing at all, and would for ever", where=where)
    return pattern


def _shown(pattern: str) -> str:
    text = repr(pattern)
    return text if len(text) < 200 else f"{text[:160]}..."


def resolve(pattern: str) -> str:
    """Return the regular expression of a pattern's name, or a user's own pattern after the three engines have accepted
    it."""
    import tokenizers

    refuse_unknown(pattern)
    if pattern in PATTERNS:
        return PATTERNS[pattern]
    refuse_broken(pattern)
    where = f"pattern {_shown(pattern)}"
    groups = regex.compile(pattern).groups
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated").pre_tokenize_str(_PROBE)
    own = regex.findall(pattern, _PROBE)
    if not groups and "".join(own) == _PROBE and own != [piece for piece, _ in cut]:
        raise UserError(
            "the engines read this pattern differently",
            where=where,
            expected="one that cuts alike everywhere: `$`, for one, is the end of a line in `tokenizers`",
        )
    if groups:
        raise UserError("the pattern captures groups", where=where, hint="write (?:...) for (...)")
    return pattern
