"""`ChatTokenizer`: a tokenizer that renders conversations and reads answers (report appendix A.1).

    tok = load_tokenizer(path)                    # a folder, a .tiktoken file, a tokenizer.json or a GGUF file
    r = tok.render(messages)                      # r.ids, r.weights, r.spans: training
    r = tok.render(messages, add_generation_prompt=True)    # a prompt
    tok.parse(answer_ids)                         # {"role": "assistant", "content": ..., "tool_calls": ...}

    more = tok.extend(ids, [{"role": "tool", "content": "3"}])   # more.ids: what follows ids that were sampled

A file without a chat template takes its family's style: `qwen1` for `.tiktoken`, `chatml` otherwise; a folder whose
template is that of a style in `styles.py` is of this style. A folder with another template (`tok.style is None`) is
rendered by its template, and the template itself places the loss mask (`foreign_template_mask`); where it cannot,
training is refused unless a style is named. Without a system turn none is rendered, except one that the style or the
folder's template adds by itself. `thinking` asks for thoughts or for none; other keys are read by the template alone:
`tok.render(messages, template_kwargs={"enable_tools": False})`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from qwenkit.adapter_files import tokenizer_at
from qwenkit.chat import foreign_template_mask
from qwenkit.chat import template as templates
from qwenkit.chat.extend import extend_style, extend_template, sampled_text
from qwenkit.chat.messages import Message, TemplateKwargs, Tool, ToolsNotShown, calls, check, check_following, normal
from qwenkit.chat.parse import ParsedMessage, parse_text
from qwenkit.chat.probes import Probe
from qwenkit.chat.render import Rendered, Span, encode_pieces, render_style
from qwenkit.chat.styles import STYLES, TEMPLATE_STYLES, THINKING, ChatStyle, get_style
from qwenkit.chat.traced import Traced
from qwenkit.errors import UserError
from qwenkit.gguf_file import is_gguf
from qwenkit.hub import resolve
from qwenkit.tokenizer import (
    ENDOFTEXT,
    IM_END,
    IM_START,
    Tokenizer,
    chatml_template,
    load,
    read_config,
    read_names,
    read_templates,
    save_tokenizer,
)
from qwenkit.tokenizer.gguf_vocabulary import read_vocabulary
from qwenkit.tokenizer.settings import DEFAULT, TOOL_USE


class ChatTokenizer(Tokenizer):
    """A tokenizer with a chat style, and its folder's chat template where there is one.

    `tool_template` is the one for chats that offer tools, where a folder has two; `names` are what a template may call
    special tokens by (`eos_token`).
    """

    def __init__(
        self,
        tok: Tokenizer,
        style: str | None = "chatml",
        chat_template: str | None = None,
        tool_template: str | None = None,
        names: Mapping[str, object] | None = None,
    ) -> None:
        """Add a chat style to a tokenizer; a style of None is detected from the template."""
        super().__init__(tok.ranks, tok.special, tok.pattern, vocab_size=tok.vocab_size, **tok.flags)
        self.chat_template, self.tool_template, self.names = chat_template, tool_template, dict(names or {})
        self._given_style, self.remarks = style, tok.remarks
        written = f"{chat_template or ''} {tool_template or ''}"
        self.words = frozenset(name for name in self.words if name not in written or _is_word(name))

    def over(self, tok: Tokenizer) -> ChatTokenizer:
        """Return the same chat style over another vocabulary."""
        return ChatTokenizer(tok, self.style, self.chat_template, self.tool_template, self.names)

    @cached_property
    def _detected(self) -> templates.Detected:
        if self.chat_template is None or self._given_style is not None:
            return templates.Detected(self._given_style, None)
        return templates.detect(self, self.chat_template, TEMPLATE_STYLES, self._probe, self.names)

    def _probe(self, probe: Probe, style: str) -> list[int]:
        messages = [normal(message) for message in probe.messages]
        prompt = probe.add_generation_prompt
        return render_style(self, messages, probe.tools, STYLES[style], add_generation_prompt=prompt).ids

    @property
    def style(self) -> str | None:
        """Return the name of the style, or None where the folder's template is none of the known ones."""
        return self._detected.style

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        mask: str = "qwen",
        style: str | ChatStyle | None = None,
        thinking: bool | None = None,
        template_kwargs: TemplateKwargs | None = None,
    ) -> Rendered:
        """Return a conversation as ids with loss weights.

        Special tokens that people typed are encoded as text. `thinking` says whether answers are asked for with
        thoughts; None is the style's default. `template_kwargs` are for the folder's own template, which then renders
        the conversation. Raises a `UserError` for malformed messages, unknown styles or masks, and for what the style
        or the template cannot show."""
        table = None if style is None else get_style(style)
        template, kwargs = self._template(tools, table, thinking, template_kwargs or {})
        if template is None:
            table = table or get_style(self.style or "chatml")
            messages = check(messages, add_generation_prompt, continue_final_message, table.media_kinds)
            _check_tools(messages, tools, table)
            return render_style(
                self, messages, tools, table, mask, add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message, thinking=thinking,
            )  # fmt: skip
        messages = check(messages, add_generation_prompt, continue_final_message)
        traced = Traced(self, template, messages, tools or None, self.names, kwargs, add_generation_prompt)
        traced = traced.with_all()
        if add_generation_prompt:
            ids = encode_pieces(self, traced.pieces(), "chatml", mask).ids
            return Rendered(ids, [0.0] * len(ids), [Span(0, len(ids), "prompt", "markup")])
        return foreign_template_mask.rendered(traced, mask, continue_final_message)

    def extend(
        self,
        ids: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        style: str | ChatStyle | None = None,
        thinking: bool | None = None,
        template_kwargs: TemplateKwargs | None = None,
    ) -> Rendered:
        """Return what follows `ids`, a prompt and the answer that was sampled: turns of the user or results of tools,
        and the prompt of another answer. No id that is given is rendered anew.

        `ids` and `spans` are those of the new part, and none of it is trained. Raises a `UserError` for ids that do not
        end where a turn can follow."""
        ids = self._known_ids(ids)
        table = None if style is None else get_style(style)
        template, kwargs = self._template(tools, table, thinking, template_kwargs or {})
        if template is None:
            table = table or get_style(self.style or "chatml")
            messages = check_following(messages, table.media_kinds)
            return extend_style(self, ids, messages, table, add_generation_prompt, thinking)
        messages = check_following(messages)
        traced = Traced(self, template, messages, tools or None, self.names, kwargs, add_generation_prompt)
        return extend_template(self, ids, messages, foreign_template_mask.turn_ends(self, self.names), traced)

    def _known_ids(self, ids: Sequence[int]) -> list[int]:
        """Return ids as a list; raises a `UserError` for anything but ids of this vocabulary."""
        if isinstance(ids, str) or not isinstance(ids, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"ids = {ids!r:.60}", expected="a list of token ids")
        known: list[int] = []
        for at, id in enumerate(ids):
            if isinstance(id, bool) or not hasattr(id, "__index__") or not 0 <= operator.index(id) < self.vocab_size:
                expected = f"token ids from 0 to {self.vocab_size - 1}"
                raise UserError(f"{id!r:.40} is not a token", where=f"id {at}", expected=expected)
            known.append(operator.index(id))
        return known

    def _template(
        self, tools: Sequence[Tool] | None, style: ChatStyle | None, thinking: bool | None, kwargs: TemplateKwargs
    ) -> tuple[str | None, TemplateKwargs]:
        """Return the template that renders a conversation, or None where a style does, and what the template reads."""
        if thinking is not None and not isinstance(thinking, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"thinking = {thinking!r:.60}", expected="True, False, or None: as the style does")
        own = self.tool_template if tools and self.tool_template is not None else self.chat_template
        if kwargs:
            if style is not None:
                raise UserError("a style and variables at once", expected="one of the two: styles read no variables")
            self.check_template_kwargs(kwargs, own)
        elif style is not None or own is None or (own is self.chat_template and self._renders(own, thinking)):
            return None, {}
        if thinking is None:
            return own, kwargs
        assert own is not None
        return own, templates.with_thinking(own, thinking, kwargs)

    def _renders(self, template: str, thinking: bool | None) -> bool:
        """Return whether the folder's style renders what its template does, with or without thoughts."""
        if self.style is None or thinking is None:
            return self.style is not None
        if templates.reads(template, templates.THINKING):
            return self.style in THINKING
        return STYLES[self.style].no_think is None

    def check_template_kwargs(self, template_kwargs: TemplateKwargs, template: str | None = None) -> None:
        """Raise a `UserError` for keys that the chat template does not read: they would have no effect."""
        template = self.chat_template if template is None else template
        if template is None:
            raise UserError(
                f"variables ({', '.join(map(str, template_kwargs))}), and no chat template that would read them",
                expected="a folder with a chat template, rendered in its own style",
            )
        templates.check_kwargs(template, template_kwargs)

    def parse(self, ids_or_text: str | Iterable[int], tools: Sequence[Tool] | None = None) -> ParsedMessage:
        """Return the message that a model wrote, up to its first turn mark. No output of a model raises an error.

        The official code strips blanks, and drops the last token of an answer that was cut off; here both are kept."""
        text = ids_or_text if isinstance(ids_or_text, str) else sampled_text(self, ids_or_text)
        for mark in dict.fromkeys((IM_END, IM_START, ENDOFTEXT, *self._ends)):
            text = text.split(mark, 1)[0]
        return parse_text(text, tools)

    @property
    def im_end_id(self) -> int:
        """Return the id of `<|im_end|>`, or of the folder's end of text where it has no such token."""
        return self.end_ids[0] if IM_END not in self.special and self.end_ids else super().im_end_id

    @property
    def eot_id(self) -> int:
        """Return the id of `<|endoftext|>`, or of what the folder calls its end of text."""
        return self.end_ids[0] if ENDOFTEXT not in self.special and self.end_ids else super().eot_id

    @property
    def _ends(self) -> list[str]:
        """Return what the folder calls the end of a text, where that is one token."""
        return [name for name in (self.names.get("eos_token"),) if isinstance(name, str) and name in self.special]

    @property
    def end_ids(self) -> list[int]:
        """Return the tokens by which the folder says that a text ends."""
        return [self.special[name] for name in self._ends]

    def save(self, folder: str | Path, eos_token: str | None = None, form: str = "json") -> None:
        """Write the tokenizer with its templates, style and names as a Hugging Face folder; with `form` "tiktoken", as
        the first Qwen's."""
        more = {} if self.tool_template is None else {TOOL_USE: self.tool_template}
        style = self._given_style or self.style or ""
        save_tokenizer(self, folder, self.chat_template, eos_token, style, form, self.names, more)


def _check_tools(messages: Sequence[Message], tools: Sequence[Tool] | None, style: ChatStyle) -> None:
    """Raise a `UserError` for tools or calls in a style that would not show them."""
    called = next((index for index, message in enumerate(messages) if calls(message)), None)
    if style.tools is None and (tools or called is not None):
        what = "tools" if tools else "tool calls"
        raise ToolsNotShown(
            f"the chat style {style.name} does not show the {what}",
            where="" if tools else f"message {called}",
            expected="a style that knows of tools",
            hint='name one that does, for example style = "chatml"',
        )


def _is_word(name: str) -> bool:
    """Return whether an added token reads like a word; a template that also writes it does not make it a mark."""
    return name[0].isalnum() or name[-1].isalnum()


def load_tokenizer(
    path: str | Path, revision: str | None = None, extra_vocab: str | Path | None = None
) -> ChatTokenizer:
    """Return a tokenizer that can render chats: from a folder, a `.tiktoken` file (LF or CRLF; with the words of an
    `extra_vocab`), a tokenizer.json, a GGUF file or a model of the Hub.

    Raises a `UserError` for files that cannot be read."""
    path = tokenizer_at(resolve(path, revision, "tokenizer"))
    if extra_vocab is None and is_gguf(path):
        tok, templates, names = read_vocabulary(path)
        template = templates.get(DEFAULT)
        own = template is None or template == chatml_template()
        return ChatTokenizer(tok, "chatml" if own else None, template, templates.get(TOOL_USE), names)
    tok = load(path, extra_vocab)
    if not path.is_dir():
        return ChatTokenizer(tok, "qwen1" if path.suffix == ".tiktoken" else "chatml")
    templates, names = read_templates(path), read_names(path)
    template = templates.get(DEFAULT)
    if template is None:
        return ChatTokenizer(tok, "qwen1" if _is_first(path) else "chatml", names=names)
    style = read_config(path).get("chat_style")
    known = template == chatml_template() and isinstance(style, str) and style in STYLES and STYLES[style].published
    return ChatTokenizer(tok, style if known else None, template, templates.get(TOOL_USE), names)


def _is_first(folder: Path) -> bool:
    """Return whether the vocabulary is the first Qwen's file."""
    return not (folder / "tokenizer.json").is_file() and any(folder.glob("*.tiktoken"))
