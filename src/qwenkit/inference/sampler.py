"""From the logits of a step to the next token of each sequence.

    sampler = Sampler(vocabulary=151_851)
    sampler.append_tokens(sequences, logits_BV)     # one row a sequence; each gets its token, or ends

Logits are changed in vLLM's order: logit bias and `min_tokens`, penalties; then what may not come gets -inf (bad words,
all but the allowed tokens, all but what a grammar allows), and where one token must come (after stop words, at the end
of a thought) all others do. Then follow, in `sampling.py`, temperature, top-k, top-p, min-p. Only the rows that ask for
something are changed, and only at the tokens concerned. A row's token is a function of its own logits and of (seed,
rng_id, sample, position): it does not depend on the other rows.

Log-probabilities are those of the logits before all that: the model's own.

Legend: B sequences, V vocabulary, N single tokens.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference.outputs import TopLogprobs
from qwenkit.inference.sampling import NEVER, Truncation, draw, force, frequency_presence_penalty, repetition_penalty
from qwenkit.inference.sequence import Sequence
from qwenkit.inference.stopping import ends_with_stop_words
from qwenkit.model.logprobs import logsumexp, selected
from qwenkit.rng import uniform


class Sampler:
    """Turns logits into tokens. Ids from `vocabulary` on are never sampled."""

    def __init__(self, vocabulary: int) -> None:
        """Sample ids below `vocabulary`: the rows of the head behind them belong to no token."""
        self.vocabulary = vocabulary

    def append_tokens(self, sequences: list[Sequence], logits_BV: Tensor) -> None:
        """Append the next token to each of these sequences, from its row of logits in float32.

        A sequence whose logits are not finite gets none: it ends with the reason "not finite". One that no token may
        follow ends its request with an error."""
        sequences, logits_BV = _finite(sequences, logits_BV)
        scores_BV = self._adjusted(sequences, logits_BV)
        running = [row for row, sequence in enumerate(sequences) if sequence.status != "finished"]
        if len(running) < len(sequences):
            sequences = [sequences[row] for row in running]
            logits_BV, scores_BV = logits_BV[running], scores_BV[running]
        if not sequences:
            return
        ids_B = _choose(sequences, scores_BV)
        logprobs, tops = self._logprobs(sequences, logits_BV, ids_B)
        for sequence, id, logprob, top in zip(sequences, ids_B.tolist(), logprobs, tops):
            sequence.append(id, logprob, top)

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
    if sequence.params.allowed_token_ids:
        _forbid_all_but(scores_V, sequence.params.allowed_token_ids)
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


def _forbid_all_but(scores_V: Tensor, ids: tuple[int, ...] | list[int]) -> None:
    """Forbid all tokens but these."""
    ids_N = _ids(ids, scores_V)
    scores_N = scores_V[ids_N]
    scores_V.fill_(NEVER)[ids_N] = scores_N


def _ids(ids: tuple[int, ...] | list[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.long, device=like.device)


def _choose(sequences: list[Sequence], scores_BV: Tensor) -> Tensor:
    """Return the next token [B] of each row: the likeliest where the temperature is 0, a sample elsewhere."""
    sampled = [row for row, s in enumerate(sequences) if s.params.temperature]
    if len(sampled) == len(sequences):
        return _sample(sequences, scores_BV)
    ids_B = _argmax(scores_BV)
    if sampled:
        ids_B[sampled] = _sample([sequences[row] for row in sampled], scores_BV[sampled])
    return ids_B


def _argmax(scores_BV: Tensor) -> Tensor:
    """Return the highest score's token [B], the first of equals. On a CPU numpy is twenty times faster than torch."""
    if scores_BV.device.type != "cpu":
        return scores_BV.argmax(-1)
    return torch.from_numpy(scores_BV.numpy().argmax(-1))


def _sample(sequences: list[Sequence], scores_BV: Tensor) -> Tensor:
    """Sample from each row's distribution: a function of (seed, rng_id, sample, position)."""
    device, params = scores_BV.device, [s.params for s in sequences]
    temperature_B = torch.tensor([p.temperature for p in params], device=device)
    truncation = Truncation(
        torch.tensor([p.top_k for p in params], device=device),
        torch.tensor([p.top_p for p in params], device=device, dtype=torch.float64),
        torch.tensor([p.min_p for p in params], device=device),
    )
    counters = np.array([sequence.draw_counters for sequence in sequences]).T
    uniform_B = torch.from_numpy(uniform(0, *counters)).to(device)
    return draw(scores_BV / temperature_B[:, None], truncation, uniform_B)
