"""Tasks as data: one TOML file says where the rows are, how they are asked, and how answers are scored.

    task = load_task("mmlu")                            # one of the package, or the path of a file
    for item in task.items(Path("data"), "lm-eval"): ...   # TaskItem: prompt, choices, gold, hash of the prompt

A task has one form or more, such as `qwen2023` (the scripts of the report's authors) and `lm-eval` (the LM evaluation
harness), where they ask differently; the first in the file is the default. Keys of `[ask]` hold for every form.
[evaluation.md](../../../docs/evaluation.md) describes the keys. An unknown key is refused with its line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from qwenkit.errors import UserError, nearest, within
from qwenkit.evaluation.task_data import FORMS, DataSource
from qwenkit.evaluation.task_template import parse
from qwenkit.toml_file import Lines, load_toml, place_of

if TYPE_CHECKING:
    from qwenkit.evaluation.task_items import TaskItem

FOLDER = Path(__file__).parent / "sets"
KINDS = ("choices", "greedy", "generate", "perplexity", "code", "answers")
LENGTHS = ("raw", "char", "byte", "token")
AGGREGATES = ("items", "subjects")


@dataclass(frozen=True)
class Form:
    """How a task asks. The texts are templates of `task_template`."""

    kind: str = "generate"
    """`choices` (log-probability of each), `greedy` (is the target what the model would write?), `generate`,
    `perplexity` (of whole texts), `code` (generated and run), `answers` (for a judge, without a score)."""
    intro: str = ""
    """Before the shots."""
    prompt: str = ""
    shot: str = ""
    """One solved example; by default the prompt, the delimiter and the target."""
    separator: str = "\n\n"
    """Behind every shot."""
    shots: int = 0
    choices: str | tuple[str, ...] = ()
    contexts: str | tuple[str, ...] = ()
    """One prompt for each choice, where the choices differ before the continuation and not in it."""
    gold: str = ""
    """The index of the correct choice, the right answer, or a list of those."""
    target: str = ""
    """What follows the prompt in a shot, where it is not the gold answer."""
    delimiter: str = " "
    """Between the prompt and its continuation."""
    equal_choices: bool = False
    """Whether choices may be equal, as they are in a few rows of some published sets; the first one is taken."""
    by: str = "raw"
    """Which choice counts as taken: of the highest log-probability, or per character, byte or token."""
    messages: tuple[str, ...] = ()
    """Templates of the turns of a user, for chat models; a list in a row gives several turns."""
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    aggregate: str = "items"
    """The mean over all items (micro), or over the means of subjects (macro)."""
    scorer: str = ""
    extract: str = ""
    """Which extractor finds the answer in what was written."""
    program: str = ""
    """The program to run: a template over the row and `completion`."""
    tests: str = ""
    language: str = "python"


@dataclass(frozen=True)
class Task:
    """A test set and its forms."""

    name: str
    about: str
    language: str
    citation: str
    licence: str
    rows: int
    """How many rows the published files have."""
    data: DataSource
    forms: Mapping[str, Form]
    shots: DataSource | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    """Shots that are written in the task file."""
    match: str = "subject"
    """Shots are of the item's own `subject`, or from the whole pool (an empty string)."""
    shot_id: str = ""
    """The ids of the shots to take, where they are not the first ones."""
    id: str = "{_file}/{_number}"
    subject: str = ""
    keep: str = ""
    """A template that is false for rows to leave out."""
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What a subject is called in prompts (`{_name}`), where that is not its name."""
    where: str = ""

    @property
    def default_form(self) -> str:
        """The name of the first form in the file."""
        return next(iter(self.forms))

    def form(self, name: str | None = None) -> Form:
        """Return a form by name, or the default one; a `UserError` names the nearest."""
        name = name or self.default_form
        if name not in self.forms:
            raise UserError(
                f"the task `{self.name}` has no form `{name}`", expected=", ".join(self.forms),
                nearest=nearest(name, self.forms),
            )  # fmt: skip
        return self.forms[name]

    def items(
        self, root: Path, form: str | None = None, limit: int = 0, bad: list[UserError] | None = None
    ) -> Iterator[TaskItem]:
        """Yield the items in the order of the files; `limit` (0: none) takes rows at equal distances.

        Raises `MissingData` where a file is not there. A row that does not fit is a `UserError` that names it; with a
        list `bad` it is added there, and the row is left out."""
        from qwenkit.evaluation.task_items import items

        return items(self, root, form or self.default_form, limit, bad)


_TASK_KEYS = {
    "about": str, "language": str, "citation": str, "licence": str, "rows": int, "match": str, "shot_id": str,
    "id": str, "subject": str, "keep": str,
    "data": dict, "shots": dict, "examples": list, "ask": dict, "forms": dict, "names": dict,
}  # fmt: skip
_TEXTS = ("id", "subject", "keep", "shot_id")
_FORM_TEMPLATES = ("prompt", "shot", "gold", "target", "tests", "language", "intro")


def task_names() -> list[str]:
    """Return the names of the tasks of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_task(name: str | Path) -> Task:
    """Return the task of a name in the package, or of a TOML file.

    Raises a `UserError` with file and line for unknown keys, values of another type, and broken templates."""
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in task_names():
            raise UserError(
                f"`{name}` is not a task", expected="a task of the package, or the path of a .toml file",
                nearest=nearest(str(name), task_names()),
            )  # fmt: skip
        path = FOLDER / f"{name}.toml"
    table, lines = load_toml(path)
    return _Reader(str(path), lines).task(path.stem, table)


@dataclass(frozen=True)
class _Reader:
    """Makes a task of a table, and knows where each key stands."""

    where: str
    lines: Lines

    def task(self, name: str, table: Mapping[str, Any]) -> Task:
        self.check(table, _TASK_KEYS, ())
        for key in ("about", "data", "forms", "rows", "licence", "citation"):
            if key not in table:
                raise UserError(f"a task needs `{key}`", where=self.where)
        data = self.source(table["data"], ("data",))
        shots = table.get("shots")
        plain = {
            key: table[key] for key in _TASK_KEYS if key in table and not issubclass(_TASK_KEYS[key], (dict, list))
        }
        for key in _TEXTS:
            self.template(plain.get(key, ""), (key,))
        return Task(
            name=name, data=data, forms=self.forms(table.get("ask", {}), table["forms"]),
            shots=self.source(shots, ("shots",)) if shots is not None else None,
            examples=tuple(cast("list[dict[str, Any]]", table.get("examples", []))),
            names=cast("dict[str, str]", table.get("names", {})), where=self.where,
            **{"language": "en", **plain},
        )  # fmt: skip

    def forms(self, ask: Mapping[str, Any], forms: Mapping[str, Any]) -> dict[str, Form]:
        if not forms:
            raise UserError("a task needs a form", where=place_of(self.where, self.lines, ("forms",)))
        self.form(ask, ("ask",))
        for name, table in forms.items():
            if not isinstance(table, dict):
                raise UserError(f"`{name}` is not a table", where=place_of(self.where, self.lines, ("forms", name)))
        return {name: self.form({**ask, **table}, ("forms", name)) for name, table in forms.items()}

    def form(self, table: Mapping[str, Any], path: tuple[str, ...]) -> Form:
        known = {item.name: item for item in dataclasses.fields(Form)}
        types = {name: _types(item.default) for name, item in known.items()}
        self.check(table, types, path)
        values: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in table.items()}
        for key in _FORM_TEMPLATES:
            self.template(str(values.get(key, "")), (*path, key))
        for key in ("choices", "contexts", "messages"):
            listed = values.get(key, ())
            for text in (listed,) if isinstance(listed, str) else listed:
                self.template(text, (*path, key))
        form = Form(**values)
        self.one_of(form.kind, KINDS, (*path, "kind"))
        self.one_of(form.by, LENGTHS, (*path, "by"))
        self.one_of(form.aggregate, AGGREGATES, (*path, "aggregate"))
        return form

    def source(self, table: Mapping[str, Any], path: tuple[str, ...]) -> DataSource:
        known = {item.name: item for item in dataclasses.fields(DataSource)}
        types = {name: (dict,) if name == "sha256" else _types(item.default) for name, item in known.items()}
        types["path"] = (str,)
        self.check(table, types, path)
        if "path" not in table:
            raise UserError("missing key `path`", where=place_of(self.where, self.lines, path))
        values: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in table.items()}
        source = DataSource(**values)
        self.one_of(source.form, FORMS, (*path, "form"))
        if source.path.startswith("/") or ".." in Path(source.path).parts:
            raise UserError("a path out of the folder of data", where=place_of(self.where, self.lines, (*path, "path")))
        return source

    def check(self, table: Mapping[str, Any], types: Mapping[str, Any], path: tuple[str, ...]) -> None:
        """Refuse unknown keys, and values of another type."""
        for key, item in table.items():
            where = place_of(self.where, self.lines, (*path, key))
            if key not in types:
                raise UserError(
                    f"unknown key `{key}`", where=where, expected=", ".join(types), nearest=nearest(key, types)
                )
            if not isinstance(item, types[key]) or isinstance(item, bool) != (types[key] == (bool,)):
                raise UserError(f"`{key}` is of another type", where=where, expected=_words(types[key]))
            if isinstance(item, list) and key != "examples" and not all(isinstance(part, str) for part in item):
                raise UserError(
                    f"`{key}` holds something other than strings", where=where, expected="a list of strings"
                )

    def one_of(self, item: str, known: tuple[str, ...], path: tuple[str, ...]) -> None:
        if item not in known:
            where = place_of(self.where, self.lines, path)
            raise UserError(
                f"{path[-1]} = {item!r}", where=where, expected=", ".join(known), nearest=nearest(item, known)
            )

    def template(self, text: str, path: tuple[str, ...]) -> None:
        with within(place_of(self.where, self.lines, path)):
            parse(text)


def _types(default: object) -> tuple[type, ...]:
    """Return which types of TOML a key takes, by its default: a tuple may also be one template that gives a list."""
    return (str, list) if isinstance(default, tuple) else (type(default),)


def _words(types: Any) -> str:
    names = {str: "a string", int: "an integer", bool: "true or false", dict: "a table", list: "a list"}
    return " or ".join(names[kind] for kind in (types if isinstance(types, tuple) else (types,)))
