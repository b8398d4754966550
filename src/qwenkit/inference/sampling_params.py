"""Sampling parameters: vLLM's names, with `None` meaning "as the model's folder says".

    SamplingParams(max_tokens=64, temperature=0)             # the rest comes from generation_config.json
    SamplingParams.plain(max_tokens=64)                      # nothing comes from the folder

Training and evaluation want `plain`: a repetition penalty of 1.1 that comes with a folder ruins PPO's ratios. Values
are checked when they are given; the bounds keep logits finite in float32. Names of vLLM that are not supported are
refused by name. Logits are changed in vLLM's order: `logit_bias` and `min_tokens`, the three penalties, what may not
come (`allowed_token_ids`, `bad_words`, a grammar), then (Hugging Face's order) temperature, top-k, top-p, min-p.

`generation_config.py` reads the defaults of a folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from qwenkit.errors import UserError, nearest
from qwenkit.inference.argument_checks import (
    BIASES,
    BOOL,
    IDS,
    LARGEST,
    LAST_TOKENS,
    LOGPROBS,
    SEQUENCES,
    SOME_IDS,
    STRINGS,
    WORDS,
    Validator,
    default_if_none,
    integer,
    number,
    optional,
    shown,
)
from qwenkit.inference.grammar_checks import GRAMMAR, JSON_SCHEMA, REGEX, TOOLS

_WHERE = "sampling parameters"
_PENALTY = default_if_none(number("-2 to 2", lambda value: -2 <= value <= 2), 0.0)

VALIDATORS: dict[str, Validator] = {
    "n": integer(1, 65536),
    "max_tokens": optional(integer(0)),
    "temperature": optional(number("0, or 1e-06 to 1e+06", lambda value: value == 0 or 1e-6 <= value <= 1e6)),
    "top_p": optional(number("more than 0 and at most 1", lambda value: 0 < value <= 1)),
    "top_k": optional(integer(-1, 2**31 - 1)),
    "min_p": optional(number("0 to 1", lambda value: 0 <= value <= 1)),
    "repetition_penalty": optional(number("0.01 to 100", lambda value: 0.01 <= value <= 100)),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "logit_bias": default_if_none(BIASES, ()),
    "min_tokens": default_if_none(integer(0), 0),
    "stop": default_if_none(STRINGS, ()),
    "stop_token_ids": default_if_none(IDS, ()),
    "stop_words_ids": optional(SEQUENCES),
    "include_stop_str_in_output": BOOL,
    "skip_special_tokens": BOOL,
    "ignore_eos": BOOL,
    "seed": optional(integer(0)),
    "logprobs": default_if_none(LOGPROBS, True),
    "prompt_logprobs": default_if_none(LOGPROBS, False),
    "allowed_token_ids": optional(SOME_IDS),
    "bad_words": default_if_none(WORDS, ()),
    "truncate_prompt_tokens": optional(LAST_TOKENS),
    "thinking_budget": optional(integer(0)),
    "thinking_token_budget": optional(integer(0)),
    "json_schema": optional(JSON_SCHEMA),
    "regex": optional(REGEX),
    "grammar": optional(GRAMMAR),
    "tools": optional(TOOLS),
}

LIMITS: dict[str, tuple[int, int, str]] = {
    "logit_bias": (1024, 0, ""),
    "stop": (64, 1000, "characters"),
    "stop_token_ids": (1024, 0, ""),
    "stop_words_ids": (64, 256, "tokens"),
    "allowed_token_ids": (2**18, 0, ""),
    "bad_words": (1024, 200, "characters"),
}
"""The most items of a list, and the most characters or tokens of each: what is looked at for every token of an answer
must not be what another answer waits for."""

GRAMMARS = ("json_schema", "regex", "grammar", "tools")
"""Names of the settings that bind an answer to a form; a request has at most one."""

_UNSUPPORTED = (
    "best_of detokenize early_stopping extra_args flat_logprobs guided_decoding length_penalty logits_processors "
    "logprob_token_ids output_kind repetition_detection skip_reading_prefix_cache spaces_between_special_tokens "
    "structured_outputs use_beam_search"
).split()
"""Names of vLLM, of some version, that are not supported."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """The settings of one request. `None` means the value of the folder's generation_config.json, else the neutral
    one."""

    n: int = 1
    """Answers for each prompt; the first is in `output.text`, all are in `output.samples`."""
    max_tokens: int | None = None
    """New tokens at most; None: as many as the model has positions for."""
    temperature: float | None = None
    """0 takes the most likely token (greedy decoding)."""
    top_p: float | None = None
    """Nucleus sampling: the smallest set of most likely tokens with this probability; 1: all."""
    top_k: int | None = None
    """Sample from this many most likely tokens; 0 or -1: all."""
    min_p: float | None = None
    """Leave out tokens less likely than this share of the most likely one."""
    repetition_penalty: float | None = None
    """For the tokens of the prompt and of the answer so far; 1 does nothing."""
    frequency_penalty: float | None = 0.0
    """Subtracted from a token's logit for every time that it occurs in the answer so far."""
    presence_penalty: float | None = 0.0
    """Subtracted once for a token that occurs in the answer so far."""
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] | None = ()
    """Added to the logits of these tokens."""
    min_tokens: int | None = 0
    """The answer does not end before it has this many tokens: no stop token, stop string or stop words."""
    stop: tuple[str, ...] | list[str] | str | None = ()
    """Strings that end the answer; they are cut off."""
    stop_token_ids: tuple[int, ...] | list[int] | None = ()
    stop_words_ids: tuple[tuple[int, ...], ...] | list[list[int]] | None = None
    """Sequences of ids, as in the released Qwen: once the text, prompt included, ends with one, the end-of-text token
    is what follows. Where there is none, or with `ignore_eos`, the answer ends with the sequence itself."""
    include_stop_str_in_output: bool = False
    """Keep the stop string, or the text of the stop token, that ended the answer."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    ignore_eos: bool = False
    seed: int | None = None
    """Every random draw is a function of (seed, rng_id, sample, position in the answer). None: the engine's seed."""
    logprobs: bool | int | None = True
    """Keep the log-probability of every new token: the model's own, at temperature 1 and without truncation. A number
    from 2 to 20 also keeps those of that many most likely tokens at each position (`top_logprobs`)."""
    prompt_logprobs: bool | int | None = False
    """The same for the tokens of the prompt (`Output.prompt_logprobs`, `Output.prompt_top_logprobs`)."""
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    """The answer consists of these tokens only; one that is to end it must be among them."""
    bad_words: tuple[str, ...] | list[str] | str | None = ()
    """Words that the answer may not have: a token that would complete one, spelt as the tokenizer spells the word with
    or without a space before it, gets the probability 0."""
    truncate_prompt_tokens: int | None = None
    """Read only so many tokens at the end of the prompt; -1: as many as leave room for `max_tokens` where that is
    given, else for one."""
    thinking_budget: int | None = None
    """The most tokens that an answer's thoughts may have together; a thought that reaches it is closed."""
    thinking_token_budget: int | None = None
    """vLLM's name of `thinking_budget`."""
    json_schema: Mapping[str, Any] | str | bool | None = None
    """The answer is JSON that fits this schema (a mapping, or its text); True: any object. This and the next three bind
    what follows the answer's thoughts, and need the package `llguidance`."""
    regex: str | None = None
    """The answer matches this regular expression as a whole."""
    grammar: str | None = None
    """The answer follows this context-free grammar, in the syntax of Lark (EBNF) with the rule `start`."""
    tools: tuple[Mapping[str, Any], ...] | list[Mapping[str, Any]] | str | None = None
    """The answer is a call of one of these tools, in the form of the chat style, with arguments that fit its schema."""

    def __new__(cls, *unnamed: object, **values: object) -> Self:
        """Raise a `UserError` for a positional argument, an unknown name or one that is not supported."""
        if unnamed:
            raise UserError(shown(unnamed[0]), where=_WHERE, expected="every value by its name, max_tokens=64")
        for name in values:
            if name in _UNSUPPORTED:
                raise UserError(f"{name} is not supported", where=_WHERE, expected=", ".join(VALIDATORS))
            if name not in VALIDATORS:
                raise UserError(f"unknown name {name}", where=_WHERE, expected=", ".join(VALIDATORS),
                                nearest=nearest(name, VALIDATORS))  # fmt: skip
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Convert every value to a plain one; raises a `UserError` for values that do not fit."""
        for name, validator in VALIDATORS.items():
            object.__setattr__(self, name, validator.parse(getattr(self, name), name, where=_WHERE))
        for name, limits in LIMITS.items():
            _check_size(name, getattr(self, name) or (), *limits)
        if self.thinking_token_budget is not None:
            self._take_alias("thinking_budget", "thinking_token_budget")
        if len(bound := [name for name in GRAMMARS if getattr(self, name) is not None]) > 1:
            raise UserError(f"{' and '.join(bound)} together", where=_WHERE, expected=f"one of {', '.join(GRAMMARS)}")
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise UserError(f"min_tokens = {self.min_tokens}", where=_WHERE,
                            expected=f"at most max_tokens = {self.max_tokens}")  # fmt: skip

    def _take_alias(self, name: str, alias: str) -> None:
        """Move a value that was given under another name; raises a `UserError` where both have one, and they differ."""
        value = getattr(self, alias)
        if getattr(self, name) not in (None, value):
            raise UserError(
                f"{name} = {getattr(self, name)} and {alias} = {value}", where=_WHERE, expected="one of them"
            )
        object.__setattr__(self, name, value)
        object.__setattr__(self, alias, None)

    @classmethod
    def plain(cls, **values: Any) -> SamplingParams:
        """Return parameters with neutral values for everything that is not given: nothing comes from a folder."""
        return cls(**{**NEUTRAL, **{name: value for name, value in values.items() if value is not None}})

    def with_defaults(self, defaults: Mapping[str, object]) -> SamplingParams:
        """Return parameters in which every `None` is filled from `defaults`, then from the neutral values."""
        known = {**NEUTRAL, **defaults}
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})


def _check_size(name: str, items: Collection[Any], most: int, longest: int, unit: str) -> None:
    """Raise a `UserError` for a list of more items than a request may have, or with one that is too long."""
    if len(items) > most:
        raise UserError(f"{name} of {len(items):,} items", where=_WHERE, expected=f"at most {most:,}")
    if unit and (length := max(map(len, items), default=0)) > longest:
        raise UserError(f"{name} with one of {length:,} {unit}", where=_WHERE, expected=f"at most {longest:,}")


NEUTRAL: dict[str, Any] = {
    "max_tokens": LARGEST,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop_words_ids": (),
}
