"""What a load test asks: each request is a function of its number, so that two runs ask the same.

    requests = made_requests(seed=0, prompt_tokens=Lengths(16, 256), answer_tokens=Lengths(64, 64))
    requests = read_requests(Path("prompts.jsonl"), default=Lengths(64, 64), seed=0)   # its rows again and again
    requests(17).body("chat")

A prompt is a text, a list of token ids, or a conversation. Prompts that are made begin with their number: no server
finds a prefix of one in its cache. They are of words that most vocabularies have as one token; how many tokens a prompt
really had is told by the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwenkit.errors import UserError, nearest
from qwenkit.records import numbered_jsonl
from qwenkit.rng import derive_seed, random_bits

Api = Literal["chat", "completions"]
APIS: tuple[Api, ...] = ("chat", "completions")
Messages = Sequence[Mapping[str, Any]]
MOST_TOKENS = 1_000_000
WORDS = (
    "the of and to in is that it was for on are with as his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so "
    "these would other into has more her two like him see time could no make than first been its who now people my"
).split()


@dataclass(frozen=True)
class Lengths:
    """A number of tokens, drawn evenly from `least` to `most`."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str, where: str) -> Lengths:
        """Read `64`, or `16-256`; raises a `UserError`."""
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", text)
        lengths = cls(int(match[1]), int(match[2] or match[1])) if match else cls(0, 0)
        if not 1 <= lengths.least <= lengths.most <= MOST_TOKENS:
            raise UserError(f"{text!r} is not a number of tokens", where=where, expected="such as 64, or 16-256")
        return lengths

    def draw(self, bits: int) -> int:
        """Return the length that random bits give."""
        return self.least + bits % (self.most - self.least + 1)


@dataclass(frozen=True)
class LoadRequest:
    """One request: the prompt, and how many tokens its answer may have."""

    prompt: str | Sequence[int] | None
    messages: Messages | None
    max_tokens: int

    def body(self, api: Api) -> dict[str, Any]:
        """Return the fields of the body that differ between requests; a text becomes a user's turn of a chat."""
        if api == "completions":
            return {"prompt": self.prompt, "max_tokens": self.max_tokens}
        messages = self.messages or [{"role": "user", "content": self.prompt}]
        return {"messages": messages, "max_tokens": self.max_tokens}


Requests = Callable[[int], LoadRequest]
"""The request of a number."""


def read_api(text: str, where: str) -> Api:
    """Return the API of a name; raises a `UserError`."""
    for api in APIS:
        if api == text:
            return api
    raise UserError(f"`{text}` is not an API", where=where, expected=" or ".join(APIS), nearest=nearest(text, APIS))


def made_requests(seed: int, prompt_tokens: Lengths, answer_tokens: Lengths) -> Requests:
    """Return requests that are made from a seed."""
    own = derive_seed(seed, "load")

    def make(number: int) -> LoadRequest:
        bits = [int(each) for each in random_bits(own, number, range(2))]
        count = prompt_tokens.draw(bits[0])
        words = [WORDS[int(each) % len(WORDS)] for each in random_bits(own, number, range(2, 2 + count))]
        return LoadRequest(" ".join([str(number), *words][:count]), None, answer_tokens.draw(bits[1]))

    return make


def read_requests(path: Path, default: Lengths, seed: int, api: Api = "chat") -> Requests:
    """Return the requests of a file of JSON lines: `prompt` (a text, or token ids) or `messages`, and
    `max_tokens` where the answer's length is not drawn from `default`. Raises a `UserError` that names the line."""
    rows = [_read_row(row, f"{path}, line {line}", api) for line, row in numbered_jsonl(path)]
    if not rows:
        raise UserError("no prompts in this file", where=str(path), expected='lines such as {"prompt": "Once"}')
    own = derive_seed(seed, "load")

    def make(number: int) -> LoadRequest:
        prompt, messages, most = rows[number % len(rows)]
        return LoadRequest(prompt, messages, most or default.draw(int(random_bits(own, number, 1))))

    return make


def _read_row(row: Mapping[str, Any], where: str, api: Api) -> tuple[str | list[int] | None, Messages | None, int]:
    """Return the prompt, the messages and the length of the answer (0: none is given) of a line."""
    prompt, messages, most = row.get("prompt"), row.get("messages"), row.get("max_tokens", 0)
    if (prompt is None) == (messages is None):
        raise UserError("a line with `prompt` and `messages`" if messages else "a line without a prompt", where=where,
                        expected="`prompt` or `messages`")  # fmt: skip
    if messages is not None and not _are_messages(messages):
        raise UserError(
            "`messages` are not a conversation", where=where, expected='[{"role": ..., "content": ...}, ...]'
        )
    if messages is not None and api == "completions":
        raise UserError("`messages` for the API of completions", where=where, hint="--api chat, or `prompt`")
    if prompt is not None and not isinstance(prompt, str) and not _are_ids(prompt):
        raise UserError("`prompt` is neither a string nor a list of token ids", where=where)
    if api == "chat" and isinstance(prompt, list):
        raise UserError("token ids for the API of chats", where=where, hint="--api completions")
    if type(most) is not int or not 0 <= most <= MOST_TOKENS or (most == 0 and "max_tokens" in row):
        raise UserError("`max_tokens` is not a number of tokens", where=where, expected=f"1 to {MOST_TOKENS}")
    return prompt, messages, most


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and "role" in each for each in value)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int and each >= 0 for each in value)
