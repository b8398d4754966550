"""How much of a conversation the model reads: the oldest turns are dropped until the rest fits.

    kept = truncate_history(tok, messages, max_window=engine.max_window, room=engine.max_length - 64)
    prompt = tok.render(kept, add_generation_prompt=True).ids

`max_window` is the released Qwen's rule (`max_window_size` of generation_config.json): system turn and kept history
together have fewer tokens than it, the question and its tool results are not counted. `room` is a plain bound on the
tokens of the whole prompt. The system turn and the last question, with the tool results after it, are never dropped.
Caveat: where a chat template adds a system turn of its own, that is counted with the question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, get_args

from qwenkit.chat.messages import RENAMED, Message, TemplateKwargs, Tool, check
from qwenkit.prompt import MediaKind

if TYPE_CHECKING:
    from qwenkit.chat.render import Rendered


class SupportsRender(Protocol):
    """What is needed of a chat tokenizer; `ChatTokenizer` is one."""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = False,
        *,
        thinking: bool | None = None,
        template_kwargs: TemplateKwargs | None = None,
    ) -> Rendered:
        """Return the rendered conversation, with its `ids`."""
        ...


def truncate_history(
    tok: SupportsRender,
    messages: Sequence[Message],
    max_window: int | None = None,
    room: int | None = None,
    tools: Sequence[Tool] | None = None,
    thinking: bool | None = None,
    template_kwargs: TemplateKwargs | None = None,
) -> list[Message]:
    """Return the conversation without as many of its oldest turns as must go; `tools` count together with the system
    turn, and `thinking` and `template_kwargs` are those of the rendering to come.

    The last turn always stays, and with it the system turn. `max_window` and `room` are in tokens."""
    messages = check(messages, True, False, get_args(MediaKind))  # whether the style has media, it says itself
    more: dict[str, Any] = {"template_kwargs": template_kwargs} if template_kwargs else {}
    more |= {} if thinking is None else {"thinking": thinking}

    def size(kept: Sequence[Message], tools: Sequence[Tool] | None = tools) -> int:
        return len(tok.render(kept, tools, add_generation_prompt=True, **more).ids)

    everything = size(messages)
    head, turns = cut_turns(messages)
    question = size(turns[-1], tools=None)

    def fits(dropped: int) -> bool:
        tokens = size(joined(head, turns[dropped:])) if dropped else everything
        shown = tokens - question - 1  # the newline between them
        return (max_window is None or shown < max_window) and (room is None or tokens <= room)

    if len(turns) == 1 or fits(0):
        return list(messages)
    dropped = bisect_left(range(len(turns) - 1), True, lo=1, key=fits)
    return joined(head, turns[dropped:])


def cut_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Return the system turn, and the other messages split before each user message."""
    head = [message for message in messages[:1] if RENAMED.get(message["role"], message["role"]) == "system"]
    turns: list[list[Message]] = []
    for message in messages[len(head) :]:
        if message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return head, turns


def joined(head: Sequence[Message], turns: Sequence[Sequence[Message]]) -> list[Message]:
    """Return the system turn and some turns as one conversation."""
    return [*head, *(message for turn in turns for message in turn)]
