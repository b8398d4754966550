"""Pieces to ids, each with its loss weight and its place in the conversation.

`qwen1` encodes every piece by itself, as the authors' own code does. The other styles encode what lies between
two special tokens as one string, as a published template does: there, content that begins with a newline may share
a token with the header's newline. Such a token belongs to the header and is not trained, because at generation the
header is given.

The name of a special token in typed text is plain text: `counting` says which names count in whose text.

`loss_mask.py` says which pieces are trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from qwenkit.chat.loss_mask import check_mask, loss_weight
from qwenkit.chat.media import media_ids
from qwenkit.chat.messages import Message, Tool
from qwenkit.chat.pieces import Piece, pieces, untrained
from qwenkit.chat.react import is_react, react_pieces, without_tools
from qwenkit.chat.styles import ChatStyle, get_style
from qwenkit.prompt import Media, Prompt
from qwenkit.tokenizer import Part, Tokenizer


class Span(NamedTuple):
    """The tokens start..stop of one turn that are markup, or content."""

    start: int
    stop: int
    role: str
    kind: str


class Rendered(NamedTuple):
    """A rendered conversation: `weights[i]` is the loss weight of predicting `ids[i]`; `images` are the pictures and
    sounds that some of the ids stand for, in order.

    `untrained` are the messages whose answers are not trained because they are shown otherwise than the model wrote
    them (once they are history, their thoughts are removed): it would learn an answer that it must never give."""

    ids: list[int]
    weights: list[float]
    spans: list[Span]
    images: tuple[Media, ...] = ()
    untrained: tuple[int, ...] = ()

    @property
    def prompt(self) -> Prompt:
        """Return the conversation as a prompt, for the engine."""
        return Prompt(tuple(self.ids), self.images)


def render_style(
    tok: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    style: ChatStyle,
    mask: str = "qwen",
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    thinking: bool | None = None,
) -> Rendered:
    """Return a checked conversation as ids with loss weights, in a style of ours."""
    style.opening(thinking)  # raises where the style has no such choice
    asked = (messages, tools, style, add_generation_prompt, continue_final_message, thinking)
    if is_react(messages, tools, style):
        chat_pieces, lost = react_pieces(*asked), without_tools(messages, tools)
    else:
        chat_pieces, lost = pieces(*asked), untrained(messages, style, thinking)
    return encode_pieces(tok, chat_pieces, style, mask)._replace(untrained=lost)


def encode_pieces(tok: Tokenizer, pieces: Sequence[Piece], style: str | ChatStyle, mask: str) -> Rendered:
    """Return ids, loss weights and spans of a conversation's pieces; raises a `UserError` for an unknown mask."""
    check_mask(mask)
    ids: list[int] = []
    whose: list[int] = []
    images: list[Media] = []
    for together in _together(pieces, get_style(style).joined):
        piece = pieces[together[0]]
        if piece.media is not None and piece.form is not None:
            more = media_ids(tok, piece.text, piece.form)
            images.append(Media(piece.media, piece.text, len(ids) + 1, len(ids) + len(more) - 1))
            owners = together * len(more)
        else:
            parts = [Part(pieces[at].text, counting(tok, pieces[at]), at) for at in together]
            more, owners = tok.encode_parts(parts)
        ids += more
        whose += owners
    weights = [loss_weight(piece, mask) for piece in pieces]
    return Rendered(ids, [weights[owner] for owner in whose], _spans(pieces, whose), tuple(images))


def _together(pieces: Sequence[Piece], joined: bool) -> Iterator[list[int]]:
    """Yield the indices of pieces that are encoded as one text; media stand alone."""
    group: list[int] = []
    for at, piece in enumerate(pieces):
        apart = piece.media is not None or not (joined or piece.glued)
        if group and (apart or pieces[group[-1]].media is not None):
            yield group
            group = []
        group.append(at)
    if group:
        yield group


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
