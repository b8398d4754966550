"""A folder's own chat template: render with it, and find out which style it is.

`detect` renders probe conversations with the template and compares ids with each style's. Equal ids on all of them
name the style; otherwise the first difference is kept, to be shown when someone wants to train with it. Templates
run in jinja2's sandbox, as in transformers. Caveat: a template is a program of whoever published the folder; the
sandbox keeps it from files and attributes, not from looping.

Special tokens that a user typed stay text here, as in every style: they are covered while the template runs. Other
libraries parse them; `docs/formats.md` says how to be safe there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

from ..errors import UserError
from ..tokenizer import Tokenizer, split_special
from .messages import Message, to_json
from .probes import PROBES, Probe
from .render import Rendered, Span

Ids = Callable[[Probe, str], list[int]]


class Detected(NamedTuple):
    """The style of a template, or the first difference from the nearest one."""

    style: str | None
    difference: str | None


def _tojson(value: Any, **_: Any) -> str:
    """The filter, whatever a template asks of its form."""
    return to_json(value)


@cache
def _environment() -> Any:
    """jinja2 as transformers sets it up; imported here because most runs never render a template."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    env: Any = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _refuse
    return env


def _refuse(message: str) -> None:
    raise UserError(f"the chat template refuses this conversation: {message}")


@cache
def _compiled(template: str) -> Any:
    from jinja2 import TemplateError

    try:
        return _environment().from_string(template)
    except TemplateError as error:
        raise UserError(f"the chat template does not compile: {error}") from None


def render_text(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Any] | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """The text that a template makes of a conversation."""
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(
            messages=list(messages), tools=tools or None, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError) as error:
        raise UserError(f"the chat template fails on this conversation: {error}") from None


def render_ids(
    tok: Tokenizer, template: str, messages: Sequence[Message], tools: Sequence[Any] | None, add_generation_prompt: bool
) -> Rendered:
    """A prompt by the folder's own template, nothing of it trained. What users wrote is never parsed."""
    hidden = {name: f"\ue000{i}\ue001" for i, name in enumerate(tok.special)}
    rendered = render_text(template, _replace(messages, hidden), _replace(tools, hidden), add_generation_prompt)
    ids: list[int] = []
    for part in split_special(rendered, tok.special_names):
        if part in tok.special:
            ids.append(tok.special[part])
        else:
            for name, cover in hidden.items():
                part = part.replace(cover, name)
            ids += tok.encode(part)
    return Rendered(ids, [0.0] * len(ids), [Span(0, len(ids), "prompt", "markup")], [])


def _replace(value: Any, table: dict[str, str]) -> Any:
    """A copy of a JSON value with every string rewritten."""
    if isinstance(value, str):
        for old, new in table.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {key: _replace(item, table) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_replace(item, table) for item in cast("Sequence[Any]", value)]
    return value


def detect(tok: Tokenizer, template: str, styles: Sequence[str], render: Ids) -> Detected:
    """The first style whose ids equal the template's on every probe."""
    best: tuple[int, str] = (-1, "")
    texts = [_probe_ids(tok, template, probe) for probe in PROBES]
    for style in styles:
        agreed, difference = _compare(tok, texts, style, render)
        if difference is None:
            return Detected(style, None)
        if agreed > best[0]:
            best = (agreed, difference)
    return Detected(None, best[1])


def _probe_ids(tok: Tokenizer, template: str, probe: Probe) -> list[int] | str:
    """The template's ids of a probe, or what it says when it refuses."""
    try:
        text = render_text(template, probe.messages, probe.tools, probe.add_generation_prompt)
    except UserError as error:
        return error.what
    return tok.encode(text, "all")


def _compare(tok: Tokenizer, theirs: Sequence[list[int] | str], style: str, render: Ids) -> tuple[int, str | None]:
    """How many probes agree before the first that does not, and that difference in words."""
    for number, (probe, wanted) in enumerate(zip(PROBES, theirs, strict=True)):
        if isinstance(wanted, str):
            return number, f"probe {number}: {wanted}"
        ours = render(probe, style)
        if ours != wanted:
            return number, f"probe {number}, against style {style}: {_first_difference(tok, wanted, ours)}"
    return len(theirs), None


def _first_difference(tok: Tokenizer, theirs: list[int], ours: list[int]) -> str:
    shared = zip(theirs, ours, strict=False)
    at = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(theirs), len(ours)))
    return f"token {at}: the template has {_show(tok, theirs, at)}, the style has {_show(tok, ours, at)}"


def _show(tok: Tokenizer, ids: list[int], at: int) -> str:
    return f"{ids[at]} {tok.decode([ids[at]])!r}" if at < len(ids) else "nothing"
