"""Texts to score, as requests: the engine reads them like prompts, in pieces, and what they share only once.

    requests = scoring_requests(rows, starts)
    queue = reading_order(requests)                  # equal beginnings are neighbours
    scores = [request.sequences[0].scores for request in requests]

Scores are log-probabilities in nats.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.prompt import Prompt


def scoring_requests(rows: Seq[Prompt], starts: Seq[int]) -> list[Request]:
    """Return a request for each row, in the order of the rows: the log-probabilities of its tokens from `starts` on are
    wanted. A row without such tokens is done at once."""
    params = SamplingParams.plain(max_tokens=0)
    requests = []
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        request = Request(0, f"prompt {i}", row, params, 0, frozenset(), score_from=start)
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
