"""Perplexity by length under every combination of the training-free context extensions (report §2.5, Table 3).

    config = model.config
    cells = measure(scorers(model), config, ids, [128, 256, 512, 1024], trained=128, chosen=combinations(config, 128))
    table(cells)

The text is cut into pieces of the longest length; a shorter length cuts each of them into windows. So every cell scores
the same tokens (but for the first of a window) and differences are paired by piece.

The windows are ours: the report gives no sizes of the window attention. `grid` spans them by the first layer's window
and by how often it doubles on the way up.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from qwenkit.errors import UserError, visible
from qwenkit.model.config import ContextExtension, ModelConfig, Yarn
from qwenkit.model.rotary import doubling_windows
from qwenkit.records import Row
from qwenkit.statistics import Interval, mean_interval

if TYPE_CHECKING:
    from qwenkit.model.transformer import Transformer

Progress = Callable[[int, int, str], None]


class Scorer(Protocol):
    """What the measurement needs of an engine."""

    def score(self, prompts: Sequence[list[int]], continuations: None = None) -> list[list[float]]:
        """Return the log-probability in nats of every token of each prompt after its first."""
        ...


def scorers(model: Transformer) -> Callable[[ModelConfig], Scorer]:
    """Return a function that gives an engine for a configuration: always the same engine, which shares the model's
    weights, and which the next call reconfigures. The model keeps its own configuration."""
    from qwenkit.inference import Engine
    from qwenkit.model.prepacked import can_prepack, prepack

    compute_model = prepack(model) if can_prepack(model) else model
    engine = Engine(_sharing(compute_model), packed=False)

    def scorer(config: ModelConfig) -> Scorer:
        engine.reconfigure(config)
        return engine

    return scorer


def _sharing(model: Transformer) -> Transformer:
    """Return a model over the very tensors of this one, whose configuration can be changed alone."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    tensors = [*model.parameters(), *model.buffers(), *(value for value in attributes if isinstance(value, Tensor))]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


@dataclass(frozen=True)
class Combination:
    """A combination of context extensions, named as in Table 3."""

    name: str
    dynamic_ntk: bool = False
    logn: bool = False
    windows: tuple[int | None, ...] | None = None
    yarn: bool = False

    def applied(self, config: ModelConfig, trained: int, length: int) -> ModelConfig:
        """Return the model's configuration with this combination, for texts of `length` tokens."""
        stretch = length / trained
        return replace(
            config,
            extension=ContextExtension(seq_length=trained, dynamic_ntk=self.dynamic_ntk, logn=self.logn),
            windows=self.windows,
            yarn=Yarn(factor=stretch, original_max_position_embeddings=trained) if self.yarn and stretch > 1 else None,
            max_position_embeddings=max(length, config.max_position_embeddings),
        )


class Cell(NamedTuple):
    """A cell of the table: the nats per token of each piece of text, and their mean with its interval as
    perplexities."""

    combination: str
    length: int
    nats: list[float]
    perplexity: Interval


def combinations(config: ModelConfig, trained: int, windows: Sequence[int | None] | None = None) -> list[Combination]:
    """Return the plain model, all combinations of NTK, LogN and windows in Table 3's order, and YaRN for comparison."""
    sizes = tuple(windows or doubling_windows(config.num_hidden_layers, trained))
    chosen = []
    for window in (None, sizes):
        for ntk, logn in ((False, False), (True, False), (False, True), (True, True)):
            parts = [name for name, on in (("dynamic_ntk", ntk), ("logn", logn), ("window_attn", bool(window))) if on]
            chosen.append(Combination(" + ".join(parts) or "plain", ntk, logn, window))
    return [*chosen, Combination("yarn", yarn=True)]


def grid(config: ModelConfig, trained: int) -> list[Combination]:
    """Return dynamic NTK and LogN combined with windows of several sizes: of the lowest layer, and of how far they grow
    to the top."""
    layers = config.num_hidden_layers
    chosen: dict[str, Combination] = {}  # few layers make some of them the same
    for first in (trained // 2, trained, 2 * trained):
        for doublings in (0, 1, 2, 3, 8):
            sizes = tuple(first << round(doublings * layer / max(1, layers - 1)) for layer in range(layers))
            name = f"{sizes[0]} to {sizes[-1]}"
            chosen[name] = Combination(name, True, True, sizes)
    return list(chosen.values())


def measure(
    scorer: Callable[[ModelConfig], Scorer],
    config: ModelConfig,
    ids: Sequence[int],
    lengths: Sequence[int],
    trained: int,
    chosen: Sequence[Combination],
    progress: Progress | None = None,
) -> list[Cell]:
    """Measure one cell for each combination and length; `scorer` makes the engine of each configuration (`scorers`).

    Raises a `UserError` where a length does not divide the longest, or the text is shorter than that."""
    longest = max(lengths)
    if odd := [length for length in lengths if length < 2 or longest % length]:
        raise UserError(f"length {odd[0]}", expected=f"lengths that divide the longest, {longest}")
    pieces = [list(ids[at : at + longest]) for at in range(0, len(ids) - longest + 1, longest)]
    if not pieces:
        raise UserError(f"the text has {len(ids)} tokens", expected=f"at least one piece of {longest}")
    cells = []
    jobs = [(combination, length) for combination in chosen for length in lengths]
    for number, (combination, length) in enumerate(jobs):
        if progress is not None:
            progress(number, len(jobs), f"{combination.name}, {length} tokens")
        engine = scorer(combination.applied(config, trained, length))
        nats = [_nats(engine, piece, length) for piece in pieces]
        cells.append(Cell(combination.name, length, nats, _perplexity(nats)))
    return cells


def _nats(engine: Scorer, piece: list[int], length: int) -> float:
    """Return the mean loss of a piece's tokens in nats, read in windows of `length`."""
    windows = [piece[at : at + length] for at in range(0, len(piece), length)]
    scores = [score for window in engine.score(windows) for score in window]
    return -sum(scores) / len(scores)


def _perplexity(nats: list[float]) -> Interval:
    if len(nats) == 1:
        return Interval(_exp(nats[0]), None, None, 1)
    mean, low, high, n = mean_interval(nats)
    return Interval(_exp(mean), None if low is None else _exp(low), None if high is None else _exp(high), n)


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def table(cells: Sequence[Cell]) -> str:
    """Return Table 3 in Markdown: a row for each combination, a column for each length in tokens, perplexities in the
    cells."""
    lengths = sorted({cell.length for cell in cells})
    rows = {name: {c.length: c.perplexity.mean for c in cells if c.combination == name} for name in _names(cells)}
    lines = ["| | " + " | ".join(map(str, lengths)) + " |", "|---" * (len(lengths) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{row[n]:.2f}" for n in lengths) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def plain(cells: Sequence[Cell]) -> list[Row]:
    """Return the cells as JSON values."""
    return [
        {"trick": c.combination, "length": c.length, "perplexity": c.perplexity._asdict(), "nats_per_piece": c.nats}
        for c in cells
    ]


def draw(cells: Sequence[Cell], title: str) -> bytes:
    """Return perplexity over length as SVG, both axes logarithmic; bars are 95 % intervals over pieces of text."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(_names(cells)):
        row = [cell for cell in cells if cell.combination == name]
        beside = 1.01 ** (number - 5)  # so that intervals of one length stand side by side
        means = [cell.perplexity.mean for cell in row]
        ends = [[cell.perplexity.low or cell.perplexity.mean for cell in row],
                [cell.perplexity.high or cell.perplexity.mean for cell in row]]  # fmt: skip
        errors = [
            [mean - low for mean, low in zip(means, ends[0])],
            [high - mean for mean, high in zip(means, ends[1])],
        ]
        axes.errorbar(
            [cell.length * beside for cell in row], means, yerr=errors, label=name, marker="o", markersize=3,
            linewidth=1.2, elinewidth=0.6, linestyle=("-", "--")[number // 10 % 2],
        )  # fmt: skip
    lengths = sorted({cell.length for cell in cells})
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="perplexity")
    axes.set_title(visible(title), parse_math=False)  # a folder may be called after dollars
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that is missing here is drawn by the reader's own font
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _names(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the names of the combinations in the order of measuring."""
    return iter(dict.fromkeys(cell.combination for cell in cells))
