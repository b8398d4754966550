"""The report card of a run: `report.html` (one self-contained page) and `report.md`.

`write_card(run_dir, out)` reads manifests, run.json and the event log, and never needs a node to be there: a section
whose node is missing says "not run". It opens with what worked and what did not, each claim with its interval.
Everything a model wrote is hostile text: the page escapes it, and control characters are shown as pictures.

Reading is in `run_reader`, the claims in `report_card_claims`, other seeds in `report_card_seeds`, drawings in
`report_card_graph` and `report_card_plots`; here they become sections. Tables of single kinds of nodes are theirs
(`stages.card`), and this page names none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenkit.json_values import mapping, number, sequence
from qwenkit.lineage import report_card_claims
from qwenkit.lineage.report_card_claims import make_claims
from qwenkit.lineage.report_card_seeds import seeds_view
from qwenkit.lineage.run_reader import DONE, NodeView, RunView, load_run
from qwenkit.pages import page
from qwenkit.pages.maker import Filter
from qwenkit.records import Row, write_bytes
from qwenkit.schema import current_names
from qwenkit.stages import KINDS, is_view, load_stage, results
from qwenkit.stages.card import all_parts, card_parts
from qwenkit.stages.claims import DID_NOT_WORK, UNRESOLVED, WORKED, Claim
from qwenkit.stages.results import curve, validation_loss

LONGEST_ANSWER = 1000  # characters of one sample that are shown; the rest is counted
CLASSES = {
    WORKED: "good",
    DID_NOT_WORK: "bad",
    UNRESOLVED: "open",
}
NO_LOSS = frozenset({"event", "time", "attempt", "node", "step", "seconds", "accuracy", "pairs", "n"})
FACTS = ("parameters", "steps", "tokens", "epochs", "pairs", "train_loss")
FIRST_CURVES = (("Loss", "nats per token", ("loss",)),)  # title, unit, metrics of `step` events drawn together
LAST_CURVES = (
    ("Learning rate", "learning rate", ("lr",)),
    ("Gradient norm", "norm before clipping", ("grad_norm", "policy_grad_norm", "value_grad_norm")),
    ("Throughput", "tokens per second", ("tokens_per_second",)),
)
Curve = tuple[str, str, tuple[str, ...]]
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f]")


def write_card(run_dir: Path, out: Path, report: Path | None = None) -> Row:
    """Write `report.html` and `report.md` into the folder `out`; returns the count of claims by outcome, and alarms.
    `report` is the artifact of a report node, for what it says of other seeds."""
    run_dir, out = Path(run_dir), Path(out)
    run = load_run(run_dir, report)
    own = _own_node(run_dir, out)
    run.nodes = {name: node for name, node in run.nodes.items() if not is_view(node.kind) and name != own}
    view = make_view(run)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.md"):
        text = _render(f"report_card{Path(name).suffix}.j2", view)
        write_bytes(out / name, text.encode(errors="replace"))
    return {"claims": view["tally"], "alarms": len(view["alarms"]), "nodes": len(view["nodes"])}


def _own_node(run_dir: Path, out: Path) -> str | None:
    """The node that writes this card, when its scratch folder `.work/NODE-KEY/out` is where the card goes."""
    if run_dir.resolve() not in out.resolve().parents:
        return None
    parts = out.resolve().relative_to(run_dir.resolve()).parts
    if len(parts) > 1 and parts[0] == ".work":
        return parts[1].rpartition("-")[0]
    return next(iter(parts), None)


def make_view(run: RunView) -> Row:
    """What the templates show, as plain values and finished drawings."""
    claims = make_claims(run)
    rows = [_node(node) for node in run.nodes.values()]
    nodes = [node for node in run.nodes.values() if node.state != "not run" or node.kind]
    return {
        "name": run.name,
        "tally": {outcome: sum(c.outcome == outcome for c in claims) for outcome in report_card_claims.ORDER},
        "claims": [_claim(c) for c in claims if not c.minor],
        "minor_claims": [_claim(c) for c in claims if c.minor],
        "seeds": seeds_view(run.seeds) if run.seeds else None,
        "about": run.about,
        "nodes": rows,
        "costs": [*rows, total(rows)],
        "family": _family(run),
        "parts": parts_view(run),
        "trained": [trained_view(node) for node in nodes if node.steps],
        "alarms": [_alarm(node, alarm) for node in run.nodes.values() for alarm in node.alarms],
        "earlier_alarms": [_alarm(node, alarm) for node in run.nodes.values() for alarm in node.earlier_alarms],
        "environment": environment_view(run),
    }


def _claim(claim: Claim) -> dict[str, str]:
    return {
        "outcome": claim.outcome, "mark": report_card_claims.MARKS[claim.outcome], "css": CLASSES[claim.outcome],
        "text": claim.text, "evidence": claim.evidence,
    }  # fmt: skip


def _alarm(node: NodeView, event: Mapping[str, Any]) -> Row:
    words = {name: shown(event.get(name)) for name in ("id", "step", "cause")}
    words["hint"] = shown(event.get("hint", event.get("mend")))  # `mend` in runs of 0.1
    return {"node": node.name, **words, "value": event.get("value"), "threshold": event.get("threshold")}


def _node(node: NodeView) -> Row:
    run = node.run
    seconds, planned = number(run.get("seconds")), node.planned_minutes
    return {
        "name": node.name, "kind": node.kind, "state": node.state, "headline": node.headline, "reason": node.reason,
        "parents": node.parents, "seed": node.manifest.get("seed"), "version": node.manifest.get("version"),
        "older_code": node.older_code,
        "key": str(node.manifest.get("key", ""))[:12], "digest": str(node.manifest.get("digest", ""))[:12],
        "minutes": None if seconds is None else seconds / 60, "planned": planned,
        "ratio": seconds / 60 / planned if seconds is not None and planned else None,
        "planned_mb": node.planned_mb, "peak_mb": number(run.get("peak_mb")), "attempts": run.get("attempts"),
        "config": current_names(node.kind, mapping(node.manifest.get("config"))),
    }  # fmt: skip


def total(nodes: list[Row]) -> Row:
    """The whole run: minutes add up over what was planned or worked on, memory is the most at once."""

    def known(name: str) -> list[float]:
        return [node[name] for node in nodes if node[name] is not None]

    planned, minutes = (sum(known(name)) if known(name) else None for name in ("planned", "minutes"))
    memory = {name: max(known(name), default=None) for name in ("planned_mb", "peak_mb")}
    ratio = minutes / planned if minutes is not None and planned else None
    return {"name": "all", "planned": planned, "minutes": minutes, "ratio": ratio, "attempts": "", **memory}


def _family(run: RunView) -> str:
    from qwenkit.lineage.report_card_graph import Label, family_svg

    known = {node.name for node in run.nodes.values() if node.manifest}  # of the others no edge is known
    known |= {parent for name in known for parent in run.nodes[name].parents}
    shown_nodes = [node for node in run.nodes.values() if node.name in known]
    labels = {
        node.name: Label(node.state, card_number(node) or node.reason, node.headline or node.reason)
        for node in shown_nodes
    }
    models = {(node.sources["model"], node.name) for node in shown_nodes if "model" in node.sources}
    return family_svg({node.name: node.parents for node in shown_nodes}, labels, models)


def parts_view(run: RunView) -> dict[str, list[Row]]:
    """Return by section the layout and the values of all that kinds of nodes bring; `missing` where no node has run."""
    done = [node for node in run.nodes.values() if node.state == DONE]
    sections: dict[str, list[Row]] = {}
    for part in all_parts():
        nodes = [node for node in done if part in card_parts(node.kind, node.metrics)]
        drawn = [{"layout": part.layout, "view": part.view(node)} for node in nodes]
        sections.setdefault(part.section, []).extend(drawn or [{"layout": "missing", "view": part.title}])
    return sections


def trained_view(node: NodeView) -> Row:
    """The curves of one trained node and its closing numbers."""
    from qwenkit.lineage import report_card_plots

    plots: list[str] = []
    for title, unit, names in curves_of(node.kind):
        lines = {name: points for name in names if (points := curve(node.steps, name))[0]}
        dots = _held_out_points(node) if title == "Loss" else {}
        if lines or dots:
            named = {
                "train" if name == "loss" else name.removeprefix("rubric_").replace("_", " "): points
                for name, points in lines.items()
            }
            plots.append(report_card_plots.curves(f"{node.name}/{names[0]}", title, named, unit, dots))
    facts = {name: node.metrics[name] for name in FACTS if name in node.metrics}
    losses = mapping(node.metrics.get("heldout_loss"))
    return {"name": node.name, "state": node.state, "plots": plots, "facts": facts, "held_out": losses}


def curves_of(kind: str) -> list[Curve]:
    """Return what is drawn of a training: first the loss, then what its kind adds, then what all have. A drawing of the
    kind's stands in place of a common one of the same title."""
    own: tuple[Curve, ...] = getattr(load_stage(kind), "CURVES", ()) if kind in KINDS else ()
    by_title = {curve[0]: curve for curve in (*FIRST_CURVES, *own, *LAST_CURVES)}
    return list({**by_title, **{curve[0]: curve for curve in own}}.values())


def card_number(node: NodeView) -> str:
    """Return the number that stands for a node in the drawing of the family: a few words, where the summary is a line.
    Of a kind that says none, or whose metrics lack it, it is the first clause of the summary."""
    number_of = getattr(load_stage(node.kind), "card_number", None) if node.kind in KINDS else None
    return (number_of(node.metrics) if number_of else "") or re.split(r"[;:]\s", node.headline)[0]


def _held_out_points(node: NodeView) -> dict[str, tuple[list[float], list[float]]]:
    points: dict[str, tuple[list[float], list[float]]] = {}
    for row in node.evals:
        nested = mapping(row.get("heldout") or row.get("heldout_loss"))
        for name in nested or [name for name in row if name not in NO_LOSS]:
            value = validation_loss(row, name)
            if value is not None:
                x, y = points.setdefault(f"held out: {name}", ([], []))
                x.append(float(row["step"]))
                y.append(value)
    return points


def shown(value: object) -> str:
    """Hostile text made visible: control and direction marks as symbols, an overlong text cut and counted."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    text = _CONTROL.sub(lambda match: chr(0x2400 + min(ord(match[0]), 0x21)), text.replace("\r\n", "\n"))
    text = _BIDI.sub("\ufffd", text)
    rest = len(text) - LONGEST_ANSWER
    return text if rest <= 0 else f"{text[:LONGEST_ANSWER]} … (+{rest} characters)"


def environment_view(run: RunView) -> list[tuple[str, str]]:
    """What the run was fixed to, what drifted, and every version and machine fact the nodes recorded."""
    facts: dict[str, dict[str, None]] = {}
    sources = [mapping(run.run.get("fixed"))]
    for node in run.nodes.values():
        sources += [mapping(node.run.get("versions")), mapping(node.run.get("machine"))]
    for source in sources:
        for name, value in _flat(source):
            facts.setdefault(name, {})[value] = None
    drift = "; ".join(map(str, sequence(run.run.get("drift"))))
    drifted = [("drift since the first start", drift)] if drift else []
    for name, node in run.nodes.items():
        if changes := "; ".join(map(str, sequence(node.run.get("version_changes")))):
            drifted.append((f"{name} was continued by other versions", changes))
    return drifted + [(name, ", ".join(values)) for name, values in facts.items()]


def _flat(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Leaves by their last name."""
    rows: list[tuple[str, str]] = []
    for name, value in table.items():
        rows += _flat(mapping(table[name])) if isinstance(value, dict) else [(str(name).replace("_", " "), str(value))]
    return rows


def _render(template: str, view: Mapping[str, Any]) -> str:
    filters: dict[str, Filter] = {
        "md": markdown_cell, "fence": fenced, "share": results.share, "plain": plain_number, "shown": shown,
        "score_plot": _score_plot,
    }  # fmt: skip
    return page(f"lineage/{template}", filters=filters, **view)


def _score_plot(table: Row) -> str:
    """Return the drawing of one table of scores."""
    from qwenkit.lineage import report_card_plots

    return report_card_plots.scores(table["plot"], table["title"], table["table"])


def plain_number(value: object) -> str:
    """`1,234`, `0.123`, or a dash for what is not a number."""
    value_there = number(value)
    if value_there is None:
        return "–" if value is None else str(value)
    return f"{value_there:,.0f}" if value_there == int(value_there) else f"{value_there:,.3f}"


def markdown_cell(value: object) -> str:
    """Text that stays one harmless cell of a Markdown table."""
    text = " ".join(shown(value).split())
    return re.sub(r"([\\`*_{}\[\]<>|#~$!])", r"\\\1", text)


def fenced(value: object) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    text = str(value)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
