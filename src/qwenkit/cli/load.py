"""What `qwenkit bench --url` does: runs a load test and prints its figures, for people and for programs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from qwenkit.cli.app import print_json, real, terminal, written
from qwenkit.cli.load_settings import LoadTest
from qwenkit.errors import INTERRUPTED, Stopped, UserError, visible
from qwenkit.records import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from qwenkit.serving.load.loops import LoadPlan, LoadRun, Progress
    from qwenkit.serving.load.measures import Evenness, LoadReport, Objectives
    from qwenkit.serving.load.records import RequestRecord

_BUSY, _LATE = 0.8, 0.05


def bench_server(test: LoadTest, as_json: bool) -> int:
    """Run the test, print its figures, write its files; return the exit code."""
    from qwenkit.serving.load.measures import summarize

    records, run, model = asyncio.run(_measure(test))
    report = summarize(records, test.objectives, run.unsent, run.cost())
    settings = {"url": test.target.base(), "api": test.target.api, "model": model, **asdict(test.plan)}
    if test.out is not None:
        with written(test.out):
            rows = [_row(record, records[0].due) for record in records]
            write_json(real(test.out), {"settings": settings, **plain(report), "each": rows})
    if test.plot is not None:
        from qwenkit.serving.load.plot import write_plot

        with written(test.plot):
            write_plot(records, test.plot, f"{model or 'the server'}, {load_text(test.plan)}")
    if as_json:
        print_json({"settings": settings, **plain(report)})
    else:
        console = terminal()
        console.print(
            f"{model or 'its model'} at {test.target.base()} ({test.target.api})\n{heading(report, test.plan)}\n"
        )
        console.print(table(report))
        console.print("\n" + "\n".join(remarks(report)))
    if not report.finished and not run.stopped:
        kind = next(iter(report.errors), "no request was sent")
        raise Stopped("no request was answered", where=test.target.base(), hint=report.examples.get(kind, kind))
    return INTERRUPTED if run.stopped else 0


async def _measure(test: LoadTest) -> tuple[list[RequestRecord], LoadRun, str | None]:
    """Find out whom to ask, and run the test; Ctrl-C ends it early."""
    from qwenkit.serving.load.loops import LoadRun
    from qwenkit.serving.load.sender import HttpSender

    target = test.target
    async with HttpSender(target) as send:
        names = await send.models()
    if target.model is None:
        if not names:
            raise UserError(
                "the server does not tell the names of its models", where=target.base(), hint="--model NAME"
            )
        target = replace(target, model=names[0])
    async with HttpSender(target) as send:
        with progress_line() as show:
            run = LoadRun(test.plan, test.requests, send, show)
            with _ended_by_interrupt(run):
                return await run.run(), run, target.model


@contextlib.contextmanager
def _ended_by_interrupt(run: LoadRun) -> Iterator[None]:
    """Have the first Ctrl-C end the run, whose figures are then those so far."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, run.stop)
    except (ValueError, RuntimeError, NotImplementedError):  # not the main thread, or no signals here
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


# ---- words -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[Progress], None]]:
    """Yield what shows how far a run is, in one line of standard error; nothing without a terminal."""
    shown = sys.stderr is not None and sys.stderr.isatty()

    def show(progress: Progress) -> None:
        if shown:
            print(f"\r{progress_text(progress)}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def progress_text(progress: Progress) -> str:
    """Return how far a run is, in words."""
    left = "" if progress.left is None else f", {clock(progress.left)} left"
    errors = f", {progress.errors:,} errors" if progress.errors else ""
    speed = progress.tokens / max(1e-9, progress.seconds)
    return f"{progress.ended:,} requests{errors}, {progress.open:,} open, {speed:,.0f} tokens/s{left}"


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def load_text(plan: LoadPlan) -> str:
    """Return the kind of load."""
    return f"{plan.clients} clients" if plan.rate is None else f"{plan.rate:g} requests a second"


def heading(report: LoadReport, plan: LoadPlan) -> str:
    """Return what was asked, and what became of it."""
    parts = [f"{report.finished:,} finished"]
    parts += [f"{report.failed:,} with errors"] * bool(report.failed)
    parts += [f"{report.cut:,} cut at the end"] * bool(report.cut)
    parts += [f"{report.unsent:,} not sent, too many were open"] * bool(report.unsent)
    return f"{load_text(plan)}, {report.seconds:,.1f} s: {report.requests:,} requests, {', '.join(parts)}"


def table(report: LoadReport) -> Table:
    """Return the table of times, in milliseconds."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for name in ("ms", "p50", "p95", "p99", "mean", "max"):
        grid.add_column(name, justify="left" if name == "ms" else "right")
    rows = {"first token": report.first_token, "inter-token": report.inter_token, "per token": report.per_token,
            "end to end": report.latency}  # fmt: skip
    for name, times in rows.items():
        values = () if times is None else (times.p50, times.p95, times.p99, times.mean, times.max)
        grid.add_row(name, *(f"{1000 * value:,.1f}" for value in values))
    return grid


def remarks(report: LoadReport) -> list[str]:
    """Return the lines below the table."""
    lines = [
        f"answers  {report.tokens_per_second:,.1f} tokens/s, {report.requests_per_second:,.2f} requests/s; "
        f"{report.answer_tokens:,} tokens, {counted(report)}",
        f"prompts  {report.prompt_tokens:,} tokens; with them {report.total_tokens_per_second:,.1f} tokens/s",
    ]
    if (good := report.goodput) is not None:
        lines.append(
            f"goodput  {good.share:.1%} of the requests, {good.requests_per_second:,.2f} requests/s, "
            f"{good.tokens_per_second:,.1f} tokens/s within {objectives_text(good.objectives)}"
        )
    if (fair := report.fairness) is not None:
        waits = "" if fair.waits is None else f"; mean first token {evenness_text(fair.waits, 1000, ' ms')}"
        lines.append(f"fairness {fair.clients} clients: finished {evenness_text(fair.finished)}{waits}")
    for kind, number in report.errors.items():
        example = report.examples.get(kind, "")
        lines.append(f"errors   {number:,} times {kind}{': ' if example else ''}{visible(example)}")
    if report.empty:
        lines.append(f"empty    {report.empty:,} answers without a token")
    return lines + client_lines(report)


def counted(report: LoadReport) -> str:
    """Return who has counted the tokens of the answers."""
    if report.tokens_by_usage == report.finished:
        return f"by the server's usage, {report.tokens_per_chunk:.2f} a chunk"
    if not report.tokens_by_usage:
        return "counted by chunks: the server tells no usage"
    return (
        f"of {report.finished - report.tokens_by_usage:,} requests counted by chunks: the server tells no usage there"
    )


def client_lines(report: LoadReport) -> list[str]:
    """Return what the client itself took, and whether that was too much."""
    cost = report.client
    if cost is None:
        return []
    late = 0.0 if cost.lag is None else cost.lag.p99
    lines = [f"client   {cost.cpu_share:.0%} of a core, {1000 * late:.1f} ms late at p99"]
    if cost.cpu_share > _BUSY or late > _LATE:
        lines.append("         the client is at its own limit: these are its times as well as the server's")
    return lines


def objectives_text(objectives: Objectives) -> str:
    """Return what a good request keeps to."""
    parts = [
        None if objectives.first_token is None else f"{1000 * objectives.first_token:g} ms to the first token",
        None if objectives.inter_token is None else f"{1000 * objectives.inter_token:g} ms per token",
    ]
    return " and ".join(part for part in parts if part)


def evenness_text(evenness: Evenness, factor: float = 1, unit: str = "") -> str:
    """Return how evenly something falls upon the clients."""
    least, most = factor * evenness.least, factor * evenness.most
    return f"{least:,.0f} to {most:,.0f}{unit} (min/max {evenness.ratio:.2f}, Jain {evenness.jain:.3f})"


# ---- for programs ----------------------------------------------------------------------------------------------------


def plain(report: LoadReport) -> dict[str, object]:
    """Return a report as JSON has it; times are seconds."""
    return {**asdict(report), "failed": report.failed, "rejected": report.rejected}


def _row(record: RequestRecord, start: float) -> Mapping[str, object]:
    """Return one request as JSON has it."""
    return {
        "number": record.number, "client": record.client, "due": record.due - start, "ended": record.ended - start,
        "first_token": record.first_token, "per_token": record.seconds_per_token, "latency": record.latency,
        "longest_gap": max(record.gaps, default=None), "chunks": len(record.times),
        "prompt_tokens": record.prompt_tokens, "answer_tokens": record.answer_tokens, "status": record.status,
        "finish_reason": record.finish_reason, "error": record.error, "detail": record.detail or None,
    }  # fmt: skip
