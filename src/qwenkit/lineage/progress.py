"""What a person sees of a run: a bar for the run, a bar with ETA for the node at work, a line per finished node,
and at the end planned beside actual time. Without a terminal there are lines only.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from qwenkit.artifacts import Manifest
from qwenkit.errors import visible
from qwenkit.lineage.graph import PlanEntry
from qwenkit.lineage.recipe import Node, Recipe
from qwenkit.records import Row
from qwenkit.stages.base import Progress as Report

WORDS = {"done": "up to date", "reuse": "reused"}


class Terminal:
    """Bars where there is a terminal, plain lines where there is none; `quiet` prints only the closing table,
    `verbose` also why each node runs, its key, and where what it made lies."""

    def __init__(self, console: Console, quiet: bool = False, verbose: bool = False) -> None:
        self.console, self.quiet, self.verbose = console, quiet, verbose and not quiet
        self.out = Path()
        self.bars: Progress | None = None
        self.run_bar: TaskID | None = None
        self.node_bar: TaskID | None = None

    def begin(self, entries: list[PlanEntry], recipe: Recipe) -> None:
        """Say what is to be done and draw the run's bar."""
        todo = [v for v in entries if v.works]
        reused = sum(v.state == "reuse" for v in entries)
        minutes = [recipe.nodes[v.node].config.planned_minutes for v in todo]
        planned = f", about {sum(m for m in minutes if m):.0f} minutes" if any(minutes) else ""
        taken = f", {reused} reused" if reused else ""
        if not self.quiet:
            rest = f": {len(todo)} of {len(entries)} nodes to run{taken}{planned}"
            self.console.print(Text.assemble((visible(recipe.title), "bold"), rest))
            if recipe.about:
                self._line(recipe.about)
        self.out = recipe.out
        for v in entries if self.verbose else ():
            key = v.key[:12] if v.key else "not known yet"
            self._line(f"{v.node:<12} {WORDS.get(v.state, v.state):<10} key {key:<13}  {v.why}")
        if self.console.is_terminal and not self.quiet and todo:
            self.bars = Progress(
                TextColumn("{task.description:<12}", markup=False), BarColumn(28),
                TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console, transient=True,
            )  # fmt: skip
            self.bars.start()
            self.run_bar = self.bars.add_task("run", total=sum(m or 0.1 for m in minutes), note="")

    def start(self, node: Node, why: str) -> Report:
        """Draw a node's bar; the callable returned moves it."""
        if self.bars is None:
            return _ignore
        self.node_bar = self.bars.add_task(node.name, total=None, note=visible(why))
        bar, bars = self.node_bar, self.bars

        def report(done: float, total: float, **metrics: float | str) -> None:
            note = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items())
            bars.update(bar, completed=done, total=total, note=visible(note))

        return report

    def done(self, node: Node, manifest: Manifest, run: Row, entry: PlanEntry) -> None:
        """A line per finished node, with its headline number."""
        if self.bars is not None:
            if self.node_bar is not None:
                self.bars.remove_task(self.node_bar)
                self.node_bar = None
            if self.run_bar is not None and entry.works:
                self.bars.advance(self.run_bar, node.config.planned_minutes or 0.1)
        if not self.quiet:
            spent = WORDS.get(entry.state) or f"{run['seconds'] / 60:.1f} min"
            self._line(f"{time.strftime('%H:%M:%S')} {node.name:<12} {spent:>10}  {manifest.headline}")
            for remark in run.get("remarks", ()) if entry.works else ():
                self._line(f"{'':<33}{remark}")
        if self.verbose:
            facts = f"digest {manifest.digest[:12]}, key {manifest.key[:12]}, seed {manifest.seed}"
            self._line(f"{'':<8} {self.out / node.name}: {facts}, peak {run['peak_mb']} MB, {run['attempts']} attempts")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def end(self, rows: list[Row]) -> None:
        """Planned beside actual, node by node."""
        self.close()
        worked = [row for row in rows if row["state"] not in WORDS]
        if not worked:
            self.console.print("nothing to do: every node is up to date")
            return
        self.console.print(closing_table(worked))

    def close(self) -> None:
        """Take the bars away, whatever happened."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def closing_table(rows: list[Row]) -> Table:
    """Planned beside actual, node by node, and the sum: minutes add up, memory is the most at once."""
    table = Table(
        "node", "planned min", "actual min", "planned MB", "peak MB", "headline", box=None, pad_edge=False
    )  # fmt: skip
    whole: dict[str, Any] = {
        "node": "all", "headline": "", "seconds": sum(row["seconds"] for row in rows),
        "planned_minutes": sum(row["planned_minutes"] or 0 for row in rows),
        "planned_mb": max(row["planned_mb"] or 0 for row in rows), "peak_mb": max(row["peak_mb"] for row in rows),
    }  # fmt: skip
    for row in [*rows, whole]:
        minutes = f"{row['planned_minutes']:.1f}" if row["planned_minutes"] else "-"
        memory = str(row["planned_mb"] or "-")
        actual = f"{row['seconds'] / 60:.1f}"
        table.add_row(row["node"], minutes, actual, memory, str(row["peak_mb"]), row["headline"])
    return table


def _ignore(done: float, total: float, **metrics: float | str) -> None:
    """No terminal, no bar."""
