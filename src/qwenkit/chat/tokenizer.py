"""`ChatTokenizer`: a tokenizer that renders conversations and reads answers (report appendix A.1).

    tok = load_tokenizer(path)                    # a folder, a .tiktoken file or a tokenizer.json
    r = tok.render(messages)                      # r.ids, r.weights, r.spans: training
    r = tok.render(messages, add_generation_prompt=True)    # a prompt
    tok.parse(answer_ids)                         # {"role": "assistant", "content": ..., "tool_calls": ...}

A file without a chat template takes its family's style: `qwen1` for `.tiktoken`, `chatml` otherwise. A folder with
a template of another style (`tok.style is None`) generates by its template; training with it is refused unless a
style is named. No system turn given means none rendered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..hub import resolve
from ..tokenizer import IM_END, IM_START, Tokenizer, chatml_template, load, read_config, read_template, save_tokenizer
from . import template as templates
from .messages import Message, check
from .parse import parse_text
from .probes import Probe
from .render import Rendered, encode_pieces
from .styles import STYLES, pieces


class ChatTokenizer(Tokenizer):
    """A tokenizer with a chat style, and its folder's chat template where there is one."""

    def __init__(self, tok: Tokenizer, style: str | None = "chatml", chat_template: str | None = None) -> None:
        super().__init__(tok.ranks, tok.special, tok.pattern, vocab_size=tok.vocab_size, **tok.flags)
        self.chat_template = chat_template
        self._given_style = style

    @cached_property
    def _detected(self) -> templates.Detected:
        if self.chat_template is None or self._given_style is not None:
            return templates.Detected(self._given_style, None)
        return templates.detect(self, self.chat_template, STYLES, self._probe)

    def _probe(self, probe: Probe, style: str) -> list[int]:
        return encode_pieces(
            self, pieces(probe.messages, probe.tools, style, probe.add_generation_prompt), style, "qwen"
        ).ids

    @property
    def style(self) -> str | None:
        """The style by name, or None where the folder's template is none of those known."""
        return self._detected.style

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        mask: str = "qwen",
        style: str | None = None,
    ) -> Rendered:
        """A conversation as ids with loss weights. User text is never parsed as special tokens."""
        check(messages, add_generation_prompt, continue_final_message)
        style = style or self.style
        if style is None and add_generation_prompt and self.chat_template is not None:
            return templates.render_ids(self, self.chat_template, messages, tools, add_generation_prompt)
        if style is None:
            raise UserError(
                "this folder's chat template is none of the styles known here, so a loss mask cannot be placed",
                where=self._detected.difference,
                expected="a template equal to " + ", ".join(STYLES),
                mend='name the style to train with, for example style = "chatml"',
            )
        if style not in STYLES:
            raise UserError(f"unknown chat style {style!r}", expected=", ".join(STYLES), nearest=nearest(style, STYLES))
        found = pieces(messages, tools, style, add_generation_prompt, continue_final_message)
        return encode_pieces(self, found, style, mask)

    def parse(self, ids_or_text: str | Iterable[int], tools: Sequence[Any] | None = None) -> dict[str, Any]:
        """The message that a model wrote, up to its first turn mark. Never raises on what a model can write. The
        authors' own reading strips blanks, and drops the last token of an answer that was cut; here both stay."""
        text = ids_or_text if isinstance(ids_or_text, str) else self._known_text(ids_or_text)
        for mark in (IM_END, IM_START, "<|endoftext|>"):
            text = text.split(mark, 1)[0]
        return parse_text(text, tools)

    def _known_text(self, ids: Iterable[int]) -> str:
        """Text of ids, padding rows shown as U+FFFD: an untrained model may well choose one."""
        known = b"".join(self._bytes.get(int(i), b"\xef\xbf\xbd") for i in ids)
        return known.decode("utf-8", "replace")

    def save(self, folder: str | Path, eos_token: str = "<|endoftext|>") -> None:
        """Write the tokenizer, with its template and style, as a Hugging Face folder."""
        save_tokenizer(self, folder, self.chat_template, eos_token, self._given_style or self.style or "")


def load_tokenizer(
    path: str | Path, revision: str | None = None, extra_vocab: str | Path | None = None
) -> ChatTokenizer:
    """A folder, a `.tiktoken` file (LF or CRLF; with the words of an `extra_vocab`), a tokenizer.json or a model of
    the Hub, ready to render."""
    path = resolve(path, revision, "tokenizer")
    tok = load(path, extra_vocab)
    if not path.is_dir():
        return ChatTokenizer(tok, "qwen1" if path.suffix == ".tiktoken" else "chatml")
    template = read_template(path)
    if template is None:
        return ChatTokenizer(tok, "chatml" if (path / "tokenizer.json").is_file() else "qwen1")
    if template == chatml_template() and read_config(path).get("chat_style") in STYLES:
        return ChatTokenizer(tok, read_config(path)["chat_style"], template)
    return ChatTokenizer(tok, None, template)
