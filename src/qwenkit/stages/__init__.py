"""Stages: one short file per kind, each a `Config`, a `VERSION` and one function `run(config, inputs, context)`.

A stage is wiring: it reads its inputs, calls packages with plain values and writes into `context.out`. This is the only
place where packages meet. A kind is a file of this package that says what it is, and nothing else knows it by name:

| name             | what it is                                                                                     |
| ---------------- | ---------------------------------------------------------------------------------------------- |
| `SUMMARY`        | what `qwenkit --help` says of it; the file is a kind because it has one                        |
| `EXAMPLE`        | what follows `qwenkit KIND` in the example of its help page, but for `--out`                   |
| `ORDER`          | its place among the kinds (100 where it has none)                                              |
| `VERSION`        | goes up when equal inputs give other bytes                                                     |
| `PRODUCES`       | the nouns that its artifact may be read as; an edge of another stage accepts one of them       |
| `Config`, `run`  | its keys, and its work                                                                         |
| `environment()`  | what of this machine is part of its identity                                                   |
| `VIEW`           | True: it shows other artifacts and is not part of what a run is                                |
| `CHAT_MODEL`     | True: one may talk to what it makes                                                            |
| `estimate(config, vocab_rows)`, `vocab_rows(config)` | what it will take, known before a run (`Estimate`) |
| `card_number`, `CURVES`, `claims`, `SEED_METRICS` | what the report card says of it (`stages.results`)            |
| `CARD_PARTS`     | its tables on the report card (`stages.card`)                                                  |
| `INDEX`          | the file of its artifact that says which documents each step saw (`qwenkit trace`)            |
| `ROW_CHECKS`     | what rows of `prompts` or `pairs` must have, looked at before a run                            |

The first three and `VIEW` and `CHAT_MODEL` are read from the text of the file, so that a help page loads no stage; they
stand on one line, as literals. Modules are loaded when their kind is used, and then without torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from qwenkit.errors import UserError, nearest

_LITERAL = re.compile(r"^(SUMMARY|EXAMPLE|ORDER|VIEW|CHAT_MODEL) = (.+)$", re.M)


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of node without loading it."""

    name: str
    summary: str
    example: str = ""
    order: int = 100
    view: bool = False
    chat_model: bool = False


class Kinds(MutableMapping[str, str]):
    """The kinds of nodes and their summaries, in the order of the pipeline, read from the package's files.

    `KINDS[name] = summary` adds one whose module `qwenkit.stages.NAME` comes from elsewhere.
    """

    def __init__(self) -> None:
        self._path: tuple[str, ...] = ()
        self._from_files: dict[str, Kind] = {}
        self._added: dict[str, Kind] = {}

    def all(self) -> dict[str, Kind]:
        """Return what is known of each kind without loading it."""
        path = tuple(__path__)
        if path != self._path:
            kinds = filter(None, (_read_kind(module.name) for module in pkgutil.iter_modules(path)))
            self._from_files = {kind.name: kind for kind in sorted(kinds, key=lambda kind: (kind.order, kind.name))}
            self._path = path
        return {**self._from_files, **self._added}

    def __getitem__(self, name: str) -> str:
        return self.all()[name].summary

    def __setitem__(self, name: str, summary: str) -> None:
        self._added[name] = Kind(name, summary)

    def __delitem__(self, name: str) -> None:
        del self._added[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())


KINDS = Kinds()


def _read_kind(module: str) -> Kind | None:
    """Return the kind that a module of this package is; None where it says no summary."""
    spec = importlib.util.find_spec(f"{__name__}.{module}")
    source: str = spec.loader.get_source(spec.name) if spec and spec.loader else ""  # type: ignore[attr-defined]
    literals: dict[str, Any] = {name.lower(): ast.literal_eval(value) for name, value in _LITERAL.findall(source or "")}
    return Kind(module, **literals) if "summary" in literals else None


def is_view(kind: str) -> bool:
    """Return whether artifacts of a kind only show others, and are not a part of what a run is."""
    return kind in views()


def views() -> frozenset[str]:
    """Return the kinds whose artifacts only show others."""
    return frozenset(kind.name for kind in KINDS.all().values() if kind.view)


def is_chat_model(kind: str) -> bool:
    """Return whether one may talk to what a kind makes."""
    return kind in KINDS and KINDS.all()[kind].chat_model


def produces(kind: str | None) -> tuple[str, ...]:
    """Return what the artifact of a kind may be read as; nothing is known of a kind that is none of ours."""
    return getattr(load_stage(kind), "PRODUCES", ()) if kind is not None and kind in KINDS else ()


def seed_metrics(kind: str) -> tuple[str, ...]:
    """Return the metrics of a kind that a report tells seed by seed; none for a kind that is none of ours."""
    return getattr(load_stage(kind), "SEED_METRICS", ()) if kind in KINDS else ()


def load_stage(kind: str, where: str | None = None) -> ModuleType:
    """Return the module of a kind; raises a `UserError` with the nearest name for an unknown one."""
    if kind not in KINDS:
        raise UserError(
            f"unknown kind `{kind}`", where=where, expected="one of " + ", ".join(KINDS), nearest=nearest(kind, KINDS)
        )
    return importlib.import_module(f"{__name__}.{kind}")
