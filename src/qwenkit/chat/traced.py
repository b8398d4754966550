"""A folder's template applied to a conversation, and which of the text people wrote.

The template sees the messages as they are, so that whatever it looks for in them (`'</think>' in content`), cuts out
or counts is as in transformers. What people typed is not a mark all the same: where a mark's name is in their text,
the conversation is rendered again with private signs beside it, and where they come out, that name is text. If the
template's own logic minds the signs, they are put otherwise (only before the name, only after it), or one by one; the
text must come out the same, or the conversation is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, cast

from qwenkit.chat.messages import Message, ToolsNotShown, for_template
from qwenkit.chat.pieces import Piece
from qwenkit.chat.template import GENERATION_MARKS, render_text
from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer

_MOST = 32
"""The most names that are traced one by one; a conversation with more that cannot be traced together is refused."""
_SIGNS = range(0xF0000, 0xFFFFE)
_WAYS = ((1, 1), (0, 1), (1, 0))
"""Whether a sign stands before a covered name, and whether one stands after it."""
_BARE: tuple[Mapping[str, Any], ...] = ({}, {"content": None}, {"content": ""})
_ALIKE = {"K": "[K\u212a]", ";": "[;\u037e]", "`": "[`\u1fef]"}
"""Characters that normalisation turns into an ASCII character."""
Stretch = tuple[int, int]


@dataclass(frozen=True)
class Traced:
    """A template, a checked and normal conversation, and everything else that the template reads."""

    tok: Tokenizer
    template: str
    messages: Sequence[Message]
    tools: Sequence[Any] | None
    names: Mapping[str, Any]
    """The folder's names of special tokens, whose values are tokens."""
    template_kwargs: Mapping[str, Any]
    """The caller's variables: text, like the messages."""
    add_generation_prompt: bool = False

    def before(self, count: int, add_generation_prompt: bool = False) -> Traced:
        """Return the same with the first `count` messages only."""
        return replace(self, messages=self.messages[:count], add_generation_prompt=add_generation_prompt)

    def with_messages(self, messages: Sequence[Message]) -> Traced:
        """Return the same of another conversation."""
        return replace(self, messages=messages)

    bare: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The content of a message that only calls tools: absent, as in transformers; null, as R1's template wants it; or
    empty."""

    @cached_property
    def _shown(self) -> list[dict[str, Any]]:
        return [{**self.bare, **for_template(message)} for message in self.messages]

    def _rendered(self, messages: Any, tools: Any, template_kwargs: Mapping[str, Any]) -> str:
        known = {**self.names, **template_kwargs}
        return render_text(self.template, messages, tools, self.add_generation_prompt, known)

    @cached_property
    def text(self) -> str:
        """Return the text that the template makes of the conversation."""
        return self._rendered(self._shown, self.tools, self.template_kwargs)

    def with_all(self) -> Traced:
        """Return the same after checking that tools and calls appear in the text; raises a `UserError` where they do
        not.

        If they were lost silently, nobody would notice for a long time."""
        every = all("content" in message for message in self.messages)
        forms = [self] if every else [replace(self, bare=bare) for bare in _BARE]
        reasons = [form._lost() for form in forms]
        if None in reasons:
            return forms[reasons.index(None)]
        raise reasons[-1] or UserError("the chat template fails on this conversation")

    def _lost(self) -> UserError | None:
        """Return what is wrong with the text: there is none, or something was removed without a trace."""
        try:
            text = self.text
        except UserError as error:
            return error
        without = [{key: value for key, value in message.items() if key != "tool_calls"} for message in self._shown]
        trials = {"tools": (self._shown, None), "tool calls": (without, self.tools)}
        for what, (messages, tools) in trials.items():
            if (messages, tools) != (self._shown, self.tools):
                with contextlib.suppress(UserError):
                    if self._rendered(messages, tools, self.template_kwargs) == text:
                        return ToolsNotShown(
                            f"the chat template does not show the {what}",
                            expected="a template that knows of tools",
                            hint='name a chat style that does, for example style = "chatml"',
                        )
        return None

    def pieces(self, stretches: Sequence[tuple[Stretch, Piece]] = ()) -> list[Piece]:
        """Return the text as pieces: names that people typed are content, the rest is markup.

        The text is cut at the given stretches, which are in order and give their pieces role, part and weight."""
        cuts = sorted({0, len(self.text), *(at for stretch, _ in stretches for at in stretch),
                       *(at for stretch in self.typed for at in stretch)})  # fmt: skip
        typed, rest = {start for start, _ in self.typed}, list(stretches)
        cut_pieces: list[Piece] = []
        for start, stop in pairwise(cuts):
            while rest and rest[0][0][1] <= start:
                rest.pop(0)
            inside = bool(rest) and rest[0][0][0] <= start
            like = rest[0][1] if inside else Piece("", "prompt", "header")
            guarded = start in typed
            cut_pieces.append(like._replace(text=self.text[start:stop], markup=not guarded))
        return cut_pieces

    # ---- names that people typed ------------------------------------------------------------------------------------

    @cached_property
    def typed(self) -> list[Stretch]:
        """Return where the text has the name of a special token that comes from a message, a tool or a variable."""
        count = self._covered(lambda name, _: name)[1]
        if not count:
            return []
        for way in _WAYS:
            if (places := self._try(way, None)) is not None:
                return places
        if count > _MOST:
            raise self._unclear()
        one_by_one = (
            next((got for way in _WAYS if (got := self._try(way, n)) is not None), None) for n in range(count)
        )
        stretches: set[Stretch] = set()
        for places in one_by_one:
            if places is None:
                raise self._unclear()
            stretches.update(places)
        return sorted(stretches)

    def _unclear(self) -> UserError:
        return UserError(
            "a message holds the name of a special token, and what the chat template makes of it cannot be followed",
            expected="text without such names",
            hint='break them, as in "< |im_end|>"',
        )

    def _try(self, way: tuple[int, int], only: int | None) -> list[Stretch] | None:
        """Return where the names appear that are covered in one way, all or one of them; None where the text
        changes."""
        opening, closing = (sign * shown for sign, shown in zip(self._signs, way))
        covered, _ = self._covered(lambda name, n: f"{opening}{name}{closing}" if only in (None, n) else name)
        try:
            marked = self._rendered(*covered)
        except UserError:
            return None
        text, stretches = _uncovered(marked, re.compile(opening + _names(self.tok.special_names).pattern + closing))
        return stretches if text == self.text else None

    @cached_property
    def _signs(self) -> str:
        """Return two private characters that occur nowhere here."""
        everything = self.text + repr((self._shown, self.tools, self.template_kwargs)) + self.template
        free = (chr(code) for code in _SIGNS if chr(code) not in everything)
        return next(free) + next(free)

    def _covered(self, cover: Callable[[str, int], str]) -> tuple[tuple[Any, Any, Mapping[str, Any]], int]:
        """Return messages, tools and variables with the typed names covered, and the number of those names."""
        count = 0

        def text(allowed: frozenset[str]) -> Callable[[str], str]:
            pattern = _names(self.tok.special_names)

            def one(match: re.Match[str]) -> str:
                nonlocal count
                if match[0] in allowed:
                    return match[0]
                count += 1
                return cover(match[0], count - 1)

            return lambda value: pattern.sub(one, value)

        theirs, own = text(self.tok.words), text(self.tok.spoken)
        messages = [_each(m, own if m["role"] in ("assistant", "system") else theirs) for m in self._shown]
        tools = None if self.tools is None else _each(self.tools, theirs)
        return (messages, tools, _each(self.template_kwargs, theirs)), count

    # ---- what the template itself marks as the assistant's ----------------------------------------------------------

    def generated(self) -> list[Stretch]:
        """Return the stretches between the template's `{% generation %}` tags; an empty list where they cannot be
        located."""
        signs = self._signs
        marked = self._rendered(self._shown, self.tools, {**self.template_kwargs, GENERATION_MARKS: [*signs]})
        text, stretches = _uncovered(marked, re.compile(f"{signs[0]}([^{signs}]*){signs[1]}"))
        return stretches if text == self.text else []


@lru_cache(maxsize=64)
def _names(names: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern that matches names, also where they arise only by normalisation."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    spelled = ("".join(_ALIKE.get(sign) or re.escape(sign) for sign in name) for name in longest_first)
    return re.compile(f"({'|'.join(spelled)})" if names else "((?!))")


def _uncovered(marked: str, pattern: re.Pattern[str]) -> tuple[str, list[Stretch]]:
    """Return the text without signs, and the stretches of it that stood between signs."""
    parts: list[str] = []
    stretches: list[Stretch] = []
    length = at = 0
    for match in pattern.finditer(marked):
        parts += [marked[at : match.start()], match[1]]
        length += match.start() - at
        stretches.append((length, length + len(match[1])))
        length, at = stretches[-1][1], match.end()
    return "".join([*parts, marked[at:]]), stretches


def _each(value: Any, text: Callable[[str], str]) -> Any:
    """Return a JSON value with every string in it rewritten, keys of objects too."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {text(key) if isinstance(key, str) else key: _each(item, text) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_each(item, text) for item in cast("Sequence[Any]", value)]
    return value
