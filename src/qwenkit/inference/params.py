"""How an answer is drawn: vLLM's names, with `None` meaning "as the model's folder says".

    SamplingParams(max_tokens=64, temperature=0)             # what is not said comes from generation_config.json
    SamplingParams.plain(max_tokens=64)                      # nothing comes from the folder

Training and evaluation want `plain`: a repetition penalty of 1.1 that a folder quietly brings along ruins PPO's ratios.
Values are checked when they are given; the bounds keep logits finite in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwenkit.inference.checks import IDS, LARGEST, TEXTS, TRUTH, integer, number, optional

_KINDS = {
    "n": integer(1, 65536),
    "max_tokens": optional(integer(0)),
    "temperature": optional(number("0, or 1e-06 to 1e+06", lambda value: value == 0 or 1e-6 <= value <= 1e6)),
    "top_p": optional(number("more than 0 and at most 1", lambda value: 0 < value <= 1)),
    "top_k": optional(integer(-1, 2**31 - 1)),
    "repetition_penalty": optional(number("0.01 to 100", lambda value: 0.01 <= value <= 100)),
    "stop": TEXTS,
    "stop_token_ids": IDS,
    "ignore_eos": TRUTH,
    "seed": optional(integer(0)),
    "logprobs": TRUTH,
}


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
    repetition_penalty: float | None = None
    stop: tuple[str, ...] | list[str] | str = ()
    """Texts that end the answer; they are cut off."""
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    seed: int | None = None
    """Draws are a function of (seed, request, sample, position). None: the engine's seed."""
    logprobs: bool = False
    """Keep the log-probability of every new token: the model's own, at temperature 1 and without truncation."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, kind.read(getattr(self, name), name, where="sampling parameters"))

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
    "repetition_penalty": 1.0,
}


def folder_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a generation_config.json in our names."""
    theirs = {**generation_config, "max_tokens": generation_config.get("max_new_tokens")}
    found = {name: theirs[name] for name in _NEUTRAL if theirs.get(name) is not None}
    if generation_config.get("do_sample") is False:
        found["temperature"] = 0.0
    SamplingParams(**found)  # refuses what means nothing
    return found
