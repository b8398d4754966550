"""Commands about runs: run a recipe, plan it, inspect the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from qwenkit.cli.app import (
    Changes,
    Json,
    Quiet,
    RunFolder,
    Verbose,
    app,
    as_folder,
    minutes_text,
    print_json,
    say,
    terminal,
    write_text,
)
from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.stages import is_chat_model

if TYPE_CHECKING:
    from qwenkit.lineage.recipe import Recipe
    from qwenkit.lineage.runner import Options


@app.command(epilog="Example:  qwenkit run nano --set seed=2 --out runs/nano-2")
def run(
    recipe: Annotated[str, typer.Argument(help="a .toml file, or a name that `qwenkit recipes` lists")],
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option(help="the run folder; runs/NAME when not given", parser=as_folder, metavar="FOLDER")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="only this node; may be repeated", metavar="NODE")] = None,
    until: Annotated[str | None, typer.Option(help="this node and all it needs", metavar="NODE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the graph, what would run and why")] = False,
    allow_env_change: Annotated[
        bool, typer.Option("--allow-env-change", help="go on under other threads or versions")
    ] = False,
    reuse: Annotated[
        Path | None, typer.Option(help="take equal artifacts from this run folder", parser=as_folder, metavar="RUN")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe: make every node that is not up to date, in order."""
    from qwenkit.lineage.runner import Options

    loaded = _load(recipe, changes, out)
    options = Options(tuple(only or ()), until, allow_env_change, reuse)
    if dry_run:
        _show_plan(loaded, options, as_json)
        return
    run_and_report(loaded, options, quiet, as_json, verbose)


def _load(recipe: str, changes: list[str] | None, out: Path | None) -> Recipe:
    from dataclasses import replace

    from qwenkit.lineage.recipe import load_recipe

    loaded = load_recipe(recipe, changes)
    return replace(loaded, out=out) if out is not None else loaded


def run_and_report(recipe: Recipe, options: Options, quiet: bool, as_json: bool, verbose: bool = False) -> None:
    """Run a recipe and print its closing table, or JSON with the rows of all nodes."""
    from qwenkit.lineage.progress import Terminal
    from qwenkit.lineage.runner import run_recipe

    console = terminal(stderr=as_json)
    finished: list[Row] = []

    class Recorder(Terminal):
        """A terminal that also keeps the rows of the closing table, for `--json`."""

        def end(self, rows: list[Row]) -> None:
            finished.extend(rows)
            super().end(rows)

    screen = Recorder(console, quiet, verbose)
    try:
        run_recipe(recipe, options, screen)
    finally:
        screen.close()
    if as_json:
        print_json({"out": str(recipe.out), "nodes": finished})
    elif not quiet:
        _closing_hint(recipe, console)


def _closing_hint(recipe: Recipe, console: Console) -> None:
    """Tell what to do with what was made."""
    if (recipe.out / "report.html").exists():
        console.print(f"report: {recipe.out / 'report.html'}", highlight=False)
    chats = [name for name, node in recipe.nodes.items() if is_chat_model(node.kind) and (recipe.out / name).exists()]
    if chats:
        console.print(f"talk to it: qwenkit chat {recipe.out / chats[-1]}", highlight=False)


def _show_plan(recipe: Recipe, options: Options, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from qwenkit.lineage.estimate import sizes
    from qwenkit.lineage.runner import plan

    entries, known = plan(recipe, options), sizes(recipe)
    if as_json:
        print_json([{**asdict(v), "size": asdict(known[v.node]) if v.node in known else None} for v in entries])
        return
    table = Table("node", "kind", "reads", "state", "why", "min", "MB", box=None, pad_edge=False)
    for v in entries:
        node = recipe.nodes[v.node]
        words = {
            "done": "up to date", "reuse": "would be reused", "absent": "needs data", "blocked": "would be refused",
        }  # fmt: skip
        state = words.get(v.state, "would run")
        minutes = minutes_text(node.config.planned_minutes if v.works else None)
        memory = str(node.config.planned_memory_mb or "") if v.works else ""
        reads = ", ".join(node.parents() or [target for kind, target in node.inputs.values() if kind != "node"])
        why = "" if v.state == "done" or v.why == f"after {reads}" else v.why  # `status` says what came of it
        table.add_row(v.node, node.kind, reads, state, why, minutes, memory)
    terminal().print(table)
    for v in entries:
        if v.node in known:
            terminal().print(f"{v.node}: {known[v.node].text()}", highlight=False)


@app.command(epilog="Example:  qwenkit recipes")
def recipes(as_json: Json = False) -> None:
    """List the recipes that come with qwenkit: what each makes, and which keys name your own data."""
    from rich.table import Table

    from qwenkit.lineage.estimate import offered
    from qwenkit.stages.results import short

    rows = offered()
    if as_json:
        print_json(rows)
        return
    table = Table("recipe", "parameters", "tokens", "what it makes", "your data", box=None, pad_edge=False)
    for row in rows:
        data = ", ".join(row["data"]) or "none"
        size = [short(row[key]) if row[key] else "yours" for key in ("parameters", "tokens")]
        table.add_row(row["recipe"], *size, row["about"], data)
    terminal().print(table)


@app.command(epilog="Example:  qwenkit init my.toml --from own --set corpus.extra=texts --set chat.data=chats.json")
def init(
    path: Annotated[Path, typer.Argument(help="the recipe file to write")],
    source: Annotated[str, typer.Option("--from", help="the recipe to start from")] = "nano",
    changes: Changes = None,
) -> None:
    """Write a recipe of your own, a copy of one that comes with qwenkit; its run folder is named after the file."""
    from qwenkit.lineage.recipe import load_recipe, own_copy

    if path.exists():
        raise UserError("the file exists already", where=str(path), hint="choose another name, or remove it")
    write_text(path, own_copy(source, path, changes))
    absent = [problem for node in load_recipe(str(path)).nodes.values() for problem in node.absent]
    terminal().print(f"wrote {path}; train it with: qwenkit run {path}")
    for problem in absent:
        terminal().print(f"before that: {problem.text()}")


@app.command(epilog="Example:  qwenkit status runs/nano")
def status(run_dir: RunFolder, as_json: Json = False) -> None:
    """Show what a run folder holds: every node of the recipe and how far it is, headline numbers, minutes, alarms."""
    from rich.table import Table

    from qwenkit.lineage.status import HINT, read_status

    run_status = read_status(run_dir)
    if as_json:
        print_json(run_status.plain())
    else:
        table = Table("node", "state", "min", "planned", "digest", "", box=None, pad_edge=False)
        for column in table.columns[:-1]:
            column.no_wrap = True
        for row in run_status.nodes:
            again = f" ({row.attempts} attempts)" if (row.attempts or 0) > 1 else ""
            minutes = minutes_text(row.minutes), minutes_text(row.planned_minutes)
            table.add_row(
                row.node,
                row.state,
                *minutes,
                row.digest[:12],
                "; ".join(filter(None, (row.detail + again, row.older_code))),
            )
        terminal().print(table)
        for alarm in run_status.alarms:
            terminal().print(f"alarm {alarm.get('id')} in {alarm.get('node')}: {alarm.get('cause', '')}", markup=False)
    if run_status.damage or run_status.newer:
        raise UserError("\n".join([*run_status.newer, *run_status.damage]), hint=HINT if run_status.damage else None)


@app.command(epilog="Example:  qwenkit verify runs/nano")
def verify(
    run_dir: Annotated[Path, typer.Argument(help="a run folder or one artifact")], as_json: Json = False
) -> None:
    """Hash every file again and compare with the manifests; exit code 2 when anything differs."""
    from qwenkit.artifacts import is_newer, read_manifest
    from qwenkit.lineage import status

    damage = status.verify(run_dir)
    if as_json:
        print_json({str(folder): lines for folder, lines in damage.items()})
    for folder, lines in damage.items() if not as_json else ():
        word = ("NEWER" if is_newer(folder) else "CORRUPTED") if lines else "intact"
        say(f"{word:<10}{'' if lines else read_manifest(folder).digest[:12]:<12} {folder}")
    wrong = [line for lines in damage.values() for line in lines]
    if wrong:
        raise UserError("\n".join(wrong), hint=status.hint_of(damage))


@app.command(epilog="Example:  qwenkit clean runs/nano")
def clean(
    run_dir: RunFolder,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="also what a run would go on with")] = False,
    as_json: Json = False,
) -> None:
    """Remove superseded artifacts and the scratch folders of outdated work; unfinished work is kept."""
    from dataclasses import asdict

    from qwenkit.lineage.gc import clean as clean_run

    cleaned = clean_run(run_dir, unfinished)
    if as_json:
        print_json(asdict(cleaned))
        return
    say(f"freed {cleaned.freed / 1e6:.1f} MB")
    for name, size in cleaned.kept.items():
        say(f"kept {name} ({size / 1e6:.1f} MB): the next run goes on from there; --unfinished removes it")
