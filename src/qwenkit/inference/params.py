"""How an answer is drawn: vLLM's names, with `None` meaning "as the model's folder says".

    SamplingParams(max_tokens=64, temperature=0)             # what is not said comes from generation_config.json
    SamplingParams.plain(max_tokens=64)                      # nothing comes from the folder

Training and evaluation want `plain`: a repetition penalty of 1.1 that a folder quietly brings along ruins PPO's ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from qwenkit.errors import UserError


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

    @classmethod
    def plain(cls, **given: Any) -> SamplingParams:
        """Neutral values for all that is not given; nothing is taken from the folder."""
        return cls(**{**_NEUTRAL, **given})

    def resolved(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """Every `None` filled from the folder's settings, then from the neutral values; then checked."""
        known = {**_NEUTRAL, **{name: value for name, value in defaults.items() if value is not None}}
        filled = {name: value for name, value in known.items() if getattr(self, name) is None}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        settled = replace(self, **filled, stop=stop, stop_token_ids=tuple(self.stop_token_ids))
        settled.check()
        return settled

    def check(self) -> None:
        """Refuse values that mean nothing."""
        wrong = [
            (self.n < 1, "n", "a positive number"),
            (self.max_tokens is not None and self.max_tokens < 0, "max_tokens", "0 or more"),
            (not (self.temperature or 0.0) >= 0, "temperature", "0 or more"),
            (not 0 < (1.0 if self.top_p is None else self.top_p) <= 1, "top_p", "more than 0 and at most 1"),
            ((self.top_k or 0) < -1, "top_k", "-1, 0 or a positive number"),
            (not (self.repetition_penalty or 1.0) > 0, "repetition_penalty", "more than 0"),
            (any(not text for text in self.stop), "stop", "texts that are not empty"),
        ]
        for bad, name, expected in wrong:
            if bad:
                raise UserError(f"{name} = {getattr(self, name)!r}", where="sampling parameters", expected=expected)


_NEUTRAL: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}


def folder_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a generation_config.json in our names."""
    names = {field.name for field in fields(SamplingParams)} & {*_NEUTRAL}
    found = {name: generation_config[name] for name in names if generation_config.get(name) is not None}
    if generation_config.get("max_new_tokens") is not None:
        found["max_tokens"] = generation_config["max_new_tokens"]
    if generation_config.get("do_sample") is False:
        found["temperature"] = 0.0
    return found
