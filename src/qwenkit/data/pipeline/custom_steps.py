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

import ast
import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, cast

from qwenkit.errors import UserError, nearest
from qwenkit.records import Row

FIXED = ("id", "source", "kind", "place")
_COLUMNS = ("text", "licence", "language", "url")
_FORM = "`module:function` or `file.py:function`"


class Drop(NamedTuple):
    """The return value of a step that drops a document: the rule that it is counted under, and a detail for the
    ledger."""

    rule: str
    detail: str = ""


Step = Callable[[Row], Row | Drop]


class StepFile(NamedTuple):
    """A custom step: its name in the recipe, its file and function, and the SHA-256 of the file."""

    name: str
    path: str
    function: str
    digest: str


def find_step(name: str) -> StepFile:
    """Return a step by its name, without running any of its code.

    Raises a `UserError` for a malformed name, a missing file or function, and a file that is not Python."""
    module, colon, function = name.rpartition(":")
    if not colon or not module or not function.isidentifier():
        raise UserError(f"not the name of a step: {name!r}", expected=_FORM)
    path = _file_of(module, name)
    data = path.read_bytes()
    try:
        defined = _defined_names(ast.parse(data, str(path)))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"not a Python file: {error}", where=f"step {name}: {path}{line}") from error
    if function not in defined:
        raise UserError(
            f"no `{function}` in this file", where=f"step {name}: {path}", nearest=nearest(function, defined),
            expected=f"def {function}(document): ...",
        )  # fmt: skip
    return StepFile(name, str(path.resolve()), function, hashlib.sha256(data).hexdigest())


def find_steps(names: Sequence[str]) -> tuple[StepFile, ...]:
    """Return all steps of a recipe in order; see `find_step`. Raises a `UserError` for a step that is named twice."""
    for name in names:
        if list(names).count(name) > 1:
            raise UserError(f"the step {name!r} is named twice", expected="each step once")
    return tuple(find_step(name) for name in names)


def _file_of(module: str, name: str) -> Path:
    if module.endswith(".py"):
        path = Path(module)
    else:
        path = Path(*module.split(".")).with_suffix(".py")
        if not path.is_file():
            path = _installed(module) or path
    if not path.is_file():
        raise UserError("no such file", where=f"step {name}: {path}", expected=_FORM)
    return path


def _installed(module: str) -> Path | None:
    """Return the source file of an installed module; packages around it are imported, the module is not."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _defined_names(tree: ast.Module) -> list[str]:
    """Return the names that a module defines, assigns or imports at its top level."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names


@lru_cache(maxsize=32)
def load_step(step: StepFile) -> Step:
    """Return a step's function; its file is run once in each process.

    Raises a `UserError` for a file that has changed since it was found, that fails, or that lacks the function."""
    path = Path(step.path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != step.digest:
        hint = "the same command begins again with what is there now"
        raise UserError("the file of this step changed while it was used", where=f"step {step.name}: {path}", hint=hint)
    spec = importlib.util.spec_from_file_location(f"qwenkit_step_{step.digest[:16]}", path)
    if spec is None or spec.loader is None:
        raise UserError("this file cannot be loaded", where=f"step {step.name}: {path}", expected="a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(step, error, "") from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, step.function)
    if not callable(function):
        raise UserError(f"`{step.function}` is not a function", where=f"step {step.name}: {path}")
    return cast(Step, function)


def apply_steps(row: Row, steps: Sequence[StepFile]) -> Drop | None:
    """Apply steps to a row of the pipeline in order; return why one of them dropped it, or None where it is kept, as
    changed.

    Raises a `UserError` with the place of the document, and of the line in the step, for a step that fails or that
    returns something else than a document or a `Drop`."""
    for step in steps:
        document = {**json.loads(row["meta"] or "{}"), **{k: row[k] for k in (*FIXED, *_COLUMNS)}}
        try:
            result = load_step(step)(document)
        except UserError:
            raise
        except Exception as error:
            raise _failed(step, error, row["place"]) from error
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


def _failed(step: StepFile, error: Exception, place: str) -> UserError:
    """Return the error of a step that failed, with the last line of its file that was reached."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == Path(step.path)]
    line = f":{frames[-1].lineno}" if frames else ""
    document = f", document {place}" if place else ""
    what = traceback.format_exception_only(error)[-1].strip()
    return UserError(f"the step failed: {what}", where=f"step {step.name}: {step.path}{line}{document}")
