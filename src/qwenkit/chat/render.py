"""Pieces to ids, each with its loss weight and its place in the conversation.

`qwen1` encodes every piece by itself, as the authors' own code does. `chatml` and `qwen3` encode what lies between
two special tokens as one string, as a published template does: there, content that begins with a newline may share
a token with the header's newline. Such a token belongs to the header and is not trained, because at generation the
header is given.

The name of a special token in typed text is plain text: `counting` says which names count in whose text.

`loss_mask.py` says which pieces are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ..tokenizer import Part, Tokenizer
from .loss_mask import check_mask, loss_weight
from .styles import Piece


class Span(NamedTuple):
    """The tokens start..stop of one turn that are markup, or content."""

    start: int
    stop: int
    role: str
    kind: str


class Rendered(NamedTuple):
    """A rendered conversation: `weights[i]` is the loss weight of predicting `ids[i]`; `images` are the pictures, in
    order (none here).

    `untrained` are the messages whose answers are not trained because the folder's template changes them once they are
    history (it removes their thoughts): the model would learn an answer that it must never give."""

    ids: list[int]
    weights: list[float]
    spans: list[Span]
    images: list[str]
    untrained: tuple[int, ...] = ()


def encode_pieces(tok: Tokenizer, pieces: Sequence[Piece], style: str, mask: str) -> Rendered:
    """Return ids, loss weights and spans of a conversation's pieces; raises a `UserError` for an unknown mask."""
    check_mask(mask)
    parts = [Part(piece.text, counting(tok, piece), at) for at, piece in enumerate(pieces)]
    ids: list[int] = []
    whose: list[int] = []
    for together in [[part] for part in parts] if style == "qwen1" else [parts]:
        more, owners = tok.encode_parts(together)
        ids += more
        whose += owners
    weights = [loss_weight(piece, mask) for piece in pieces]
    return Rendered(ids, [weights[owner] for owner in whose], _spans(pieces, whose), [])


def counting(tok: Tokenizer, piece: Piece) -> frozenset[str]:
    """Return the names that are encoded as single tokens in a piece.

    In markup, which a program wrote, every name is. In text from people only the vocabulary's own words are. An
    assistant's answer was written by the model, which writes `<think>` as one token, and a system turn by the operator;
    but special tokens and turn marks never count in either."""
    if piece.markup:
        return tok.special_names
    return tok.spoken if piece.role in ("assistant", "system") else tok.words


def _spans(pieces: Sequence[Piece], whose: Sequence[int]) -> list[Span]:
    """Return neighbouring tokens of the same turn and kind as spans. A `start` always opens a new span."""
    turns: list[tuple[int, str, str]] = []
    turn = 0
    for piece in pieces:
        turn += piece.part == "start"
        turns.append((turn, piece.role, "content" if piece.part == "content" else "markup"))
    spans: list[Span] = []
    at = 0
    for (_, role, kind), group in groupby(whose, turns.__getitem__):
        stop = at + len(list(group))
        spans.append(Span(at, stop, role, kind))
        at = stop
    return spans
