"""The command line: parse, call, print. Exit codes: 0 done, 1 stopped, 2 the user's mistake, 130 interrupted.

Every kind of node is also a verb: `qwenkit sft --model M --data D --out O` is a recipe of one node, run by the same
code. Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape

from qwenkit.errors import INTERRUPTED, MISTAKE, QwenkitError, UserError
from qwenkit.stages import KINDS

app = typer.Typer(
    help="The Qwen Technical Report as running software.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example:  qwenkit run nano",
)
inspect_app = typer.Typer(
    help="Look at what a model will really see.",
    no_args_is_help=True,
    epilog="Example:  qwenkit inspect mask runs/nano/world/chat.jsonl --tokenizer runs/nano/tokenizer",
)
app.add_typer(inspect_app, name="inspect")

EXAMPLES = {
    "world": "--scale quick",
    "testsets": "--world runs/nano/world",
    "corpus": "--extra notes --extra more.jsonl --decontaminate runs/nano/testsets",
    "tokenizer": "--corpus runs/nano/corpus --vocab-size 1536",
    "pretrain": "--corpus runs/nano/corpus --tokenizer runs/nano/tokenizer --tokens 4e6 --layers 4 --hidden-size 128",
    "sft": "--model runs/nano/base --data runs/nano/world --epochs 2 --warmup-steps 20",
    "preference": "--model runs/nano/base --data runs/nano/world --tests runs/nano/testsets",
    "reward": "--model runs/nano/pmp --policy runs/nano/chat --prompts runs/nano/world",
    "ppo": "--model runs/nano/chat --reward runs/nano/reward --prompts runs/nano/world --corpus runs/nano/corpus",
    "evaluate": "--models runs/nano/base --models runs/nano/chat --tests runs/nano/testsets",
    "report": "--of runs/nano/base --of runs/nano/exam",
}
"""Of each kind's verb: what follows `qwenkit KIND`, but for `--out`."""


def _folder(text: str) -> Path:
    """A path from the command line; an empty one is a slip (an unset variable) and not the working directory."""
    if not text:
        raise typer.BadParameter("an empty path")
    return Path(text)


RunFolder = Annotated[Path, typer.Argument(help="a run folder", parser=_folder, metavar="RUN")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="change a key: seed=2, base.lr=1e-3", metavar="KEY=VALUE")
]
Json = Annotated[bool, typer.Option("--json", help="answer as JSON, for programs")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="no bars and no lines, only the result")]


def _console() -> Console:
    return Console(soft_wrap=not sys.stdout.isatty())


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


@app.command(epilog="Example:  qwenkit run nano --set seed=2 --out runs/nano-2")
def run(
    recipe: Annotated[str, typer.Argument(help="a .toml file, or a name that `qwenkit recipes` lists")],
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option(help="the run folder; runs/NAME when not given", parser=_folder, metavar="FOLDER")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="only this node; may be repeated", metavar="NODE")] = None,
    until: Annotated[str | None, typer.Option(help="this node and all it needs", metavar="NODE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the graph, what would run and why")] = False,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="go on under other threads or versions")] = False,
    reuse: Annotated[
        Path | None, typer.Option(help="take equal artifacts from this run folder", parser=_folder, metavar="RUN")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Raise the family of a recipe: every node that is not up to date, in order."""
    from qwenkit.lineage.runner import Options

    loaded = _load(recipe, changes, out)
    options = Options(tuple(only or ()), until, allow_drift, reuse)
    if dry_run:
        _show_plan(loaded, options, as_json)
        return
    _run(loaded, options, quiet, as_json)


def _load(recipe: str, changes: list[str] | None, out: Path | None) -> Any:
    from dataclasses import replace

    from qwenkit.lineage.recipe import load_recipe

    loaded = load_recipe(recipe, changes)
    return replace(loaded, out=out) if out is not None else loaded


def _run(recipe: Any, options: Any, quiet: bool, as_json: bool) -> None:
    from qwenkit.lineage.runner import run_recipe
    from qwenkit.lineage.screen import Terminal

    console = Console(stderr=True) if as_json else _console()
    screen = Terminal(console, quiet)
    rows: list[dict[str, Any]] = []
    show, screen.end = screen.end, lambda found: (rows.extend(found), show(found))[1]  # type: ignore[method-assign]
    try:
        run_recipe(recipe, options, screen)
    finally:
        screen.close()
    if as_json:
        _print_json({"out": str(recipe.out), "nodes": rows})
    elif not quiet:
        _closing_hint(recipe, console)


def _closing_hint(recipe: Any, console: Console) -> None:
    """Tell what to do with what was made."""
    if (recipe.out / "report.html").exists():
        console.print(f"report: {recipe.out / 'report.html'}", highlight=False)
    chats = [
        name for name, node in recipe.nodes.items() if node.kind in ("sft", "ppo") and (recipe.out / name).exists()
    ]
    if chats:
        console.print(f"talk to it: qwenkit chat {recipe.out / chats[-1]}", highlight=False)


def _show_plan(recipe: Any, options: Any, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from qwenkit.lineage.runner import plan
    from qwenkit.lineage.size import sizes

    verdicts, known = plan(recipe, options), sizes(recipe)
    if as_json:
        _print_json([{**asdict(v), "size": asdict(known[v.node]) if v.node in known else None} for v in verdicts])
        return
    table = Table("node", "kind", "reads", "state", "why", "planned min", box=None, pad_edge=False)
    for v in verdicts:
        node = recipe.nodes[v.node]
        words = {"done": "up to date", "reuse": "would be reused", "absent": "needs data"}
        state = words.get(v.state, "would run")
        minutes = _minutes(node.config.minutes if v.works else None)
        reads = ", ".join(node.parents() or [target for kind, target in node.inputs.values() if kind == "path"])
        table.add_row(v.node, node.kind, reads, state, escape(v.why), minutes)
    _console().print(table)
    for v in verdicts:
        if v.node in known:
            _console().print(f"{v.node}: {known[v.node].text()}", highlight=False)


@app.command(epilog="Example:  qwenkit recipes")
def recipes(as_json: Json = False) -> None:
    """The recipes that come with qwenkit: what each makes, and which keys name your own data."""
    from rich.table import Table

    from qwenkit.lineage.size import offered, short

    rows = offered()
    if as_json:
        _print_json(rows)
        return
    table = Table("recipe", "parameters", "tokens", "what it makes", "your data", box=None, pad_edge=False)
    for row in rows:
        data = ", ".join(row["data"]) or "none"
        table.add_row(row["recipe"], short(row["parameters"]), short(row["tokens"]), row["about"], data)
    _console().print(table)


@app.command(epilog="Example:  qwenkit init my.toml --from nano")
def init(
    path: Annotated[Path, typer.Argument(help="the recipe file to write")],
    source: Annotated[str, typer.Option("--from", help="the recipe to start from")] = "nano",
) -> None:
    """Write a recipe of your own, a copy of one that comes with qwenkit."""
    from qwenkit.lineage.recipe import recipe_text

    if path.exists():
        raise UserError("the file exists already", where=str(path), mend="choose another name, or remove it")
    _write_text(path, recipe_text(source))
    _console().print(f"wrote {path}; raise it with: qwenkit run {path}", highlight=False)


def _write_text(path: Path, text: str) -> None:
    """Write a file whole, or say why not and leave none."""
    existed = path.exists()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        if not existed and path.is_file():
            path.unlink()
        raise UserError(f"the file cannot be written ({error.strerror})", where=str(path)) from error


@app.command(epilog="Example:  qwenkit status runs/nano")
def status(run_dir: RunFolder, as_json: Json = False) -> None:
    """What a run folder holds: every node of the recipe and how far it is, headline numbers, minutes, alarms."""
    from rich.table import Table

    from qwenkit.lineage.status import MEND, read_status

    found = read_status(run_dir)
    if as_json:
        _print_json(found.plain())
    else:
        table = Table("node", "state", "min", "planned", "digest", "", box=None, pad_edge=False)
        for column in table.columns[:-1]:
            column.no_wrap = True
        for row in found.nodes:
            again = f" ({row.attempts} attempts)" if (row.attempts or 0) > 1 else ""
            minutes = _minutes(row.minutes), _minutes(row.planned_minutes)
            table.add_row(row.node, row.state, *minutes, row.digest[:12], escape(row.detail + again))
        _console().print(table)
        for alarm in found.alarms:
            _console().print(f"alarm {alarm.get('id')} in {alarm.get('node')}: {alarm.get('cause', '')}", markup=False)
    if found.damage:
        raise UserError("\n".join(found.damage), mend=MEND)


def _minutes(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


@app.command(epilog="Example:  qwenkit verify runs/nano")
def verify(
    run_dir: Annotated[Path, typer.Argument(help="a run folder or one artifact")], as_json: Json = False
) -> None:
    """Hash every file again and compare with the manifests; exit code 2 when anything differs."""
    from qwenkit.artifacts import MOVE, only_stray, read_manifest
    from qwenkit.lineage import status

    found = status.verify(run_dir)
    if as_json:
        _print_json({str(folder): lines for folder, lines in found.items()})
    for folder, lines in found.items() if not as_json else ():
        print("DAMAGED" + " " * 14 if lines else f"whole    {read_manifest(folder).digest[:12]}", folder)
    wrong = [line for lines in found.values() for line in lines]
    if wrong:
        raise UserError("\n".join(wrong), mend=MOVE if only_stray(wrong) else status.MEND)


@app.command(epilog="Example:  qwenkit clean runs/nano")
def clean(run_dir: RunFolder) -> None:
    """Remove superseded artifacts and the scratch of abandoned work."""
    from qwenkit.lineage.runner import locked
    from qwenkit.lineage.status import refuse_no_run

    refuse_no_run(run_dir)
    freed = 0
    with locked(run_dir):
        for name in (".old", ".work"):
            freed += sum(p.stat().st_size for p in (run_dir / name).rglob("*") if p.is_file())
            shutil.rmtree(run_dir / name, ignore_errors=True)
    print(f"freed {freed / 1e6:.1f} MB")


@app.command(epilog="Example:  qwenkit chat runs/nano/chat-rlhf")
def chat(
    model: Annotated[Path, typer.Argument(help="a model folder")],
    system: Annotated[str | None, typer.Option(help="a system prompt")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="ask one thing and stop")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy", min=0.0)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="longest answer", min=1)] = None,
    seed: Annotated[int, typer.Option(help="seed of the draws")] = 0,
) -> None:
    """Talk to a chat model in the terminal. /clear forgets, /quit leaves."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.chat.session import talk
    from qwenkit.inference import Engine, SamplingParams

    tok = load_tokenizer(model)
    engine = Engine(str(model), tok)
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
    talk(engine, tok, params, system, prompt)


@inspect_app.command(
    "mask", epilog="Example:  qwenkit inspect mask runs/nano/world/chat.jsonl --tokenizer runs/nano/tokenizer"
)
def inspect_mask(
    file: Annotated[Path, typer.Argument(help="chats as JSONL with `messages`")],
    tokenizer: Annotated[Path, typer.Option(help="a model or tokenizer folder")],
    mask: Annotated[str, typer.Option(help="qwen (the authors') or assistant")] = "qwen",
    limit: Annotated[int, typer.Option(help="how many chats", min=1)] = 5,
    html: Annotated[Path | None, typer.Option(help="write an HTML page instead")] = None,
) -> None:
    """Show which tokens are trained: every token coloured by its loss weight."""
    from itertools import islice

    from qwenkit.chat import load_tokenizer
    from qwenkit.chat.inspect import mask_ansi, mask_html, mask_text
    from qwenkit.stages.sft import read_chats

    tok = load_tokenizer(tokenizer)
    rendered = [tok.render(row["messages"], mask=mask) for row in islice(read_chats(file), limit)]
    if html is not None:
        _write_text(html, mask_html(rendered, tok))
        print(f"wrote {html}")
        return
    console = _console()
    show = mask_ansi if console.color_system and not console.no_color else mask_text
    for item in rendered:
        print(show(item, tok), end="\n\n")


def _verb(kind: str) -> Callable[..., None]:
    """The command of a kind: one option for each key of its config, and --out for the artifact's run folder."""
    from qwenkit.stages import load_stage

    config = load_stage(kind).Config
    keys = list(config.model_fields)

    def verb(**given: Any) -> None:
        from dataclasses import replace

        from qwenkit.lineage.recipe import build
        from qwenkit.lineage.runner import Options

        out, quiet, threads = given.pop("out"), given.pop("quiet"), given.pop("threads")
        table = {key: _value(config, key, given[key]) for key in keys if given[key] is not None}
        data = {"title": kind, "threads": threads, kind: table}
        places = {(kind, key): f"qwenkit {kind} --{key.replace('_', '-')}" for key in keys}
        recipe = build(data, {**places}, f"qwenkit {kind}", Path())
        _run(replace(recipe, out=out), Options(), quiet, False)

    out = typer.Option(help="run folder", parser=_folder, metavar="FOLDER")
    threads = typer.Option(help="0: all free cores", metavar="INTEGER", rich_help_panel=PANELS["runtime"])
    quiet = typer.Option("-q", "--quiet", help="only the result", rich_help_panel=PANELS["runtime"])
    parameters = [*(_option(config, key) for key in config.edges()), _parameter("out", Path, out)]
    parameters += [_option(config, key) for key in keys if config.role(key) == "content"]
    parameters += [_option(config, key) for key in keys if config.role(key) == "runtime"]
    parameters += [
        _parameter("threads", int, threads, default=0),
        _parameter("quiet", bool, quiet, default=False),
    ]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__doc__ = KINDS[kind][0].upper() + KINDS[kind][1:] + "."
    return verb


def _parameter(name: str, kind: Any, option: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


PANELS = {"edge": None, "content": "What changes the result", "runtime": "What does not"}
WORDS = {bool: "true|false", int: "INTEGER", float: "NUMBER", list: "LIST", dict: "TABLE", str: "TEXT"}


def _option(config: Any, key: str) -> inspect.Parameter:
    """A key as an option. That a required one is missing is told by the recipe, in the words of its key."""
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
    """What stands for a key's value on the help page."""
    annotation = config.model_fields[key].annotation
    if config.role(key) == "edge":
        return "PATH"
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    plain = next((kind for kind in (get_origin(annotation), *get_args(annotation), annotation) if kind in WORDS), str)
    return WORDS[plain]


def _value(config: Any, key: str, given: Any) -> Any:
    from qwenkit.config import parse_value

    if config.takes_many(key):
        return [path for item in given for path in item.split(",")]
    return given if config.role(key) == "edge" else parse_value(given)


def _register_verbs(arguments: list[str]) -> None:
    """Add the verb that is called; for the help page all of them by name, without loading their stages."""
    called = next((a for a in arguments if not a.startswith("-")), None)
    for kind, doc in KINDS.items():
        if kind == called:
            epilog = f"Example:  qwenkit {kind} {EXAMPLES[kind]} --out runs/my-{kind}"
            app.command(kind, rich_help_panel="Stages", epilog=epilog)(_verb(kind))
        else:
            app.command(kind, rich_help_panel="Stages", help=doc[0].upper() + doc[1:] + ".")(_nothing)


def _nothing() -> None:
    """Stands for a verb on the help page."""


def main() -> None:
    """Entry point: run the command line and turn errors into messages and exit codes."""
    _register_verbs(sys.argv[1:])
    try:
        code = app(standalone_mode=False, prog_name="qwenkit")
    except QwenkitError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(MISTAKE)
    except OSError as error:
        mend = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        _fail(UserError(error.strerror or str(error), where=error.filename and str(error.filename), mend=mend))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(_misused(error))
    if code:
        sys.exit(code)


def _fail(error: QwenkitError) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {error.text()}", file=sys.stderr)
    sys.exit(error.exit_code)


def _misused(error: Any) -> UserError:
    """A wrong command line in our words: what, and how the command is used."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "qwenkit"
    usage = context.get_usage().removeprefix("Usage:").strip() if context else None
    return UserError(error.format_message().rstrip("."), where=command, expected=usage, mend=f"{command} --help")


if __name__ == "__main__":
    main()
