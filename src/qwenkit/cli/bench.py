"""The command that measures: a machine with a model (prefill, decode, their bounds, the cache), or a server under load
(`load.py`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenkit.cli.app import Json, accepting_names, app, as_folder, as_reference, bar, need, print_json, terminal
from qwenkit.cli.load import bench_server
from qwenkit.cli.load_settings import KEY_VARIABLE, MOST_CLIENTS, LoadSettings, load_test
from qwenkit.cli.models import Accept
from qwenkit.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from qwenkit.inference.bench import BenchReport


_SPEED, _LOAD, _ASKED = "A model on this machine", "A server under load", "What it is asked"


@app.command(
    epilog="Example:  qwenkit bench runs/nano/chat-rlhf --quick\n\n"
    "A server:  qwenkit bench --url http://127.0.0.1:8000 --clients 16 --duration 30"
)
def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="a model: its folder, or org/name of the Hub", parser=as_reference, metavar="MODEL"),
    ] = None,
    threads: Annotated[int, typer.Option(help="0: all free cores", min=0, rich_help_panel=_SPEED)] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="fewer repetitions, shorter prompts", rich_help_panel=_SPEED)
    ] = False,
    accept_unknown: Accept = "",
    url: Annotated[
        str | None, typer.Option(help="a server of OpenAI's API, such as http://127.0.0.1:8000", rich_help_panel=_LOAD)
    ] = None,
    served: Annotated[
        str | None, typer.Option("--model", help="which of its models; the first", rich_help_panel=_LOAD)
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(help=f"the variable of the environment that has its key; {KEY_VARIABLE}", rich_help_panel=_LOAD),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            help="so many ask, each again when it was answered; 8", min=1, max=MOST_CLIENTS, rich_help_panel=_LOAD
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="or requests a second, whatever the server does", rich_help_panel=_LOAD)
    ] = None,
    requests: Annotated[int | None, typer.Option(help="how many in all", min=1, rich_help_panel=_LOAD)] = None,
    duration: Annotated[
        float | None, typer.Option(help="or seconds in which they are sent; 30", rich_help_panel=_LOAD)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="seconds of one request; 600", min=0.1, rich_help_panel=_LOAD)
    ] = None,
    slo_ttft: Annotated[
        float | None,
        typer.Option(help="ms to the first token that a good request needs at most", min=0, rich_help_panel=_LOAD),
    ] = None,
    slo_itl: Annotated[
        float | None, typer.Option(help="and ms per token after it, on average", min=0, rich_help_panel=_LOAD)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="write all figures, and each request, as JSON", parser=as_folder, metavar="FILE", rich_help_panel=_LOAD
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="draw latencies over time: .svg or .png", parser=as_folder, metavar="FILE", rich_help_panel=_LOAD
        ),
    ] = None,
    api: Annotated[str | None, typer.Option(help="chat or completions; chat", rich_help_panel=_ASKED)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines with `prompt` or `messages`; else made from the seed",
            parser=as_folder,
            metavar="FILE",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(help="about so many for each prompt that is made, such as 16-256; 64", rich_help_panel=_ASKED),
    ] = None,
    answer_tokens: Annotated[
        str | None,
        typer.Option(help="so many at most for each answer (`max_tokens`), such as 16-256; 64", rich_help_panel=_ASKED),
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="answers as long as that, where the server can", rich_help_panel=_ASKED)
    ] = False,
    body: Annotated[
        str | None,
        typer.Option(help="further fields of every request, as JSON", metavar="JSON", rich_help_panel=_ASKED),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="of prompts, lengths and arrivals; 0", rich_help_panel=_ASKED)
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine reads (prefill) and writes (decode) with a model, which share of its bounds that
    is, and what a prefix saves that was read before. With `--url` measure a server under load instead: times to the
    first token and between tokens, tokens a second, goodput, fairness; `docs/serving.md` defines each figure."""
    settings = LoadSettings(
        url=url, model=served, key_variable=key_variable, clients=clients, rate=rate, requests=requests,
        duration=duration, timeout=timeout, slo_ttft=slo_ttft, slo_itl=slo_itl, out=out, plot=plot, api=api,
        prompts=prompts, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, ignore_eos=ignore_eos, body=body,
        seed=seed,
    )  # fmt: skip
    if (model is None) == (url is None):
        raise UserError("nothing to measure" if url is None else "a model of this machine and a server",
                        where="qwenkit bench", expected="a model, or --url and a server",
                        hint=None if url is None else f"--model {model}, if it is the server's")  # fmt: skip
    if model is not None:
        settings.refuse()
        _bench_model(model, threads, quick, accept_unknown, as_json)
        return
    if threads or quick or accept_unknown:
        raise UserError("--threads, --quick or --accept-unknown with a server", where="qwenkit bench",
                        expected="a model with them")  # fmt: skip
    need("aiohttp", "qwenkit bench --url", "load")
    if code := bench_server(load_test(settings), as_json):
        raise typer.Exit(code)


def _bench_model(model: str, threads: int, quick: bool, accept_unknown: str, as_json: bool) -> None:
    """Measure a model on this machine, and print what it is."""
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
