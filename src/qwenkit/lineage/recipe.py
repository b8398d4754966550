"""A recipe: a TOML file whose top-level keys belong to the run and whose tables are nodes. Read top to bottom it is
Figure 1 of the report.

A table's `kind` is its name unless given. Keys that name another node are edges. A reference is a node's name, a path,
or `org/name`; one that could be two of these is an error that names both.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from qwenkit import platform
from qwenkit.artifacts import LONGEST_NAME, MANIFEST, is_node_name
from qwenkit.config import StageConfig, validate
from qwenkit.errors import UserError, nearest, within
from qwenkit.hub import meant
from qwenkit.lineage.recipe_keys import apply_change, current_keys, name_edges, parse_change, upgrade_tables
from qwenkit.records import Row, read_object
from qwenkit.schema import SCHEMA, frozen_names
from qwenkit.stages import KINDS, load_stage, produces
from qwenkit.toml_file import Lines, load_toml, parse_toml, place_of, toml_value

RUN_KEYS = {"schema": int, "seed": int, "device": str, "threads": int, "out": str, "title": str, "about": str,
            "accept_unknown": list, "deterministic": bool}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One table of a recipe. `inputs` maps input names to what they refer to: ("node", name), ("path", path) or ("hub",
    reference); `places` maps their keys to where they are written. `absent` are the complaints about paths that are not
    there yet: a run refuses them, a plan shows them."""

    name: str
    kind: str
    config: StageConfig
    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    absent: list[UserError] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def identity(self) -> Row:
        """Return the settings that decide the result, defaults included, under the names of schema 1: those names never
        change."""
        return frozen_names(self.kind, self.config.identity())

    def parents(self) -> list[str]:
        """Return the names of the nodes that this one reads, in order, each once."""
        return list(dict.fromkeys(target for kind, target in self.inputs.values() if kind == "node"))

    def from_hub(self) -> dict[str, str]:
        """Return the Hub models that the node reads, and what it needs of each: `model` or `tokenizer`."""
        config = type(self.config)
        named = ((key.split(".")[0], target) for key, (kind, target) in self.inputs.items() if kind == "hub")
        return {target: config.from_hub(key) for key, target in named}

    def data_keys(self) -> list[str]:
        """Return the keys that name something outside the run."""
        return list(dict.fromkeys(key.split(".")[0] for key, (kind, _) in self.inputs.items() if kind == "path"))


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: settings of the run and its nodes in an order in which they can run."""

    source: str
    seed: int
    device: str
    threads: int
    out: Path
    title: str
    about: str
    nodes: dict[str, Node]
    accept_unknown: tuple[str, ...] = ()
    """Unknown keys of a model's config.json that have no effect: they are ignored."""
    deterministic: bool | None = None
    """Whether kernels must give the same bits each time; None: on a CPU only, where that costs nothing."""
    device_place: str = ""
    """The file, and the line of the key `device` where it has one."""


def packaged() -> dict[str, Path]:
    """Return the recipes that come with the package, name to file."""
    folder = Path(str(importlib.resources.files("qwenkit.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def recipe_text(name: str) -> str:
    """Return the text of a recipe that comes with the package; raises a `UserError` for another name."""
    if name not in packaged():
        raise UserError(
            f"no recipe `{name}`",
            expected="a .toml file, or one of " + ", ".join(packaged()),
            nearest=nearest(name, packaged()),
        )
    return packaged()[name].read_text(encoding="utf-8")


def own_copy(name: str, path: Path, changes: list[str] | None = None) -> str:
    """Return the text of a packaged recipe as a user's own in the file `path`: its title and run folder are named after
    the file.

    `--set` changes are written where their keys are, or first in their table."""
    text, where = recipe_text(name), f"recipe {name}"
    data, lines = name_edges(*parse_toml(text, where), where)
    wanted: dict[tuple[str, ...], Any] = {("title",): path.stem, ("out",): f"runs/{path.stem}"}
    for change in changes or []:
        keys, value = parse_change(data, change)
        wanted[current_keys(data, keys, f"--set {change}", value)] = value
    rows = text.split("\n")
    for keys, value in sorted(wanted.items(), key=lambda item: _line(lines, item[0]), reverse=True):
        at, written = _line(lines, keys), f"{keys[-1]} = {toml_value(value)}"
        rows[at - 1 : at] = [written] if keys in lines else [rows[at - 1], written]
    text = "\n".join(rows)
    build(*parse_toml(text, where), where, path.parent)
    return text


def _line(lines: Lines, keys: tuple[str, ...]) -> int:
    """Return the line of a key, or else that of its table's header or of the first key of all."""
    return next(int(lines[place]) for place in (keys, keys[:-1], ("schema",)) if place in lines)


def load_recipe(source: str, changes: list[str] | None = None) -> Recipe:
    """Return a recipe by name or by path, with `--set key=value` changes applied; a folder `nano` does not hide the
    recipe `nano`.

    Raises a `UserError` with the line of every mistake."""
    path = Path(source)
    if source not in packaged() and (source.endswith(".toml") or path.exists()):
        data, lines = load_toml(path)
        base = path.parent
    else:
        data, lines = parse_toml(recipe_text(source), f"recipe {source}")
        source, base = f"recipe {source}", Path()
    data, lines = name_edges(data, lines, source)
    typed: dict[tuple[str, ...], str] = {}
    for change in changes or []:
        apply_change(data, change, lines, typed)
    return build(data, lines, source, base)


def build(data: Row, lines: Lines, source: str, base: Path) -> Recipe:
    """Return a checked recipe of parsed TOML: run keys, kinds, configs, references and cycles are checked."""
    data, lines = name_edges(data, lines, source)
    run = {key: value for key, value in data.items() if not isinstance(value, dict)}
    tables: dict[str, dict[str, Any]] = {key: value for key, value in data.items() if isinstance(value, dict)}
    _check_run(run, source, lines)
    if not tables:
        raise UserError("the recipe has no nodes", where=source, expected="at least one table, like [tokenizer]")
    tables, lines = upgrade_tables(tables, lines, run.get("schema"), source)
    nodes = {name: _node(name, table, tables, source, lines, base) for name, table in tables.items()}
    return Recipe(
        source=source,
        seed=run.get("seed", 1),
        device=run.get("device", "cpu"),
        threads=run.get("threads", 0),
        out=Path(run.get("out", f"runs/{_stem(source)}")),
        title=run.get("title", _stem(source)),
        about=run.get("about", ""),
        nodes=_ordered(nodes, source, lines),
        accept_unknown=tuple(run.get("accept_unknown", ())),
        deterministic=run.get("deterministic"),
        device_place=place_of(source, lines, ("device",)),
    )


def _stem(source: str) -> str:
    return Path(source.removeprefix("recipe ")).stem


def _check_run(run: dict[str, Any], source: str, lines: Lines) -> None:
    for key, value in run.items():
        place = place_of(source, lines, (key,))
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in cast("list[Any]", value)):
            raise UserError(f"`{key}` is a list of tables", where=place, expected=f"one table for each node: [{key}]")
        if key not in RUN_KEYS:
            known = [*RUN_KEYS, *KINDS]
            raise UserError(
                f"unknown key `{key}`",
                where=place,
                expected="one of " + ", ".join(RUN_KEYS),
                nearest=nearest(key, known),
            )
        wanted = RUN_KEYS[key]
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            words = {int: "an integer", str: "a string in quotes", list: 'a list, like ["is_causal"]',
                     bool: "true or false"}[wanted]  # fmt: skip
            raise UserError(f"`{key}` is {toml_value(value)}", where=place, expected=words)
    if not all(isinstance(name, str) for name in run.get("accept_unknown", ())):
        place = place_of(source, lines, ("accept_unknown",))
        what = "`accept_unknown` holds something other than strings"
        raise UserError(what, where=place, expected='a list, like ["is_causal"]')
    if run.get("schema", SCHEMA) < 1:
        raise UserError(
            f"`schema` is {run['schema']}", where=place_of(source, lines, ("schema",)), expected=f"{SCHEMA}"
        )
    if run.get("schema", SCHEMA) > SCHEMA:
        raise UserError(
            f"recipe schema {run['schema']} is newer than this qwenkit",
            where=place_of(source, lines, ("schema",)),
            expected=f"{SCHEMA} or older",
            hint="upgrade qwenkit",
        )
    for key, most in (("seed", 2**63 - 1), ("threads", 1024)):
        if not 0 <= run.get(key, 0) <= most:
            raise UserError(f"`{key}` is {run[key]}", where=place_of(source, lines, (key,)), expected=f"0 to {most}")
    for key, expected in (("out", "a folder, like runs/mine"), ("title", "a name")):
        if key in run and (not run[key].strip() or "\0" in run[key]):
            place = place_of(source, lines, (key,))
            raise UserError(f"`{key}` is {toml_value(run[key])}", where=place, expected=expected)
    if not platform.is_device_name(run.get("device", "cpu")):
        place = place_of(source, lines, ("device",))
        raise UserError(f'`device` is "{run["device"]}"', where=place, expected=platform.DEVICES)


def _node(name: str, table: dict[str, Any], tables: dict[str, Any], source: str, lines: Lines, base: Path) -> Node:
    place = place_of(source, lines, (name,))
    if not is_node_name(name):
        expected = f"letters, digits, - and _, at most {LONGEST_NAME}"
        raise UserError(f"`{name[:100]}` is not a node name", where=place, expected=expected)
    kind = table.get("kind", name)
    if not isinstance(kind, str):
        raise UserError(
            f"`{name}.kind` is {toml_value(kind)}", where=place_of(source, lines, (name, "kind")), expected="a string"
        )
    stage = load_stage(kind, place_of(source, lines, (name, "kind")))
    rest = {key: value for key, value in table.items() if key != "kind"}
    config = validate(stage.Config, rest, source, lines, name)
    inputs: dict[str, tuple[str, str]] = {}
    places: dict[str, str] = {}
    for key, reference in config.references():
        short = key.partition(".")[0]
        where = places[short] = place_of(source, lines, (name, short))
        inputs[key] = resolve(reference, tables, base, where, f"{name}.{short}", config.from_hub(short) != "")
        _refuse_other_kind(inputs[key], config, short, tables, where, f"{name}.{short}")
    node = Node(name, kind, config, inputs, places=places)
    return replace(node, absent=_absent(node, source, lines, base))


def _refuse_other_kind(
    reference: tuple[str, str], config: StageConfig, key: str, tables: dict[str, Any], where: str, full: str
) -> None:
    """Raise a `UserError` for an edge to an artifact that cannot be read as what is wanted there, before any work."""
    means, target = reference
    kind = str(tables[target].get("kind", target)) if means == "node" else kind_at(Path(target))
    wanted, given = set(config.accepts(key)), produces(kind)
    if "anything" in wanted or not wanted or not given or wanted & set(given):
        return
    kinds = {name: str(table.get("kind", name)) for name, table in tables.items() if not full.startswith(f"{name}.")}
    fitting = [name for name, kind in kinds.items() if wanted & set(produces(kind))]
    raise UserError(
        f"`{full}` names `{target}`, whose kind is {kind}",
        where=where,
        expected=f"{' or '.join(config.accepts(key))}: {type(config).model_fields[key].description}",
        nearest=nearest(target, fitting) or (fitting[0] if fitting else None),
    )


def kind_at(path: Path) -> str | None:
    """Return the kind of an artifact outside the recipe; None where no manifest says it."""
    try:
        return str(read_object(path / MANIFEST).get("kind")) if (path / MANIFEST).is_file() else None
    except UserError:
        return None


def _absent(node: Node, source: str, lines: Lines, base: Path) -> list[UserError]:
    """Return one complaint for each key that names missing paths."""
    written = dict(node.config.references())
    missing: dict[str, list[str]] = {}
    for key, (kind, target) in node.inputs.items():
        if kind == "path" and not Path(target).exists():
            missing.setdefault(key.split(".")[0], []).append(written[key])
    return [
        UserError(
            f"`{node.name}.{key}` names what is not there: {', '.join(references)}",
            where=place_of(source, lines, (node.name, key)),
            expected=type(node.config).model_fields[key].description,
            nearest=nearest(references[0], _beside(references[0], base)),
        )
        for key, references in missing.items()
    ]


def resolve(
    reference: str, nodes: Collection[str], base: Path, where: str, key: str, hub: bool = False
) -> tuple[str, str]:
    """Return what a reference means: ("node", name), ("path", path), or ("hub", reference) where the key takes Hub
    models.

    A reference with two meanings or none is a `UserError`. One that cannot be the name of a node, with a slash or a
    point in it, is a path that may not exist yet."""
    path = _path(reference, base, where, key)
    if reference in nodes:
        if path.exists():
            raise UserError(
                f'`{key}` = "{reference}" is both a node and a path',
                where=where,
                expected=f'the node "{reference}" or the path "./{reference}"',
                hint=f'write "./{reference}" for the path, or rename the node',
            )
        return "node", reference
    with within(where):
        if hub and meant(reference, path) is not None:
            return "hub", reference
    if reference and (path.exists() or {"/", "."} & set(reference)):
        return "path", str(path)
    others = [name for name in nodes if name != key.split(".")[0]]
    raise UserError(
        f'`{key}` = "{reference}" is neither a node nor a path that exists',
        where=where,
        expected=f"a node of this recipe ({', '.join(others)}) or a path" if others else "a path that exists",
        nearest=nearest(reference, [*others, *_beside(reference, base)]),
    )


def _path(reference: str, base: Path, where: str, key: str) -> Path:
    """Return the path that a reference would mean, whether it exists or not."""
    try:
        if "\0" in reference:
            raise ValueError("it holds a zero byte")
        path = base / Path(reference).expanduser()
        odd = path.exists() and not (path.is_file() or path.is_dir())
    except RuntimeError as error:
        user = reference.split("/")[0]
        what = f"`{key}`: there is no home folder {user}"
        raise UserError(what, where=where, expected="a node, or a path") from error
    except (ValueError, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be read"
        what = f"`{key}` = {toml_value(reference)} is not a path: {why.rstrip('.')}"
        raise UserError(what, where=where, expected="a node, or a path") from error
    if odd:
        what = f"`{key}` names neither a file nor a folder: {reference}"
        raise UserError(what, where=where, expected="a file or a folder")
    return path


def _beside(reference: str, base: Path) -> list[str]:
    """Return what exists near the path, written like the reference."""
    folder = (base / Path(reference).expanduser()).parent
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(Path(reference).parent / entry.name).as_posix() for entry in entries]


def _ordered(nodes: dict[str, Node], source: str, lines: Lines) -> dict[str, Node]:
    """Return the nodes so that each follows what it reads; ties keep the recipe's order. Raises a `UserError` for a
    cycle."""
    done: dict[str, Node] = {}
    waiting = dict(nodes)
    while waiting:
        ready = [name for name, node in waiting.items() if all(parent in done for parent in node.parents())]
        if not ready:
            name = next(iter(waiting))
            raise UserError(
                "nodes wait for each other: " + " -> ".join(_cycle(waiting, name)),
                where=place_of(source, lines, (name,)),
                expected="a graph without cycles",
            )
        done[ready[0]] = waiting.pop(ready[0])
    return done


def _cycle(waiting: dict[str, Node], start: str) -> list[str]:
    path = [start]
    while path.count(path[-1]) == 1:
        path.append(next(parent for parent in waiting[path[-1]].parents() if parent in waiting))
    return path[path.index(path[-1]) :]
