"""Why a request is refused or fails, in no API's form yet: each codec's `error` writes it in its own.

    raise Refused(Refusal("invalid", "temperature = -1", param="temperature", expected="0, or 1e-06 to 1e+06"))
    refusal = refusal_of(error)              # any exception: the engine's errors, a `UserError`, a bug
    status, body = faces.messages.error(refusal)

A refusal tells what, which field, what was expected and a hint; it never has a stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qwenkit.chat.messages import ToolsNotShown
from qwenkit.errors import QwenkitError, UserError
from qwenkit.inference import EngineBusy, EngineStopped, EngineTimeout
from qwenkit.inference.requests import PromptTooLong
from qwenkit.inference.sampling_params import VALIDATORS

Kind = Literal[
    "invalid", "unauthenticated", "forbidden", "not_found", "method", "conflict", "too_large", "media_type", "busy",
    "rate_limited", "slow", "timeout", "unavailable", "internal",
]  # fmt: skip

STATUS: dict[Kind, int] = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method": 405,
    "conflict": 409,
    "too_large": 413,
    "media_type": 415,
    "busy": 429,
    "rate_limited": 429,
    "slow": 408,
    "timeout": 504,
    "unavailable": 503,
    "internal": 500,
}
"""The HTTP status of each kind of refusal."""

LONGEST_WAIT = 60
"""Seconds after which trying again makes sense in any case."""
_CODES: dict[type[UserError], str] = {
    PromptTooLong: "context_length_exceeded",  # OpenAI's name of it
    ToolsNotShown: "tools_not_shown",
}
_TOOLS_HINT = "ask without tools, or a model whose chat template knows of them; whoever runs the server can add one"
SAMPLING = "sampling parameters"
"""Where the engine's errors about them say that they are."""


@dataclass(frozen=True)
class Refusal:
    """What is wrong, in plain words; nothing of the program's inside."""

    kind: Kind
    what: str
    param: str | None = None
    """The field of the body that is wrong, as a path: `messages[2].content`."""
    expected: str | None = None
    """What would be right; of a method: those that the path has, which are the header Allow as well."""
    hint: str | None = None
    code: str | None = None
    """A short name that programs can tell refusals apart by, such as `unknown_field`."""
    retry_after: float | None = None
    """Seconds after which trying again makes sense, where it does: the header Retry-After."""

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return STATUS[self.kind]

    @property
    def message(self) -> str:
        """Return one line of text: where, what, what was expected, a hint."""
        named = not self.param or self.what.startswith(f"{self.param} ")
        parts = [self.what if named else f"{self.param}: {self.what}"]
        parts += [f"expected: {self.expected}"] if self.expected else []
        parts += [f"hint: {self.hint}"] if self.hint else []
        return "; ".join(parts)


ENDING = Refusal("unavailable", "the server is ending", code="draining", retry_after=5)
"""Why a request is not answered any more when the server is told to end."""


class Refused(Exception):
    """A request is refused. Codecs raise it for bodies, the server for everything else."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep what is wrong."""
        super().__init__(refusal.message)
        self.refusal = refusal


def refusal_of(error: BaseException) -> Refusal:
    """Return what a client is told of an error. Of errors that are not meant for people it is told nothing but that."""
    if isinstance(error, Refused):
        return error.refusal
    if isinstance(error, EngineBusy):
        wait = min(max(1, math.ceil(error.seconds)), LONGEST_WAIT)
        return Refusal("busy", "too many requests wait", hint="try again later", code="queue_full", retry_after=wait)
    if isinstance(error, EngineTimeout):
        return Refusal("timeout", "the answer took too long", code="timeout")
    if isinstance(error, EngineStopped):
        return Refusal("unavailable", "the model does not run any more", code="engine_stopped", retry_after=1)
    if isinstance(error, UserError):
        return _of_user_error(error)
    if isinstance(error, QwenkitError):
        return Refusal("internal", error.what, code="generation_failed")
    return Refusal("internal", "an error of the server, which its log names", code="internal_error")


def _of_user_error(error: UserError) -> Refusal:
    """Return the refusal of what a user of the engine has given it."""
    field, _, place = (_field(error) or "").partition(", ")
    what = f"{place}: {error.what}" if place else error.what
    code = next((code for kind, code in _CODES.items() if _is_a(error, kind)), "invalid_value")
    hint = _TOOLS_HINT if _is_a(error, ToolsNotShown) else error.hint or _nearest(error.nearest)
    return Refusal("invalid", what, field or None, in_json(error.expected), hint, code)


def _is_a(error: BaseException | None, kind: type[UserError]) -> bool:
    """Return whether an error is of a kind, or says where one of that kind is (`errors.within`)."""
    return isinstance(error, kind) or (isinstance(error, UserError) and _is_a(error.__cause__, kind))


def in_json(expected: str | None) -> str | None:
    """Return what was expected of a parameter in the words of JSON."""
    return expected and expected.replace("; or None", "; or null")


def _field(error: UserError) -> str | None:
    """Return the field that an error is about, and behind a comma the place in it: of sampling parameters the field is
    the first word."""
    if error.where != SAMPLING:
        return error.where
    name = error.what.partition(" ")[0]
    return name if name in VALIDATORS else None


def _nearest(name: str | None) -> str | None:
    return None if name is None else f"did you mean {name}?"
