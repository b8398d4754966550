"""The log-probabilities of a prompt's own tokens: of texts to score, and those that are asked for beside an answer.

    requests = scoring_requests(rows, starts)
    queue = reading_order(requests)                  # equal beginnings are neighbours
    scores(requests[0], starts[0])                   # when it is done

    parts = scored_tokens(batch.prefill, at=len(rows))           # in a step: whose successors are asked for
    record_logprobs(parts, forward, h_ND)                        # the states of these tokens

A text to score is read like a prompt, in pieces, and what several share only once; then nothing is written. All
log-probabilities are in nats.

Legend: N scored tokens, D hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.inference.outputs import TopLogprobs
from qwenkit.inference.sampler import top_pairs
from qwenkit.inference.sampling import not_finite
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.scheduler import PromptPiece
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.model.logprobs import HeadModel, token_logprobs
from qwenkit.prompt import Prompt


def scoring_requests(rows: Seq[Prompt], starts: Seq[int]) -> list[Request]:
    """Return a request for each row, in the order of the rows: the log-probabilities of its tokens from `starts` on are
    wanted. A row without such tokens is done at once."""
    params = SamplingParams.plain(max_tokens=0)
    requests = []
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        request = Request(0, f"prompt {i}", row, params, 0, frozenset())
        request.ask_logprobs(start)
        sequence = Sequence(request, 0, None, None)
        if start >= len(row.ids):
            sequence.finish_reason = "length"
        request.sequences.append(sequence)
        requests.append(request)
    return requests


def reading_order(requests: Seq[Request]) -> list[Request]:
    """Return requests so that those with equal beginnings follow each other, whole texts behind their own beginnings.

    One whose beginning is being read waits for it and finds it; apart from each other it might be gone by then."""
    return sorted(requests, key=lambda request: request.prompt.ids)


def scores(request: Request, start: int) -> list[float]:
    """Return the log-probabilities of a prompt's tokens from `start` on, all of which are known."""
    return [logprob for logprob in request.prompt_logprobs[start:] if logprob is not None]


class Scored(NamedTuple):
    """Tokens of a prompt, behind each other, whose successors' log-probabilities a step finds out."""

    sequence: Sequence
    start: int
    """The position of the first successor."""
    places: range
    """Where in the step the tokens are."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Return the successors."""
        return self.sequence.prompt.ids[self.start : self.start + len(self.places)]

    def record(self, logprobs: Seq[float], tops: Seq[TopLogprobs]) -> None:
        """Store what was found out; the request ends with an error where a number is not finite."""
        request = self.sequence.request
        for position, logprob in enumerate(logprobs, self.start):
            if not math.isfinite(logprob):
                self.sequence.fail(not_finite(request.label, position), "not finite")
                return
        request.record_logprobs(self.start, logprobs, [pairs[: request.num_prompt_top_logprobs] for pairs in tops])


def scored_tokens(pieces: Seq[PromptPiece], at: int) -> list[Scored]:
    """Return what is to be found out of pieces of prompts that begin at token `at` of a step."""
    parts = []
    for sequence, start, stop in pieces:
        first, last = max(start, sequence.request.unscored_from - 1), min(stop, len(sequence.prompt.ids) - 1)
        if first < last:
            parts.append(Scored(sequence, first + 1, range(at + first - start, at + last - start)))
        at += stop - start
    return parts


def record_logprobs(parts: Seq[Scored], model: HeadModel, h_ND: Tensor) -> None:
    """Store what follows from the states of these tokens, one part after the other."""
    if not parts:
        return
    targets_N = torch.tensor([id for part in parts for id in part.targets], device=h_ND.device)
    count = max(part.sequence.request.num_prompt_top_logprobs for part in parts)
    result, tops = token_logprobs(model, h_ND, targets_N, top=count), [()] * len(targets_N)
    if result.top_ids is not None and result.top_logprobs is not None:
        tops = top_pairs(result.top_ids, result.top_logprobs)
    logprobs, at = result.logprobs.tolist(), 0
    for part in parts:
        own = slice(at, at + len(part.places))
        part.record(logprobs[own], tops[own])
        at = own.stop
