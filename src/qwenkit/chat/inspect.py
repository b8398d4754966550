"""Show which tokens are trained: a rendered conversation coloured by loss weight, in the terminal or as a page.

    print(mask_ansi(tok.render(messages), tok))
    Path("mask.html").write_text(mask_html([tok.render(m) for m in chats], tok), encoding="utf-8")

Trained tokens are bold and green (underlined on paper), the others grey; token borders show as gaps in the page. Where
colours mean nothing, in a pipe or a file, `mask_text` puts the trained stretches between ⟦ and ⟧.
Tokens that share one character are shown together, trained if any of them is. The page needs no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from qwenkit import pages
from qwenkit.chat.render import Rendered
from qwenkit.tokenizer import Tokenizer
from qwenkit.tokenizer.show import printable, token_groups

_TRAINED, _MASKED, _RESET = "\x1b[1;32m", "\x1b[90m", "\x1b[0m"


class WeightedGroup(NamedTuple):
    """Tokens that form complete characters together, with their largest loss weight."""

    text: str
    ids: list[int]
    weight: float


def weighted_groups(rendered: Rendered, tok: Tokenizer) -> Iterator[WeightedGroup]:
    """Yield the smallest groups of tokens that are text; an incomplete character at the end shows as U+FFFD."""
    at = 0
    for text, ids in token_groups(tok, rendered.ids):
        yield WeightedGroup(text, ids, max(rendered.weights[at : at + len(ids)]))
        at += len(ids)


def mask_ansi(rendered: Rendered, tok: Tokenizer) -> str:
    """Return the conversation with terminal colours, and a line of counts."""
    body = "".join(
        (_TRAINED if group.weight else _MASKED) + printable(group.text) for group in weighted_groups(rendered, tok)
    )
    return f"{body}{_RESET}\n{_counts(rendered)}"


def mask_text(rendered: Rendered, tok: Tokenizer) -> str:
    """Return the conversation without colours, trained text in ⟦brackets⟧, and a line of counts."""
    stretches = groupby(weighted_groups(rendered, tok), key=lambda group: group.weight > 0)
    parts = ((trained, "".join(printable(group.text) for group in groups)) for trained, groups in stretches)
    body = "".join(f"⟦{text}⟧" if trained else text for trained, text in parts)
    return f"{body}\n{_counts(rendered)}"


def mask_html(rendered: Iterable[Rendered], tok: Tokenizer) -> str:
    """Return an HTML page of any number of conversations; hovering over a token shows its id and weight."""
    return pages.page("chat/mask.html", chats=[_chat_view(item, tok) for item in rendered])


def _chat_view(rendered: Rendered, tok: Tokenizer) -> dict[str, Any]:
    """Return the counts of a conversation, and of each group of tokens its text, ids and weight."""
    groups = [
        {
            "trained": group.weight > 0,
            "title": f"{_listed(group.ids)} · {group.weight:g}",
            "text": printable(group.text),
        }
        for group in weighted_groups(rendered, tok)
    ]
    return {"counts": _counts(rendered), "groups": groups}


def _listed(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def _counts(rendered: Rendered) -> str:
    """Return how many tokens are trained, and how many of those are the assistant's own words."""
    trained = sum(weight > 0 for weight in rendered.weights)
    content = sum(
        rendered.weights[i] > 0
        for span in rendered.spans
        if (span.role, span.kind) == ("assistant", "content")
        for i in range(span.start, span.stop)
    )
    words = f"{len(rendered.ids)} tokens, {trained} trained, {content} of them assistant content"
    if not rendered.untrained:
        return words
    numbers = ", ".join(map(str, rendered.untrained))
    return f"{words}; message {numbers} not trained: the template shows it otherwise than it asks for it"
