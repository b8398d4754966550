"""Conversations: messages, ChatML rendering with loss mask, tool-call parsing (report appendix A.1). No torch here.

| file                       | what it holds                                                    |
| -------------------------- | ---------------------------------------------------------------- |
| `tokenizer.py`             | `ChatTokenizer`: render, extend, parse; how a folder is loaded   |
| `messages.py`              | a conversation, and whether a model could have had it            |
| `media.py`                 | pictures and sounds in a message                                 |
| `styles.py`                | chat styles as tables                                            |
| `pieces.py`                | a conversation as pieces of text, by the table of its style      |
| `react.py`                 | the same with ReAct tools, as the first Qwen's                   |
| `loss_mask.py`             | which pieces are trained, and with which weight                  |
| `render.py`                | pieces to ids with loss weights                                  |
| `extend.py`                | what follows ids that were sampled                               |
| `parse.py`                 | what a model wrote as a message: content, thoughts, tool calls   |
| `parse_stream.py`          | the same while the answer is still being written                 |
| `parse_parts.py`           | what both of them collect until it is a message                  |
| `json_scanner.py`          | where a JSON object that is still being written ends             |
| `stop_tokens.py`           | the tokens that end an answer                                    |
| `thoughts.py`              | the tokens around its thought                                    |
| `template.py`              | templates of other folders: run, and compared with the styles    |
| `probes.py`                | the conversations by which they are compared                     |
| `traced.py`                | a template applied, and which of its text people wrote           |
| `foreign_template_mask.py` | the loss mask that such a template places itself                 |
| `lengths.py`               | conversations longer than a training sequence, cut between turns |
| `truncation.py`            | the oldest turns dropped where a prompt does not fit             |
| `publish.py`               | a chat model's tokenizer, beside its weights                     |
| `inspect.py`               | which tokens are trained, in colours                             |
| `session.py`               | a chat with one model or several, as a value                     |
| `commands.py`              | what people type in it: `/undo`, `/set temperature 0.7`          |

Names load on first use, so that a help page costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenkit.lazy import lazy

if TYPE_CHECKING:
    from qwenkit.chat.lengths import TooLong, cut
    from qwenkit.chat.loss_mask import MASKS
    from qwenkit.chat.messages import Message
    from qwenkit.chat.parse import parse_text
    from qwenkit.chat.render import Rendered, Span
    from qwenkit.chat.stop_tokens import stop_token_ids
    from qwenkit.chat.styles import STYLES, ChatStyle
    from qwenkit.chat.thoughts import ThoughtState, ThoughtTokens, thought_tokens
    from qwenkit.chat.tokenizer import ChatTokenizer, load_tokenizer
    from qwenkit.chat.truncation import truncate_history

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
