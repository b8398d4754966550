"""The event log: one typed JSONL a run. Bars, plots, the report card and `qwenkit status` are views of it.

Every line holds `event`, `time` (seconds since 1970), `attempt` (which start of the run), and where they apply
`node` and `step`. A torn last line (the process was killed while writing) is cut when the log is opened again.
Views keep the last attempt: one row for each (node, step).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from qwenkit.files import MEGABYTE, open_file
from qwenkit.records import Quarantine, dumps, numbered_jsonl

SCHEMA = 1
KINDS = frozenset(
    "run_start run_end node_start node_done node_failed node_skipped step eval alarm checkpoint resumed note".split()
)


class Log(Protocol):
    """A function that takes an event with its fields; an `EventLog` is one, and so is what `bind` returns."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Write the event."""
        ...


class EventLog:
    """An append-only writer of events. Call `log(event, **fields)`, or `log.bind(node=...)` for a function that adds
    fields."""

    def __init__(self, path: Path) -> None:
        """Open the log for a new attempt, after removing a torn last line."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self.attempt = 1 + max((row["attempt"] for row in read_events(path)), default=0)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: str, **fields: Any) -> None:
        """Write one event; raises a `ValueError` for an unknown one."""
        if event not in KINDS:
            raise ValueError(f"unknown event {event!r}")
        row = {"event": event, "time": round(time.time(), 3), "attempt": self.attempt, **fields}
        self._file.write(dumps(row) + "\n")
        self._file.flush()

    def bind(self, **fixed: Any) -> Log:
        """Return a log with some fields already given."""

        def log(event: str, **fields: Any) -> None:
            self(event, **{**fixed, **fields})

        return log

    def close(self) -> None:
        """Close the file; further events are an error."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not os.path.lexists(path):
        return
    with open_file(path) as file:
        size = whole = file.seek(0, os.SEEK_END)
        while whole:
            start = max(0, whole - MEGABYTE)
            file.seek(start)
            at = file.read(whole - start).rfind(b"\n")
            whole = start + at + 1
            if at >= 0:
                break
    if whole < size:
        os.truncate(path, whole)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every complete event, oldest first; lines that are not events are skipped."""
    if os.path.lexists(path):
        yield from (row for _, row in numbered_jsonl(path, Quarantine(keep=0)) if _is_event(row))


def _is_event(row: dict[str, Any]) -> bool:
    numbers = (row.get("attempt"), row.get("step", 0))
    words = (row.get("event"), row.get("node", ""))
    return all(isinstance(word, str) for word in words) and all(type(number) is int for number in numbers)
