"""Turns that follow ids which were sampled: what an agent's loop and learning over several turns add to an answer.

    more = tok.extend(ids, [{"role": "tool", "content": "sunny"}])
    prompt = [*ids, *more.ids]                                     # ids stand as they are, to the last one

Ids that a model sampled are never decoded and encoded again: its spelling of a text may be another than the
tokenizer's, and what it learns from must be what it wrote. Where the sampled ids are the tokenizer's own, the result is
the rendering of the whole conversation, as far as the style keeps history as it was (Qwen3 and QwQ take thoughts out of
it; here they stay).

The ids end with an answer: with `<|im_end|>`, with it and its newline, or without it where the answer was cut off or
ended by another stop token; then the end is added. An answer that was cut off inside a thought cannot be followed by
anything. With ReAct's tools, a result goes on inside the answer's turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from qwenkit.chat.messages import Message
from qwenkit.chat.pieces import Piece, content, generation_prompt, tool_turns, turn, turn_end
from qwenkit.chat.react import resumed, tool_result
from qwenkit.chat.render import Rendered, encode_pieces
from qwenkit.chat.styles import ChatStyle, Hermes, ReAct
from qwenkit.chat.traced import Traced
from qwenkit.errors import UserError
from qwenkit.tokenizer import IM_END, IM_START, Tokenizer
from qwenkit.tokenizer.core import UNKNOWN


def sampled_text(tok: Tokenizer, ids: Iterable[int]) -> str:
    """Return the text of ids that a model sampled, with padding rows as U+FFFD: an untrained model may choose one."""
    return tok.decode_bytes(ids, unknown=UNKNOWN).decode("utf-8", "replace")


class LastTurn(NamedTuple):
    """The last turn of some ids: where it begins, its role, its text after the header, and whether the text after
    `<|im_end|>` is there ("" or a newline), None where the turn has no end."""

    start: int
    role: str
    text: str
    after: str | None


def last_turn(tok: Tokenizer, ids: Sequence[int]) -> LastTurn:
    """Return the last turn of ids; raises a `UserError` where they end inside its header, or after its end."""
    if tok.im_start_id not in ids:
        raise UserError("no turn begins in these ids", expected="the ids of a chat: a prompt, and the answer to it")
    start = len(ids) - 1 - list(reversed(ids)).index(tok.im_start_id)
    inside = list(ids[start + 1 :])
    ended = tok.im_end_id in inside
    body = inside[: inside.index(tok.im_end_id)] if ended else inside
    role, newline, text = sampled_text(tok, body).partition("\n")
    if not newline:
        raise UserError("the ids end inside the header of a turn", where=f"token {start}",
                        expected=f"{IM_START}assistant, a newline, and an answer")  # fmt: skip
    after = sampled_text(tok, inside[len(body) + 1 :]) if ended else None
    if after not in (None, "", "\n"):
        raise UserError("text after the end of a turn", where=f"token {start + len(body) + 2}",
                        expected=f"ids that end with {IM_END}, or a newline after it")  # fmt: skip
    return LastTurn(start, role, text, after)


def check_answered(turn: LastTurn, style: ChatStyle | None, length: int) -> None:
    """Raise a `UserError` unless the last turn of `length` ids is an answer that another turn can follow."""
    if turn.role != "assistant":
        raise UserError(f"the ids end with a turn of {turn.role}", where=f"token {turn.start}",
                        expected="an answer of the assistant")  # fmt: skip
    if turn.after is not None:
        return
    openings = {""} if style is None else {"", style.think, style.no_think}
    if turn.text in openings:
        raise UserError("the ids end with the prompt of an answer", where=f"token {length}",
                        expected="the answer, which was sampled")  # fmt: skip
    if (style is None or style.think is not None) and turn.text.rfind("<think>") > turn.text.rfind("</think>"):
        raise UserError("the ids end inside a thought", where=f"token {length}",
                        expected="</think> and an answer")  # fmt: skip


def extend_style(
    tok: Tokenizer,
    ids: Sequence[int],
    messages: Sequence[Message],
    style: ChatStyle,
    add_generation_prompt: bool,
    thinking: bool | None,
) -> Rendered:
    """Return what follows ids in a style of ours; `messages` are checked and normal."""
    style.opening(thinking)  # raises where the style has no such choice
    last = last_turn(tok, ids)
    check_answered(last, style, len(ids))
    if isinstance(style.tools, ReAct) and messages[0]["role"] == "tool":
        chat_pieces = _observed(last, messages, style.tools, len(ids))
        chat_pieces += [resumed(style.tools)] if add_generation_prompt else []
        return encode_pieces(tok, chat_pieces, style, "assistant")
    missing = {None: turn_end("assistant"), "": turn_end("assistant")[1:], "\n": []}[last.after]
    chat_pieces = [piece._replace(weight=0.0) for piece in missing] + _turns(tok, ids, messages, style)
    chat_pieces += generation_prompt(style, thinking) if add_generation_prompt else []
    return encode_pieces(tok, chat_pieces, style, "assistant")


def _turns(tok: Tokenizer, ids: Sequence[int], messages: Sequence[Message], style: ChatStyle) -> list[Piece]:
    """Return the pieces of a user's turn, or of the results of tools."""
    if messages[0]["role"] == "tool" and isinstance(style.tools, Hermes):
        return tool_turns(messages, style.tools)
    marks = {tok.special.get(form.marks[0]) for _, form in style.media}
    pictures = sum(i in marks for i in ids)
    return [piece for message in messages for piece in turn(message["role"], content(message, style, pictures))]


def _observed(last: LastTurn, messages: Sequence[Message], form: ReAct, length: int) -> list[Piece]:
    """Return the pieces of results inside an answer's turn. The label of the first may be sampled, or a part of it."""
    if last.after is not None:
        raise UserError("the answer's turn has ended, and with ReAct's tools a result stands inside it",
                        where=f"token {length - 1 - len(last.after)}",
                        expected=f"ids that stop at {form.stop[0]!r}, without {IM_END}")  # fmt: skip
    written = next(n for n in range(len(form.result), -1, -1) if last.text.endswith(form.result[:n]))
    label, *rest = [piece for message in messages for piece in tool_result(message, form)]
    first = [label._replace(text=label.text[written:])] if written < len(label.text) else []
    return [piece._replace(weight=0.0) for piece in (*first, *rest)]


# ---- a folder's own template -----------------------------------------------------------------------------------------

_QUESTION: Message = {"role": "user", "content": "?"}


def extend_template(
    tok: Tokenizer,
    ids: Sequence[int],
    messages: Sequence[Message],
    ends: Sequence[str],
    traced: Traced,
) -> Rendered:
    """Return what follows ids in a folder's own template; `ends` are the tokens that may end a turn.

    The template renders the messages after two different answers: from the end of these on, both texts are the same.
    Raises a `UserError` where it does not show that end."""
    if IM_START in tok.special and tok.im_start_id in ids:
        check_answered(last_turn(tok, ids), None, len(ids))
    one, other = (_after_answer(traced, messages, word) for word in ("yes", "no."))
    shared = _common_end(one.text, other.text)
    mark = re.search("|".join(map(re.escape, ends)) or "(?!)", shared)
    if mark is None:
        raise UserError("the chat template does not show where an answer ends", expected="one that does",
                        hint='name the style to go on with, for example style = "chatml"')  # fmt: skip
    start = len(one.text) - len(shared) + mark.start()
    whole = ((start, len(one.text)), Piece("", "prompt", "header"))
    following = one.pieces([whole])
    size = 0
    kept = [piece for piece in following if (size := size + len(piece.text)) > start]
    return encode_pieces(tok, _without_end(tok, ids, kept, mark[0]), "chatml", "assistant")


def _after_answer(traced: Traced, messages: Sequence[Message], word: str) -> Traced:
    """Return the template's rendering of messages after an answer, which calls a tool where its result follows."""
    answer: dict[str, Any] = {"role": "assistant", "content": word}
    if messages[0]["role"] == "tool":
        answer["tool_calls"] = [{"type": "function", "function": {"name": word, "arguments": {word: word}}}]
    return traced.with_messages([_QUESTION, answer, *messages]).with_all()


def _common_end(one: str, other: str) -> str:
    """Return the longest text that both texts end with."""
    size = next(
        (n for n, (a, b) in enumerate(zip(reversed(one), reversed(other))) if a != b), min(len(one), len(other))
    )
    return one[len(one) - size :]


def _without_end(tok: Tokenizer, ids: Sequence[int], pieces: Sequence[Piece], mark: str) -> list[Piece]:
    """Return pieces that begin with the end of an answer, without what of it stands at the end of the ids already."""
    first, *rest = pieces
    tail = sampled_text(tok, ids[-2:])
    written = next((end for end in (f"{mark}\n", mark) if first.text.startswith(end) and tail.endswith(end)), "")
    return [first._replace(text=first.text[len(written) :]), *rest]
