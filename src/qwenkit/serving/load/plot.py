"""Latencies over time, as a picture: time to first token, time between tokens, tokens a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwenkit.errors import UserError
from qwenkit.serving.load.records import RequestRecord

SUFFIXES = (".svg", ".png", ".pdf")
_MOST_POINTS = 20_000
_WINDOWS = 120
Floats = npt.NDArray[np.float64]


def check_suffix(path: Path) -> None:
    """Raise a `UserError` for a name that is not that of a picture."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError("this is not the name of a picture", where=str(path), expected=", ".join(SUFFIXES))


def write_plot(records: Sequence[RequestRecord], path: Path, title: str) -> None:
    """Write the picture of a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    first, between, rate = figure.subplots(3, 1, sharex=True)
    start = min((record.due for record in records), default=0.0)
    finished = [record for record in records if record.error is None and record.times]
    errors = [record for record in records if record.error is not None]
    first.scatter([r.due - start for r in finished], [1000 * (r.first_token or 0) for r in finished], s=6)
    for record in errors[:_MOST_POINTS]:
        first.axvline(record.ended - start, color="tab:red", alpha=0.2, linewidth=0.8)
    first.set(ylabel="time to first token (ms)", title=f"{title}{'; red: errors' if errors else ''}")
    moments, gaps = _gaps(finished, start)
    for share, (centers, values) in _windows(moments, gaps).items():
        between.plot(centers, 1000 * values, label=f"p{share}", drawstyle="steps-mid")
    between.set(ylabel="between two chunks (ms)")
    if moments.size:
        between.legend(loc="upper right")
    arrivals = np.array([moment - start for record in records for moment in record.times])
    if arrivals.size:
        counts, edges = np.histogram(arrivals, bins=min(_WINDOWS, max(5, int(arrivals.max()))))
        rate.stairs(counts / np.diff(edges), edges)
    rate.set(ylabel="chunks a second", xlabel="seconds", ylim=(0, None))
    figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _gaps(records: Sequence[RequestRecord], start: float) -> tuple[Floats, Floats]:
    """Return when each gap between two chunks ended, and how long it was."""
    moments = [moment - start for record in records for moment in record.times[1:]]
    return np.array(moments), np.array([gap for record in records for gap in record.gaps])


def _windows(moments: Floats, values: Floats) -> dict[int, tuple[Floats, Floats]]:
    """Return for some percentiles the middles of windows of time, and the percentile of the values in each."""
    if not moments.size:
        return {}
    edges = np.linspace(0, moments.max() + 1e-9, _WINDOWS + 1)
    order = np.digitize(moments, edges) - 1
    used = [window for window in range(_WINDOWS) if np.any(order == window)]
    centers = (edges[:-1] + edges[1:])[used] / 2
    return {
        share: (centers, np.array([np.percentile(values[order == window], share) for window in used]))
        for share in (50, 95, 99)
    }
