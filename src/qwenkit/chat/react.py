"""Conversations with ReAct tools, as the first Qwen was trained on them and its released server writes them.

    <|im_start|>user
    Answer the following questions as best you can. ... Begin!

    Question: Weather in Paris?<|im_end|>
    <|im_start|>assistant
    Thought: I look it up.
    Action: weather
    Action Input: {"city": "Paris"}
    Observation: sunny
    Thought: I now know the final answer.
    Final Answer: It is sunny.<|im_end|>

The list of tools stands before the last question that has an answer, or before the only one. Calls, results and the
final answer share one turn of the assistant, in which only the model's own lines are trained: not the results, and not
the `Thought:` after one, which the prompt gives. Answers before the list are not trained, because they were made with
it in another place. Blanks around a text are dropped, as in the released code. `parse.py` reads the lines back; a
message that it would read otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwenkit.chat.messages import Message, Tool, calls, text_of, to_json, trained
from qwenkit.chat.parse import parse_text, read_arguments, read_react
from qwenkit.chat.pieces import Piece, generation_prompt, turn, turn_end, turn_start
from qwenkit.chat.styles import ChatStyle, ReAct
from qwenkit.errors import UserError


def is_react(messages: Sequence[Message], tools: Sequence[Tool] | None, style: ChatStyle) -> bool:
    """Return whether a conversation is written in ReAct's lines: its style has them, and it has tools or calls."""
    return isinstance(style.tools, ReAct) and (bool(tools) or any(calls(message) for message in messages))


def react_pieces(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    style: ChatStyle,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    thinking: bool | None = None,
) -> list[Piece]:
    """Return all pieces of a conversation in order; raises a `UserError` for an answer that ReAct cannot write."""
    form = style.tools
    assert isinstance(form, ReAct)
    listed = _instructed(messages) if tools else 0
    out: list[Piece] = []
    for index, message in enumerate(messages):
        role, last = message["role"], index == len(messages) - 1
        weight = trained(message) if index >= listed else 0.0
        if role == "tool":
            out += tool_result(message, form, out[-1].weight)
        elif role == "assistant":
            after_result = messages[index - 1]["role"] == "tool"
            answer = _answer(_lines(index, message, bool(tools), form), after_result, form)
            end = [] if calls(message) or (last and continue_final_message) else turn_end(role)
            out += [piece._replace(weight=weight) for piece in (*answer, *end)]
        else:
            out += turn(role, _content(message, tools if index == listed else None, form))
    if add_generation_prompt:
        out += [resumed(form)] if messages[-1]["role"] == "tool" else generation_prompt(style, thinking)
    return out


def _answer(lines: str, after_result: bool, form: ReAct) -> list[Piece]:
    """Return an answer's lines, which begin a turn, or go on in one after the `Thought:` that the prompt gives."""
    if not after_result:
        return [*turn_start("assistant"), Piece(lines, "assistant", "content", False)]
    return [resumed(form), Piece(lines.removeprefix(form.thought), "assistant", "content", False, glued=True)]


def tool_result(message: Message, form: ReAct, weight: float = 1.0) -> list[Piece]:
    """Return a tool's result. Its label is the model's, which stops there."""
    return [
        Piece(form.result, "assistant", "content", False, weight, glued=True),
        Piece(f" {_stripped(text_of(message))}", "tool", "content", False, weight, glued=True),
    ]


def resumed(form: ReAct) -> Piece:
    """Return what the prompt of an answer adds after a tool's result."""
    return Piece(f"\n{form.thought}", "assistant", "header", glued=True)


def without_tools(messages: Sequence[Message], tools: Sequence[Tool] | None) -> tuple[int, ...]:
    """Return the messages whose answers stand before the list of tools."""
    asked = _instructed(messages) if tools else 0
    return tuple(index for index, message in enumerate(messages[:asked]) if message["role"] == "assistant")


def _instructed(messages: Sequence[Message]) -> int:
    """Return the index of the question that the list of tools stands before."""
    asked = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return asked[-2] if messages[-1]["role"] == "user" and len(asked) > 1 else asked[-1]


def _content(message: Message, tools: Sequence[Tool] | None, form: ReAct) -> Iterator[Piece]:
    """Yield the content of a system turn or a question, after the list of tools where it stands here."""
    if tools:
        yield Piece(instruction(tools, form), "tools", "content", False)
    yield Piece(_stripped(text_of(message)), message["role"], "content", False, glued=bool(tools))


def instruction(tools: Sequence[Tool], form: ReAct) -> str:
    """Return what is written before a question: the tools, and the lines to answer in."""
    functions: list[Mapping[str, Any]] = [tool.get("function", tool) for tool in tools]
    names = [str(function.get("name_for_model", function.get("name", ""))) for function in functions]
    described = [_described(name, function, form) for name, function in zip(names, functions)]
    return form.instruction.format(tools="\n\n".join(described), names=", ".join(names))


def _described(name: str, function: Mapping[str, Any], form: ReAct) -> str:
    """Return the paragraph of a tool; the released server's own keys (`name_for_human`) are read too."""
    return form.tool.format(
        name=name,
        human=function.get("name_for_human", function.get("name", "")),
        description=function.get("description_for_model", function.get("description", "")),
        parameters=to_json(function.get("parameters", {})),
    )


def _lines(index: int, message: Message, tools: bool, form: ReAct) -> str:
    """Return the lines of an answer: a thought with a call, or a final answer."""
    text, made = _stripped(text_of(message)), calls(message, f"message {index}")
    if len(made) > 1:
        raise UserError(f"{len(made)} tool calls in one answer, in ReAct's lines", where=f"message {index}",
                        expected="one call, its result, and the next call")  # fmt: skip
    if not made:
        lines = _stripped(form.final + text) if tools else text
    else:
        ((name, arguments),) = made
        text = text.removeprefix(form.thought).strip()
        lines = _stripped(f"{form.thought} {text}{form.call[0]}{name}{form.call[1]}{arguments}")
    if not _is_read_back(lines, text, made):
        raise UserError(
            "an answer whose ReAct lines would be read as another one",
            where=f"message {index}",
            expected="no line of its content that begins with Action:, Observation: or Final Answer:",
        )
    return lines


def _is_read_back(lines: str, text: str, made: Sequence[tuple[str, str]]) -> bool:
    """Return whether lines are read as the text and the calls that they were made of."""
    parsed = parse_text(lines, [{"name": made[0][0] if made else "-"}])
    readings = [read_react(lines, None), (parsed.get("content", ""), parsed.get("tool_calls", []))]
    wanted = [(name.strip(), read_arguments(arguments.strip())) for name, arguments in made]
    return "reasoning_content" not in parsed and all(
        (content.strip(), [(call["function"]["name"], call["function"]["arguments"]) for call in read])
        == (text.strip(), wanted)
        for content, read in readings
    )


def _stripped(text: str) -> str:
    return text.lstrip("\n").rstrip()
