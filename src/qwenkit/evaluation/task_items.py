"""The items of a task: each row rendered as it is asked, with its shots, its choices and its correct answer.

    for item in task.items(root, "lm-eval"):
        for context, continuation in item.pairs: ...     # kinds `choices` and `greedy`: what is scored
        item.prompt, item.messages, item.stop            # what is completed or answered
        item.prompt_hash                                 # SHA-256 of everything that the model reads

A row that cannot be asked (a missing field, equal choices, a key out of range, an id that is given twice) is a
`UserError` with its file and number, or is added to the list `bad`: rows are never left out in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError, within
from qwenkit.evaluation.program_parts import program_parts
from qwenkit.evaluation.task_data import DataSource, read_rows
from qwenkit.evaluation.task_files import Form, Task
from qwenkit.evaluation.task_template import fill, value
from qwenkit.json_values import sequence
from qwenkit.records import Row, canonical


@dataclass(frozen=True)
class TaskItem:
    """One question as a model is asked it."""

    id: str
    task: str
    form: str
    ask: Form
    subject: str
    prompt: str
    gold: int | str | tuple[int, ...] | tuple[str, ...]
    """Of choices, the index of the correct one (or several); otherwise the right answer (or several)."""
    choices: tuple[str, ...] = ()
    """The texts of the choices; for the kind `greedy` the one target. The delimiter stands before each."""
    contexts: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    """The turns of the user, for chat models."""
    prompt_hash: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is scored: (context, continuation) of each choice."""
        contexts = self.contexts or (self.prompt,) * len(self.choices)
        return [(context, self.ask.delimiter + choice) for context, choice in zip(contexts, self.choices, strict=True)]


def items(task: Task, root: Path, form: str, limit: int = 0, bad: list[UserError] | None = None) -> Iterator[TaskItem]:
    """Yield the items of a task in a form; see `Task.items`."""
    ask = task.form(form)
    pool = _Shots(task, ask, root)
    rows = [row for row in read_rows(task.data, root) if _is_kept(task, row)]
    if not rows:
        raise UserError("no row is left", where=task.data.path)
    taken: set[str] = set()
    for row in _spread(rows, limit):
        try:
            with within(f"{task.name}: {row['_file']}, row {row['_number']}"):
                item = _item(task, form, ask, row, pool)
                if item.id in taken:
                    raise UserError(f"the id `{item.id}` is given twice")
        except UserError as error:
            if bad is None:
                raise
            bad.append(error)
            continue
        taken.add(item.id)
        yield item


def _is_kept(task: Task, row: Row) -> bool:
    with within(f"{task.name}: {row['_file']}, row {row['_number']}"):
        return not task.keep or bool(value(task.keep, row))


def _spread(rows: list[Row], limit: int) -> list[Row]:
    """Return `limit` rows at equal distances, so that every subject has its share; all where there are fewer."""
    if not limit or limit >= len(rows):
        return rows
    return [rows[number * len(rows) // limit] for number in range(limit)]


def _item(task: Task, form: str, ask: Form, row: Row, pool: _Shots) -> TaskItem:
    row = _named(task, row)
    subject = str(row["_subject"])
    head = pool.before(row)
    contexts = tuple(head + text for text in _texts(ask.contexts, row))
    choices = _texts(ask.choices, row)
    gold = _gold(ask, row, len(contexts or choices))
    if contexts and len(choices) == 1:
        choices *= len(contexts)
    prompt = head + fill(ask.prompt, row)
    messages = tuple(text for one in ask.messages for text in _texts(one, row))
    _check(ask, choices, contexts)
    asked = [prompt, list(contexts), [ask.delimiter, *choices], list(messages), list(ask.stop)]
    return TaskItem(
        id=fill(task.id, row), task=task.name, form=form, ask=ask, subject=subject, prompt=prompt, gold=gold,
        choices=choices, contexts=contexts, messages=messages, row=row,
        prompt_hash=hashlib.sha256(canonical(asked)).hexdigest(),
    )  # fmt: skip


def _named(task: Task, row: Row) -> Row:
    """Return a row with its subject, the subject's name, and the parts that programs are made of."""
    subject = fill(task.subject, row)
    return {**row, "_subject": subject, "_name": task.names.get(subject, subject), **program_parts(row)}


def _texts(template: str | tuple[str, ...], row: Row) -> tuple[str, ...]:
    """Return the texts that a template gives: a list of a row, or one text for each template of a list."""
    if isinstance(template, tuple):
        return tuple(fill(text, row) for text in template)
    whole = value(template, row)
    texts = [whole] if isinstance(whole, (str, int, float)) else sequence(whole)
    if not texts or not all(isinstance(text, (str, int, float)) for text in texts):
        raise UserError(f"`{template}` gives something other than strings", expected="a list of strings")
    return tuple(str(text) for text in texts)


def _check(ask: Form, choices: tuple[str, ...], contexts: tuple[str, ...]) -> None:
    if ask.kind not in ("choices", "greedy"):
        return
    if not all(choices):
        raise UserError("an empty choice")
    if ask.kind == "choices":
        options = contexts or choices
        if len(options) < 2:
            raise UserError("a multiple-choice row needs two or more choices")
        if len(set(options)) < len(options) and not ask.equal_choices:
            twice = next(text for text in options if options.count(text) > 1)
            raise UserError(f"two choices are equal: {twice!r}")


def _gold(ask: Form, row: Row, count: int) -> Any:
    """Return the index of the correct choice, or the right answer; several as a tuple."""
    if not ask.gold:
        return ""
    gold = value(ask.gold, row)
    golds = gold if isinstance(gold, list) else [gold]
    if ask.kind != "choices":
        texts = tuple(str(text) for text in golds)
        if not texts or not all(texts):
            raise UserError("an empty answer key")
        return texts if isinstance(gold, list) else texts[0]
    for index in golds:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise UserError(f"the answer key is {index!r}", expected=f"an index from 0 to {count - 1}")
    if not golds:
        raise UserError("an empty answer key")
    return tuple(golds) if isinstance(gold, list) else gold


class _Shots:
    """The solved examples before a question: read once, rendered once for each subject."""

    def __init__(self, task: Task, ask: Form, root: Path) -> None:
        self.task, self.ask = task, ask
        self.pool: dict[str, list[Row]] = {}
        self.heads: dict[str, str] = {}
        if ask.shots and not task.examples and task.shots is None:
            raise UserError(f"`{task.name}` asks for {ask.shots} shots and says not where they come from")
        if ask.shots:
            for row in self._rows(task.shots, root):
                named = _named(task, row)
                self.pool.setdefault(named["_subject"] if task.match == "subject" else "", []).append(named)

    def _rows(self, source: DataSource | None, root: Path) -> Iterator[Row]:
        if self.task.examples:
            yield from ({"_file": "", "_number": number, **row} for number, row in enumerate(self.task.examples))
        elif source is not None:
            wanted = self.task.shot_id
            yield from (row for row in read_rows(source, root) if not wanted or value(wanted, row))

    def before(self, row: Row) -> str:
        """Return what stands before a question: the introduction and the shots of its subject."""
        subject = str(row["_subject"]) if self.task.match == "subject" else ""
        key = subject if self.task.match == "subject" else fill(self.ask.intro, row)
        if key not in self.heads:
            self.heads[key] = fill(self.ask.intro, row) + self._shots(subject)
        return self.heads[key]

    def _shots(self, subject: str) -> str:
        if not self.ask.shots:
            return ""
        rows = self.pool.get(subject, [])[: self.ask.shots]
        if len(rows) < self.ask.shots:
            of = f" of `{subject}`" if subject else ""
            raise UserError(f"{len(rows)} shots{of} where {self.ask.shots} are asked for")
        return "".join(self._shot(row) + self.ask.separator for row in rows)

    def _shot(self, row: Row) -> str:
        with within(f"shot {row['_file']}, row {row['_number']}"):
            if self.ask.shot:
                return fill(self.ask.shot, row)
            return fill(self.ask.prompt, row) + self.ask.delimiter + self._target(row)

    def _target(self, row: Row) -> str:
        if self.ask.target:
            return fill(self.ask.target, row)
        choices = _texts(self.ask.choices, row) if self.ask.choices else ()
        gold = _gold(self.ask, row, len(choices))
        first = gold[0] if isinstance(gold, tuple) else gold
        return choices[first] if isinstance(first, int) else first
