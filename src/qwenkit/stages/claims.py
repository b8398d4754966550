"""Claims: what worked and what did not, each drawn from published numbers and their intervals.

    def claims(nodes, seeds):                          # in the file of a kind
        yield from learning_claims(nodes)
        yield Claim(outcome_of(low, high), "chat is better than base", "difference +0.12 [+0.08, +0.16]")

`nodes` are the published nodes of the kind; `seeds` is what the report node says of other seeds, {} where there are
none. An outcome is read off a 95 % interval; over several seeds a claim holds only where each of them says the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenkit.json_values import mapping, number, sequence
from qwenkit.records import Row
from qwenkit.stages.results import Metrics, NodeResults, share, signed, validation_loss

WORKED, DID_NOT_WORK, UNRESOLVED = "worked", "did not work", "not resolved"
TOLERATED_LOSS = 0.05  # of accuracy on base tasks: less than this cannot be told from noise at a nano family's size


@dataclass(frozen=True)
class Claim:
    """One sentence with its outcome and the evidence in numbers. `minor` claims are folded away in the card."""

    outcome: str
    text: str
    evidence: str
    minor: bool = False


def outcome_of(low: object, high: object, null: float = 0.0) -> str:
    """Return what an interval says: above the null value `worked`, below it `did not work`, and `not resolved` where it
    holds that value or is unknown."""
    least, most = number(low), number(high)
    if least is None or most is None:
        return UNRESOLVED
    return WORKED if least > null else DID_NOT_WORK if most < null else UNRESOLVED


def learning_claims(nodes: Sequence[NodeResults]) -> Iterator[Claim]:
    """Yield for each set: a model that learnt has a lower validation loss at the end than at its first evaluation."""
    for node in nodes:
        for name, last in mapping(node.metrics.get("heldout_loss")).items():
            first = next((loss for row in node.evals if (loss := validation_loss(row, name)) is not None), None)
            end = number(last)
            if first is None or end is None or len(node.evals) < 2:
                continue
            text = f"{node.name} learnt: loss on held-out {name} fell"
            yield Claim(WORKED if end < first else DID_NOT_WORK, text, f"{first:.3f} → {end:.3f} nats per token")


def accounting_claims(nodes: Sequence[NodeResults]) -> Iterator[Claim]:
    """Yield whether a corpus shares text with the tests, and whether each record that was read is accounted for."""
    for node in nodes:
        metrics = node.metrics
        overlap = number(metrics.get("overlap_13gram"))
        if overlap is not None:
            outcome = DID_NOT_WORK if overlap else WORKED
            yield Claim(outcome, f"{node.name} holds no test text", f"13-gram overlap: {overlap:,.0f}")
        counts = [number(metrics.get(name)) for name in ("read", "kept", "quarantined")]
        steps = [mapping(step) for step in sequence(metrics.get("funnel"))]
        dropped = sum(number(step.get("dropped")) or 0 for step in steps if step.get("rule") != "quarantined")
        if None not in counts:
            read, kept, bad = (count or 0 for count in counts)
            balanced = read == kept + dropped + bad
            text = f"Every record of {node.name} is accounted for"
            evidence = f"{read:,.0f} read = {kept:,.0f} kept + {dropped:,.0f} dropped + {bad:,.0f} quarantined"
            yield Claim(WORKED if balanced else DID_NOT_WORK, text, evidence if balanced else f"not true: {evidence}")


def ranking_claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set of pairs whether a model ranks them better than chance, in every seed."""
    for name, part, by_seed in _accuracies(nodes, seeds):
        outcomes = {outcome_of(score.get("low"), score.get("high"), 0.5) for score in by_seed}
        outcome = outcomes.pop() if len(outcomes) == 1 else UNRESOLVED
        evidence = ("every seed: " if seeds else "") + "; ".join(map(share, by_seed)) + ", chance 50 %"
        yield Claim(outcome, f"{name} tells the better answer from the worse one ({part})", evidence)


def _accuracies(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield (node, set, the score of every seed)."""
    if seeds:
        names = {node.name for node in nodes}
        for row in map(mapping, sequence(seeds.get("accuracies"))):
            if row.get("node") in names:
                yield str(row.get("node")), str(row.get("set")), list(map(mapping, sequence(row.get("by_seed"))))
        return
    for node in nodes:
        for part, value in mapping(node.metrics.get("accuracy")).items():
            yield node.name, part, [mapping(value)]


def trend(values: list[float]) -> tuple[str, str] | None:
    """Return (outcome, evidence) of the last fifth of the steps against the first, resolved only where their intervals
    do not meet (a cautious test); None where the steps are too few."""
    from qwenkit.statistics import mean_interval

    fifth = len(values) // 5
    if fifth < 4:
        return None
    before, after = mean_interval(values[:fifth]), mean_interval(values[-fifth:], seed=1)
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    outcome = WORKED if after.low > before.high else DID_NOT_WORK if after.high < before.low else UNRESOLVED
    return outcome, (
        f"{before.mean:.3f} [{before.low:.3f}, {before.high:.3f}] → "
        f"{after.mean:.3f} [{after.low:.3f}, {after.high:.3f}], first and last {fifth} steps"
    )


def comparison_claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each comparison `a` against `b` on the same items. Components but total and `right` are minor."""
    alone = (row for node in nodes for row in sequence(node.metrics.get("comparisons")))
    rows = [mapping(row) for row in (sequence(seeds.get("comparisons")) if seeds else alone)]
    for row in rows:
        component = str(row.get("component", ""))
        text = f"{row.get('a')} is better than {row.get('b')} on {row.get('set')}, {component}"
        if row.get("set") == "base":  # nothing is taught here by alignment: the question is what was forgotten
            text = f"{row.get('a')} keeps what {row.get('b')} knew (base tasks)"
        evidence = f"difference {signed(row)}, n = {row.get('n', '?')}, same items"
        if seeds:
            by_seed = ", ".join(signed({"mean": mapping(score).get("mean")}) for score in sequence(row.get("by_seed")))
            evidence = f"every seed: {by_seed}; pooled {signed(mapping(row.get('pooled')))}"
        outcome, why = outcome_beside(row, rows)
        evidence += f"; {why}" if why else ""
        yield Claim(outcome, text, evidence, minor=component not in ("right", "total", ""))


def outcome_beside(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the outcome of one comparison beside the others, and why it is not what its own interval says. A better
    total counts only if `right` did not fall: politeness and brevity are cheap."""
    outcome = comparison_outcome(row)
    if outcome != WORKED or row.get("component") != "total":
        return outcome, ""
    same = [{key: other.get(key) for key in ("exam", "a", "b", "set")} for other in (row, *rows)]
    twins = [other for other, key in zip(rows, same[1:]) if key == same[0] and other.get("component") == "right"]
    if not twins:
        return UNRESOLVED, "not counted: whether `right` fell was not measured"
    right = mapping(twins[0].get("pooled")) or twins[0]
    if outcome_of(right.get("low"), right.get("high")) == DID_NOT_WORK:
        return DID_NOT_WORK, f"not counted: `right` fell, {signed(right)}"
    return outcome, ""


def comparison_outcome(row: Mapping[str, object]) -> str:
    """Return the outcome by the interval; over seeds by the pooled one, and only where every seed's difference says the
    same."""
    joint = mapping(row.get("pooled")) or row
    outcome, least = outcome_of(joint.get("low"), joint.get("high")), 0.0
    if row.get("set") == "base":
        outcome, least = _keeps(joint, outcome), -TOLERATED_LOSS
    for score in sequence(row.get("by_seed")):
        mean = number(mapping(score).get("mean"))
        if mean is None or (outcome == WORKED and mean <= least) or (outcome == DID_NOT_WORK and mean >= 0):
            return UNRESOLVED
    return outcome


def _keeps(row: Mapping[str, Any], outcome: str) -> str:
    low = number(row.get("low"))
    return WORKED if outcome == UNRESOLVED and low is not None and low >= -TOLERATED_LOSS else outcome
