"""Keys of a recipe by their names: `--set` changes, keys of schema 1 under their present names, and strings under the
name of the edge that they are for.

    data, lines = name_edges(data, lines, source)         # `reward = "PATH"` is `reward_model = "PATH"`
    apply_change(data, "base.lr=1e-3", lines, typed)      # into parsed TOML
    tables, lines = upgrade_tables(tables, lines, schema, source)

Either name of a key may be given, by file or by change, but not both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qwenkit.errors import UserError, nearest, notice, within
from qwenkit.json_values import mapping
from qwenkit.schema import SCHEMA, meant_key, old_keys
from qwenkit.toml_file import Lines, parse_value, place_of


def apply_change(data: dict[str, Any], change: str, lines: Lines, typed: dict[tuple[str, ...], str]) -> None:
    """Write one `--set` change into parsed tables; a key is checked later. `typed` is how each key was spelled."""
    given, value = parse_change(data, change)
    place = f"--set {change}"
    keys = current_keys(data, given, place, value)
    spelled = typed.setdefault(keys, given[-1])
    if spelled != given[-1]:
        raise UserError(
            f"`{'.'.join([*keys[:-1], spelled])}` and `{'.'.join(given)}` are two names of one key",
            where=place, expected=f"`{keys[-1]}` alone",
        )  # fmt: skip
    table = data[keys[0]] if len(keys) == 2 else data
    if len(keys) == 2 and data.get("schema") != SCHEMA and keys[1] not in table:
        for old, new in _old_names(keys[0], table, table).items():
            if new == keys[1]:  # the change takes its place
                del table[old]
                lines.pop((keys[0], old), None)
    table[keys[-1]] = value
    lines[keys] = place


def _old_names(node: str, table: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Return those of the keys that are names of schema 1 in a node's table, with the present names."""
    kind = table.get("kind", node)
    return old_keys(kind, keys) if isinstance(kind, str) else {}


def current_keys(data: dict[str, Any], keys: tuple[str, ...], where: str, value: Any) -> tuple[str, ...]:
    """Return the key of a change by its present name, with a warning for an old one, or the edge that a string is
    for."""
    if len(keys) < 2:
        return keys
    node, key = keys
    name = _old_names(node, data[node], [key]).get(key, key)
    if name != key:
        notice(f"a name of schema 1, read for one release more: `{key}` is now `{name}`", where)
    return node, _meant_key(node, data[node], name, value)


def _meant_key(node: str, table: Mapping[str, Any], key: str, value: Any) -> str:
    kind = table.get("kind", node)
    return meant_key(kind, key, value) if isinstance(kind, str) else key


def name_edges(data: dict[str, Any], lines: Lines, source: str) -> tuple[dict[str, Any], Lines]:
    """Return parsed TOML and its lines with each string under the name of the edge that it is for (`schema.meant_key`).

    Raises a `UserError` where a table has both."""
    named, lines = dict(data), dict(lines)
    for node, table in ((node, mapping(value)) for node, value in data.items()):
        keys = {key: _meant_key(node, table, key, value) for key, value in table.items()}
        if all(key == name for key, name in keys.items()):
            continue
        for key, name in keys.items():
            if name == key:
                continue
            if name in table:
                raise UserError(
                    f"`{node}.{key}` and `{node}.{name}` name the same thing",
                    where=place_of(source, lines, (node, key)), expected=f"`{name}` alone",
                )  # fmt: skip
            lines[(node, name)] = lines.pop((node, key), 0) or place_of(source, lines, (node, key))
        named[node] = {keys[key]: value for key, value in table.items()}
    return named, lines


def parse_change(data: dict[str, Any], change: str) -> tuple[tuple[str, ...], Any]:
    """Return a `--set` change as keys and value: `seed=2`, `base.lr=1e-3`; raises a `UserError` for an unknown node."""
    key, sign, text = change.partition("=")
    parts = [part.strip() for part in key.split(".")]
    whole = len(parts) == 1 and isinstance(data.get(parts[0]), dict)
    if not sign or not all(parts) or len(parts) > 2 or whole:
        raise UserError(f"`{change}` is not a change", where="--set", expected="KEY=VALUE or NODE.KEY=VALUE")
    if len(parts) == 2:
        nodes = [name for name, value in data.items() if isinstance(value, dict)]
        if parts[0] not in nodes:
            raise UserError(
                f"the recipe has no node `{parts[0]}`",
                where=f"--set {change}",
                expected="one of " + ", ".join(nodes),
                nearest=nearest(parts[0], nodes),
            )
    with within(f"--set {key}"):
        return tuple(parts), parse_value(text.strip())


def upgrade_tables(
    tables: dict[str, dict[str, Any]], lines: Lines, schema: int | None, source: str
) -> tuple[dict[str, dict[str, Any]], Lines]:
    """Return tables and lines under the present names. One warning covers the names of schema 1 in the file, and one
    each option; a file that says it is of schema 2 must not have such names."""
    new_tables: dict[str, dict[str, Any]] = {}
    new_lines, renamed = dict(lines), dict[str, dict[str, str]]()
    for node, table in tables.items():
        names = _old_names(node, table, table)
        for key, name in names.items():
            place = place_of(source, lines, (node, key))
            from_file = isinstance(lines.get((node, key)), int)
            if from_file and schema == SCHEMA:
                raise UserError(
                    f"`{node}.{key}` is a key of schema 1", where=place,
                    expected=f"`{name}`, its name in schema 2",
                    hint="a recipe that says schema = 1, or nothing, may use the old names",
                )  # fmt: skip
            if name in table:
                raise UserError(
                    f"`{node}.{key}` and `{node}.{name}` are two names of one key",
                    where=place, expected=f"`{name}` alone: `{key}` is its name in schema 1",
                )  # fmt: skip
            renamed.setdefault(source if from_file else place, {})[key] = name
            new_lines[(node, name)] = new_lines.pop((node, key), 0) or place
        new_tables[node] = {names.get(key, key): value for key, value in table.items()}
    for where, keys in renamed.items():
        words = ", ".join(f"`{old}` is now `{new}`" for old, new in sorted(keys.items()))
        notice(f"names of schema 1, read for one release more: {words}", where)
    return new_tables, new_lines
