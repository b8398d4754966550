"""Foreign chat templates: run the Jinja template of a model folder, and detect which of our styles it is.

Our own rendering is `pieces.py`, by the tables of `styles.py`.

`render_text` is the one place where a template is run: by `qwenkit.templates`, in a separate process unless it is our
own, with the names that transformers gives it. The names of the folder's special tokens are variables, so is whatever a
caller adds (`enable_thinking`), and there are `raise_exception`, `strftime_now`, `{% generation %}`, `{% break %}`.
`detect` renders probe conversations with the template and compares ids with each style's: equal ids on all of them name
the style, otherwise the first difference is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from qwenkit.chat.messages import Message, TemplateKwargs, Tool, for_template, normal
from qwenkit.chat.probes import PROBES, Probe
from qwenkit.errors import UserError, nearest
from qwenkit.templates import GENERATION_MARKS, environment, names_read, render, trust
from qwenkit.tokenizer import Tokenizer
from qwenkit.tokenizer.publish import chatml_template

Ids = Callable[[Probe, str], list[int]]
THINKING = "enable_thinking"
"""The variable by which templates switch thoughts off."""
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt", GENERATION_MARKS)


class Detected(NamedTuple):
    """The style of a template, or the first difference from the nearest one."""

    style: str | None
    difference: str | None


@cache
def _trust_ours() -> None:
    trust([chatml_template()])


def render_text(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = False,
    template_kwargs: TemplateKwargs | None = None,
) -> str:
    """Return the text that a template makes of a conversation; `template_kwargs` are further variables that it may
    read."""
    _trust_ours()
    given = {"documents": None, **(template_kwargs or {}), "messages": list(messages), "tools": tools or None}
    return render(template, {**given, "add_generation_prompt": add_generation_prompt})


def reads(template: str, name: str) -> bool:
    """Return whether a template reads a variable at all."""
    return name in names_read(template)


def with_thinking(template: str, thinking: bool, kwargs: TemplateKwargs) -> TemplateKwargs:
    """Return what a template reads, with its switch for thoughts; raises a `UserError` where it has none."""
    shown = f"thinking = {str(thinking).lower()}"
    if not reads(template, THINKING):
        raise UserError(f"{shown}, and the folder's chat template does not read {THINKING!r}",
                        expected="a template that does, or none of the two")  # fmt: skip
    if kwargs.get(THINKING, thinking) is not thinking:
        raise UserError(f"{shown}, and {THINKING} = {kwargs[THINKING]}", expected="one of the two")
    return {**kwargs, THINKING: thinking}


def check_kwargs(template: str, kwargs: TemplateKwargs) -> None:
    """Raise a `UserError` for a variable that the template never reads, and for one that a caller must not set."""
    for name in kwargs:
        if name in _GIVEN and name != "documents":
            raise UserError(f"the variable {name} is not one to give", expected="other variables of the chat template")
        if name not in names_read(template):
            helpers = set(map(str, environment().globals))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            known = sorted(names_read(template) - {*_GIVEN} - helpers)
            raise UserError(
                f"the chat template does not read a variable {name!r}",
                expected=", ".join(known) or "none: this template reads no variables",
                nearest=nearest(str(name), known),
            )


def has_generation_tags(template: str) -> bool:
    """Return whether the template itself marks the text of the assistant (`{% generation %}`)."""
    return "endgeneration" in template


def detect(
    tok: Tokenizer, template: str, styles: Iterable[str], render: Ids, names: TemplateKwargs | None = None
) -> Detected:
    """Return the first style whose ids equal those of the template on every probe, else the first difference."""
    best: tuple[int, str] = (-1, "")
    texts = [_probe_ids(tok, template, probe, names) for probe in PROBES]
    for style in styles:
        agreed, difference = _compare(tok, texts, style, render)
        if difference is None:
            return Detected(style, None)
        if agreed > best[0]:
            best = (agreed, difference)
    return Detected(None, best[1])


def _probe_ids(tok: Tokenizer, template: str, probe: Probe, names: TemplateKwargs | None) -> list[int] | str:
    """Return the template's ids of a probe, or its message when it refuses."""
    try:
        messages = [for_template(normal(message)) for message in probe.messages]
        text = render_text(template, messages, probe.tools, probe.add_generation_prompt, names)
    except UserError as error:
        return error.what
    return tok.encode(text, "all")


def _compare(tok: Tokenizer, theirs: Sequence[list[int] | str], style: str, render: Ids) -> tuple[int, str | None]:
    """Return how many probes agree before the first that does not, and that difference in words."""
    for number, (probe, wanted) in enumerate(zip(PROBES, theirs, strict=True)):
        if isinstance(wanted, str):
            return number, f"probe {number}: {wanted}"
        ours = render(probe, style)
        if ours != wanted:
            difference = first_difference(tok, wanted, ours, "the template", "the style")
            return number, f"probe {number}, against style {style}: {difference}"
    return len(theirs), None


def first_difference(tok: Tokenizer, theirs: list[int], ours: list[int], them: str, us: str) -> str:
    """Return a description of the first token in which two renderings differ."""
    shared = zip(theirs, ours, strict=False)
    at = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(theirs), len(ours)))
    return f"token {at}: {them} has {_show(tok, theirs, at)}, {us} has {_show(tok, ours, at)}"


def _show(tok: Tokenizer, ids: list[int], at: int) -> str:
    return f"{ids[at]} {tok.decode([ids[at]])!r}" if at < len(ids) else "nothing"
