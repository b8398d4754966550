"""Plots of the report card: matplotlib SVG that takes its colours and its font from the page.

Each plot is drawn once with placeholder colours, and these become CSS variables, so one drawing is right in light and
dark and in print. Text stays text. matplotlib is imported at the first plot only. The bytes are the same on every run.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from qwenkit.json_values import number

INK, LINE = "#010101", "#020202"
SERIES = tuple(f"#0{i}0{i}f0" for i in range(6))
MARKERS, DASHES = "osD^vP", ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_VARIABLES = {INK: "var(--ink)", LINE: "var(--line)"} | {code: f"var(--series-{i})" for i, code in enumerate(SERIES)}

_FOREIGN = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", re.DOTALL)

Points = tuple[Sequence[float], Sequence[float]]


def curves(
    name: str, title: str, lines: Mapping[str, Points], unit: str, dots: Mapping[str, Points] | None = None
) -> str:
    """Lines (and dots: few, marked points) over steps, `name` unique on the page; a legend if there are several."""
    entries = len(lines) + len(dots or {})
    with _style(name):
        figure, axes = _figure(title, 2.8, 2.1 + (0.16 * _rows(entries, 2) if entries > 1 else 0))
        for index, (label, (x, y)) in enumerate(lines.items()):
            axes.plot(x, y, color=SERIES[index % 6], linestyle=DASHES[index % 6], linewidth=1.3, label=label)
        for index, (label, (x, y)) in enumerate((dots or {}).items(), len(lines)):
            style = {"color": SERIES[index % 6], "marker": MARKERS[index % 6], "markersize": 4, "linewidth": 0.8}
            axes.plot(x, y, label=label, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if unit.endswith("per second"):
            axes.set_ylim(bottom=0)
        if entries > 1:
            _legend_above(axes, entries, columns=2, fontsize=7.6)
        return _svg(figure, f"{title} of {name}")


def scores(name: str, title: str, by_model: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean and interval of every group (task, component) for every model, as dots with whiskers."""
    groups = list(dict.fromkeys(group for table in by_model.values() for group in table))
    step = 0.11 + 0.09 * len(by_model)
    with _style(name):
        figure, axes = _figure(title, 4.0, 1.1 + step * len(groups))
        for index, (model, table) in enumerate(by_model.items()):
            shift = (index - (len(by_model) - 1) / 2) * 0.7 / max(1, len(by_model))
            rows = [(place + shift, table[group]) for place, group in enumerate(groups) if group in table]
            _whiskers(axes, rows, index, model)
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("score in % with 95 % interval")
        axes.grid(axis="y", visible=False)
        _legend_above(axes, len(by_model))
        return _svg(figure, f"{title} by model")


def _whiskers(axes: Any, rows: list[tuple[float, Any]], index: int, label: str) -> None:
    points: list[tuple[float, float, float, float]] = []
    for y, score in rows:
        mean, low, high = (number(score.get(name)) for name in ("mean", "low", "high"))
        if mean is not None:
            points.append((y, 100 * mean, 100 * (mean if low is None else low), 100 * (mean if high is None else high)))
    if not points:
        return
    y, mean, low, high = zip(*points)
    axes.hlines(y, low, high, color=SERIES[index % 6], linewidth=1.6)
    axes.plot(mean, y, MARKERS[index % 6], color=SERIES[index % 6], markersize=4.5, label=label)


def differences(name: str, title: str, rows: Sequence[tuple[str, Sequence[float], Any]], seeds: Sequence[str]) -> str:
    """One row for each comparison (label, difference of every seed, pooled score): the pooled interval as a bar, a dot
    for every seed."""
    with _style(name):
        figure, axes = _figure(title, 4.8, 0.9 + 0.32 * len(rows))
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, (_, _, pooled) in enumerate(rows):
            low, high = number(pooled.get("low")), number(pooled.get("high"))
            if low is not None and high is not None:
                axes.hlines(y, low, high, color=LINE, linewidth=10)
        middle = (len(seeds) - 1) / 2
        for index, seed in enumerate(seeds):
            y = [place + (index - middle) * 0.5 / len(seeds) for place in range(len(rows))]
            color, marker = SERIES[index % 6], MARKERS[index % 6]
            axes.plot([row[1][index] for row in rows], y, marker, color=color, markersize=4.5, label=f"seed {seed}")
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("difference of the score (0 to 1); bar: pooled 95 % interval")
        axes.grid(axis="y", visible=False)
        _legend_above(axes, len(seeds))
        return _svg(figure, title)


def _legend_above(axes: Any, entries: int, columns: int = 3, fontsize: float = 8.6) -> None:
    """The legend between title and plot, where it lies over no line."""
    axes.set_title(axes.get_title(loc="left"), pad=6 + 12 * _rows(entries, columns))
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=fontsize, ncols=columns, loc="lower left", bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.0, borderpad=0.2, handletextpad=0.3, columnspacing=1.0, handlelength=1.6,
    )  # fmt: skip


def _rows(entries: int, columns: int) -> int:
    return -(-entries // columns)


def _style(name: str) -> Any:
    """The plots' look, for the length of one drawing; ids inside the SVG are salted with its name."""
    import matplotlib

    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8.6, "axes.titlesize": 9.4,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "text.color": INK, "axes.titlecolor": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": LINE, "grid.color": LINE,
        "axes.grid": True, "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0, "path.simplify": True,
        "axes.formatter.limits": (-3, 5), "axes.unicode_minus": True, "text.parse_math": False,
    }  # fmt: skip
    return matplotlib.rc_context(style)  # pyright: ignore[reportUnknownMemberType]


def _figure(title: str, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _svg(figure: Any, label: str) -> str:
    """The figure as an inline SVG element."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that is missing here is drawn by the reader's own font
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return restyle(buffer.getvalue(), label)


def restyle(svg: str, label: str) -> str:
    """Page colours and font; no prologue, metadata, style sheet or fixed size. Only tags change, never the text."""
    body = _FOREIGN.sub("", svg[svg.index("<svg") :])
    opening = body[: body.index(">")]
    view, width = (re.search(pattern, opening) for pattern in (r'viewBox="[^"]*"', r'width="([\d.]+)pt"'))
    pixels = float(width[1]) * 1.75 if width else 480
    head = f'<svg class="plot" {view[0] if view else ""} style="max-width:{pixels:.0f}px" role="img"'
    inside = re.sub(r"<[^>]*>", lambda tag: _restyle_tag(tag[0]), body[body.index(">") + 1 :])
    return f"{head} aria-label={quoteattr(label)}>{inside}"


def _restyle_tag(tag: str) -> str:
    for code, variable in _VARIABLES.items():
        tag = tag.replace(code, variable)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", _font, tag)
    tag = re.sub(r' id="[a-zA-Z.]+\d*_?\d+"', "", tag) if tag.startswith("<g") else tag
    return re.sub(r"(\d\.\d{2})\d+", r"\1", tag)


def _font(match: re.Match[str]) -> str:
    return (f"font-weight: {match[1]}; " if match[1] else "") + f"font-size: {match[2]}"
