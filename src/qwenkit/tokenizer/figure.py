"""The compression report as a picture and as a page of its own: Figure 3 with intervals.

    Path("compression.svg").write_bytes(draw(report))
    Path("compression.html").write_text(page(report), encoding="utf-8")

matplotlib is imported at the first picture only. Equal reports give equal bytes; the page needs no network.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

from qwenkit import pages
from qwenkit.errors import visible
from qwenkit.tokenizer.bytes_per_token import Report, tables

MARKERS = "osD^vPX*"


def draw(report: Report) -> bytes:
    """Return tokens relative to the baseline as SVG: a line for each language, a mark with whiskers for each
    tokenizer."""
    import matplotlib
    from matplotlib.figure import Figure

    names, groups = report.tokenizers, [visible(group) for group in report.groups]  # text from anywhere, in XML
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "compression", "font.size": 9, "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that is missing here is drawn by the reader's own font
        figure = Figure(figsize=(6.4, 1.4 + len(groups) * (0.16 + 0.12 * len(names))), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(names):
            shift = (index - (len(names) - 1) / 2) * 0.7 / max(1, len(names))
            cells = [report.of(name, group).relative for group in report.groups]
            places = [place + shift for place in range(len(groups))]
            lows, highs = ([c.mean if end is None else end for c, end in ends] for ends in (
                [(c, c.low) for c in cells], [(c, c.high) for c in cells]))  # fmt: skip
            axes.hlines(places, lows, highs, color=f"C{index}", linewidth=1.5)
            axes.plot(
                [c.mean for c in cells],
                places,
                MARKERS[index % 8],
                color=f"C{index}",
                markersize=5,
                label=visible(name),
            )
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"tokens relative to {visible(report.baseline)}, with 95 % interval (less is better)")
        axes.grid(axis="x", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=min(4, len(names)), frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def page(report: Report) -> str:
    """Return an HTML page of the picture and all tables."""
    svg = draw(report).decode()
    return pages.page("tokenizer/bytes_per_token.html", picture=svg[svg.index("<svg") :], tables=tables(report))
