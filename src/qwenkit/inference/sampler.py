"""From the logits of a step to the next token of each sequence.

    sampler = Sampler(vocabulary=151_851)
    sampler.append_tokens(sequences, logits_BV)     # one row a sequence; each gets its token, or ends

Logits are changed in vLLM's order: logit bias and `min_tokens`, penalties; then what may not come gets -inf (bad words,
all but the allowed tokens, all but what a grammar allows), and where one token must come (after stop words, at the end
of a thought) all others do. Then follow, in `sampling.py`, temperature, top-k, top-p, min-p. Only the rows that ask for
something are changed, and only at the tokens concerned. A row's token is a function of its own logits and of (seed,
rng_id, sample, position): it does not depend on the other rows.

Log-probabilities are those of the logits before all that: the model's own.

On a GPU a step whose logits nobody changes is read by the host once: ids, log-probabilities, and whether the
logits were finite (`_append_at_once`).

Legend: B sequences, V vocabulary, N single tokens.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference.outputs import TopLogprobs
from qwenkit.inference.sampling import (
    NEVER,
    Limits,
    Truncation,
    draw,
    draw_at_once,
    force,
    frequency_presence_penalty,
    repetition_penalty,
)
from qwenkit.inference.sequence import Sequence
from qwenkit.inference.stopping import ends_with_stop_words
from qwenkit.inference.transfer import pinned, rows_of, to_device
from qwenkit.model.logprobs import logsumexp, selected
from qwenkit.rng import uniform


class Sampler:
    """Turns logits into tokens. Ids from `vocabulary` on are never sampled."""

    def __init__(self, vocabulary: int) -> None:
        """Sample ids below `vocabulary`: the rows of the head behind them belong to no token."""
        self.vocabulary = vocabulary
        self.at_once: bool | None = None
        """Whether the host reads once for all that a step gives; None: where the logits are on a GPU."""

    def append_tokens(self, sequences: list[Sequence], logits_BV: Tensor) -> None:
        """Append the next token to each of these sequences, from its row of logits in float32.

        A sequence whose logits are not finite gets none: it ends with the reason "not finite". One that no token may
        follow ends its request with an error."""
        at_once = logits_BV.device.type == "cuda" if self.at_once is None else self.at_once
        if at_once and not any(map(_changes, sequences)):
            left = self._append_at_once(sequences, logits_BV)
            if not left:
                return
            sequences, logits_BV = [sequences[row] for row in left], rows_of(logits_BV, left)
        sequences, logits_BV = _finite(sequences, logits_BV)
        scores_BV = self._adjusted(sequences, logits_BV)
        running = [row for row, sequence in enumerate(sequences) if sequence.status != "finished"]
        if len(running) < len(sequences):
            sequences = [sequences[row] for row in running]
            logits_BV, scores_BV = logits_BV[running], scores_BV[running]
        if not sequences:
            return
        ids_B, _ = _choose(sequences, scores_BV)
        logprobs, tops = self._logprobs(sequences, logits_BV, ids_B)
        for sequence, id, logprob, top in zip(sequences, ids_B.tolist(), logprobs, tops):
            sequence.append(id, logprob, top)

    def _append_at_once(self, sequences: list[Sequence], logits_BV: Tensor) -> list[int]:
        """Append the next tokens where all that the host reads of a step comes in one piece; return the rows that need
        another look. Nobody's logits are changed."""
        ids_B, sure_B = _choose(sequences, logits_BV[:, : self.vocabulary], at_once=True)
        columns = [ids_B, sure_B, logits_BV.sum(-1).isfinite()]
        count = min(self.vocabulary, max(sequence.num_top_logprobs for sequence in sequences))
        if any(sequence.params.logprobs for sequence in sequences):
            lse_B = logsumexp(logits_BV)
            columns.append(selected(logits_BV, ids_B) - lse_B)
            if count:
                top_BN = logits_BV[:, : self.vocabulary].topk(count)
                columns += [*top_BN.indices.unbind(1), *(top_BN.values - lse_B[:, None]).unbind(1)]
        left = []
        for row, values in enumerate(torch.stack([column.double() for column in columns], 1).tolist()):
            id, sure, finite, *logprobs = values
            if not (sure and finite):
                left.append(row)
                continue
            tops = tuple(zip(map(int, logprobs[1 : 1 + count]), logprobs[1 + count :]))
            sequences[row].append(int(id), logprobs[0] if logprobs else 0.0, tops)
        return left

    def _adjusted(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """Return the logits to sample from: those of the vocabulary, or a copy of all where a row is changed."""
        changes = [(row, sequence) for row, sequence in enumerate(sequences) if _changes(sequence)]
        if not changes:
            return logits_BV[:, : self.vocabulary]
        scores_BV = logits_BV.clone()
        scores_BV[:, self.vocabulary :] = NEVER
        for row, sequence in changes:
            try:
                _change(scores_BV[row], sequence)
            except UserError as error:
                sequence.fail(UserError(error.what, where=sequence.request.label, expected=error.expected,
                                        hint=error.hint))  # fmt: skip
        return scores_BV

    def _logprobs(
        self, sequences: list[Sequence], logits_BV: Tensor, ids_B: Tensor
    ) -> tuple[list[float], list[TopLogprobs]]:
        """Return the log-probability of each row's token, and those of the most likely tokens where they are asked
        for."""
        if not any(sequence.params.logprobs for sequence in sequences):
            return [0.0] * len(sequences), [()] * len(sequences)
        lse_B = logsumexp(logits_BV)
        logprobs = (selected(logits_BV, ids_B) - lse_B).tolist()
        count = min(self.vocabulary, max(sequence.num_top_logprobs for sequence in sequences))
        if not count:
            return logprobs, [()] * len(sequences)
        logits_BN, ids_BN = logits_BV[:, : self.vocabulary].topk(count)
        return logprobs, top_pairs(ids_BN, logits_BN - lse_B[:, None])


def top_pairs(ids_BN: Tensor, logprobs_BN: Tensor) -> list[TopLogprobs]:
    """Return the most likely ids of each row with their log-probabilities, as plain numbers."""
    return [tuple(zip(ids, logprobs)) for ids, logprobs in zip(ids_BN.tolist(), logprobs_BN.tolist())]


def _finite(sequences: list[Sequence], logits_BV: Tensor) -> tuple[list[Sequence], Tensor]:
    """Return the sequences that have a next token, and their logits. The others end here."""
    finite_B = logits_BV.sum(-1).isfinite()
    if bool(finite_B.all()):
        return sequences, logits_BV
    for sequence, finite in zip(sequences, finite_B.tolist()):
        if not finite:
            sequence.finish_reason = "not finite"
    return list(itertools.compress(sequences, finite_B.tolist())), logits_BV[finite_B]


def _changes(sequence: Sequence) -> bool:
    """Return whether a sequence asks for other logits than the model's."""
    params = sequence.params
    return bool(
        params.logit_bias or sequence.is_before_min_tokens or sequence.token_counts is not None
        or sequence.request.bad_words_ids or params.allowed_token_ids or params.stop_words_ids
        or sequence.grammar is not None or (sequence.thought is not None and sequence.thought.next_id is not None)
    )  # fmt: skip


def _change(scores_V: Tensor, sequence: Sequence) -> None:
    """Change one row of logits in place; raises a `UserError` where no token is left."""
    next_id = None if sequence.thought is None else sequence.thought.next_id
    if next_id is not None:
        force(scores_V, next_id)
        return
    if edits := sequence.logit_edits:
        ids, values = zip(*edits)
        scores_V.index_add_(0, _ids(ids, scores_V), torch.tensor(values, device=scores_V.device))
    if sequence.token_counts is not None:
        _penalize(scores_V, sequence)
    if forbidden := sequence.forbidden_ids:
        scores_V[_ids(forbidden, scores_V)] = NEVER
    if (allowed_N := sequence.request.allowed_ids) is not None:
        _forbid_all_but(scores_V, torch.from_numpy(allowed_N).to(scores_V.device))
    in_grammar = sequence.grammar is not None and _bind(scores_V, sequence)
    if scores_V.max() == NEVER:
        raise UserError("no token may follow", hint="what is asked for forbids every token at this point")
    eos_id = sequence.request.eos_id
    if eos_id is not None and not in_grammar and ends_with_stop_words(sequence):
        force(scores_V, eos_id)


def _penalize(scores_V: Tensor, sequence: Sequence) -> None:
    """Apply the penalties: repetition to the tokens of prompt and answer, then frequency and presence to those of the
    answer."""
    assert sequence.token_counts is not None
    params, (ids_N, counts_N) = sequence.params, sequence.token_counts.tensors(scores_V.device)
    scores_N = scores_V[ids_N]
    if params.repetition_penalty not in (None, 1.0):
        scores_N = repetition_penalty(scores_N, torch.tensor(params.repetition_penalty, device=scores_V.device))
    frequency, presence = params.frequency_penalty or 0.0, params.presence_penalty or 0.0
    if frequency or presence:
        scores_N = frequency_presence_penalty(scores_N, counts_N, frequency, presence)
    scores_V[ids_N] = scores_N


def _bind(scores_V: Tensor, sequence: Sequence) -> bool:
    """Forbid what the grammar of an answer does not allow; return whether the answer may not end here.

    Inside its thought everything but the end of the answer is allowed; at the beginning a thought may begin. Stop
    tokens are allowed where the grammar may end."""
    grammar, thought = sequence.grammar, sequence.thought
    assert grammar is not None
    stop_ids = list(sequence.request.stop_ids)
    if thought is not None and thought.is_open:
        scores_V[_ids(stop_ids, scores_V)] = NEVER
        return True
    allowed = np.zeros(len(scores_V), dtype=np.bool_)
    in_grammar = grammar.allowed()
    allowed[: len(in_grammar)] = in_grammar
    allowed[stop_ids] = grammar.may_end
    if thought is not None and thought.state == "before":
        allowed[thought.tags.start] = True
    scores_V.masked_fill_(torch.from_numpy(~allowed).to(scores_V.device), NEVER)
    return not grammar.may_end


def _forbid_all_but(scores_V: Tensor, ids_N: Tensor) -> None:
    """Forbid all tokens but these."""
    scores_N = scores_V[ids_N]
    scores_V.fill_(NEVER)[ids_N] = scores_N


def _ids(ids: tuple[int, ...] | list[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.long, device=like.device)


def _choose(sequences: list[Sequence], scores_BV: Tensor, at_once: bool = False) -> tuple[Tensor, Tensor]:
    """Return the next token [B] of each row, the likeliest where the temperature is 0, a sample elsewhere; and true [B]
    where it is certain, which it is everywhere but with `at_once`: then the host reads nothing."""
    sampled = [row for row, s in enumerate(sequences) if s.params.temperature]
    if len(sampled) == len(sequences):
        return _sample(sequences, scores_BV, at_once)
    ids_B = _argmax(scores_BV)
    sure_B = torch.ones_like(ids_B, dtype=torch.bool)
    if sampled:
        (sampled_R,) = to_device([sampled], scores_BV.device)
        drawn = _sample([sequences[row] for row in sampled], scores_BV[sampled_R], at_once)
        ids_B[sampled_R], sure_B[sampled_R] = drawn
    return ids_B, sure_B


def _argmax(scores_BV: Tensor) -> Tensor:
    """Return the highest score's token [B]; on a CPU the first of equals, by numpy: twenty times faster than torch."""
    if scores_BV.device.type != "cpu":
        return scores_BV.argmax(-1)
    return torch.from_numpy(scores_BV.numpy().argmax(-1))


def _sample(sequences: list[Sequence], scores_BV: Tensor, at_once: bool) -> tuple[Tensor, Tensor]:
    """Sample from each row's distribution, a function of (seed, rng_id, sample, position); return tokens [B], and true
    [B] where they are certain, as in `_choose`."""
    limits = _limits(sequences)
    temperature_B, truncation, uniform_B = _settings(sequences, limits, scores_BV.device)
    scores_BV = scores_BV / temperature_B[:, None]
    if at_once:
        return draw_at_once(scores_BV, truncation, uniform_B, limits)
    ids_B = draw(scores_BV, truncation, uniform_B)
    return ids_B, torch.ones_like(ids_B, dtype=torch.bool)


def _limits(sequences: list[Sequence]) -> list[Limits]:
    """Return what is cut from each row; the settings of a request that samples are complete."""
    return [Limits(s.params.top_k or 0, *map(_number, (s.params.top_p, s.params.min_p))) for s in sequences]


def _settings(
    sequences: list[Sequence], limits: list[Limits], device: torch.device
) -> tuple[Tensor, Truncation, Tensor]:
    """Return temperatures [B], what is cut, and random numbers [B] in [0, 1), on a device: in one copy."""
    counters = np.array([sequence.draw_counters for sequence in sequences]).T
    columns = [[_number(s.params.temperature) for s in sequences], *zip(*limits), uniform(0, *counters).tolist()]
    temperature_B, top_k_B, top_p_B, min_p_B, uniform_B = pinned(columns, device, torch.float64).to(
        device, non_blocking=True
    )
    return temperature_B.float(), Truncation(top_k_B.long(), top_p_B, min_p_B.float()), uniform_B


def _number(value: float | None) -> float:
    """Return a setting that is there by now: what a request does not say was filled in."""
    assert value is not None
    return value
