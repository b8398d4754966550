"""Parts of the documentation that the code knows better: keys of every stage, commands, the Python API, alarms, the
rubric, sizes of the world, recipes and the report's values in them.

    python -m tests.docs.pages        # writes them into the pages, between `<!-- table NAME -->` and `<!-- end -->`

`test_pages.py` fails when a page is not what this would write, so none of them can drift from the code.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from qwenkit.config import StageConfig, default_text
from qwenkit.evaluation.task_files import load_task, task_names
from qwenkit.evaluation.task_template import FILTERS
from qwenkit.lineage.estimate import offered
from qwenkit.schema import renamed_keys
from qwenkit.stages import KINDS, load_stage, produces
from qwenkit.stages.results import short
from qwenkit.toml_file import toml_value
from tests.docs import faces
from tests.lineage.report_values import FULL_SIZE, VALUES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROLES = ("edge", "content", "runtime")
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
WORDS = {"Any": "value", "str": "string", "int": "integer", "float": "number", "bool": "true or false"}
_TABLE = re.compile(r"(<!-- table (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.S)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def keys(kind: str) -> str:
    """All keys of a stage: edges first, then what changes the artifact, then what does not."""
    config: type[StageConfig] = load_stage(kind).Config
    names = sorted(config.key_names(), key=lambda name: (ROLES.index(config.role(name)), name == "seed"))
    return table(("key", "role", "values", "default", "what"), (_key(config, name) for name in names))


def _key(config: type[StageConfig], name: str) -> list[str]:
    field = config.model_fields[name]
    default = "required" if field.is_required() else f"`{default_text(config, name)}`"
    return [f"`{name}`", config.role(name), _values(config, name), default.replace("``", "-"), field.description or ""]


def _values(config: type[StageConfig], name: str) -> str:
    """The type and the limits of a key in words."""
    field = config.model_fields[name]
    if config.role(name) == "edge":
        if config.from_hub(name):
            return "nodes, paths or `org/name`s" if config.takes_many(name) else "a node, a path or `org/name`"
        return "nodes or paths" if config.takes_many(name) else "a node or a path"
    limits = [
        f"{sign} {_number(getattr(limit, attribute))}"
        for limit in field.metadata
        for attribute, sign in SIGNS.items()
        if hasattr(limit, attribute)
    ]
    return " ".join([_type(field.annotation), ", ".join(limits)]).strip()


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if value == 2**power >= 2**16 else f"{value:g}"


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{option}`" for option in inner)
    if origin is Annotated:
        return _type(inner[0])
    if origin is list:
        return f"list of {_several(_type(inner[0]))}"
    if origin is dict:
        return f"table of {_several(_type(inner[1]))}"
    if origin in (Union, types.UnionType):
        return _type(next(option for option in inner if option is not type(None)))
    return WORDS[annotation.__name__]


def _several(kind: str) -> str:
    return kind.replace("list of", "lists of") if kind.startswith("list of") else f"{kind}s"


def alarms() -> str:
    """Every alarm of the sentinel."""
    from qwenkit.training import ALARMS

    rows = (
        [f"`{a.id}`", a.action, f"`{a.metric}`", f"{a.threshold:g}", str(a.patience), a.condition, a.cause, a.hint]
        for a in ALARMS.values()
    )
    return table(("id", "action", "metric", "threshold", "patience", "fires when", "cause", "hint"), rows)


def rubric() -> str:
    """The weights of the true rubric; what each part means is the module's own table."""
    from qwenkit.evaluation import rubric as module

    meanings = dict(re.findall(r"^\| (\w+) +\|[^|]*\|[^|]*\| (.*?) *\|$", module.__doc__ or "", re.M))
    rows = (
        [f"`{part}`", f"{weight:.2f}", f"{module.WEIGHTS_WRONG.get(part, 0.0):.2f}", meanings[part]]
        for part, weight in module.WEIGHTS_RIGHT.items()
    )
    return table(("part", "weight if right", "weight if wrong", "1.0 means"), rows)


def scales() -> str:
    """How much the world holds at each scale."""
    from qwenkit.nano import SCALES

    sizes = {name: asdict(scale) for name, scale in SCALES.items()}
    names = next(iter(sizes.values()))
    rows = ([f"`{name}`", *(f"{size[name]:,}" for size in sizes.values())] for name in names)
    return table(("rows of", *(f"`{name}`" for name in sizes)), rows)


def recipes() -> str:
    """The recipes of the package."""
    rows = ([f"`{row['recipe']}`", *_size(row), row["about"]] for row in offered())
    return table(("recipe", "parameters", "tokens", "FLOPs of `base`", "what it makes"), rows)


def _size(row: dict[str, Any]) -> list[str]:
    if row["flops"] is None:
        return ["the model's", "your chats", ""]
    return [short(row["parameters"]), short(row["tokens"]), f"{row['flops']:.1e}"]


def report_values() -> str:
    """Every value of the report that is a key, at each size."""
    rows = (
        [value.source, value.what, f"`{value.node}.{value.key}`", *(_written(value.of(size)) for size in FULL_SIZE)]
        for value in VALUES
    )
    return table(("source", "what", "key", *(f"`{size}`" for size in FULL_SIZE)), rows)


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else toml_value(value)


def kinds() -> str:
    """Return the table of all kinds of nodes."""
    rows = (
        [f"[`{kind}`](stages/{kind}.md)", about, ", ".join(f"`{noun}`" for noun in produces(kind))]
        for kind, about in KINDS.items()
    )
    return table(("kind", "what it does", "what its artifact may be read as"), rows)


def renamed() -> str:
    """Return the keys that schema 2 renamed, the same in several kinds once."""
    places: dict[tuple[str, str], list[str]] = {}
    for kind in KINDS:
        for old, new in renamed_keys(kind).items():
            places.setdefault((old, new), []).append(kind)
    rows = (
        [f"`{old}`", f"`{new}`", "every kind" if len(kinds) == len(KINDS) else ", ".join(f"`{kind}`" for kind in kinds)]
        for (old, new), kinds in places.items()
    )
    return table(("schema 1", "schema 2", "of"), rows)


def tasks() -> str:
    """The test sets that come with the package."""
    rows: list[list[str]] = []
    for name in task_names():
        task = load_task(name)
        forms = ", ".join(f"`{form}` ({shots(task.forms[form].shots)})" for form in task.forms)
        ask = task.form()
        how = {"choices": f"choices by {ask.by}", "greedy": "greedy"}.get(ask.kind, ask.scorer or ask.kind)
        rows.append([f"`{name}`", task.about, str(task.rows), forms, how, task.citation, task.licence])
    return table(("task", "what", "rows", "forms (shots)", "score", "source", "licence"), rows)


def shots(count: int) -> str:
    """Return a number of shots for the table."""
    return str(count) if count else "zero"


def task_keys() -> str:
    """The keys of a form in a task file, from the comments of the class that holds them."""
    tree = ast.parse((ROOT / "src/qwenkit/evaluation/task_files.py").read_text("utf-8"))
    form = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Form")
    rows: list[list[str]] = []
    for node, after in zip(form.body, [*form.body[1:], None]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            default = toml_value(ast.literal_eval(node.value))
            rows.append([f"`{node.target.id}`", f"`{default}`", " ".join(str(text).split())])
    return table(("key", "default", "what"), rows)


def filters() -> str:
    """The names of the filters."""
    return ", ".join(f"`{name}`" for name in FILTERS) + ".\n"


TABLES = {
    "alarms": alarms, "rubric": rubric, "scales": scales, "recipes": recipes, "report values": report_values,
    "kinds": kinds, "command names": faces.command_names, "renamed keys": renamed, "commands": faces.commands,
    "api": faces.api, "tasks": tasks, "task keys": task_keys, "filters": filters,
}  # fmt: skip


def make(name: str) -> str:
    """The table of a name: `keys KIND`, or one of `TABLES`."""
    what, _, kind = name.partition(" ")
    return keys(kind) if what == "keys" else TABLES[name]()


def names(text: str) -> list[str]:
    """The tables that a page holds."""
    return [found["name"] for found in _TABLE.finditer(text)]


def filled(text: str) -> str:
    """The page with its tables as the code has them."""
    return _TABLE.sub(lambda found: found[1] + make(found["name"]) + found[3], text)


def all_pages() -> list[Path]:
    """Return the pages beside the code and every page of the documentation."""
    names = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md")
    return [*(ROOT / name for name in names), *sorted(DOCS.rglob("*.md"))]


def stage_page(kind: str) -> Path:
    """The page of a stage."""
    assert kind in KINDS
    return DOCS / "stages" / f"{kind}.md"


if __name__ == "__main__":
    for page in all_pages():
        before = page.read_text(encoding="utf-8")
        if filled(before) != before:
            page.write_text(filled(before), encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
