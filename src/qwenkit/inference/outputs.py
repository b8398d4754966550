"""What a caller gets of a request: deltas while it is answered, and the output with its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenkit.errors import QwenkitError

TopLogprobs = tuple[tuple[int, float], ...]
"""The most likely tokens at one position, the likeliest first: ids, and log-probabilities in nats."""

FinishReason = Literal["stop", "length", "abort", "not finite", "error"]
"""The last three end a request that has no output."""


@dataclass
class Sample:
    """One answer. `ids` include the token that stopped it, `text` does not."""

    ids: list[int]
    text: str | None
    """None where the engine has no tokenizer."""
    logprobs: list[float] | None
    """Log-probability of each id in nats: the model's own, at temperature 1 and without truncation."""
    finish_reason: FinishReason
    top_logprobs: list[TopLogprobs] | None = None
    """Those of the most likely tokens at each position, where `logprobs` is a number of 2 or more."""


@dataclass
class Output:
    """The answers of a request; `ids`, `text`, `logprobs` and `finish_reason` are those of the first sample."""

    request: int
    """The handle of the request, as `Engine.submit` returns it."""
    prompt_ids: list[int]
    samples: list[Sample]
    version: int
    """How often the engine's weights had been updated when this was generated."""
    num_cached_tokens: int = 0
    """How many tokens of the prompt were found in the cache and not read again (for the first sample)."""
    prompt_logprobs: list[float | None] | None = None
    """Log-probability of each token of the prompt in nats, where the request asks for them; None for the first, which
    nothing comes before."""
    prompt_top_logprobs: list[TopLogprobs | None] | None = None
    """Those of the most likely tokens at each position of the prompt, where `prompt_logprobs` is 2 or more."""

    @property
    def ids(self) -> list[int]:
        """Return the ids of the first sample."""
        return self.samples[0].ids

    @property
    def text(self) -> str | None:
        """Return the text of the first sample."""
        return self.samples[0].text

    @property
    def logprobs(self) -> list[float] | None:
        """Return the log-probabilities of the first sample, in nats."""
        return self.samples[0].logprobs

    @property
    def top_logprobs(self) -> list[TopLogprobs] | None:
        """Return the log-probabilities of the most likely tokens at each position of the first sample."""
        return self.samples[0].top_logprobs

    @property
    def finish_reason(self) -> FinishReason:
        """Return why the first sample ended."""
        return self.samples[0].finish_reason


@dataclass
class Delta:
    """What one answer has got since its last delta. The deltas of an answer add up to its `Sample`."""

    handle: int
    """The handle of the request, as `Engine.submit` returns it."""
    sample: int
    """Which of the request's answers it is, from 0."""
    ids: list[int]
    text: str | None
    """Whole characters that no stop string can take back; None where the engine has no tokenizer."""
    logprobs: list[float] | None
    finish_reason: FinishReason | None
    """None: more will come. "not finite": the logits were no numbers; "error": the prompt's media cannot be read.
    Both end the whole request."""
    output: Output | None = None
    """All answers of the request, on its last delta."""
    error: QwenkitError | None = None
    """Why there is no output, on the last delta of a request that has none."""
    top_logprobs: list[TopLogprobs] | None = None
