"""How an answer is drawn: vLLM's names, with `None` meaning "as the model's folder says".

    SamplingParams(max_tokens=64, temperature=0)             # what is not said comes from generation_config.json
    SamplingParams.plain(max_tokens=64)                      # nothing comes from the folder

Training and evaluation want `plain`: a repetition penalty of 1.1 that a folder quietly brings along ruins PPO's ratios.
Values are checked when they are given; the bounds keep logits finite in float32. Names of vLLM that are not here are
refused by name. What is added to the logits comes in vLLM's order: `logit_bias` and `min_tokens`, the three penalties,
then (Hugging Face's order) temperature, top-k, top-p, min-p.

Of a folder's generation_config.json everything is taken that has a name here; what would change the answers and has
none is refused, with the value that would be neutral. Caveat: without `do_sample` transformers is greedy and we sample,
as vLLM does; without `top_k` transformers keeps 50 tokens and we keep all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Self

from qwenkit.errors import UserError, listed, nearest, notice
from qwenkit.inference.validation import (
    BIASES,
    IDS,
    KEPT,
    LARGEST,
    SEQUENCES,
    TEXTS,
    TRUTH,
    integer,
    number,
    optional,
    or_else,
    shown,
)

_WHERE = "sampling parameters"
_PENALTY = or_else(number("-2 to 2", lambda value: -2 <= value <= 2), 0.0)

_KINDS = {
    "n": integer(1, 65536),
    "max_tokens": optional(integer(0)),
    "temperature": optional(number("0, or 1e-06 to 1e+06", lambda value: value == 0 or 1e-6 <= value <= 1e6)),
    "top_p": optional(number("more than 0 and at most 1", lambda value: 0 < value <= 1)),
    "top_k": optional(integer(-1, 2**31 - 1)),
    "min_p": optional(number("0 to 1", lambda value: 0 <= value <= 1)),
    "repetition_penalty": optional(number("0.01 to 100", lambda value: 0.01 <= value <= 100)),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "logit_bias": or_else(BIASES, ()),
    "min_tokens": or_else(integer(0), 0),
    "stop": or_else(TEXTS, ()),
    "stop_token_ids": or_else(IDS, ()),
    "stop_words_ids": optional(SEQUENCES),
    "include_stop_str_in_output": TRUTH,
    "skip_special_tokens": TRUTH,
    "ignore_eos": TRUTH,
    "seed": optional(integer(0)),
    "logprobs": or_else(KEPT, True),
}

_NOT_HERE = (
    "allowed_token_ids bad_words best_of detokenize early_stopping extra_args flat_logprobs guided_decoding "
    "length_penalty logits_processors logprob_token_ids output_kind prompt_logprobs repetition_detection "
    "skip_reading_prefix_cache spaces_between_special_tokens structured_outputs thinking_token_budget "
    "truncate_prompt_tokens use_beam_search"
).split()
"""Names of vLLM, of some version, that nothing here answers to."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """One request's settings. `None`: the folder's generation_config.json, else the neutral value."""

    n: int = 1
    """Answers for each prompt; the first is in `output.text`, all are in `output.samples`."""
    max_tokens: int | None = None
    """New tokens at most; None: as many as the model has positions for."""
    temperature: float | None = None
    """0 takes the likeliest token."""
    top_p: float | None = None
    top_k: int | None = None
    """0 or -1: no limit."""
    min_p: float | None = None
    """Leaves out what is less likely than this share of the likeliest token."""
    repetition_penalty: float | None = None
    """Of the tokens of the prompt and of the answer so far."""
    frequency_penalty: float | None = 0.0
    """Taken from a token's logit each time that it stands in the answer so far."""
    presence_penalty: float | None = 0.0
    """Taken once."""
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] | None = ()
    """Added to the logits of these tokens."""
    min_tokens: int | None = 0
    """Before so many new tokens, nothing ends the answer: no token that would, no stop text, no stop sequence."""
    stop: tuple[str, ...] | list[str] | str | None = ()
    """Texts that end the answer; they are cut off."""
    stop_token_ids: tuple[int, ...] | list[int] | None = ()
    stop_words_ids: tuple[tuple[int, ...], ...] | list[list[int]] | None = None
    """Sequences of ids, as in the released Qwen: once the text, prompt included, ends with one, the end-of-text token
    is what follows. Where there is none, or with `ignore_eos`, the answer ends with the sequence itself."""
    include_stop_str_in_output: bool = False
    """The text keeps the stop text, or the text of the token, that ended it."""
    skip_special_tokens: bool = True
    """The text leaves special tokens out."""
    ignore_eos: bool = False
    seed: int | None = None
    """Draws are a function of (seed, request, sample, position). None: the engine's seed."""
    logprobs: bool | int | None = True
    """Keep the log-probability of every new token: the model's own, at temperature 1 and without truncation. Those of
    other tokens are not kept, so a number above 1 is refused."""

    def __new__(cls, *unnamed: Any, **given: Any) -> Self:
        if unnamed:
            raise UserError(shown(unnamed[0]), where=_WHERE, expected="every value by its name, max_tokens=64")
        for name in given:
            if name in _NOT_HERE:
                raise UserError(f"{name} is not supported", where=_WHERE, expected=", ".join(_KINDS))
            if name not in _KINDS:
                raise UserError(f"unknown name {name}", where=_WHERE, expected=", ".join(_KINDS),
                                nearest=nearest(name, _KINDS))  # fmt: skip
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, kind.read(getattr(self, name), name, where=_WHERE))
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise UserError(f"min_tokens = {self.min_tokens}", where=_WHERE,
                            expected=f"at most max_tokens = {self.max_tokens}")  # fmt: skip

    @classmethod
    def plain(cls, **given: Any) -> SamplingParams:
        """Neutral values for all that is not given; nothing is taken from the folder."""
        return cls(**{**_NEUTRAL, **{name: value for name, value in given.items() if value is not None}})

    def resolved(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """Every `None` filled from the defaults, then from the neutral values."""
        known = {**_NEUTRAL, **defaults}
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})


_NEUTRAL: dict[str, Any] = {
    "max_tokens": LARGEST,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop_words_ids": (),
}

_NEUTRAL_ELSEWHERE: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("bad_words_ids", "begin_suppress_tokens", "constraints", "force_words_ids", "sequence_bias",
                     "stop_strings", "suppress_tokens"), ([], {})),
    **dict.fromkeys(("dola_layers", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
                     "max_length", "max_time", "watermarking_config"), ()),
    **dict.fromkeys(("diversity_penalty", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff", "min_length",
                     "min_new_tokens", "no_repeat_ngram_size", "penalty_alpha", "token_healing"), (0,)),
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale", "num_beam_groups", "num_beams",
                     "num_return_sequences", "top_h", "typical_p"), (1,)),
}  # fmt: skip
"""Settings of transformers that change the answers and have no name here, with the values that, like null, do not."""

_SILENT = frozenset(
    "assistant_confidence_threshold assistant_early_exit assistant_lookbehind bos_token_id cache_config "
    "cache_implementation compile_config custom_text decoder_start_token_id disable_compile is_assistant low_memory "
    "max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule output_attentions output_hidden_states "
    "output_logits output_scores pad_token_id prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values "
    "renormalize_logits return_dict_in_generate return_legacy_cache target_lookbehind transformers_version "
    "trust_remote_code use_cache use_model_defaults continuous_batching_config".split()
)
"""Settings that say how, and not what is drawn, or which programs wrote them."""

_TAKEN = {"do_sample", "max_new_tokens", "eos_token_id", "chat_format", "max_window_size", *_NEUTRAL} - {"max_tokens"}


def folder_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a generation_config.json in our names; those that we could not keep to are refused."""
    _refuse(generation_config)
    theirs = {**generation_config, "max_tokens": generation_config.get("max_new_tokens")}
    found = {name: theirs[name] for name in _NEUTRAL if theirs.get(name) is not None}
    if generation_config.get("do_sample") is False:
        found["temperature"] = 0.0
    SamplingParams(**found)  # refuses what means nothing
    return found


def _refuse(settings: Mapping[str, Any]) -> None:
    """What would change the answers and is not supported, and misspelt names of what is."""
    for name, value in settings.items():
        neutral = _NEUTRAL_ELSEWHERE.get(name, (value,))
        overruled = name == "max_length" and settings.get("max_new_tokens") is not None
        if value is not None and value not in neutral and not overruled:
            raise UserError(f"{name} = {shown(value)} is not supported",
                            expected=" or ".join([*map(shown, neutral[:1]), "null"]),
                            hint="take it out, or write what is expected")  # fmt: skip
        close = nearest(name, _TAKEN)
        if name not in (*_TAKEN, "bos_token_id") and close and SequenceMatcher(None, name, close).ratio() > 0.87:
            raise UserError(f"unknown setting {name}", nearest=close)
    known = {*_TAKEN, *_NEUTRAL_ELSEWHERE, *_SILENT, *_KINDS, "early_stopping", "length_penalty"}
    odd = [name for name, value in settings.items() if value is not None and name not in known and name[:1] != "_"]
    if odd:
        notice(f"generation_config.json: not known here, and passed over: {listed(odd)}")
