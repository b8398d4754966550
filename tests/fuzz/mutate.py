"""One mutator for all readers: of JSON, TOML and JSONL by their structure, of everything by its bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**18), 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x",
    "\0", "\x1b[2J", "[/x]", "\u202e", "\ud800", "a" * 5000, "../../x", "/dev/zero", "中", "\U0001f600", [], {}, [[]],
    [None], [0], ["a"], {"a": 1}, {"": None}, [[1, 2], [3]],
)  # fmt: skip
TEXTS = (
    b"", b"\0", b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b'{"x":' + b"9" * 5000 + b"}", b"\xff\xfe{\0}\0", b"null",
    b"\xef\xbb\xbf{}", b"[]", b"{}", b'"x"', b"NaN", b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b"\r\n", b"\n" * 100,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
)  # fmt: skip
Mutate = Callable[[random.Random, bytes], bytes]


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, cut out, doubled, put in, or the end cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, size = rng.randrange(len(out) + 1), rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = out[at : at + size]
            case 3:
                out[at:at] = rng.randbytes(size)
            case 4:
                out[at : at + size] = rng.choice((b"\xff", b"\0", b"\x7f", b"9")) * size
            case _:
                del out[at:]
    return bytes(out)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found, waiting = [], [value]
    while waiting:
        held = waiting.pop()
        keys = list(held) if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else []
        found += [(held, key) for key in keys]
        waiting += [held[key] for key in keys]
    return found


def mutated_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with keys dropped, renamed and doubled, and values of other kinds."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(value)
        if not places:
            return rng.choice(ODD)
        held, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del held[key]
            case 1 if isinstance(held, dict):
                held[rng.choice(("", "\0", key + "x", "a" * 300, "\u202e"))] = held.pop(key)
            case 2 if isinstance(held, list):
                held.append(copy.deepcopy(held[key]))
            case 3:
                deep: Any = held[key]
                for _ in range(rng.choice((1, 5, 150, 300))):
                    deep = [deep]
                held[key] = deep
            case 4:
                other, from_key = rng.choice(places)
                held[key] = copy.deepcopy(other[from_key])
            case _:
                held[key] = copy.deepcopy(rng.choice(ODD))
    return value


def mutated_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file, changed by its structure, by its bytes, or another file altogether."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind < 3:
        return mutated_bytes(rng, data)
    text = json.dumps(mutated_value(rng, json.loads(data)))
    if kind == 3:
        text = text.replace('": ', f'": {"9" * rng.choice((20, 400, 5000))}', 1)
    return text.encode()


def mutated_lines(rng: random.Random, data: bytes) -> bytes:
    """A file of JSON lines: one line changed, doubled, or put elsewhere; or its end torn."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 1:
            lines[at] = rng.choice(TEXTS)
        case 2:
            return data[: rng.randrange(len(data))]
        case _ if lines[at].strip():
            lines[at] = mutated_json(rng, lines[at])
        case _:
            return mutated_bytes(rng, data)
    return b"\n".join(lines)


def mutated_toml(rng: random.Random, data: bytes) -> bytes:
    """A recipe: a line dropped, doubled or moved, a value of another kind, or its bytes changed."""
    lines = data.decode().split("\n")
    at = rng.randrange(len(lines))
    values = ("nan", "inf", "-1", "1e400", "9" * 400, "true", '""', '"[/x]"', '"\\u0000"', "[]", "{}", "[[1]]", "x",
              "1979-05-27", '"' + "a/" * 300 + '"', "[" * 300 + "]" * 300, '"\\u001b[2J"', '["a"]')  # fmt: skip
    match rng.randrange(8):
        case 0:
            del lines[at]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 2:
            return mutated_bytes(rng, data)
        case 3:
            lines[at] = rng.choice(("a" + ".a" * 500 + " = 1", "[[x]]", "[a.b.c]", "\0", "=", "\ufeff", "a = '''"))
        case _:
            key = lines[at].partition("=")[0].strip()
            lines[at] = f"{key or 'title'} = {rng.choice(values)}"
    return "\n".join(lines).encode()


def mutated_template(rng: random.Random, data: bytes) -> bytes:
    """A template: parts of it changed for expressions that ask for much, or are none."""
    asked = ("{{ 1/0 }}", "{% for i in range(99) %}", "{% endfor %}", "{{ messages }}", "{{ messages[9].x.y }}",
             "{{ 'a' * 9999 }}", "{% if x %}", "{% endif %}", "{{ [1]|slice(0)|list }}", "{{ none + 1 }}", "{%", "{{ ",
             "{{ 'é'.encode('ascii') }}", "{{ 'x'|round }}", "{{ 9.0**9999 }}", "{% macro r() %}{{ r() }}{% endmacro %}"
             "{{ r() }}", "{% include 'x' %}", "{{ raise_exception(1) }}",
             "{{ messages|tojson(indent='x') }}")  # fmt: skip
    text, at = data.decode(), rng.randrange(len(data.decode()) + 1)
    if rng.randrange(3) == 0:
        return mutated_bytes(rng, data)
    return (text[:at] + rng.choice(asked) + text[at + rng.choice((0, 0, 1, 5)) :]).encode()
