"""Chat styles as data: one table for each way in which a family writes conversations (report appendix A.1).

    STYLES["qwen2.5"].default_system
    replace(STYLES["qwen2"], tools=REACT)        # render(..., style=...) takes a table as well as its name

| style | whose |
| --- | --- |
| `qwen1` | the first Qwen's own code: every piece is encoded by itself |
| `chatml` | the models trained here: no system turn unless one is given |
| `qwen2` | Qwen1.5-Chat and Qwen2-Instruct: a default system turn, no tools |
| `qwen2.5` | Qwen2.5-Instruct: another default system turn, tools |
| `qwen3` | Qwen3: thoughts before an answer, which a request may switch off |
| `qwq` | QwQ-32B: every answer begins with a thought, which the prompt opens |
| `react` | the first Qwen with tools, as its released server writes them (ReAct) |
| `qwen-vl` | Qwen-VL-Chat: pictures in a user's turn |

`pieces.py` and `react.py` write conversations by these tables. A style is added by adding its table; where models are
published in it, a test compares it with the published template.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qwenkit.errors import UserError, nearest
from qwenkit.prompt import MediaKind


@dataclass(frozen=True)
class Hermes:
    """Tools as JSON between tags: their list in the system turn, calls in the answer, results in a user's turn."""

    head: str = (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
    )
    tail: str = (
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )
    call: tuple[str, str] = ("<tool_call>\n", "\n</tool_call>")
    result: tuple[str, str] = ("\n<tool_response>\n", "\n</tool_response>")
    arguments: Literal["given", "json"] = "given"
    """Arguments that are given as text: written as they are, or read and written again as the JSON of an object."""
    system: str | None = None
    """What stands in the place of a system turn before the list, with a blank line after it; None: nothing does."""
    gap: Literal["shown", "given"] = "shown"
    """A call has a newline before it where the answer has content: as it is shown, or as the message gives it."""


@dataclass(frozen=True)
class ReAct:
    """Tools as the first Qwen's lines: their list before a question, calls and results inside one answer.

    The instruction is a part of the released prompt, which the models were trained with."""

    tool: str = (
        "{name}: Call this tool to interact with the {human} API. What is the {human} API useful for? "
        "{description} Parameters: {parameters}"
    )
    instruction: str = (
        "Answer the following questions as best you can. You have access to the following APIs:\n\n{tools}\n\n"
        "Use the following format:\n\n"
        "Question: the input question you must answer\n"
        "Thought: you should always think about what to do\n"
        "Action: the action to take, should be one of [{names}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n\n"
        "Begin!\n\nQuestion: "
    )
    thought: str = "Thought:"
    call: tuple[str, str] = ("\nAction: ", "\nAction Input: ")
    result: str = "\nObservation:"
    final: str = "Thought: I now know the final answer.\nFinal Answer: "
    stop: tuple[str, ...] = ("Observation:",)
    """Where an answer that calls a tool stops: the result is not the model's to write."""


@dataclass(frozen=True)
class MediaForm:
    """How a picture or a sound stands in a user's turn: `lead`, the tokens `marks[0]`, `slots` ids, `marks[1]`, then
    `trail`. The ids are the bytes of its source, filled up with the token `pad`."""

    lead: str
    marks: tuple[str, str]
    pad: str
    slots: int
    trail: str


@dataclass(frozen=True)
class ChatStyle:
    """How conversations are written: turns, tools, thoughts, media. The turn marks are ChatML's in every style."""

    name: str
    joined: bool = True
    """Whether the text between two special tokens is encoded as one string, as a template's is, or every piece of it
    by itself."""
    published: bool = False
    """Whether a model trained in this style is published with our ChatML template. Otherwise its template is that of
    the folder it came from."""
    default_system: str | None = None
    """The system turn of a conversation that has none; it has no loss."""
    tools: Hermes | ReAct | None = Hermes()
    think: str | None = None
    """What the prompt of an answer ends with where the model is to think; None where it cannot be asked to."""
    no_think: str | None = None
    """What the prompt of an answer ends with where the model is not to think."""
    thoughts: tuple[str, str] | None = None
    """The tags around the thought of an answer, where the style shows thoughts apart from the content."""
    history: Literal["kept", "before_question", "before_last"] = "kept"
    """Which answers lose their thoughts: none, those before the last question, or all but the last message."""
    media: tuple[tuple[MediaKind, MediaForm], ...] = ()

    def opening(self, thinking: bool | None) -> str:
        """Return what the prompt of an answer ends with; raises a `UserError` for a choice that this style has not."""
        if thinking is None:
            return self.think or ""
        opening = self.think if thinking else self.no_think
        if opening is None:
            shown = f"thinking = {str(thinking).lower()}, and the chat style {self.name}"
            if self.think is None:
                raise UserError(f"{shown} has no thoughts", expected=f"a style that has: {', '.join(THINKING)}")
            raise UserError(f"{shown} always thinks", expected="thinking = true, or nothing")
        return opening

    @property
    def media_kinds(self) -> tuple[MediaKind, ...]:
        """Return the kinds of media that a user's turn may have."""
        return tuple(kind for kind, _ in self.media)


HERMES, REACT = Hermes(), ReAct()
_QWEN1 = ChatStyle("qwen1", joined=False, published=True)
_HELPFUL = "You are a helpful assistant."
_QWEN = f"You are Qwen, created by Alibaba Cloud. {_HELPFUL}"
_PICTURES = MediaForm(lead="Picture {n}: ", marks=("<img>", "</img>"), pad="<imgpad>", slots=256, trail="\n")

STYLES: dict[str, ChatStyle] = {
    style.name: style
    for style in (
        _QWEN1,
        ChatStyle("chatml", published=True),
        ChatStyle("qwen2", default_system=_HELPFUL, tools=None),
        ChatStyle("qwen2.5", default_system=_QWEN, tools=Hermes(arguments="json", system=_QWEN)),
        ChatStyle(
            "qwen3",
            think="",
            no_think="<think>\n\n</think>\n\n",
            thoughts=("<think>\n", "\n</think>\n\n"),
            history="before_question",
        ),
        ChatStyle(
            "qwq",
            tools=Hermes(arguments="json", system="", gap="given"),
            think="<think>\n",
            history="before_last",
        ),
        replace(_QWEN1, name="react", published=False, tools=REACT),
        replace(_QWEN1, name="qwen-vl", published=False, media=(("image", _PICTURES),)),
    )
}
TEMPLATE_STYLES = tuple(name for name, style in STYLES.items() if not (isinstance(style.tools, ReAct) or style.media))
"""The styles that a folder's chat template may be of."""
THINKING = tuple(name for name, style in STYLES.items() if style.think is not None)
"""The styles of models that think before they answer."""


def get_style(style: str | ChatStyle) -> ChatStyle:
    """Return the table of a style, given by its name or as it is; raises a `UserError` for an unknown name."""
    if isinstance(style, ChatStyle):
        return style
    if style not in STYLES:
        raise UserError(f"unknown chat style {style!r}", expected=", ".join(STYLES), nearest=nearest(style, STYLES))
    return STYLES[style]
