"""TOML with the lines of its keys: recipes as they are written, and values as a recipe would write them.

    data, lines = load_toml(path)                       # lines["base", "lr"] is the line of that key
    place_of("my.toml", lines, ("base", "lr"))          # my.toml, line 12
    parse_value("[1, 2]"), toml_value([1, 2])           # what `--set` reads, and what messages and `init` write

No TOML library says where a key stands, so the lines are looked for beside what the library reads (`key_lines`). Lines
of values that were given by an option are that option's name.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from qwenkit.errors import UserError
from qwenkit.files import MEGABYTE, read_text
from qwenkit.records import LEVELS, is_deep

RECIPE_BYTES = MEGABYTE
"""The largest recipe in bytes: nobody reads more, and the lines of its keys are searched one by one."""
Lines = dict[tuple[str, ...], int | str]
"""The line of each key and table, or the option that gave it."""


def place_of(where: str, lines: Lines, path: tuple[str, ...]) -> str:
    """Return `file, line N` of a key path, or the option that gave it; else that of the nearest enclosing table."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            line = lines[path[:end]]
            return line if isinstance(line, str) else f"{where}, line {line}"
    return where


def load_toml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Return the values of a TOML file and the line of each of its keys."""
    if not os.path.lexists(path):
        raise UserError("no such recipe", where=str(path), hint="`qwenkit init my.toml --from nano` writes one")
    text = read_text(path, RECIPE_BYTES, "a recipe, which is a TOML file")
    return parse_toml(text, str(path))


_CHAIN = re.compile(rf"""\.(?:\s*[\w"'-]{{1,100}}\s*\.){{{LEVELS}}}""")
"""A key of hundreds of parts, for which the library takes quadratic time."""


def parse_toml(text: str, where: str) -> tuple[dict[str, Any], Lines]:
    """Return the values of TOML text and the line of each key; raises a `UserError` with the line for broken TOML."""
    try:
        if _CHAIN.search(text):
            raise RecursionError
        data = tomllib.loads(text)
        if is_deep(data):
            raise RecursionError
    except (ValueError, RecursionError) as error:
        if not isinstance(error, tomllib.TOMLDecodeError):
            what = "brackets too deep" if isinstance(error, RecursionError) else "a number with too many digits"
            raise UserError(f"broken TOML: {what}", where=where) from error
        match = re.search(r"at line (\d+)", str(error))
        line = match.group(1) if match else str(text.count("\n") + 1)
        message = re.sub(r"\s*\(at .*\)$", "", str(error))
        raise UserError(f"broken TOML: {_plainly(message)}", where=f"{where}, line {line}") from error
    return data, key_lines(text)


def _plainly(message: str) -> str:
    """Return the message of the library in plain words, where its own are for programmers."""
    twice = re.match(r"Cannot declare \((.*?),?\) twice", message)
    if twice:
        return f"the table [{'.'.join(_parts(twice[1]))}] is given twice"
    words = {
        "Cannot overwrite a value": "the key is given twice",
        "Invalid value": "not a TOML value; a string needs quotes",
        "Illegal character '\\n'": "the string is not closed on its line",
        "Invalid statement": "neither a [table] nor key = value",
    }
    return words.get(message, message)


_HEADER = re.compile(r"^\s*\[\[?\s*(?P<path>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(
    r"""^\s*(?P<path>(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def key_lines(text: str) -> Lines:
    """Return the line numbers of table headers and keys, which no TOML library gives. Multi-line values are skipped."""
    lines: Lines = {}
    table: tuple[str, ...] = ()
    quote, depth = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not quote and not depth:
            if header := _HEADER.match(line):
                table = _parts(header["path"])
                lines.setdefault(table, number)
                continue
            if not (key := _KEY.match(line)):
                continue
            lines.setdefault(table + _parts(key["path"]), number)
            line = line[key.end() :]
        quote, depth = _open_after(line, quote, depth)
    return lines


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(path))


_MARKS = re.compile(r"""\"{3}|'{3}|"(?:[^"\\]|\\.)*"|'[^']*'|\#.*|[\[\]{}]""")
_ENDS = {'"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*"{3,5}'), "'''": re.compile(r"(?:[^']|'(?!''))*'{3,5}")}


def _open_after(line: str, quote: str, depth: int) -> tuple[str, int]:
    """Return which quotes and how many brackets are open after a line of a value, given those before it."""
    at = 0
    while True:
        if quote:
            match = _ENDS[quote].match(line, at)
            quote = "" if match else quote
        else:
            match = _MARKS.search(line, at)
            mark = match[0] if match else ""
            quote = mark if mark in _ENDS else ""
            depth += (mark in ("[", "{")) - (mark in ("]", "}"))
        if match is None:
            return quote, depth
        at = match.end()


def parse_value(text: str) -> Any:
    """Return the value of `--set key=value`: TOML where it parses, else a plain string.

    Raises a `UserError` for comments and second lines: TOML would skip them, but they were meant to be something."""
    shown = text if len(text) < 80 else f"{text[:60]}..."
    refused = UserError(f"{toml_value(shown)} is not a value", expected="one value: no comment, line or endless number")
    if "\n" in text:
        raise refused
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError):
        raise refused from None
    try:
        tomllib.loads(f"x = [{text}]")
    except tomllib.TOMLDecodeError:
        raise refused from None
    return value


def toml_value(value: Any) -> str:
    """Return a plain value as TOML text, for messages and for recipes that `init` writes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c for c in value.replace("\\", "\\\\")
        )
        return '"' + escaped.replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in cast("Sequence[Any]", value)) + "]"
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in table.items()) + "}"
    return str(value)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one line for each value that differs, such as `threads: 2 -> 4`."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(cast("dict[str, Any]", before), cast("dict[str, Any]", after), f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {toml_value(before)} -> {toml_value(after)}")
    return lines
