"""A conversation as pieces of text, by the table of a chat style (report appendix A.1).

Templates that come with other folders are run by `template.py`; conversations with ReAct tools are `react.py`'s.

A piece is a stretch of text that belongs to one part of one turn:

    start "<|im_start|>" | header "user\\n" | content "..." | end "<|im_end|>" | newline "\\n"

What the prompt of an answer already has (`<think>\\n` of QwQ, the empty thought of a Qwen3 that is not to think) is
part of the answer's header: it is given, and not trained. An answer that a style shows otherwise than the model wrote
it, or that does not begin as its prompt does, is not trained (`untrained`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from qwenkit.chat.media import MediaPart, parts_of
from qwenkit.chat.messages import Message, Tool, calls, for_template, text_of, to_json, trained
from qwenkit.chat.styles import ChatStyle, Hermes, MediaForm
from qwenkit.prompt import MediaKind
from qwenkit.tokenizer import IM_END, IM_START


class Piece(NamedTuple):
    """A stretch of text. In markup, names of special tokens are special tokens; in content they are text. `weight` is
    the loss weight of its whole turn.

    A `glued` piece is encoded together with the one before it, in every style. Of a piece with `media`, the text is the
    source of a picture or a sound, and `form` says which ids stand for it."""

    text: str
    role: str
    part: str
    markup: bool = True
    weight: float = 1.0
    glued: bool = False
    media: MediaKind | None = None
    form: MediaForm | None = None


def pieces(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    style: ChatStyle,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    thinking: bool | None = None,
) -> list[Piece]:
    """Return all pieces of a conversation in order; `thinking` is what its answers are asked with."""
    out = [*_system(messages, tools, style)]
    out += _turns(messages, style, bool(tools and style.tools), style.opening(thinking))
    if continue_final_message:
        out = out[:-2]
    return out + generation_prompt(style, thinking) if add_generation_prompt else out


def generation_prompt(style: ChatStyle, thinking: bool | None = None) -> list[Piece]:
    """Return the beginning of an answer's turn."""
    opening = style.opening(thinking)
    return [*turn_start("assistant"), *([Piece(opening, "assistant", "header")] if opening else [])]


def _turns(messages: Sequence[Message], style: ChatStyle, tools_shown: bool, opening: str) -> Iterator[Piece]:
    """Yield the pieces of all turns, but for a system turn that stands beside the tools."""
    current, pictures = _first_current(messages, style), 0
    for role, group in groupby(enumerate(messages), key=lambda item: item[1]["role"]):
        if role == "system" and tools_shown:
            continue
        if role == "tool" and isinstance(style.tools, Hermes):
            yield from tool_turns([message for _, message in group], style.tools)
            continue
        for index, message in group:
            if role == "assistant":
                body, weight = _answer(message, style, index >= current, index == len(messages) - 1, opening)
                yield from (piece._replace(weight=weight) for piece in turn(role, body))
            else:
                body = list(content(message, style, pictures))
                pictures += sum(piece.media is not None for piece in body)
                yield from turn(role, body)


def turn(role: str, body: Iterable[Piece]) -> list[Piece]:
    """Return a turn with its marks."""
    return [*turn_start(role), *body, *turn_end(role)]


def turn_start(role: str) -> list[Piece]:
    """Return the mark that begins a turn, and its header."""
    return [Piece(IM_START, role, "start"), Piece(f"{role}\n", role, "header")]


def turn_end(role: str) -> list[Piece]:
    """Return the end of a turn, and the newline after it."""
    return [Piece(IM_END, role, "end"), Piece("\n", role, "newline")]


# ---- system, tools and what people said ------------------------------------------------------------------------------


def _system(messages: Sequence[Message], tools: Sequence[Tool] | None, style: ChatStyle) -> list[Piece]:
    """Return the system turn where the messages do not say all of it: with tools, and the style's own, which has no
    loss."""
    given = text_of(messages[0]) if messages[0]["role"] == "system" else None
    form = style.tools
    if tools and isinstance(form, Hermes):
        own = given is None and form.system is not None
        body = _system_with_tools(form.system if given is None else given, own, tools, form)
    elif given is None and style.default_system is not None:
        own, body = True, [Piece(style.default_system, "system", "content")]
    else:
        return []
    return [piece._replace(weight=0.0) if own else piece for piece in turn("system", body)]


def _system_with_tools(system: str | None, own: bool, tools: Sequence[Tool], form: Hermes) -> list[Piece]:
    """Return the content of the system turn that offers tools, after the system text that there is."""
    before = [] if system is None else [Piece(system, "system", "content", own), Piece("\n\n", "system", "content")]
    signatures = "".join("\n" + to_json(tool) for tool in tools)
    return [
        *before,
        Piece(form.head, "system", "content"),
        Piece(signatures, "tools", "content", False),
        Piece(form.tail, "system", "content"),
    ]


def content(message: Message, style: ChatStyle, pictures: int = 0) -> Iterator[Piece]:
    """Yield the content of a turn that is not an answer; `pictures` came before it in the conversation."""
    role, forms = message["role"], dict(style.media)
    glued = False
    for part in parts_of(message):
        if isinstance(part, MediaPart):
            form = forms[part.kind]
            pictures += 1
            yield Piece(form.lead.replace("{n}", str(pictures)), role, "content", glued=glued)
            yield Piece(part.source, role, "content", media=part.kind, form=form)
            yield Piece(form.trail, role, "content")
        else:
            yield Piece(part, role, "content", False, glued=glued)
        glued = True


def tool_turns(messages: Sequence[Message], form: Hermes) -> list[Piece]:
    """Return the pieces of neighbouring results of tools, which share one user turn."""
    results = (_result(message, form) for message in messages)
    header = [Piece(IM_START, "tool", "start"), Piece("user", "tool", "header")]
    return [*header, *(piece for result in results for piece in result), *turn_end("tool")]


def _result(message: Message, form: Hermes) -> list[Piece]:
    """Return the pieces of one result of a tool."""
    return [
        Piece(form.result[0], "tool", "header"),
        Piece(text_of(message), "tool", "content", False),
        Piece(form.result[1], "tool", "header"),
    ]


# ---- answers ---------------------------------------------------------------------------------------------------------


def _answer(
    message: Message, style: ChatStyle, current: bool, last: bool, opening: str
) -> tuple[Iterable[Piece], float]:
    """Return the content of an answer, and the loss weight of its turn."""
    body = list(_body(message, style, current, last))
    if _is_lost(message, style, current, body, opening):
        return body, 0.0
    return _given(body, opening), trained(message)


def untrained(messages: Sequence[Message], style: ChatStyle, thinking: bool | None = None) -> tuple[int, ...]:
    """Return the messages whose answers are shown otherwise than the model writes them."""

    opening, current, last = style.opening(thinking), _first_current(messages, style), len(messages) - 1
    if style.history == "kept" and not opening:
        return ()
    return tuple(
        i
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
        and _is_lost(message, style, i >= current, list(_body(message, style, i >= current, i == last)), opening)
    )


def _is_lost(message: Message, style: ChatStyle, current: bool, body: Sequence[Piece], opening: str) -> bool:
    """Return whether an answer is not shown as it was written: its thought is taken out, or its prompt begins
    otherwise.

    Where only a request that switches thoughts off has an opening, earlier answers are shown without it."""
    if style.history == "before_question" and not current:
        return bool(_split_thought(message, text_of(message))[0].strip())
    asked = opening and (current or opening == style.think)
    return bool(asked and trained(message) and not "".join(piece.text for piece in body).startswith(opening))


def _given(body: Sequence[Piece], opening: str) -> Iterator[Piece]:
    """Yield the pieces of an answer, with what its prompt has already as a part of the header."""
    left = len(opening) if "".join(piece.text for piece in body).startswith(opening) else 0
    for piece in body:
        cut = min(left, len(piece.text))
        left -= cut
        if cut:
            yield piece._replace(text=piece.text[:cut], part="header", markup=True)
        if cut < len(piece.text) or not cut:
            yield piece._replace(text=piece.text[cut:])


def _body(message: Message, style: ChatStyle, current: bool, last: bool) -> Iterator[Piece]:
    """Yield the pieces of an answer: its thought where the style shows it apart, text, tool calls. All of it is
    content."""
    given = text_of(message)
    thought, shown = _shown(message, given, style, current)
    text = shown
    if style.thoughts is not None and current and (last or thought):
        before, after = style.thoughts
        yield Piece(before, "assistant", "content")
        yield Piece(thought.strip("\n"), "assistant", "content", False)
        yield Piece(after, "assistant", "content")
        text = shown.lstrip("\n")
    yield Piece(text, "assistant", "content", False)
    if isinstance(style.tools, Hermes):
        yield from _calls(message, style.tools, bool(given if style.tools.gap == "given" else shown))


def _shown(message: Message, content: str, style: ChatStyle, current: bool) -> tuple[str, str]:
    """Return the thought of an answer that is shown apart, and its text as the style shows it."""
    if style.thoughts is not None:
        return _split_thought(message, content)
    if style.history == "before_last" and not current:
        return "", content.split("</think>")[-1].lstrip("\n")
    return "", content


def _calls(message: Message, form: Hermes, after_text: bool) -> Iterator[Piece]:
    """Yield the pieces of an answer's tool calls."""
    made = _calls_as_json(message) if form.arguments == "json" else calls(message)
    for number, (name, arguments) in enumerate(made):
        gap = "\n" if after_text or number else ""
        yield Piece(f"{gap}{form.call[0]}", "assistant", "content")
        yield Piece(f'{{"name": {to_json(name)}, "arguments": {arguments}}}', "assistant", "content", False)
        yield Piece(form.call[1], "assistant", "content")


def _calls_as_json(message: Message) -> list[tuple[str, str]]:
    """Return the calls of an answer as a template writes them that knows arguments as objects only."""
    made = [call.get("function", call) for call in for_template(message).get("tool_calls") or ()]
    arguments = ({} if call.get("arguments") is None else call["arguments"] for call in made)
    return [(call["name"], to_json(value)) for call, value in zip(made, arguments)]


# ---- thoughts --------------------------------------------------------------------------------------------------------


def _first_current(messages: Sequence[Message], style: ChatStyle) -> int:
    """Return the index of the first message whose answer keeps its thoughts."""
    if style.history == "before_last":
        return len(messages) - 1
    if style.history == "before_question":
        return max((i for i, m in enumerate(messages) if _asks(m)), default=len(messages) - 1) + 1
    return 0


def _asks(message: Message) -> bool:
    """Return whether a turn is a question of the user: tool results may be user turns as well."""
    asked = "".join(part for part in parts_of(message) if isinstance(part, str))
    is_result = asked.startswith("<tool_response>") and asked.endswith("</tool_response>")
    return message["role"] == "user" and not is_result


def thought_in(message: Message) -> str:
    """Return the thoughts inside a message's content, or ""."""
    return _split_thought({"role": "assistant"}, text_of(message))[0].strip()


def _split_thought(message: Message, content: str) -> tuple[str, str]:
    """Return thoughts and text: the thoughts from their own field, or from a `<think>` block at the head of the
    content."""
    if isinstance(message.get("reasoning_content"), str):
        return message["reasoning_content"], content
    if "</think>" not in content:
        return "", content
    thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return thought, content.split("</think>")[-1].lstrip("\n")
