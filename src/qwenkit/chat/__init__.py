"""Conversations: messages, ChatML rendering with loss mask, tool-call parsing (report appendix A.1). No torch here."""

from .lengths import TooLong, cut
from .messages import Message
from .parse import parse_text
from .render import MASKS, Rendered, Span
from .styles import STYLES
from .tokenizer import ChatTokenizer, load_tokenizer
from .window import fit, turn_ends

__all__ = [
    "MASKS",
    "STYLES",
    "ChatTokenizer",
    "Message",
    "Rendered",
    "Span",
    "TooLong",
    "cut",
    "fit",
    "load_tokenizer",
    "parse_text",
    "turn_ends",
]
