"""Requests as nobody should send them, made from a seed: for the fuzz test, and for `benchmarks/serve_fuzz.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/embeddings", "/tokenize", "/detokenize",
)  # fmt: skip
STRANGE_PATHS = (
    "/", "//", "/v1", "/v1/chat/completions/", "/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/models/../../etc/passwd",
    "/v1/models/\x00", "/v1/models/%00", "/v1/models/" + "x" * 3000, "/V1/CHAT/COMPLETIONS", "/v1/chat/completions;x",
    "/v1/chat\\completions", "/metrics/../health", "/openapi.json", "/docs", "/%ff%fe", "/favicon.ico", "/.env",
)  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "river?"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "The river", "max_tokens": 2},
    "/v1/responses": {"input": "river?", "max_output_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": "river?"}], "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "river?"}]},
    "/v1/embeddings": {"input": "river"},
    "/tokenize": {"prompt": "river"},
    "/detokenize": {"tokens": [1, 2, 3]},
}
FIELDS = (
    "model", "messages", "prompt", "input", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature",
    "top_p", "top_k", "n", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "logit_bias", "seed",
    "tools", "tool_choice", "response_format", "structured_outputs", "chat_template_kwargs", "reasoning_effort",
    "reasoning", "priority", "user", "echo", "suffix", "system", "thinking", "metadata", "stop_sequences", "tokens",
    "encoding_format", "dimensions", "instructions", "text", "previous_response_id", "unknown", "", "__proto__",
    "return_token_ids", "truncate_prompt_tokens", "bad_words", "allowed_token_ids", "min_p", "presence_penalty",
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "\u202e", "𝕏" * 50, "river", "<|im_end|>", "<think>", "<tool_call>", "\ud800", "a" * 2000, "null",
    "0", "-1", "١٢", "<script>alert(1)</script>", "{{ 7*7 }}", "{% for x in range(10**9) %}x{% endfor %}",
    "../../etc/passwd", "data:image/png;base64,AAAA", "http://169.254.169.254/", "file:///etc/passwd", "user", "tool",
    "system", "assistant", "function", "json_object", "json_schema", "text", "image_url", "input_text", "tool_use",
    "tool_result", "auto",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 0.5, -0.0, 1e-9, 1e308, 1e309, 2**31, 2**63, 2**64, -(2**63), 10**29, 10**40, 300, 511, 512, 513,
    float("nan"), float("inf"), True, False, None,
)  # fmt: skip
SCHEMAS: tuple[Any, ...] = (
    {}, {"type": "object"}, {"type": "nothing"}, {"$ref": "#"}, {"$ref": "#/a/b"},
    {"type": "string", "maxLength": 10**9},
    {"enum": list(range(2000))}, {"anyOf": []}, {"type": "array", "minItems": 10**6}, {"pattern": "(a+)+$"},
    {"properties": {"a": {"$ref": "http://169.254.169.254/x"}}}, {"type": "string", "pattern": "(" * 500},
)  # fmt: skip
HEADERS = (
    ("x-request-id", "a b"), ("x-request-id", "\xff"), ("content-type", "text/html"), ("content-encoding", "gzip"),
    ("authorization", "Bearer " + "x" * 2000), ("x-api-key", "\xff"), ("origin", "null"), ("origin", "http://["),
    ("host", "evil.example"), ("host", ""), ("content-length", "x"), ("accept", "*/*;q=\x01"),
    ("expect", "100-continue"),
)  # fmt: skip


@dataclass
class Sent:
    """One request, and how its client behaves."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    leaves: bool = False
    """The client leaves as soon as something comes."""


def make(random: random.Random) -> Sent:
    """One request of any kind."""
    return random.choice(KINDS)(random)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and some that are none."""
    kind = rng.randrange(7 if depth < 4 else 4)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(SCHEMAS)
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {
            rng.choice((*FIELDS, "role", "content", "type")): value(rng, depth + 1) for _ in range(rng.randrange(4))
        }
    return {"role": rng.choice(TEXTS), "content": value(rng, depth + 1)}


def _dumped(body: Any) -> bytes:
    return json.dumps(body).encode("utf-8", "surrogatepass")


def _nearly_good(rng: random.Random) -> Sent:
    path = rng.choice(PATHS)
    body = {**GOOD[path], rng.choice(FIELDS): value(rng)}
    return Sent("POST", path, _dumped(body))


def _inside(rng: random.Random) -> Sent:
    """A good body with one value exchanged somewhere inside."""
    path = rng.choice(PATHS)
    body = json.loads(json.dumps(GOOD[path]))
    at: Any = body
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = rng.choice(keys)
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.7:
            at = at[key]
            continue
        at[key] = value(rng)
        return Sent("POST", path, _dumped(body))


def _anything(rng: random.Random) -> Sent:
    return Sent("POST", rng.choice(PATHS), _dumped(value(rng)))


def _damaged(rng: random.Random) -> Sent:
    path = rng.choice(PATHS)
    data = bytearray(_dumped(GOOD[path]))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(2)] = bytes([rng.randrange(256)])
    return Sent("POST", path, bytes(data))


def _deep(rng: random.Random) -> Sent:
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
    depth = rng.choice((50, 99, 101, 1000, 100_000))
    return Sent("POST", rng.choice(PATHS), (opened * depth + "1" + closed * rng.choice((depth, 0))).encode())


def _numbers(rng: random.Random) -> Sent:
    path, digits = rng.choice(PATHS), rng.choice(("9" * 5000, "1e999", "-" + "0" * 100, "1" + "0" * 400 + ".5"))
    return Sent("POST", path, _dumped({**GOOD[path], "seed": 0})[:-2] + digits.encode() + b"}")


def _elsewhere(rng: random.Random) -> Sent:
    method = rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "X"))
    return Sent(method, rng.choice((*STRANGE_PATHS, *PATHS)), rng.choice((b"", b"{}")))


def _headers(rng: random.Random) -> Sent:
    path = rng.choice(PATHS)
    return Sent("POST", path, _dumped(GOOD[path]), dict(rng.choices(HEADERS, k=rng.randrange(1, 4))))


def _leaving(rng: random.Random) -> Sent:
    path = rng.choice(PATHS[:4])
    length = {"max_output_tokens" if path == "/v1/responses" else "max_tokens": rng.randrange(1, 40)}
    return Sent("POST", path, _dumped({**GOOD[path], **length, "stream": True}), leaves=rng.random() < 0.7)


KINDS: tuple[Callable[[random.Random], Sent], ...] = (
    _nearly_good, _nearly_good, _inside, _inside, _anything, _damaged, _deep, _numbers, _elsewhere, _headers, _leaving,
)  # fmt: skip
