"""Whether an answer ends with its newest token, and why.

    sequence.finish_reason = check_stop(sequence)     # "stop", "length", or None: it goes on

An answer ends at a stop token, at a stop string, after stop words where the model has no end-of-text token, where its
grammar allows nothing more, and at its length limit. The stop tokens of a request are put together in `requests.py`:
those of the folder (`generation_config.py`), in a chat those of `chat/stop_tokens.py`, and those of its
`SamplingParams`. Stop strings are looked for by `detokenizer.py`. Before `min_tokens` the sampler gives stop tokens the
probability 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwenkit.inference.outputs import FinishReason
    from qwenkit.inference.sequence import Sequence


def check_stop(sequence: Sequence) -> FinishReason | None:
    """Return why a sequence ends with its newest token (or with its prompt, where it has none), or None."""
    request, ids = sequence.request, sequence.ids
    if ids and ids[-1] in request.stop_ids:
        return "stop"
    if sequence.detokenizer is not None and sequence.detokenizer.ended:
        return "stop"
    if request.eos_id is None and ends_with_stop_words(sequence):
        return "stop"
    if sequence.grammar is not None and sequence.grammar.is_complete:
        return "stop"
    return "length" if len(ids) >= request.max_new_tokens else None


def ends_with_stop_words(sequence: Sequence) -> bool:
    """Return whether prompt and answer together end with one of `stop_words_ids`.

    The released Qwen's rule: the end-of-text token is then what follows (`sampler._change`). Only where there is
    none, or it is ignored, does the answer end here."""
    stops = sequence.params.stop_words_ids or ()
    return not sequence.is_before_min_tokens and any(sequence.last_ids(len(stop)) == stop for stop in stops)
