"""The verb of each kind of node: `qwenkit sft --model M --data D --out O` is a recipe of one node, by the same code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.markup import escape

from qwenkit.cli.app import ACCEPT, Json, Quiet, Verbose, app, as_folder, as_names
from qwenkit.cli.runs import run_and_report
from qwenkit.platform import DEVICES
from qwenkit.stages import KINDS


def verb_of(kind: str) -> Callable[..., None]:
    """Return the command of a kind: one option for each key of its config, and --out for the artifact's run folder."""
    from qwenkit.stages import load_stage

    config = load_stage(kind).Config
    keys = config.key_names()

    def verb(**given: Any) -> None:
        from dataclasses import replace

        from qwenkit.lineage.recipe import build
        from qwenkit.lineage.runner import Options

        out, threads, device = (given.pop(name) for name in ("out", "threads", "device"))
        accepted = given.pop("accept_unknown")
        quiet, verbose, as_json = (given.pop(name) for name in SHOWN)
        table = {key: _value(config, key, given[key]) for key in keys if given[key] is not None}
        run = {"title": kind, "threads": threads, "device": device, "accept_unknown": as_names(accepted)}
        data = {**run, kind: table}
        places = {(kind, key): f"qwenkit {kind} --{key.replace('_', '-')}" for key in keys}
        places |= {(key,): f"qwenkit {kind} --{key}" for key in ("threads", "device")}
        recipe = build(data, {**places}, f"qwenkit {kind}", Path())
        run_and_report(replace(recipe, out=out), Options(), quiet, as_json, verbose)

    out = typer.Option(help="run folder", parser=as_folder, metavar="FOLDER")
    threads = typer.Option(help="0: all free cores", metavar="INTEGER", rich_help_panel=PANELS["runtime"])
    parameters = [*(_option(config, key) for key in config.edges()), _parameter("out", Path, out)]
    parameters += [_option(config, key) for key in keys if config.role(key) == "content"]
    parameters += [_option(config, key) for key in keys if config.role(key) == "runtime"]
    parameters += [_parameter("threads", int, threads, default=0)]
    device = typer.Option(help=f"one of {DEVICES}", metavar="DEVICE", rich_help_panel=PANELS["runtime"])
    parameters += [_parameter("device", str, device, default="cpu")]
    accept = typer.Option(help=ACCEPT, metavar="KEY,...", rich_help_panel=PANELS["runtime"])
    parameters += [_parameter("accept_unknown", str, accept, default="")]
    parameters += [_parameter(name, bool, _shown(kind), default=False) for name, kind in SHOWN.items()]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__doc__ = KINDS[kind][0].upper() + KINDS[kind][1:] + "."
    return verb


def _shown(flag: Any) -> Any:
    """Return a flag that all commands share, on the help panel of options that do not change the result."""
    (option,) = get_args(flag)[1:]
    names = (option.default, *option.param_decls)  # the first value in `Annotated` is a name, too
    return typer.Option(*names, help=option.help, rich_help_panel=PANELS["runtime"])


def _parameter(name: str, kind: Any, option: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


SHOWN = {"quiet": Quiet, "verbose": Verbose, "as_json": Json}
PANELS = {"edge": None, "content": "What changes the result", "runtime": "What does not"}
WORDS = {bool: "true|false", int: "INTEGER", float: "NUMBER", list: "LIST", dict: "TABLE", str: "TEXT"}


def _option(config: Any, key: str) -> inspect.Parameter:
    """Return a key as an option. The recipe reports a missing required one, under the name of its key."""
    from qwenkit.config import default_text

    field, default = config.model_fields[key], default_text(config, key).strip('"')
    note = ""
    if field.is_required():
        note = " [red]\\[required][/]"
    elif default not in ("", "[]", "{}"):
        note = f" [dim]\\[default: {escape(default)}][/]"
    option = typer.Option(
        "--" + key.replace("_", "-"), help=escape(field.description or "") + note, metavar=_metavar(config, key),
        show_default=False, rich_help_panel=PANELS[config.role(key)],
    )  # fmt: skip
    return _parameter(key, list[str] | None if config.takes_many(key) else str | None, option, default=None)


def _metavar(config: Any, key: str) -> str:
    """Return the placeholder of a key's value on the help page."""
    annotation = config.model_fields[key].annotation
    if config.role(key) == "edge":
        return "PATH"
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    plain = next((kind for kind in (get_origin(annotation), *_parts(annotation), annotation) if kind in WORDS), str)
    return WORDS[plain]


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield what an annotation is a union of, of generic types the type alone."""
    for part in get_args(annotation):
        yield get_origin(part) or part


def _value(config: Any, key: str, given: Any) -> Any:
    from qwenkit.errors import within
    from qwenkit.toml_file import parse_value

    if config.takes_many(key):
        return [path for item in given for path in item.split(",")]
    with within("--" + key.replace("_", "-")):
        value = given if config.role(key) == "edge" else parse_value(given)
    listed = get_origin(config.model_fields[key].annotation) is list
    return value.split(",") if listed and isinstance(value, str) else value  # --steps my.py:step, as of `--extra`


def register(arguments: list[str]) -> None:
    """Register the verb that is called; for the help page register all by name, without loading their stages."""
    called = next((a for a in arguments if not a.startswith("-")), None)
    for kind, doc in KINDS.items():
        if kind == called:
            epilog = _example(kind)
            app.command(kind, rich_help_panel="Stages", epilog=epilog)(verb_of(kind))
        else:
            app.command(kind, rich_help_panel="Stages", help=doc[0].upper() + doc[1:] + ".")(_nothing)


def _example(kind: str) -> str | None:
    """Return the example of a kind's help page, or None."""
    example = KINDS.all()[kind].example
    return f"Example:  qwenkit {kind} {example} --out runs/my-{kind}" if example else None


def _nothing() -> None:
    """Do nothing: the placeholder of a verb on the help page."""
