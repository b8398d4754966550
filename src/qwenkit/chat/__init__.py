"""Conversations: messages, ChatML rendering with loss mask, tool-call parsing (report appendix A.1). No torch here.

Names load on first use, so that a help page costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenkit.lazy import lazy

if TYPE_CHECKING:
    from .lengths import TooLong, cut
    from .loss_mask import MASKS
    from .messages import Message
    from .parse import parse_text
    from .render import Rendered, Span
    from .stop_tokens import stop_token_ids
    from .styles import STYLES, ChatStyle
    from .thoughts import ThoughtState, ThoughtTokens, thought_tokens
    from .tokenizer import ChatTokenizer, load_tokenizer
    from .truncation import truncate_history

_HOME = {
    "MASKS": "loss_mask",
    "STYLES": "styles",
    "ChatStyle": "styles",
    "ChatTokenizer": "tokenizer",
    "Message": "messages",
    "Rendered": "render",
    "Span": "render",
    "ThoughtState": "thoughts",
    "ThoughtTokens": "thoughts",
    "TooLong": "lengths",
    "cut": "lengths",
    "truncate_history": "truncation",
    "load_tokenizer": "tokenizer",
    "parse_text": "parse",
    "stop_token_ids": "stop_tokens",
    "thought_tokens": "thoughts",
}

__all__ = [
    "MASKS",
    "STYLES",
    "ChatStyle",
    "ChatTokenizer",
    "Message",
    "Rendered",
    "Span",
    "ThoughtState",
    "ThoughtTokens",
    "TooLong",
    "cut",
    "load_tokenizer",
    "parse_text",
    "stop_token_ids",
    "thought_tokens",
    "truncate_history",
]
__getattr__, __dir__ = lazy(__name__, _HOME)
