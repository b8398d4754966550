"""The faces of the package, written down from the code: every command with its options, every public name of Python."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import typer

import qwenkit
from qwenkit.cli.app import app
from qwenkit.stages import KINDS

PACKAGES = (
    "qwenkit", "qwenkit.tokenizer", "qwenkit.chat", "qwenkit.model", "qwenkit.inference", "qwenkit.data",
    "qwenkit.training", "qwenkit.alignment", "qwenkit.evaluation", "qwenkit.statistics", "qwenkit.nano",
)  # fmt: skip


def own_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that is not the verb of a kind, with its words: `inspect data`."""
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    for prefix, group in groups:
        for command in group.registered_commands:
            name = command.name or command.callback.__name__.replace("_", "-")
            if not (name in KINDS and not prefix) and not command.hidden:
                yield prefix + name, command


def command_names() -> str:
    """Return the names of all commands that are not the verb of a kind, in one line."""
    return ", ".join(f"`{name}`" for name, _ in own_commands()) + ".\n"


def commands() -> str:
    """Return a section for each command, and a table of the verbs of all kinds."""
    return "".join(_command(name, command) for name, command in own_commands()) + _verbs()


def _command(name: str, command: Any) -> str:
    """Return the section of a command: what it does, its arguments and options, its example."""
    types = get_type_hints(command.callback, include_extras=True)
    rows = [
        _row(argument, *get_args(types[argument.name])[:2])
        for argument in inspect.signature(command.callback).parameters.values()
    ]
    about = inspect.cleandoc(command.help or command.callback.__doc__ or "")
    example = (command.epilog or "").removeprefix("Example:").strip()
    head = "| argument or option | value | |\n| --- | --- | --- |\n"
    return f"## `qwenkit {name}`\n\n{about}\n\n{head}{''.join(rows)}\nExample: `{example}`\n\n"


def _row(argument: inspect.Parameter, kind: Any, option: Any) -> str:
    """Return the line of an argument or option."""
    if isinstance(option, typer.models.ArgumentInfo):
        names, value = [option.metavar or argument.name.upper()], ""
    else:
        given = [option.default, *(option.param_decls or ())]  # what stands first in `Annotated` is a name, too
        names = [name for name in given if isinstance(name, str) and name.startswith("-")]
        names, value = names or ["--" + argument.name.replace("_", "-")], _value(argument, kind, option)
    return f"| {', '.join(f'`{name}`' for name in names)} | {_cell(value)} | {_cell(option.help or '')} |\n"


def _value(argument: inspect.Parameter, kind: Any, option: Any) -> str:
    """Return what stands behind an option, and what holds without it."""
    plain = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    if plain == [bool]:
        return ""
    word = option.metavar or {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "Path": "PATH"}.get(
        getattr(plain[0], "__name__", ""), "TEXT"
    )
    given = argument.default not in (None, "", argument.empty)
    return f"`{word}`" + (f", otherwise {argument.default}" if given else "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


STAGES = """## Stages

Each kind of node is also a command, run by the same code as a recipe of one node. Its options are the keys of the stage
with `-` for `_`, as the page of the stage lists them, and `--out`, `--threads`, `--accept-unknown`, `--quiet`,
`--verbose` and `--json`.

| command | what it does | example |
| --- | --- | --- |
"""


def _verbs() -> str:
    """Return the table of the verbs of all kinds."""
    rows = (
        f"| [`qwenkit {kind}`](stages/{kind}.md) | {_cell(about)} "
        f"| `qwenkit {kind} {KINDS.all()[kind].example} --out runs/my-{kind}` |\n"
        for kind, about in KINDS.items()
    )
    return STAGES + "".join(rows)


def api() -> str:
    """Return a section for each package: its public names, how they are called, and what they say of themselves."""
    return "\n".join(_package(name) for name in PACKAGES)


def _package(name: str) -> str:
    module = importlib.import_module(name)
    first = inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]
    above = [public for public in module.__all__ if name != "qwenkit" and public in qwenkit.__all__]
    entries = "".join(_entry(public, getattr(module, public)) for public in module.__all__ if public not in above)
    listed = f"Described above: {', '.join(f'`{public}`' for public in above)}.\n\n" if above else ""
    return f"## `{name}`\n\n{first}\n\n{listed}{entries}"


def _entry(name: str, value: Any) -> str:
    """Return the entry of a public name."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return f"### `{name}`\n\n{_constant(value)}\n\n"
    lines = [f"### `{name}`\n\n```python\n{_signature(name, value)}\n```\n\n{_doc(value)}\n\n"]
    if inspect.isclass(value):
        methods = [_method(attribute, member) for attribute, member in _members(value)]
        lines += [*methods, "\n"] if methods else []
    return "".join(lines)


def _constant(value: Any) -> str:
    """Return what a public name is that cannot be called."""
    if isinstance(value, (str, int, float)):
        return f"A constant: `{value}`."
    if isinstance(value, (dict, list, tuple)) and all(isinstance(key, str) for key in value):
        return "A constant: " + ", ".join(f"`{key}`" for key in value) + "."
    return f"A type: `{value}`."


def _members(value: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods that a class documents, in order of definition: its own, then those of bases that no
    entry of their own shows, such as the core of the engine."""
    names = set[str]()
    for owner in (base for base in value.__mro__ if base is value or _is_part(base, value)):
        for attribute, member in vars(owner).items():
            function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if attribute not in names and not attribute.startswith("_") and inspect.isfunction(function):
                names.add(attribute)
                if function.__doc__:
                    yield attribute, function


def _is_part(base: type, value: type) -> bool:
    """Return whether a base of a class is a part of it: of the same package, and not one of its public names."""
    package = value.__module__.rpartition(".")[0]
    public = getattr(importlib.import_module(package), "__all__", ())
    return base.__module__.startswith(f"{package}.") and base.__name__ not in public


def _method(name: str, function: Any) -> str:
    first = " ".join(inspect.cleandoc(function.__doc__).split("\n\n")[0].split())
    arguments = [argument for argument in inspect.signature(function).parameters if argument not in ("self", "cls")]
    return f"* `.{name}({', '.join(arguments)})`: {first}\n"


def _doc(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    return "" if text.startswith(f"{getattr(value, '__name__', '')}(") else text


class _Written(str):
    """An annotation as it stands in the code, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(name: str, value: Any) -> str:
    """Return how a name is called, wrapped at its arguments where it is long."""
    try:
        signature = _of_fields(value) if dataclasses.is_dataclass(value) else inspect.signature(value)
    except (TypeError, ValueError):
        return name
    unquoted = [
        argument.replace(annotation=_Written(argument.annotation)) if isinstance(argument.annotation, str) else argument
        for argument in signature.parameters.values()
    ]
    result = signature.return_annotation
    returned = "" if result in (signature.empty, None, "None") else f" -> {result}"
    short = name + str(signature.replace(parameters=unquoted, return_annotation=signature.empty)) + returned
    inner = "".join(f"    {argument},\n" for argument in _arguments(unquoted))
    text = short if len(short) <= 100 else f"{name}(\n{inner}){returned}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _of_fields(value: type) -> inspect.Signature:
    """Return the signature of a dataclass, whose metaclass may hide it."""
    by_name, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    arguments = []
    for field in dataclasses.fields(value):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = empty if default is dataclasses.MISSING else default
        kind = by_name if empty is not default else inspect.Parameter.POSITIONAL_OR_KEYWORD
        arguments.append(inspect.Parameter(field.name, kind, default=default, annotation=field.type))
    return inspect.Signature([argument for argument in arguments if argument.kind is not by_name]
                             + [argument for argument in arguments if argument.kind is by_name])  # fmt: skip


def _arguments(arguments: list[inspect.Parameter]) -> list[str]:
    """Return the arguments as they are written, with the bare `*` before those by name only."""
    written, starred = [], False
    for argument in arguments:
        starred = starred or argument.kind is argument.VAR_POSITIONAL
        if argument.kind is argument.KEYWORD_ONLY and not starred:
            written.append("*")
            starred = True
        written.append(str(argument))
    return written
