"""A conversation from a body, checked, in the form that the chat renderer takes.

Neighbouring turns of one role become one, as clients expect: texts with a blank line between them, calls of tools
behind each other. What a user says right after the results of tools follows the last result: in the models'
conversations results stand in a turn of their own, and an answer comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenkit.chat.media import KINDS, read_part
from qwenkit.chat.messages import RENAMED, THOUGHTS, check
from qwenkit.errors import UserError
from qwenkit.serving.fields import ANY, Table, refused, wrong
from qwenkit.serving.json_body import kind_of
from qwenkit.serving.refusals import Refusal, Refused

FIELDS = Table(
    {
        "role": ANY, "content": ANY, "tool_calls": ANY, "function_call": ANY, "tool_call_id": ANY,
        **dict.fromkeys(THOUGHTS, ANY),
    },
    ignored=("name", "id", "refusal", "annotations", "phase", "cache_control", "extra", "reasoning_details"),
    unsupported={"audio": "answers are text", "prefix": "end with the user's turn",
                 "partial": "end with the user's turn"},
)  # fmt: skip
"""The fields of a message in OpenAI's form."""
_PART_IGNORED = ("cache_control", "prompt_cache_breakpoint", "annotations", "detail", "id", "uuid")
PARTS = {
    name: Table({"type": ANY, name: ANY}, ignored=_PART_IGNORED) for name in ("text", *KINDS)
}  # fmt: skip
"""The parts of content, by their type."""
MAX_MESSAGES = 10_000
GAP = "\n\n"
"""What stands between texts that become one."""
_URLS = ("data:", "http://", "https://")


def conversation(messages: Sequence[Mapping[str, Any]], places: Sequence[str]) -> list[dict[str, Any]]:
    """Return messages in OpenAI's form, merged and checked, for an answer. `places` say where in the body they are.

    Raises `Refused` for a malformed message, with its place."""
    if len(messages) > MAX_MESSAGES:
        raise refused("messages", f"has {len(messages):,} messages", f"at most {MAX_MESSAGES:,}")
    for message, place in zip(messages, places):
        _check_one(message, place)
    merged, sources = _merged(messages)
    try:
        check(merged, True, False, ("image", "audio"))
    except UserError as error:
        place = next((places[sources[i]] for i in range(len(merged)) if _names(error.where, i)), "messages")
        raise Refused(Refusal("invalid", error.what, place, error.expected, error.hint, "invalid_message")) from None
    return merged


def fields_without_effect(messages: Sequence[Any]) -> tuple[str, ...]:
    """Return the fields of messages and of their parts that have none; raises `Refused` for unknown ones."""
    names: dict[str, None] = {}
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        values = FIELDS.read(message, place)
        names |= {f"messages[].{name}": None for name in values.ignored}
        content = values.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            names |= {
                f"messages[].content[].{name}": None for name in _part_without_effect(part, f"{place}.content[{index}]")
            }
    return tuple(names)


def _part_without_effect(part: Any, place: str) -> list[str]:
    """Return the fields of a content part that have no effect; a part of an unknown type is refused later."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in PARTS:
        return []
    names = [*PARTS[kind].read(part, place).ignored]
    return [*names, "image_url.detail"] if isinstance(part.get(kind), Mapping) and "detail" in part[kind] else names


def _names(where: str | None, index: int) -> bool:
    return where is not None and (where == f"message {index}" or where.startswith(f"message {index},"))


def _check_one(message: Any, place: str) -> None:
    """Raise `Refused` for what the merge cannot read, and for media that are no data and no URL."""
    if not isinstance(message, Mapping):
        raise wrong(place, message, '{"role": ..., "content": ...}')
    if not isinstance(message.get("role"), str):
        raise wrong(f"{place}.role", message.get("role"), "system, user, assistant, tool")
    content = message.get("content")
    if content is not None and not isinstance(content, (str, list)):
        raise refused(f"{place}.content", f"is {kind_of(content)}", "a string, or a list of content parts")
    if not isinstance(message.get("tool_calls"), list | None):
        raise wrong(f"{place}.tool_calls", message["tool_calls"], "a list of tool calls")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, Mapping) and isinstance(part.get("type"), str) and part["type"] in KINDS:
            _check_source(part, f"{place}.content[{number}]")


def _check_source(part: Mapping[str, Any], place: str) -> None:
    """Raise `Refused` for a picture or a sound that names a file of the server."""
    try:
        source = read_part(part, place).source
    except UserError as error:
        raise refused(place, error.what, error.expected) from None
    if not source.startswith(_URLS):
        raise refused(place, f"the {KINDS[part['type']]} is not a URL", "a data: URL, or one of http or https")


def _merged(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return messages with neighbours of one role as one, and the index of the first of each."""
    groups: list[list[Mapping[str, Any]]] = []
    roles: list[Any] = []
    sources: list[int] = []
    for index, message in enumerate(messages):
        role = RENAMED.get(message["role"], message["role"])
        if roles and (roles[-1] == role != "tool" or (role, roles[-1]) == ("user", "tool")):
            groups[-1].append(message)
        else:
            groups.append([message])
            roles.append(role)
            sources.append(index)
    return [_joined(role, group) for role, group in zip(roles, groups)], sources


def _joined(role: str, group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return messages as one of this role; those after the result of a tool are the user's."""
    if len(group) == 1:
        return {**group[0], "role": role}
    joined: dict[str, Any] = {}
    for message in group if role != "tool" else group[:1]:
        joined |= {key: value for key, value in message.items() if value is not None}
    joined |= {"role": role, "content": _content([message.get("content") for message in group])}
    calls = [call for message in group for call in message.get("tool_calls") or ()]
    if calls and role == "assistant":
        joined["tool_calls"] = calls
    thoughts = [thought for message in group if (thought := _thought(message))]
    if len(thoughts) > 1:
        joined = {key: value for key, value in joined.items() if key not in THOUGHTS}
        joined["reasoning_content"] = GAP.join(thoughts)
    return joined


def _thought(message: Mapping[str, Any]) -> str | None:
    return next((message[key] for key in THOUGHTS if isinstance(message.get(key), str)), None)


def _content(contents: Sequence[Any]) -> Any:
    """Return contents as one; None where there are none."""
    given = [content for content in contents if content]
    if all(isinstance(content, str) for content in given):
        return GAP.join(given) if given else next((content for content in contents if content is not None), None)
    parts: list[Any] = []
    for content in given:
        parts += [{"type": "text", "text": GAP}] if parts else []
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts
