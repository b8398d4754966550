"""Your own pipeline steps: functions in a file of yours, each called with every document (report §2.1).

    # my_step.py
    from qwenkit.data import Drop

    def step(document):
        if "lorem ipsum" in document["text"].lower():
            return Drop("placeholder_text")                  # counted in the funnel under this rule
        document["text"] = document["text"].replace("\t", "    ")
        return document                                      # kept, with its changes

A recipe names it by `steps = ["my_step:step"]` (a module in the working directory, or an installed one) or by `steps =
["folder/my_step.py:step"]`. Steps run after reading, text extraction, licence and language, and before deduplication:
whatever they change is deduplicated, judged and decontaminated as any other text. A document is a dict with `id`,
`text`, `source`, `kind`, `licence`, `language`, `url`, `place` and the source's own plain fields; a step may change all
but `id`, `source`, `kind` and `place`. It must be a function of the document alone (no clock, no order, no counter):
each worker calls it for other documents, and any number of workers gives the same corpus. The SHA-256 of its file is
part of the corpus's identity, so that another version of it makes another corpus; what the file imports is not checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from qwenkit.custom_functions import FunctionFile, failure, find_function, load_function
from qwenkit.errors import UserError
from qwenkit.records import Row

FIXED = ("id", "source", "kind", "place")
_COLUMNS = ("text", "licence", "language", "url")


class Drop(NamedTuple):
    """The return value of a step that drops a document: the rule that it is counted under, and a detail for the
    ledger."""

    rule: str
    detail: str = ""


StepFile = FunctionFile
"""A step: its function takes a document and returns it, changed or not, or a `Drop`."""


def find_step(name: str) -> StepFile:
    """Return a step by its name, without running any of its code; raises the `UserError`s of `find_function`."""
    return find_function(name, "step", "(document)")


def find_steps(names: Sequence[str]) -> tuple[StepFile, ...]:
    """Return all steps of a recipe in order; see `find_step`. Raises a `UserError` for a step that is named twice."""
    for name in names:
        if list(names).count(name) > 1:
            raise UserError(f"the step {name!r} is named twice", expected="each step once")
    return tuple(find_step(name) for name in names)


def apply_steps(row: Row, steps: Sequence[StepFile]) -> Drop | None:
    """Apply steps to a row of the pipeline in order; return why one of them dropped it, or None where it is kept, as
    changed.

    Raises a `UserError` with the place of the document, and of the line in the step, for a step that fails or that
    returns something else than a document or a `Drop`."""
    for step in steps:
        document = {**json.loads(row["meta"] or "{}"), **{k: row[k] for k in (*FIXED, *_COLUMNS)}}
        try:
            result = load_function(step, "step")(document)
        except UserError:
            raise
        except Exception as error:
            raise failure(step, "step", error, f"document {row['place']}") from error
        if isinstance(result, Drop):
            if not isinstance(result.rule, str) or not result.rule or not isinstance(result.detail, str):
                raise _wrong(step, row, f"returned {result!r:.60}", "Drop(rule, detail), both strings")
            return result
        _take(row, result, step)
    return None


def _take(row: Row, document: Any, step: StepFile) -> None:
    """Write what a step returned into the row."""
    if not isinstance(document, dict):
        what = f"returned {document!r:.40}"
        raise _wrong(step, row, what, "the document, changed or not, or Drop(rule)")
    for name in FIXED:
        if document.get(name) != row[name]:
            raise _wrong(step, row, f"changed `{name}`", f"{', '.join(FIXED)} as they were")
    for name in _COLUMNS:
        value = document.get(name)
        if not isinstance(value, str) and not (name == "url" and value is None):
            raise _wrong(step, row, f"`{name}` is {value!r:.40}", "a string")
        row[name] = value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
    fields = {name: value for name, value in document.items() if name not in (*FIXED, *_COLUMNS)}
    for name, value in fields.items():
        if not isinstance(value, str | int | bool) and not (isinstance(value, float) and isfinite(value)):
            raise _wrong(step, row, f"`{name}` is {value!r:.40}", "a string, a number or a boolean")
    row["meta"] = json.dumps(fields, ensure_ascii=True) if fields else None


def _wrong(step: StepFile, row: Row, what: str, expected: str) -> UserError:
    return UserError(f"the step {what}", where=f"step {step.name}, document {row['place']}", expected=expected)
