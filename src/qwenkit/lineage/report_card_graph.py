"""The family as a drawing: a layered graph in plain SVG, coloured by the page's own style sheet.

Layers are longest paths from the roots, top to bottom, so that it reads on a phone. An edge implied by a longer path
is left out, unless it hands on a model that is trained further: what remains is Figure 1 of the report. An edge across
several layers runs through empty places of its own in the layers between, so that it crosses no box.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, GAP_X, GAP_Y, LANE, MARGIN = 180, 62, 18, 30, 26, 4
MARKS = {"done": "✓", "failed": "✗", "not finished": "…", "not run": "○"}
Place = str | tuple[str, str, int]  # a node, or the lane of an edge in one layer


class Label(NamedTuple):
    """What a box says: the node's state as its colour, a few words as its text, and a line for who points at it."""

    state: str
    words: str
    line: str = ""


def family_svg(
    parents: Mapping[str, Sequence[str]],
    labels: Mapping[str, Label],
    models: Collection[tuple[str, str]] = frozenset(),
) -> str:
    """The graph; `parents` in an order with parents first, `models` the edges (parent, node) that hand on a model."""
    if not parents:
        return ""
    edges = reduced({node: [p for p in known if p in parents] for node, known in parents.items()}, models)
    layers, chains = _with_lanes(edges, _depths(edges))
    _untangle(layers, chains)
    x = _positions(layers)
    width = max(x[place] + _width(place) for layer in layers for place in layer) + MARGIN
    height = len(layers) * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    y = {place: MARGIN + depth * (HEIGHT + GAP_Y) for depth, layer in enumerate(layers) for place in layer}
    drawn = [_edge(chain, x, y) for chain in chains] + [_box(node, labels[node], x[node], y[node]) for node in edges]
    return (
        f'<svg class="family" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="The family as a graph">{"".join(drawn)}</svg>'
    )


def reduced(
    parents: Mapping[str, Sequence[str]], models: Collection[tuple[str, str]] = frozenset()
) -> dict[str, list[str]]:
    """Each node's parents without those that another of its parents already descends from; `models` are all kept."""
    ancestors: dict[str, set[str]] = {}
    for node, known in parents.items():
        ancestors[node] = set(known).union(*(ancestors.get(p, set()) for p in known))

    def implied(parent: str, node: str) -> bool:
        return any(parent in ancestors.get(other, ()) for other in parents[node] if other != parent)

    return {node: [p for p in known if (p, node) in models or not implied(p, node)] for node, known in parents.items()}


def _depths(edges: Mapping[str, Sequence[str]]) -> dict[str, int]:
    depth: dict[str, int] = {}
    for node, known in edges.items():
        depth[node] = 1 + max((depth.get(p, -1) for p in known), default=-1)
    return depth


def _with_lanes(
    edges: Mapping[str, Sequence[str]], depth: Mapping[str, int]
) -> tuple[list[list[Place]], list[list[Place]]]:
    """Layers of places, and each edge as the chain of places it runs through."""
    layers: list[list[Place]] = [[] for _ in range(1 + max(depth.values()))]
    for node in edges:
        layers[depth[node]].append(node)
    chains: list[list[Place]] = []
    for node, known in edges.items():
        for parent in known:
            lanes: list[Place] = [(parent, node, level) for level in range(depth[parent] + 1, depth[node])]
            for level, lane in enumerate(lanes, depth[parent] + 1):
                layers[level].append(lane)
            chains.append([parent, *lanes, node])
    return layers, chains


def _untangle(layers: list[list[Place]], chains: list[list[Place]]) -> None:
    """Order every layer by the mean place of its neighbours, down and up a few times."""
    above: dict[Place, list[Place]] = {}
    below: dict[Place, list[Place]] = {}
    for chain in chains:
        for upper, lower in pairwise(chain):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    for neighbours, order in [(above, 1), (below, -1)] * 3 + [(above, 1)]:
        for layer, fixed in zip(layers[::order][1:], layers[::order]):
            rank = {place: (i + 0.5) / len(fixed) for i, place in enumerate(fixed)}
            middle: dict[Place, float] = {}
            for place in layer:
                known = [rank[n] for n in neighbours.get(place, []) if n in rank]
                middle[place] = sum(known) / len(known) if known else 0.5
            layer.sort(key=middle.__getitem__)


def _width(place: Place) -> float:
    return WIDTH if isinstance(place, str) else LANE


def _positions(layers: list[list[Place]]) -> dict[Place, float]:
    """Left ends; every layer is centred."""
    widths = [sum(map(_width, layer)) + GAP_X * (len(layer) - 1) for layer in layers]
    x: dict[Place, float] = {}
    for layer, width in zip(layers, widths):
        left = MARGIN + (max(widths) - width) / 2
        for place in layer:
            x[place] = left
            left += _width(place) + GAP_X
    return x


def _edge(chain: list[Place], x: Mapping[Place, float], y: Mapping[Place, float]) -> str:
    points = [(x[place] + _width(place) / 2, y[place]) for place in chain]
    path = f"M{points[0][0]:.0f} {points[0][1] + HEIGHT:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        start, bend = y0 + HEIGHT, GAP_Y * 0.6
        path += f"C{x0:.0f} {start + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"
        if (x1, y1) != points[-1]:
            path += f"V{y1 + HEIGHT:.0f}"
    end_x, end_y = points[-1]
    return f'<path class="edge" d="{path}"/><path class="tip" d="M{end_x - 4:.0f} {end_y - 6:.0f}l4 6 4 -6z"/>'


def _box(node: str, label: Label, x: float, y: float) -> str:
    state = label.state
    lines = enumerate(wrap(label.words or state, 28, 2))
    text = "".join(f'<text x="{x + 12:.0f}" y="{y + 36 + 14 * i:.0f}">{escape(line)}</text>' for i, line in lines)
    line = f"{node}: {label.line or label.words or state}"
    return (
        f'<g class="node {state.replace(" ", "-")}"><title>{escape(line)}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        f'<text class="name" x="{x + 12:.0f}" y="{y + 20:.0f}">{escape(node)}</text>'
        f'<text class="mark" x="{x + WIDTH - 20:.0f}" y="{y + 20:.0f}">{MARKS.get(state, "○")}</text>{text}</g>'
    )


def wrap(text: str, columns: int, most: int) -> list[str]:
    """At most `most` lines of so many columns (a wide East Asian character takes two), cut with an ellipsis."""
    lines: list[str] = []
    line = ""
    for word in _pieces(text):
        if line and columns_of(line + word) > columns:
            lines.append(line.strip())
            line = ""
        line += word
    lines.append(line.strip())
    kept = lines[:most]
    if len(lines) > most or columns_of(kept[-1]) > columns:
        while kept[-1] and columns_of(kept[-1]) > columns - 1:
            kept[-1] = kept[-1][:-1]
        kept[-1] += "…"
    return kept


def _pieces(text: str) -> list[str]:
    """Words with the space after them; wide characters may be parted anywhere."""
    pieces: list[str] = []
    word = ""
    for character in " ".join(text.split()):
        word += character
        if character == " " or columns_of(character) == 2:
            pieces.append(word)
            word = ""
    return [*pieces, word]


def columns_of(text: str) -> int:
    """Width in columns."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
