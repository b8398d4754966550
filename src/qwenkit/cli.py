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
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from qwenkit.errors import INTERRUPTED, MISTAKE, QwenkitError, UserError
from qwenkit.stages import KINDS

app = typer.Typer(
    help="The Qwen Technical Report as running software.\n\nBegin with:  qwenkit run nano",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
inspect_app = typer.Typer(help="Look at what a model will really see.", no_args_is_help=True)
app.add_typer(inspect_app, name="inspect")

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
    recipe: Annotated[str, typer.Argument(help="a .toml file, or the name of a recipe that comes with qwenkit")],
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="the run folder; runs/NAME when not given")] = None,
    only: Annotated[list[str] | None, typer.Option(help="only these nodes")] = None,
    until: Annotated[str | None, typer.Option(help="this node and all it needs")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the graph, what would run and why")] = False,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="go on under other threads or versions")] = False,
    reuse: Annotated[Path | None, typer.Option(help="take equal artifacts from this run folder")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Raise the family of a recipe: every node that is not up to date, in order."""
    from qwenkit.lineage.runner import Options

    loaded = _load(recipe, changes, out)
    if dry_run:
        _show_plan(loaded, only or [], until, as_json)
        return
    _run(loaded, Options(tuple(only or ()), until, allow_drift, reuse), quiet, as_json)


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


def _show_plan(recipe: Any, only: list[str], until: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from qwenkit.lineage import graph

    verdicts = graph.judge(recipe, recipe.out, graph.select(recipe, only, until))
    if as_json:
        _print_json([asdict(v) for v in verdicts])
        return
    table = Table("node", "kind", "reads", "state", "why", "planned min", box=None, pad_edge=False)
    for v in verdicts:
        node = recipe.nodes[v.node]
        state = {"done": "up to date", "run": "would run", "waiting": "would run"}[v.state]
        minutes = "" if v.state == "done" or not node.config.minutes else f"{node.config.minutes:.1f}"
        reads = ", ".join(node.parents() or [target for kind, target in node.inputs.values() if kind == "path"])
        table.add_row(v.node, node.kind, reads, state, v.why, minutes)
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
def status(run_dir: Annotated[Path, typer.Argument(help="a run folder")], as_json: Json = False) -> None:
    """What a run folder holds: nodes, headline numbers, minutes, alarms."""
    from rich.table import Table

    from qwenkit.artifacts import read_run
    from qwenkit.events import read_events

    rows = [
        {
            "node": m.node,
            "kind": m.kind,
            "headline": m.headline,
            "digest": m.digest,
            **read_run(run_dir / m.node),
        }
        for m in _artifacts(run_dir)
    ]
    rows.sort(key=lambda row: row["started"])
    alarms = [e for e in read_events(run_dir / "events.jsonl") if e["event"] == "alarm"]
    if as_json:
        _print_json({"nodes": rows, "alarms": alarms})
        return
    table = Table("node", "kind", "min", "attempts", "digest", "headline", box=None, pad_edge=False)
    for row in rows:
        minutes = f"{row['seconds'] / 60:.1f}"
        table.add_row(row["node"], row["kind"], minutes, str(row["attempts"]), row["digest"][:12], row["headline"])
    _console().print(table)
    for alarm in alarms:
        _console().print(f"alarm {alarm.get('id')} in {alarm.get('node')}: {alarm.get('cause', '')}", markup=False)


def _artifacts(run_dir: Path) -> list[Any]:
    from qwenkit.artifacts import MANIFEST, is_run, read_manifest

    if not is_run(run_dir):
        raise UserError("no run in this folder", where=str(run_dir), expected="a folder that `qwenkit run` made")
    return [read_manifest(path.parent) for path in sorted(run_dir.glob(f"*/{MANIFEST}"))]


@app.command(epilog="Example:  qwenkit verify runs/nano")
def verify(
    run_dir: Annotated[Path, typer.Argument(help="a run folder or one artifact")], as_json: Json = False
) -> None:
    """Hash every file again and compare with the manifests; exit code 2 when anything differs."""
    from qwenkit.artifacts import MANIFEST, damage, read_manifest

    folders = [run_dir] if (run_dir / MANIFEST).exists() else [run_dir / m.node for m in _artifacts(run_dir)]
    found = {str(folder): damage(folder) for folder in folders}
    if as_json:
        _print_json(found)
    for folder in folders if not as_json else []:
        state = "whole" if not found[str(folder)] else "DAMAGED"
        print(f"{state:<8} {read_manifest(folder).digest[:12]}  {folder}")
    wrong = [f"{folder}/{line}" for folder, lines in found.items() for line in lines]
    if wrong:
        raise UserError("\n".join(wrong), mend="remove the folder; the next `qwenkit run` makes it again")


@app.command(epilog="Example:  qwenkit clean runs/nano")
def clean(run_dir: Annotated[Path, typer.Argument(help="a run folder")]) -> None:
    """Remove superseded artifacts and the scratch of abandoned work."""
    from qwenkit.lineage.runner import locked

    _artifacts(run_dir)
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
    from qwenkit.chat.inspect import mask_ansi, mask_html
    from qwenkit.stages.sft import read_chats

    tok = load_tokenizer(tokenizer)
    rendered = [tok.render(row["messages"], mask=mask) for row in islice(read_chats(file), limit)]
    if html is not None:
        _write_text(html, mask_html(rendered, tok))
        print(f"wrote {html}")
        return
    for item in rendered:
        print(mask_ansi(item, tok), end="\n\n")


def _verb(kind: str) -> Callable[..., None]:
    """The command of a kind: one option for each key of its config, and --out for the artifact's run folder."""
    from qwenkit.config import default_text
    from qwenkit.stages import load_stage

    config = load_stage(kind).Config
    keys = list(config.model_fields)

    def verb(**given: Any) -> None:
        from qwenkit.lineage.recipe import build
        from qwenkit.lineage.runner import Options

        out, quiet, threads = given.pop("out"), given.pop("quiet"), given.pop("threads")
        table = {key: _value(config, key, given[key]) for key in keys if given[key] is not None}
        data = {"title": kind, "threads": threads, kind: table}
        places = {(kind, key): f"qwenkit {kind} --{key.replace('_', '-')}" for key in keys}
        recipe = build(data, {**places}, f"qwenkit {kind}", Path())
        from dataclasses import replace

        _run(replace(recipe, out=out), Options(), quiet, False)

    parameters = [_option(key, config.model_fields[key].description or "", default_text(config, key)) for key in keys]
    parameters += [
        _parameter("out", Path, typer.Option(help="run folder")),
        _parameter("threads", int, typer.Option(help="0: all free cores"), default=0),
        _parameter("quiet", bool, typer.Option("-q", "--quiet", help="only the result"), default=False),
    ]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__doc__ = KINDS[kind][0].upper() + KINDS[kind][1:] + "."
    return verb


def _parameter(name: str, kind: Any, option: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _option(key: str, doc: str, default: str) -> inspect.Parameter:
    text = doc + (f" [default: {default}]" if default else "")
    option = typer.Option("--" + key.replace("_", "-"), help=text, show_default=False)
    return _parameter(key, str | None, option, default=None)


def _value(config: Any, key: str, text: str) -> Any:
    from qwenkit.config import parse_value

    if config.role(key) == "edge":
        extra = config.model_fields[key].json_schema_extra
        return text.split(",") if extra["many"] else text
    return parse_value(text)


def _register_verbs(arguments: list[str]) -> None:
    """Add the verb that is called; for the help page all of them by name, without loading their stages."""
    called = next((a for a in arguments if not a.startswith("-")), None)
    for kind, doc in KINDS.items():
        if kind == called:
            app.command(kind, rich_help_panel="Stages", epilog=f"Example:  qwenkit {kind} ... --out runs/my-{kind}")(
                _verb(kind)
            )
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
