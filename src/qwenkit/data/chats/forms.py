"""The form that a row has, and the row as this package's own.

    converted({"instruction": "...", "input": "", "output": "..."}, "chats")  -> Converted("alpaca", row, keys read)

| form | keys |
| --- | --- |
| messages | `messages` (or `conversations`, `conversation`, `dialogue`) with role and content |
| pairs in a list | the same list of objects with `human` (`user`, `question`) and `assistant` (`answer`) |
| sharegpt | the same with from and value, as LLaMA-Factory and the released Qwen's finetuning have them |
| alpaca | `instruction`, `input`, `output` (`response`; `context` as the input), `history`, `system` |
| prompt and answer | `prompt`, `query`, `question` or `input`, with `completion`, `response`, `answer` or `output` |
| instances | `instruction` with one of `instances` |
| oasst tree | `prompt` with ranked `replies`: the path of the best |

`system` beside any of them is the system turn. A row's own `weight` and `train` hold for its answers. Comparisons are
`pairs`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from qwenkit.chat.messages import check, text_of
from qwenkit.data.chats.turns import LIST, SWITCHES, listed, parsed, turn, turns, weight_of
from qwenkit.errors import UserError, within
from qwenkit.records import Row, json_kind

TURN_KEYS = ("messages", "conversations", "conversation", "dialogue", "dialog")
QUESTIONS = ("instruction", "prompt", "query", "question")
ANSWERS = ("output", "completion", "response", "answer", "target", "std_answer")
SIDES = ("chosen", "rejected")
SYSTEMS = ("system", "system_prompt", "system_message")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_RENDERED = re.compile(
    r"<\|(?:im_start|start_header_id|user|assistant)\|>|\[INST\]|<start_of_turn>|<｜User｜>"
    r"|^(?:### (?:Human|Assistant|Instruction|Response)|USER|ASSISTANT):", re.M
)  # fmt: skip
COMMON = {"id", "tools", "functions", "system", "weight", "use", "rubric", "candidates", "flipped", *SWITCHES}


COLUMNS = frozenset((*TURN_KEYS, *QUESTIONS, *ANSWERS, *SIDES, "input", "history", "instances", "output_1",
                     "response_chosen", "chosen_response", "rejected_response"))  # fmt: skip
"""Of which a table has at least one."""


class Converted(NamedTuple):
    """A row of ours, the form that it came in, which of its keys were read, and how many turns after the last answer
    were left out."""

    form: str
    row: Row
    read: frozenset[str]
    left_out: int = 0


class Dialogue(NamedTuple):
    """What a row says up to its question: its form, its turns and the keys that they stand in."""

    form: str
    messages: list[Row]
    read: tuple[str, ...]


def converted(raw: Row, kind: str) -> Converted:
    """Return a row as ours; one that is not of the kind, or that no model could have had, is a `UserError`."""
    row = {key: value for key, value in raw.items() if isinstance(key, str)}
    _refuse_media(row)
    if kind == "pairs":
        from qwenkit.data.chats.pairs import as_pair

        result = as_pair(row)
    else:
        result = as_chat(row) if kind == "chats" else as_prompt(row)
    offered = tools_of(row)
    kept = {key: value for key, value in result.row.items() if key != "functions" and (offered or key != "tools")}
    return result._replace(row={**kept, "tools": offered} if offered else kept)


def as_chat(row: Row) -> Converted:
    """Return a conversation that ends with an answer: what follows the last one teaches nothing, and is left out."""
    result = chat(row)
    if result is None:
        if all(row.get(side) is not None for side in SIDES):
            raise UserError("a comparison, where a chat was expected", expected="messages",
                            hint="`preference` and `reward` learn from comparisons")  # fmt: skip
        raise missing(row, "messages", "messages, conversations, instruction and output, or prompt and completion")
    _refuse_bad_answer(row)
    whole = weighted(with_system(result.messages, row), row)
    check(whole, False, False)
    messages = whole
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if not messages:
        raise UserError("a chat without an answer", expected="an assistant's turn")
    _refuse_untrained(messages)
    read = frozenset(result.read) | COMMON | {"label", "kto_tag"}
    return Converted(result.form, ours(row, messages, result.read), read, len(whole) - len(messages))


def as_prompt(row: Row) -> Converted:
    """Return a conversation that waits for an answer."""
    result = dialogue(row)
    if result is None:
        raise missing(row, "messages", "messages, or prompt")
    messages = with_system(result.messages, row)
    check(messages, True, False)
    return Converted(result.form, ours(row, messages, result.read), frozenset(result.read) | COMMON)


def chat(row: Row) -> Dialogue | None:
    """Return a whole conversation: its turns, or a question with its answer."""
    result = dialogue(row)
    if result is None or result.form in ("messages", "sharegpt", "oasst tree"):
        return result
    key = next((key for key in ANSWERS if key not in result.read and row.get(key) is not None), None)
    if key is None and row.get("instances") is not None:
        return _instance(row)
    if key is None and result.form == "messages in prompt" and result.messages[-1:][0]["role"] == "assistant":
        return result
    if key is None:
        raise UserError(
            f"a question without an answer: `{result.read[0]}`",
            expected=f"one of {', '.join(ANSWERS)} too",
            hint=_has(row),
        )
    return Dialogue(result.form, [*result.messages, *answer(row[key], key)], (*result.read, key))


def dialogue(row: Row) -> Dialogue | None:
    """Return the turns of a row, or its question; None where it has neither."""
    for key in TURN_KEYS:
        if row.get(key) not in (None, ""):
            given = parsed(row[key], key, LIST)
            turns_of_key, first = listed(given, key), next(iter(given), None)
            return Dialogue(
                "sharegpt" if isinstance(first, Mapping) and "from" in first else "messages", turns_of_key, (key,)
            )
    prompt = row.get("prompt")
    if isinstance(prompt, Mapping) and "replies" in prompt:
        return Dialogue("oasst tree", best_path(prompt), ("prompt",))
    key = next((key for key in QUESTIONS if row.get(key) is not None), None)
    if key is None:
        if not isinstance(row.get("input"), str):
            return None
        key = "input"
    return _question(row, key)


def _question(row: Row, key: str) -> Dialogue:
    """A question as messages: of a text with its input and what was said before."""
    asked, read = row[key], [key]
    if isinstance(asked, list) or (isinstance(asked, str) and asked.lstrip().startswith("[{")):
        return Dialogue("messages in prompt", turns(asked, key), (key,))
    if not isinstance(asked, str):
        raise UserError(f"the prompt is {json_kind(asked)}", expected="a string, or a list of messages")
    for more in ("input", "context") if key == "instruction" else ():
        if isinstance(row.get(more), str):
            asked, read = "\n".join(filter(None, (asked, row[more]))), [*read, more]
    if not asked.strip():
        raise UserError(f"an empty question: `{key}`", expected="a string")
    before = _history(row.get("history"))
    read += ["history"] if row.get("history") is not None else []
    form = "alpaca" if key == "instruction" else "prompt and answer"
    return Dialogue(form, [*before, {"role": "user", "content": asked}], tuple(read))


def _history(value: Any) -> list[Row]:
    """Earlier turns: messages, or pairs of a question and its answer."""
    exchanges = parsed(value, "history") if value not in (None, "") else []
    if not isinstance(exchanges, list):
        raise UserError(f"`history` is {json_kind(exchanges)}", expected="a list of pairs of question and answer")
    if exchanges and all(isinstance(each, Mapping) for each in exchanges):
        return turns(exchanges, "history")
    messages: list[Row] = []
    for each in exchanges:
        if not isinstance(each, list) or len(each) != 2 or not all(isinstance(one, str) for one in each):
            raise UserError(
                "`history` holds something other than pairs of strings", expected='[["question", "answer"], ...]'
            )
        messages += [{"role": "user", "content": each[0]}, {"role": "assistant", "content": each[1]}]
    return messages


def answer(value: object, key: str) -> list[Row]:
    """Return an answer as messages: a text, a message, or some."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if isinstance(value, Mapping):
        return [turn(value, f"`{key}`")]
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        with within(f"`{key}`"):
            return turns(value, key)
    raise UserError(f"`{key}` is {_kind(value)}", expected="a string, or messages that end with the answer")


def _kind(value: Any) -> str:
    return "a list of strings" if isinstance(value, list) and value and isinstance(value[0], str) else json_kind(value)


def _instance(row: Row) -> Dialogue:
    """Self-instruct's seeds: an instruction with its instance."""
    instances = parsed(row["instances"], "instances")
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], Mapping):
        raise UserError("`instances` holds not just one", expected='[{"input": ..., "output": ...}]')
    inner = chat({**instances[0], "instruction": row.get("instruction")})
    assert inner is not None  # it has an instruction
    return Dialogue("instances", inner.messages, ("instruction", "instances"))


def best_path(node: Mapping[str, object]) -> list[Row]:
    """From a question on, the best reply to each message, down to the last answer."""
    path: list[Row] = []
    at: Mapping[str, Any] | None = node
    while at is not None:
        path.append(turn({"role": at.get("role"), "text": at.get("text")}, f"message {len(path)}"))
        at = next(iter(ranked(at)), None)
    return path if path[-1]["role"] == "assistant" or len(path) == 1 else path[:-1]


def ranked(node: Mapping[str, object]) -> list[Mapping[str, Any]]:
    """Return the replies to a message, the best first; those without a rank after all others, deleted ones not at
    all."""
    replies = node.get("replies")
    answers = (
        [each for each in replies if isinstance(each, Mapping) and not each.get("deleted")]
        if isinstance(replies, list)
        else []
    )
    return sorted(answers, key=lambda each: each["rank"] if isinstance(each.get("rank"), int) else 1 << 30)


def with_system(messages: list[Row], row: Row) -> list[Row]:
    """Return the turns with the system turn that stands beside them; two different ones are a `UserError`."""
    names = SYSTEMS[:1] if any(row.get(key) is not None for key in TURN_KEYS) else SYSTEMS
    key = next((key for key in names if row.get(key) not in (None, "")), None)
    if key is None:
        return messages
    if not isinstance(row[key], str):
        raise UserError(f"`{key}` is {json_kind(row[key])}", expected="a string")
    if not messages or messages[0]["role"] != "system":
        return [{"role": "system", "content": row[key]}, *messages]
    if text_of(messages[0]) != row[key]:
        raise UserError(f"`{key}` and the system turn say different things", expected="one of them")
    return messages


def weighted(messages: list[Row], row: Row) -> list[Row]:
    """Answers with the weight of their row, where they have none of their own."""
    weight = weight_of(row)
    if weight is None or weight == 1:
        return messages
    return [{"weight": weight, **m} if m["role"] == "assistant" else m for m in messages]


def ours(row: Row, messages: list[Row], read: tuple[str, ...]) -> Row:
    """Return a row with its turns; the keys that these stood in are gone."""
    gone = {*read, "messages", "system", "weight", *SWITCHES} - ({"messages"} if "messages" in row else set())
    kept = {key: value for key, value in row.items() if key not in gone}
    return {**kept, "messages": messages}


def tools_of(row: Row) -> list[object] | None:
    """Return the tools that a chat offers: a list, its JSON text, or OpenAI's older `functions`."""
    if row.get("tools") in (None, "") and row.get("functions") not in (None, ""):
        functions = parsed(row["functions"], "functions")
        if not isinstance(functions, list):
            raise UserError(f"`functions` is {json_kind(functions)}", expected="a list of functions")
        return [{"type": "function", "function": each} for each in functions]
    tools = parsed(row.get("tools") or None, "tools")
    if tools is not None and not isinstance(tools, list):
        raise UserError(f"`tools` is {json_kind(tools)}", expected="a list of tools, or its JSON text")
    return tools


def missing(row: Row, key: str, expected: str) -> UserError:
    """Return what is said of a row that has no form."""
    if isinstance(row.get("text"), str) and _RENDERED.search(row["text"]):
        return UserError("`text` is a chat with a template's marks around its turns", expected=expected,
                         hint="give the turns themselves, with role and content: marks come by themselves")  # fmt: skip
    if isinstance(row.get("text"), str):
        return UserError("a document with `text`, where rows of another form were expected", expected=expected,
                         hint="`corpus` and `pretrain` learn from documents")  # fmt: skip
    return UserError(f"missing key `{key}`", expected=expected, hint=_has(row))


def _has(row: Row) -> str:
    names = [f"`{name}`" for name in row if row[name] is not None]
    return "this row has " + (", ".join(names[:12]) + (" ..." if len(names) > 12 else "") if names else "no keys")


def _refuse_media(row: Row) -> None:
    key = next((key for key in MEDIA if row.get(key) not in (None, "", [], "[]")), None)
    if key is not None:
        raise UserError(f"a row with `{key}`, for a text model", expected="text only")


def _refuse_bad_answer(row: Row) -> None:
    """KTO's rows say of an answer whether it is wanted."""
    if row.get("label") is False or row.get("kto_tag") is False:
        raise UserError("an answer that is marked as unwanted (`label` is false)", expected="answers to learn from")


def _refuse_untrained(messages: list[Row]) -> None:
    answers = [m for m in messages if m["role"] == "assistant" and m.get("weight", 1) > 0]
    if not answers:
        raise UserError("a chat of which nothing is trained", expected="an answer whose weight is above 0")
    for message in answers:
        if not message.get("tool_calls") and not text_of(message).strip():
            raise UserError("an empty answer", where=f"message {messages.index(message)}", expected="a string")
