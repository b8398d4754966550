"""What a program may take, and what came of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from qwenkit.errors import UserError

Status = Literal["ok", "error", "timeout", "memory", "processes", "output", "disk", "killed"]

MEGABYTE = 1 << 20
LONGEST_TIMEOUT = 86_400.0
"""The seconds that a run may be given: a day."""

_SMALLEST = {
    "cpu_seconds": 0.01, "memory_bytes": 32 * MEGABYTE, "processes": 1, "files": 1, "file_bytes": 1, "output_bytes": 1,
    "disk_bytes": 64 << 10,
}  # fmt: skip
_LARGEST = {
    "cpu_seconds": LONGEST_TIMEOUT, "memory_bytes": 1 << 46, "processes": 1 << 16, "files": 1 << 20,
    "file_bytes": 1 << 46, "output_bytes": 1 << 32, "disk_bytes": 1 << 46,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a program and all processes that it starts may take together; raises `UserError` for a value out of range.

    A file is never larger than the disk: the smaller of `file_bytes` and `disk_bytes` counts."""

    cpu_seconds: float = 60.0
    """Seconds of processor time, of all processes together; status `timeout`."""
    memory_bytes: int = 1024 * MEGABYTE
    """Memory of all processes together; also the most that one of them can map for writing. Status `memory`."""
    processes: int = 64
    """Processes and threads at one time; status `processes`."""
    files: int = 4096
    """Files and folders that it may make, those it was given included; status `disk`."""
    file_bytes: int = 64 * MEGABYTE
    """Size of a file; status `disk`."""
    output_bytes: int = MEGABYTE
    """Bytes of standard output, and of standard error; status `output`."""
    disk_bytes: int = 256 * MEGABYTE
    """Bytes of all files together; status `disk`."""

    def __post_init__(self) -> None:
        """Check each limit."""
        for item in dataclasses.fields(self):
            _check(item.name, getattr(self, item.name), whole=item.name != "cpu_seconds")


def _check(name: str, value: object, whole: bool) -> None:
    """Raise a `UserError` for a limit that is not a number of its range."""
    low, high = _SMALLEST[name], _LARGEST[name]
    number = _number(value)
    if number is None or (whole and not isinstance(value, int)) or not low <= number <= high:
        what = "an integer" if whole else "a number"
        raise UserError(f"{value!r}"[:200], where=f"Limits.{name}", expected=f"{what} from {low:,} to {high:,}")


def _number(value: object) -> float | None:
    """Return a number as it is; None for anything else, and for infinity and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def check_timeout(seconds: object) -> float:
    """Return a time limit of a run in seconds; raises a `UserError` for what is not one."""
    number = _number(seconds)
    if number is None or not 0 < number <= LONGEST_TIMEOUT:
        raise UserError(f"{seconds!r}"[:200], where="timeout", expected=f"seconds, up to {LONGEST_TIMEOUT:,.0f}")
    return float(number)


@dataclass(frozen=True)
class Result:
    """What came of a run.

    `status` is `ok` (exit code 0), `error` (another one), the limit that ended it (`timeout`, `memory`, `processes`,
    `output`, `disk`), or `killed` (a signal ended it)."""

    status: Status
    returncode: int
    """The exit code, or minus the number of the signal that ended it."""
    stdout: str
    """Standard output as UTF-8, what is not that as U+FFFD: front and end, where it was longer than the limit."""
    stderr: str
    seconds: float
    """From the start of the program to its end."""
    cpu_seconds: float
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the program's folder that are new or changed, by path."""
    omitted: Mapping[str, int] = field(default_factory=dict)
    """Bytes that are left out: of `stdout`, of `stderr`, and number of `files`; without zeros."""

    @property
    def truncated(self) -> bool:
        """Whether anything is left out."""
        return bool(self.omitted)
