"""`parse_text` for an answer that is still being written: text, thoughts, and tool calls while their arguments grow.

    stream = MessageStream(tools, opened=False)
    for delta in deltas: parts += stream.push(delta)
    parts += stream.finish()
    collect(parts)                           # the message that `parse_text` returns of the whole text

However the text is cut, the sum is the same message. What may still become a tag is held back, and white space that
the message does not have. A call begins once its name and the beginning of its arguments are there, where it is written
as the chat template asks (`{"name": ..., "arguments": {`), else when it is complete. Some calls turn out to be none, or
others: a second object in a block that cannot be read, text before its closing tag, an answer that was cut off. Then
`CallsRevoked` says so, and what was written follows as text, or as the call that it is.

ReAct's lines mean what the last of them say, so the text before `Action Input:` or `Final Answer:` is held back. Here
the *first* of them counts: what follows a final answer is a part of it, and what follows an action's result is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from qwenkit.chat.json_scanner import JSONScanner
from qwenkit.chat.messages import Tool
from qwenkit.chat.parse import CLOSE, DECODER, OPEN, offered_names, past_blank, read_arguments, read_call
from qwenkit.chat.parse_parts import CallArguments, CallBegin, CallEnd, CallsRevoked, Part, Text, ThoughtText
from qwenkit.chat.thoughts import CLOSE as THOUGHT_END
from qwenkit.chat.thoughts import OPEN as THOUGHT_START

LONGEST_HEAD = 2048
"""How far into a call its name is looked for while it is written."""
_HEAD = re.compile(
    r'\{[ \t\r\n]*"name"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\\x00-\x1f]|\\.)*")[ \t\r\n]*,'
    r'[ \t\r\n]*"(?:arguments|parameters)"[ \t\r\n]*:[ \t\r\n]*(?=\{)'
)


class MessageStream:
    """One answer while it is written."""

    def __init__(self, tools: Sequence[Tool] | None = None, *, opened: bool = False, react: bool = False) -> None:
        """Begin an answer to a prompt that offers `tools`; `opened`: that ends inside a thought; `react`: whose chat
        style writes calls as ReAct's lines, not as Hermes' blocks."""
        self._offered, self._opened = offered_names(tools), opened
        self._read = self._head
        self._content = self._react if react else self._text
        self._held = ""
        """What was written and is in no part yet."""
        self._parts: list[Part] = []
        self._thought_begun = self._finishing = False
        self._number = 0
        """How many calls have begun."""
        self._block = _Block("")

    def push(self, text: str) -> list[Part]:
        """Take what was written next; return the parts that are certain."""
        self._held += text
        while self._read():
            pass
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[Part]:
        """Return the rest, at the end of the answer."""
        self._finishing = True
        return self.push("")

    def _emit(self, part: Part) -> None:
        """Add a part; text goes on with the last one."""
        last = self._parts[-1] if self._parts else None
        if isinstance(part, (Text, ThoughtText, CallArguments)) and not part.text:
            return
        if isinstance(part, Text) and isinstance(last, Text):
            self._parts[-1] = Text(last.text + part.text)
        else:
            self._parts.append(part)

    def _take(self, count: int) -> str:
        """Return the first characters of what is held, which is held no more."""
        text, self._held = self._held[:count], self._held[count:]
        return text

    # ---- thoughts: each of these returns whether there is more to do with what is held ------------------------------

    def _head(self) -> bool:
        """Find out whether the answer begins with a thought."""
        text = self._held.lstrip()
        if not self._finishing and THOUGHT_START.startswith(text):
            return False
        if text.startswith(THOUGHT_START):
            self._held = text.removeprefix(THOUGHT_START)
        elif not self._opened:
            self._read = self._content
            return True
        self._read = self._thought
        return True

    def _thought(self) -> bool:
        """Go on in the thought, without the newlines at its beginning and end."""
        if not self._thought_begun:
            self._held = self._held.lstrip("\n")
        end = self._held.find(THOUGHT_END)
        if end < 0 and not self._finishing:
            text = self._held[: len(self._held) - _overlap(self._held, THOUGHT_END)].rstrip("\n")
        else:
            text = (self._held if end < 0 else self._held[:end]).rstrip("\n")
        if text:
            self._thought_begun = True
            self._emit(ThoughtText(self._take(len(text))))
        if end >= 0:
            self._held = self._held[self._held.find(THOUGHT_END) + len(THOUGHT_END) :]
            self._read = self._gap
        elif self._finishing:
            self._held = ""
        return end >= 0

    def _gap(self) -> bool:
        """Drop white space between the thought and the content."""
        self._held = self._held.lstrip()
        if not self._held:
            return False
        self._read = self._content
        return True

    # ---- Hermes' blocks ---------------------------------------------------------------------------------------------

    def _text(self) -> bool:
        """Go on in the content, up to a block of calls and one newline before it."""
        if self._offered is not None and not self._offered:
            return self._plain()
        start = self._held.find(OPEN)
        if start < 0:
            keep = 0 if self._finishing else _overlap(self._held, OPEN)
            keep += 1 if not self._finishing and self._held[: len(self._held) - keep].endswith("\n") else 0
            self._emit(Text(self._take(len(self._held) - keep)))
            return False
        self._emit(Text(self._take(start - 1 if self._held[:start].endswith("\n") else start)))
        self._block = _Block(self._take(1) if self._held.startswith("\n") else "")
        self._read = self._in_block
        return True

    def _in_block(self) -> bool:
        """Go on in a block of calls, which begins what is held."""
        if self._block.scanner is not None:
            return self._in_call(self._block.scanner)
        at = self._block.at = past_blank(self._held, self._block.at)
        rest, complete = self._held[at : at + len(CLOSE)], bool(self._block.calls)
        if complete and rest == CLOSE:
            return self._end_block(at + len(CLOSE))
        if complete and (rest.startswith(OPEN) or (self._finishing and not rest)):
            return self._end_block(at)
        if not self._finishing and (not rest or (complete and (CLOSE.startswith(rest) or OPEN.startswith(rest)))):
            return False
        if not rest.startswith("{"):
            return self._no_block()
        self._block.scanner = JSONScanner(at)
        self._block.name, self._block.arguments = None, at
        return True

    def _in_call(self, scanner: JSONScanner) -> bool:
        """Go on in a call."""
        progress = scanner.feed(self._held)
        if progress == "bad" or (progress == "more" and self._finishing):
            return self._no_block()
        if progress == "more":
            self._begin_early(scanner)
            return False
        call = _decoded(self._held, self._block.at, self._offered)
        if call is None:
            return self._no_block()
        self._complete(*call)
        self._block.at, self._block.scanner = scanner.at, None
        return True

    def _begin_early(self, scanner: JSONScanner) -> None:
        """Show what is certain of an incomplete call: its name, and its arguments as far as they are JSON."""
        block = self._block
        if block.name is None and len(self._held) - block.at <= LONGEST_HEAD:
            head = _HEAD.match(self._held, block.at)
            name = None if head is None else read_arguments(head[1])
            if head is not None and isinstance(name, str) and (self._offered is None or name in self._offered):
                block.begun, block.arguments, block.sent = head.end(), head.end(), ""
                self._begin(name)
        if block.name is not None:
            self._send(self._held[block.arguments : scanner.spans.get(block.begun, scanner.at)])

    def _begin(self, name: str) -> None:
        self._block.name = name
        self._block.calls.append(self._number)
        self._emit(CallBegin(self._number, name))
        self._number += 1

    def _send(self, text: str) -> None:
        self._emit(CallArguments(self._block.calls[-1], text))
        self._block.arguments += len(text)
        self._block.sent += text

    def _complete(self, name: str, arguments: str) -> None:
        """Show what was not yet shown of a complete call; one that was shown otherwise is revoked."""
        block = self._block
        if block.name is not None and (block.name != name or not arguments.startswith(block.sent)):
            self._emit(CallsRevoked((block.calls.pop(),)))
            block.name = None
        if block.name is None:
            block.sent = ""
            self._begin(name)
        self._send(arguments[len(block.sent) :])
        self._emit(CallEnd(block.calls[-1]))

    def _end_block(self, end: int) -> bool:
        """Go on behind a block whose calls are all read."""
        self._take(end)
        self._read = self._text
        return True

    def _no_block(self) -> bool:
        """Go on with a block that cannot be read as with any text, from its tag on."""
        if self._block.calls:
            self._emit(CallsRevoked(tuple(self._block.calls)))
        self._emit(Text(self._block.newline + self._take(len(OPEN))))
        self._read = self._text
        return True

    # ---- ReAct's lines ----------------------------------------------------------------------------------------------

    def _react(self) -> bool:
        """Hold the text back until it says what it is."""
        final = self._held.find(_FINAL)
        call = _first_action(self._held, self._offered)
        if call is not None and (final < 0 or call.start < final):
            self._emit(Text(call.content))
            self._begin_react(call)
            return True
        if final >= 0:
            self._take(final + len(_FINAL))
            self._read = self._plain
            return True
        if self._finishing:
            self._emit(Text("" if self._held.endswith(_FINAL.rstrip(" ")) else self._held))
            self._held = ""
        return False

    def _begin_react(self, call: _Action) -> None:
        self._emit(CallBegin(0, call.name))
        self._take(call.stop)
        self._read = self._react_arguments

    def _react_arguments(self) -> bool:
        """Go on in the arguments, without white space at their beginning and end, up to the result."""
        if not self._number:
            self._held = self._held.lstrip()
        end = self._held.find(_RESULT)
        keep = 0 if self._finishing else _overlap(self._held, _RESULT)
        text = self._held[: end if end >= 0 else len(self._held) - keep].rstrip()
        if text:
            self._number = 1
            self._emit(CallArguments(0, self._take(len(text))))
        if end < 0 and not self._finishing:
            return False
        self._emit(CallEnd(0))
        self._read = self._nothing
        return True

    def _plain(self) -> bool:
        """Go on in a text that has no calls: a final answer, or one without tools."""
        self._emit(Text(self._take(len(self._held))))
        return False

    def _nothing(self) -> bool:
        """Drop what a model writes behind a call: the result is not its own to write."""
        self._held = ""
        return False


class _Block:
    """A block of calls that is being read; places are those of the text that is held, whose beginning it is."""

    def __init__(self, newline: str) -> None:
        self.newline = newline
        """The newline before the block, which is text where no block comes."""
        self.at = len(OPEN)
        """Where the next call, or the present one, begins."""
        self.calls: list[int] = []
        """The indices of the calls that have begun."""
        self.scanner: JSONScanner | None = None
        self.name: str | None = None
        """The name of the present call, once it has begun."""
        self.begun = self.arguments = 0
        """Where its arguments begin, and from where on they are still to be shown."""
        self.sent = ""


def _decoded(text: str, at: int, offered: set[Any] | None) -> tuple[str, str] | None:
    """Return the name and the arguments, as they are written, of the complete call here; None where it is none."""
    try:
        value, _ = DECODER.raw_decode(text, at)
        call = read_call(value, offered)
        return None if call is None else (cast(str, call["function"]["name"]), _written_arguments(text, at))
    except (ValueError, RecursionError):
        return None


def _written_arguments(text: str, at: int) -> str:
    """Return the text of the arguments of a call that can be read."""
    members = _members(text, at)
    if "function" in members:
        members = _members(text, members["function"][0])
    start, stop = members["arguments" if "arguments" in members else "parameters"]
    return cast(str, json.loads(text[start:stop])) if text[start] == '"' else text[start:stop]


def _members(text: str, at: int) -> dict[str, tuple[int, int]]:
    """Return where the value of each key begins and ends, in the JSON object here."""
    members: dict[str, tuple[int, int]] = {}
    at = past_blank(text, at + 1)
    while text[at] != "}":
        key, at = DECODER.raw_decode(text, at)
        start = past_blank(text, past_blank(text, at) + 1)
        _, end = DECODER.raw_decode(text, start)
        members[key] = start, end
        at = past_blank(text, end)
        at = past_blank(text, at + 1) if text[at] == "," else at
    return members


_ACTION, _INPUT, _RESULT, _FINAL = "\nAction:", "\nAction Input:", "\nObservation:", "\nFinal Answer: "


class _Action(NamedTuple):
    """The first action of ReAct's lines: where it begins and where its arguments do, its name, the text before it."""

    start: int
    stop: int
    name: str
    content: str


def _first_action(text: str, offered: set[Any] | None) -> _Action | None:
    start = text.find(_ACTION)
    given = text.find(_INPUT, start) if start >= 0 else -1
    while 0 <= start < given:
        start = text.rfind(_ACTION, start, given)
        name = text[start + len(_ACTION) : given].strip()
        if name and (offered is None or name in offered):
            _, thought, after = text[:start].partition("Thought: ")
            return _Action(start, given + len(_INPUT), name, (after if thought else text[:start]).strip())
        start = text.find(_ACTION, given + 1)
        given = text.find(_INPUT, start) if start >= 0 else -1
    return None


def _overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    most = min(len(mark) - 1, len(text))
    if mark[0] not in text[len(text) - most :]:
        return 0
    return next((count for count in range(most, 0, -1) if mark.startswith(text[-count:])), 0)
