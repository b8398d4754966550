"""How well vocabularies compress, language by language, as Figure 3 of the report; and what of them is never used.

    report = measure({"qwen": tok, "mine": longer}, {"en": [...], "zh": [...], "code": [...]}, baseline="qwen")
    print(markdown(report))

The report compares a million documents of each language and sets XLM-R's tokenizer to 1; here the baseline is chosen
and so are the texts. Two numbers for each cell: bytes of UTF-8 per token (more is better), and tokens relative to the
baseline (Figure 3: less is better), both ratios of sums with bootstrap intervals over documents. Every tokenizer gets
the same documents, so the relative number is paired.

Caveats. An interval says how far other documents *of this kind* could move the number. Rarely used tokens are rare in
these texts: a few megabytes leave most of a large vocabulary unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenkit.errors import UserError, nearest
from qwenkit.records import Row
from qwenkit.statistics import Interval, ratio_interval
from qwenkit.tokenizer.core import Tokenizer
from qwenkit.tokenizer.vocabulary import Coder, composition, unreachable

Progress = Callable[[int, int, str], None]
_BATCH = 256
_SHOWN = 24


@dataclass(frozen=True)
class Cell:
    """One tokenizer on one language."""

    tokenizer: str
    group: str
    documents: int
    bytes: int
    tokens: int
    bytes_per_token: Interval
    relative: Interval


@dataclass(frozen=True)
class Inventory:
    """One vocabulary: its scripts, and which regular tokens these texts use rarely, never, or could never use."""

    tokenizer: str
    size: int
    scripts: dict[str, int]
    never: list[int]
    rare: list[int]
    unreachable: list[int] | None
    """None for a tokenizer that is not the package's own."""
    examples: dict[str, list[str]]


@dataclass(frozen=True)
class Report:
    """All measurements of several tokenizers."""

    baseline: str
    rare_below: int
    cells: list[Cell]
    inventories: list[Inventory]

    @property
    def tokenizers(self) -> list[str]:
        """Return the names of the tokenizers, in order."""
        return list(dict.fromkeys(cell.tokenizer for cell in self.cells))

    @property
    def groups(self) -> list[str]:
        """Return the languages and other groups of texts, in order."""
        return list(dict.fromkeys(cell.group for cell in self.cells))

    def of(self, tokenizer: str, group: str) -> Cell:
        """Return the cell of a tokenizer and a group."""
        return next(cell for cell in self.cells if (cell.tokenizer, cell.group) == (tokenizer, group))

    def plain(self) -> Row:
        """Return the report as JSON values, with the ids of all tokens of which tables show only examples."""
        cells = [
            vars(cell) | {"bytes_per_token": cell.bytes_per_token._asdict(), "relative": cell.relative._asdict()}
            for cell in self.cells
        ]
        inventories = [vars(each) for each in self.inventories]
        return {"baseline": self.baseline, "rare_below": self.rare_below, "cells": cells, "vocabularies": inventories}


def measure(
    tokenizers: Mapping[str, Coder],
    texts: Mapping[str, Sequence[str]],
    baseline: str,
    rare_below: int = 3,
    progress: Progress | None = None,
) -> Report:
    """Encode all documents with every tokenizer and return the counts. Documents without text are left out."""
    if baseline not in tokenizers:
        raise UserError(
            f"the baseline {baseline!r} is none of the tokenizers",
            expected=", ".join(tokenizers),
            nearest=nearest(baseline, tokenizers),
        )
    texts = {group: [text for text in documents if text] for group, documents in texts.items()}
    sizes = {
        group: np.array([len(text.encode()) for text in documents], np.int64) for group, documents in texts.items()
    }
    if empty := [group for group, size in sizes.items() if not size.sum()]:
        raise UserError(f"no text of {', '.join(empty)}", expected="documents with text in them")
    counts: dict[str, dict[str, Counts]] = {}
    used: dict[str, Counts] = {}
    for number, (name, tok) in enumerate(tokenizers.items()):
        counts[name], used[name] = _encode(tok, texts, name, number, len(tokenizers), progress)
    cells = [
        _cell(name, group, sizes[group], counts[name][group], counts[baseline][group])
        for group in texts
        for name in tokenizers
    ]
    inventories = [_inventory(name, tok, used[name], rare_below) for name, tok in tokenizers.items()]
    return Report(baseline, rare_below, cells, inventories)


Counts = npt.NDArray[np.int64]


def _encode(
    tok: Coder, texts: Mapping[str, Sequence[str]], name: str, number: int, of: int, progress: Progress | None
) -> tuple[dict[str, Counts], Counts]:
    """Return the tokens of each document, and how often each id occurs."""
    used = np.zeros(1 + max(tok.tokens()), np.int64)
    counts: dict[str, Counts] = {}
    total, done = sum(map(len, texts.values())), 0
    for group, documents in texts.items():
        lengths: list[int] = []
        for start in range(0, len(documents), _BATCH):
            batch = tok.encode_batch(list(documents[start : start + _BATCH]))
            flat = np.fromiter((i for ids in batch for i in ids), np.int64)
            used += np.bincount(flat[flat < len(used)], minlength=len(used))
            lengths += [len(ids) for ids in batch]
            done += len(batch)
            if progress is not None:
                progress(number * total + done, of * total, f"{name}: {group}")
        counts[group] = np.array(lengths, np.int64)
    return counts, used


def _cell(name: str, group: str, sizes: Counts, tokens: Counts, base: Counts) -> Cell:
    per_token = ratio_interval(sizes.tolist(), tokens.tolist())
    relative = ratio_interval(tokens.tolist(), base.tolist())
    return Cell(name, group, len(sizes), int(sizes.sum()), int(tokens.sum()), per_token, relative)


def _inventory(name: str, tok: Coder, used: Counts, rare_below: int) -> Inventory:
    tokens = tok.tokens()
    ids = sorted(tokens)
    lists = {
        "never": [i for i in ids if used[i] == 0],
        "rare": [i for i in ids if 0 < used[i] < rare_below],
        "unreachable": unreachable(tok) if isinstance(tok, Tokenizer) else [],
    }
    examples = {key: [shown(tokens[i]) for i in spread(group, _SHOWN)] for key, group in lists.items()}
    known = lists["unreachable"] if isinstance(tok, Tokenizer) else None
    return Inventory(name, len(ids), composition(tokens.values()), lists["never"], lists["rare"], known, examples)


def spread(ids: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the ids, evenly from the first to the last."""
    step = max(1, -(-len(ids) // count))
    return list(ids[::step])


def shown(token: bytes) -> str:
    """Return a token for people: quotes show its spaces, bytes that are not text are in hexadecimal."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return token.hex(" ")


# ---- as text --------------------------------------------------------------------------------------------------------

Table = tuple[str, list[str], list[list[str]]]


def tables(report: Report) -> list[Table]:
    """Return the report as tables: (title, head, rows)."""
    names, groups = report.tokenizers, report.groups
    return [
        (
            "Bytes per token (more is better)",
            ["text", "documents", "MB", *names],
            [
                [
                    group,
                    str(report.of(names[0], group).documents),
                    f"{report.of(names[0], group).bytes / 1e6:.2f}",
                    *(_interval(report.of(name, group).bytes_per_token) for name in names),
                ]
                for group in groups
            ],
        ),
        (
            f"Tokens relative to {report.baseline} (less is better)",
            ["text", *names],
            [[group, *(_interval(report.of(name, group).relative) for name in names)] for group in groups],
        ),
        ("Vocabulary by script", ["script", *names], _scripts(report.inventories)),
        (
            "Tokens that these texts hardly use",
            ["vocabulary", "regular tokens", "never", f"fewer than {report.rare_below} times", "could never"],
            [
                [each.tokenizer, str(each.size), str(len(each.never)), str(len(each.rare)), _known(each.unreachable)]
                for each in report.inventories
            ],
        ),
        (
            "Some of them",
            ["vocabulary", "which", "tokens"],
            [
                [each.tokenizer, which, " ".join(words)]
                for each in report.inventories
                for which, words in each.examples.items()
                if words
            ],
        ),
    ]


def _scripts(inventories: Sequence[Inventory]) -> list[list[str]]:
    scripts = {script for each in inventories for script in each.scripts}
    order = sorted(scripts, key=lambda script: ([-each.scripts.get(script, 0) for each in inventories], script))
    return [[name, *(str(each.scripts.get(name, 0)) for each in inventories)] for name in order]


def _known(ids: list[int] | None) -> str:
    return "?" if ids is None else str(len(ids))


def _interval(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.mean:.3f} [?]"
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def markdown(report: Report) -> str:
    """Return the report in Markdown."""
    parts: list[str] = []
    for title, head, rows in tables(report):
        lines = [head, ["---"] * len(head), *rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts.append(f"## {title}\n\n{body}\n")
    return "# Compression by tokenizer and language\n\n95 % intervals over documents.\n\n" + "\n".join(parts)
