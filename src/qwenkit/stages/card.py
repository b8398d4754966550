"""Tables of the report card: what a kind of node brings to the page beside its claims and curves.

    CARD_PARTS = (CardPart("data", "Corpus", "funnel", funnel_view),)          # in the file of a kind

A part stands in a section of the card and has a layout, which is drawn from the values that `view(node)` makes of the
node's metrics. Where no node of the kind has run, the card says so under the part's title. Layouts are:

| layout        | drawn                                    | its values                         |
| ------------- | ---------------------------------------- | ---------------------------------- |
| `table`       | a heading and one table                  | `TableView`: what a new kind needs |
| `funnel`      | what each rule dropped of all records    | `funnel_view`                      |
| `compression` | bytes per token of groups of text        | `compression_view`                 |
| `ranking`     | how often the better of two answers wins | `ranking_view`                     |
| `rubric`      | the gold rubric before and after         | `rubric_view`                      |
| `scores`      | scores of models by task, comparisons    | `scores_view`                      |
| `answers`     | the same prompts answered by models      | `answers_view`                     |

Some metrics mean the same whatever kind reports them: a kind without parts of its own gets those of `SHARED_PARTS`.
Views take nothing for granted of metrics, which may be anybody's; the page makes text harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from qwenkit.json_values import mapping, number, sequence
from qwenkit.records import Row
from qwenkit.stages import KINDS, load_stage
from qwenkit.stages.results import Metrics, NodeResults, share, signed

MOST_SAMPLES = 24
Layout = Literal["table", "funnel", "compression", "ranking", "rubric", "scores", "answers"]


@dataclass(frozen=True)
class CardPart:
    """A part of the report card: its section, what it is called where it is missing, how it is drawn, and of what."""

    section: Literal["data", "alignment", "exam", "answers"]
    title: str
    layout: Layout
    view: Callable[[NodeResults], Mapping[str, Any]]


class TableView(TypedDict):
    """The values of the layout `table`: a heading, the names of the columns, and rows of strings and numbers."""

    name: str
    heading: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


def card_parts(kind: str, metrics: Metrics) -> tuple[CardPart, ...]:
    """Return the parts of the card for a node: those that its kind brings, else the shared ones of its metrics."""
    own = kind_parts(kind)
    return own or tuple(part for metric, part in SHARED_PARTS.items() if metric in metrics)


def kind_parts(kind: str) -> tuple[CardPart, ...]:
    """Return the parts that a kind brings; none for a kind that is not known."""
    return getattr(load_stage(kind), "CARD_PARTS", ()) if kind in KINDS else ()


def all_parts() -> list[CardPart]:
    """Return every part that there is, in the order of the pipeline, the shared ones last."""
    return list(dict.fromkeys([*(part for kind in KINDS for part in kind_parts(kind)), *SHARED_PARTS.values()]))


def funnel_view(node: NodeResults) -> Row:
    """Return the accounting of a corpus: each rule of the funnel with the share of all records that is left after it,
    and documents by source and by language."""
    metrics = node.metrics
    read = number(metrics.get("read")) or 0
    rules: list[Row] = []
    for row in map(mapping, sequence(metrics.get("funnel"))):
        left = number(row.get("left"))
        rest = None if left is None or not read else min(1.0, left / read)
        rules.append({**_fields(row, "step", "rule", "dropped", "left"), "share": rest})
    shares = {name: _shares(mapping(metrics.get(f"by_{name}"))) for name in ("source", "language")}
    counts = _fields(metrics, "read", "kept")
    return {"name": node.name, **counts, "rules": rules, "shares": {k: v for k, v in shares.items() if v}}


def _shares(counts: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return (name, count, share of all), greatest first."""
    flat = {str(name): size for name, value in counts.items() if (size := _size(value)) is not None}
    total = sum(flat.values()) or 1
    return [(name, flat[name], flat[name] / total) for name in sorted(flat, key=lambda n: (-flat[n], n))]


def _size(value: Any) -> float | None:
    """Return a count, or the documents of a table of counts."""
    table = mapping(value)
    return number(table.get("documents", table.get("kept"))) if table else number(value)


def compression_view(node: NodeResults) -> Row:
    """Return the compression of each group of text, beside its share of the best."""
    ratios = {str(k): v for k, value in mapping(node.metrics.get("bytes_per_token")).items() if (v := number(value))}
    most = max(ratios.values(), default=1.0)
    rows = [(name, value, value / most) for name, value in ratios.items()]
    return {"name": node.name, "vocab_size": node.metrics.get("vocab_size"), "rows": rows}


def ranking_view(node: NodeResults) -> Row:
    """Return for each set of pairs how often the better answer scores higher."""
    scores = {str(name): mapping(value) for name, value in mapping(node.metrics.get("accuracy")).items()}
    rows = {name: {"share": number(s.get("mean")) or 0.0, "words": share(s)} for name, s in scores.items()}
    return {"name": node.name, "pairs": node.metrics.get("pairs"), "rows": rows}


def rubric_view(node: NodeResults) -> Row:
    """Return each component of the gold rubric before and after the training."""
    before, after = (mapping(node.metrics.get(f"rubric_{when}")) for when in ("before", "after"))
    rows = [(name, number(before.get(name)), number(after.get(name))) for name in dict.fromkeys([*before, *after])]
    return {"name": node.name, "rows": rows}


def scores_view(node: NodeResults) -> Row:
    """Return the scores of every model on each set by task or component, and the paired comparisons."""
    models = {str(name): mapping(value) for name, value in mapping(node.metrics.get("models")).items()}
    sets: list[Row] = []
    for key, title in (("chat", "Chat tasks"), ("rubric", "Rubric of chat answers"), ("base", "Base tasks")):
        table = {name: {g: mapping(v) for g, v in mapping(m.get(key)).items()} for name, m in models.items()}
        table = {name: groups for name, groups in table.items() if groups}
        if table:
            groups = list(dict.fromkeys(group for groups in table.values() for group in groups))
            plot = f"{node.name}/{key}"  # the name of the drawing, unique on the page
            sets.append({"plot": plot, "title": title, "models": list(table), "groups": groups, "table": table})
    comparisons = [
        {**_fields(row, "a", "b", "set", "component", "n"), "difference": signed(row)}
        for row in map(mapping, sequence(node.metrics.get("comparisons")))
    ]
    return {"name": node.name, "sets": sets, "comparisons": comparisons}


def answers_view(node: NodeResults) -> Row:
    """Return the first samples: the turns of a prompt, the reference, and every model's answer."""
    samples: list[Row] = []
    for row in map(mapping, sequence(node.metrics.get("samples"))[:MOST_SAMPLES]):
        prompt = row.get("prompt", "")
        messages = sequence(prompt) if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        turns = [{"role": str(turn.get("role", "")), "content": turn.get("content")} for turn in map(mapping, messages)]
        answers = {str(name): text for name, text in mapping(row.get("answers")).items()}
        samples.append({"turns": turns, "reference": row.get("reference", ""), "answers": answers})
    return {"name": node.name, "samples": samples}


def _fields(row: Mapping[str, Any], *names: str) -> Row:
    """Return these fields, None where the row lacks one."""
    return {name: row.get(name) for name in names}


SHARED_PARTS = {
    "accuracy": CardPart("alignment", "Reward model", "ranking", ranking_view),
    "rubric_before": CardPart("alignment", "PPO", "rubric", rubric_view),
}
"""By metric: what is drawn of every kind that reports it."""
