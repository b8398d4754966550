"""Pieces to ids, each with its loss weight and its place in the conversation.

`qwen1` encodes every piece by itself, as the authors' own code does. `chatml` and `qwen3` encode what lies between
two special tokens as one string, as a published template does: there, content that begins with a newline may share
a token with the header's newline. Such a token belongs to the header and is not trained, because at generation the
header is given.

Masks: `qwen` is the authors' (turn marks and the newline after a turn are targets for every role, and assistant
content); `assistant` trains assistant content and its `<|im_end|>` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ..errors import UserError, nearest
from ..tokenizer import Tokenizer, split_special
from .styles import Piece

MASKS = ("qwen", "assistant")


class Span(NamedTuple):
    """Tokens start..stop of one turn that are markup, or content."""

    start: int
    stop: int
    role: str
    kind: str


class Rendered(NamedTuple):
    """`weights[i]` is the loss weight of predicting `ids[i]`; `images` are the pictures, in order (none here)."""

    ids: list[int]
    weights: list[float]
    spans: list[Span]
    images: list[str]


def encode_pieces(tok: Tokenizer, pieces: Sequence[Piece], style: str, mask: str) -> Rendered:
    """Ids, weights and spans of a conversation's pieces."""
    if mask not in MASKS:
        raise UserError(f"unknown mask {mask!r}", expected=" or ".join(MASKS), nearest=nearest(mask, MASKS))
    ids: list[int] = []
    owners: list[Piece] = []
    for run in _runs(tok, pieces, alone=style == "qwen1"):
        run_ids, run_owners = _encode_run(tok, run)
        ids += run_ids
        owners += run_owners
    return Rendered(ids, [float(_is_target(piece, mask)) for piece in owners], _spans(owners), [])


def _is_target(piece: Piece, mask: str) -> bool:
    own = piece.role == "assistant" and piece.part == "content"
    if mask == "qwen":
        return own or piece.part in ("start", "end", "newline")
    return own or (piece.role == "assistant" and piece.part == "end")


def _runs(tok: Tokenizer, pieces: Sequence[Piece], alone: bool) -> Iterator[list[Piece]]:
    """Pieces that are encoded as one string: a special token, or everything between two of them."""
    run: list[Piece] = []
    for piece in _atoms(tok, pieces):
        special = piece.markup and piece.text in tok.special
        if run and (special or alone):
            yield run
            run = []
        run.append(piece)
        if special:
            yield run
            run = []
    if run:
        yield run


def _atoms(tok: Tokenizer, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Pieces with the special tokens inside markup cut out as pieces of their own; empty pieces are dropped."""
    for piece in pieces:
        parts = split_special(piece.text, tok.special_names) if piece.markup else [piece.text]
        yield from (piece._replace(text=part) for part in parts if part)


def _encode_run(tok: Tokenizer, run: Sequence[Piece]) -> tuple[list[int], list[Piece]]:
    """Ids of a run and, for each, the piece in which its first byte lies."""
    head = run[0]
    if head.markup and head.text in tok.special:
        return [tok.special[head.text]], [head]
    texts = [tok.normalize(piece.text) for piece in run]
    ids = tok.encode("".join(texts))
    if len(run) == 1:
        return ids, [head] * len(ids)
    ends: list[int] = []
    end = 0
    for part in texts:
        end += len(part.encode())
        ends.append(end)
    owners: list[Piece] = []
    at, which = 0, 0
    for number, token in enumerate(ids):
        while at >= ends[which] and which < len(run) - 1:
            which += 1
        if which == len(run) - 1:  # the rest is its: most of a turn is content, and no byte of it need be counted
            return ids, owners + [run[which]] * (len(ids) - number)
        owners.append(run[which])
        at += len(tok.decode_bytes([token]))
    return ids, owners


def _spans(owners: Sequence[Piece]) -> list[Span]:
    """Neighbouring tokens of the same turn and kind, joined. A `start` always opens a new span."""
    turns: list[tuple[int, str, str]] = []
    turn = 0
    for piece in owners:
        turn += piece.part == "start"
        turns.append((turn, piece.role, "content" if piece.part == "content" else "markup"))
    spans: list[Span] = []
    at = 0
    for (_, role, kind), group in groupby(turns):
        stop = at + len(list(group))
        spans.append(Span(at, stop, role, kind))
        at = stop
    return spans
