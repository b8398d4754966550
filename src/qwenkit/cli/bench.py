"""The command that measures a machine with a model: prefill, decode, their bounds, and the cache."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from qwenkit.cli.app import Json, accepting_names, app, bar, print_json, terminal
from qwenkit.cli.models import Accept, Model
from qwenkit.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from qwenkit.inference.bench import BenchReport


@app.command(epilog="Example:  qwenkit bench runs/nano/chat-rlhf --quick")
def bench(
    model: Model,
    threads: Annotated[int, typer.Option(help="0: all free cores", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="fewer repetitions, shorter prompts")] = False,
    accept_unknown: Accept = "",
    as_json: Json = False,
) -> None:
    """Measure how fast this machine reads (prefill) and writes (decode) with a model, which share of its bounds that
    is, and what a prefix saves that was read before."""
    from qwenkit.hub import resolve
    from qwenkit.inference import Engine
    from qwenkit.inference.bench import DECODE
    from qwenkit.inference.bench import bench as measure
    from qwenkit.platform import free_cores, torch_threads

    folder = resolve(model)
    if not folder.exists():
        raise UserError("no such folder", where=model, expected="a folder of a model, or org/name of the Hub")
    with torch_threads(threads or free_cores()), bar() as moved:
        moved(0, 1, "loading the model")
        with accepting_names(accept_unknown):
            engine = Engine(folder, max_batch=max(DECODE), invariant=False)
        report = measure(engine, quick=quick, progress=moved)
    if as_json:
        print_json({"model": model, **plain(report)})
        return
    console = terminal()
    console.print(f"{folder.name}: {heading(report)}\n{report.processor}, {threads_text(report.threads)}\n")
    console.print(table(report))
    console.print("\n" + "\n".join(remarks(report)))


def plain(report: BenchReport) -> dict[str, object]:
    """Return a report as JSON has it; rows with their shares."""
    rows = [{**asdict(row), "share": row.share} for row in report.rows]
    return {**asdict(report), "rows": rows}


def heading(report: BenchReport) -> str:
    """Return what the model is."""
    return f"{count(report.parameters)} parameters, {report.dtype}, a step reads {size(report.weight_bytes)} of weights"


def threads_text(number: int) -> str:
    """Return a number of threads in words."""
    return f"{number} thread{'s' * (number != 1)}"


def table(report: BenchReport) -> Table:
    """Return the table of reading and writing."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for name in ("", "tokens/s", "ms", "bound", "share"):
        grid.add_column(name, justify="left" if not name else "right")
    for row in report.rows:
        name = f"prefill of {row.size} tokens" if row.what == "prefill" else f"decode, batch {row.size}"
        bound, share = ("", "") if row.bound is None or row.share is None else (rate(row.bound), f"{row.share:.0%}")
        grid.add_row(name, rate(row.tokens_per_second), milliseconds(row.seconds), bound, share)
    cache = report.cache
    for name, seconds in (("new", cache.cold_seconds), ("known", cache.warm_seconds)):
        grid.add_row(f"first token, {cache.prefix:,} {name} before it", "", milliseconds(seconds))
    return grid


def remarks(report: BenchReport) -> list[str]:
    """Return the lines below the table: the bounds, and the cache."""
    cache = report.cache
    holds = "grows with what is written" if cache.tokens is None else f"holds {cache.tokens:,} tokens"
    faster = cache.cold_seconds / cache.warm_seconds
    return [
        f"bounds   {report.flops / 1e9:,.0f} GFLOP/s in a matrix product, {report.bandwidth / 1e9:,.1f} GB/s in a read",
        f"cache    {holds}, {size(cache.bytes_per_token)} a token",
        f"prefix   the first token comes {faster:.1f} times as soon where it was read before",
    ]


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds."""
    return f"{1000 * seconds:,.1f}"


def rate(value: float) -> str:
    """Return a rate with three figures, at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(value: int) -> str:
    """Return a large number with its unit."""
    return _with_unit(value, (("", 1), (" k", 1e3), (" M", 1e6), (" B", 1e9)))


def size(value: int) -> str:
    """Return a number of bytes with its unit."""
    return _with_unit(value, ((" B", 1), (" kB", 1e3), (" MB", 1e6), (" GB", 1e9)))


def _with_unit(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """Return a number in the largest unit of which there is one."""
    name, factor = [unit for unit in units if value >= unit[1] or unit is units[0]][-1]
    return f"{value / factor:.3g}{name}"
