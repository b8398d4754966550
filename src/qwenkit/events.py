"""The event log: one typed JSONL a run. Bars, plots, the report card and `qwenkit status` are views of it.

Every line holds `event`, `time` (seconds since 1970), `attempt` (which start of the run), and where they apply
`node` and `step`. A torn last line (the process was killed while writing) is cut when the log is opened again.
Views keep the last attempt: one row for each (node, step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from qwenkit.records import dumps

SCHEMA = 1
KINDS = frozenset(
    "run_start run_end node_start node_done node_failed node_skipped step eval alarm checkpoint resumed note".split()
)
Log = Callable[..., None]


class EventLog:
    """Append-only writer. `log(event, **fields)`, or `log.bind(node=...)` for a callable that adds fields."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self.attempt = 1 + max((row["attempt"] for row in read_events(path)), default=0)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: str, **fields: Any) -> None:
        if event not in KINDS:
            raise ValueError(f"unknown event {event!r}")
        row = {"event": event, "time": round(time.time(), 3), "attempt": self.attempt, **fields}
        self._file.write(dumps(row) + "\n")
        self._file.flush()

    def bind(self, **fixed: Any) -> Log:
        """This log with some fields already given."""

        def log(event: str, **fields: Any) -> None:
            self(event, **{**fixed, **fields})

        return log

    def close(self) -> None:
        """Close the file; further events are an error."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole event, oldest first; a line that is no JSON object is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # broken, of too many digits, or nested too deeply
                continue
            if _is_event(row):
                yield row


def _is_event(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    found = cast("dict[str, Any]", row)
    numbers = (found.get("attempt"), found.get("step", 0))
    return isinstance(found.get("event"), str) and all(isinstance(number, int) for number in numbers)
