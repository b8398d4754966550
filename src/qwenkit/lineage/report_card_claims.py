"""What worked and what did not: claims with a verdict, each drawn from published numbers and their intervals.

A verdict is `worked`, `did not work` or `not resolved`. The last one is the honest word for a difference whose interval
holds zero: the run was too small, or the effect too weak, to tell. A claim is only made where the numbers exist.
Where the report joins other seeds, comparisons and accuracies must hold over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenkit.lineage.run_reader import DONE, FAILED, UNFINISHED, RunView, curve, mapping, number, sequence
from qwenkit.statistics import mean_interval

WORKED, FAILED_CLAIM, UNRESOLVED = "worked", "did not work", "not resolved"
TOLERATED_LOSS = 0.05  # of accuracy on base tasks: less than this cannot be told from noise at a nano family's size
MARKS = {WORKED: "✓", FAILED_CLAIM: "✗", UNRESOLVED: "?"}
ORDER = (FAILED_CLAIM, UNRESOLVED, WORKED)


@dataclass(frozen=True)
class Claim:
    """One sentence with its verdict and the evidence in numbers. `minor` claims are folded away in the card."""

    verdict: str
    text: str
    evidence: str
    minor: bool = False


def make_claims(run: RunView) -> list[Claim]:
    """Every claim the run's numbers allow: failures first, then what is not resolved, then what worked."""
    makers = (_nodes, _corpus, _held_out, _pairs, _ppo, _comparisons, _alarms)
    claims = [claim for maker in makers for claim in maker(run)]
    return sorted(claims, key=lambda claim: ORDER.index(claim.verdict))


def verdict_of(low: Any, high: Any, null: float = 0.0) -> str:
    """Above the null value: worked; below: did not work; an interval that holds it, or is unknown: not resolved."""
    least, most = number(low), number(high)
    if least is None or most is None:
        return UNRESOLVED
    return WORKED if least > null else FAILED_CLAIM if most < null else UNRESOLVED


def _nodes(run: RunView) -> Iterator[Claim]:
    broken = [node for node in run.nodes.values() if node.state in (FAILED, UNFINISHED) and node.kind != "report"]
    for node in broken:
        if node.state == FAILED:
            yield Claim(FAILED_CLAIM, f"{node.name} failed", node.reason or "no reason was recorded")
    done = [node for node in run.nodes.values() if node.state == DONE]
    if done and not broken:
        waiting = len(run.nodes) - len(done)
        evidence = f"{len(done)} artifacts" + (f", {waiting} nodes not run" if waiting else "")
        yield Claim(WORKED, "Every node that was started is published", evidence)


def _corpus(run: RunView) -> Iterator[Claim]:
    for node in run.of_kind("corpus"):
        metrics = node.metrics
        overlap = number(metrics.get("overlap_13gram"))
        if overlap is not None:
            verdict = FAILED_CLAIM if overlap else WORKED
            yield Claim(verdict, f"{node.name} holds no test text", f"13-gram overlap: {overlap:,.0f}")
        counts = [number(metrics.get(name)) for name in ("read", "kept", "quarantined")]
        dropped = sum(number(step.get("dropped")) or 0 for step in dropping_steps(metrics))
        if None not in counts:
            read, kept, bad = (count or 0 for count in counts)
            balanced = read == kept + dropped + bad
            text = f"Every record of {node.name} is accounted for"
            evidence = f"{read:,.0f} read = {kept:,.0f} kept + {dropped:,.0f} dropped + {bad:,.0f} quarantined"
            yield Claim(WORKED if balanced else FAILED_CLAIM, text, evidence if balanced else f"not true: {evidence}")


def dropping_steps(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The funnel's rules without the quarantine, which is counted by itself."""
    steps = (mapping(step) for step in sequence(metrics.get("funnel")))
    return [step for step in steps if step.get("rule") != "quarantined"]


def _held_out(run: RunView) -> Iterator[Claim]:
    """A model that learnt has a lower held-out loss at the end than at its first evaluation."""
    for node in run.of_kind("pretrain", "sft"):
        for name, last in mapping(node.metrics.get("heldout_loss")).items():
            first = next((v for row in node.evals if (v := held_out(row, name)) is not None), None)
            end = number(last)
            if first is None or end is None or len(node.evals) < 2:
                continue
            verdict = WORKED if end < first else FAILED_CLAIM
            text = f"{node.name} learnt: loss on held-out {name} fell"
            yield Claim(verdict, text, f"{first:.3f} → {end:.3f} nats per token")


def held_out(row: dict[str, Any], name: str) -> float | None:
    """One set's held-out loss in an `eval` event, whichever way the event nests it."""
    nested = mapping(row.get("heldout") or row.get("heldout_loss"))
    return number(nested.get(name, row.get(name)))


def _pairs(run: RunView) -> Iterator[Claim]:
    for node, name, by_seed in _accuracies(run):
        verdicts = {verdict_of(score.get("low"), score.get("high"), 0.5) for score in by_seed}
        verdict = verdicts.pop() if len(verdicts) == 1 else UNRESOLVED
        evidence = ("every seed: " if run.seeds else "") + "; ".join(map(share, by_seed)) + ", chance 50 %"
        yield Claim(verdict, f"{node} tells the better answer from the worse one ({name})", evidence)


def _accuracies(run: RunView) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(node, set, the score of every seed)."""
    if run.seeds:
        for row in map(mapping, sequence(run.seeds.get("accuracies"))):
            yield str(row.get("node")), str(row.get("set")), list(map(mapping, sequence(row.get("by_seed"))))
        return
    for node in run.of_kind("preference", "reward"):
        for name, value in mapping(node.metrics.get("accuracy")).items():
            yield node.name, name, [mapping(value)]


def _ppo(run: RunView) -> Iterator[Claim]:
    for node in run.of_kind("ppo"):
        changes = {name: _change(curve(node.steps, name, most=10**9)[1]) for name in ("reward", "rubric")}
        for name, label in (("reward", "the learned reward"), ("rubric", "the true rubric")):
            change = changes[name]
            if change:
                verdict, evidence = change
                yield Claim(verdict, f"{node.name} raised {label} of its own samples", evidence)
        if [change and change[0] for change in changes.values()] == [WORKED, FAILED_CLAIM]:
            text = f"{node.name} did not game its reward model"
            yield Claim(FAILED_CLAIM, text, "the learned reward rose while the true rubric fell")


def _change(values: list[float]) -> tuple[str, str] | None:
    """First against last fifth of the steps; resolved only where their intervals do not meet (a cautious test)."""
    fifth = len(values) // 5
    if fifth < 4:
        return None
    before, after = mean_interval(values[:fifth]), mean_interval(values[-fifth:], seed=1)
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    verdict = WORKED if after.low > before.high else FAILED_CLAIM if after.high < before.low else UNRESOLVED
    return verdict, (
        f"{before.mean:.3f} [{before.low:.3f}, {before.high:.3f}] → "
        f"{after.mean:.3f} [{after.low:.3f}, {after.high:.3f}], first and last {fifth} steps"
    )


def _comparisons(run: RunView) -> Iterator[Claim]:
    """`a` against `b` on the same items. Totals and rightness are the headlines, other components are minor."""
    alone = (row for node in run.of_kind("evaluate") for row in sequence(node.metrics.get("comparisons")))
    rows = [mapping(row) for row in (sequence(run.seeds.get("comparisons")) if run.seeds else alone)]
    for row in rows:
        component = str(row.get("component", ""))
        text = f"{row.get('a')} is better than {row.get('b')} on {row.get('set')}, {component}"
        if row.get("set") == "base":  # nothing is taught here by alignment: the question is what was forgotten
            text = f"{row.get('a')} keeps what {row.get('b')} knew (base tasks)"
        evidence = f"difference {signed(row)}, n = {row.get('n', '?')}, same items"
        if run.seeds:
            by_seed = ", ".join(signed({"mean": mapping(score).get("mean")}) for score in sequence(row.get("by_seed")))
            evidence = f"every seed: {by_seed}; pooled {signed(mapping(row.get('pooled')))}"
        verdict, why = judged(row, rows)
        evidence += f"; {why}" if why else ""
        yield Claim(verdict, text, evidence, minor=component not in ("right", "total", ""))


def judged(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The verdict on one comparison beside the others, and why it is not what its own interval says. A better total
    counts only if rightness did not fall: manners and brevity are cheap."""
    verdict = comparison_verdict(row)
    if verdict != WORKED or row.get("component") != "total":
        return verdict, ""
    same = [{key: other.get(key) for key in ("exam", "a", "b", "set")} for other in (row, *rows)]
    twins = [other for other, key in zip(rows, same[1:]) if key == same[0] and other.get("component") == "right"]
    if not twins:
        return UNRESOLVED, "not counted: whether `right` fell was not measured"
    right = mapping(twins[0].get("pooled")) or twins[0]
    if verdict_of(right.get("low"), right.get("high")) == FAILED_CLAIM:
        return FAILED_CLAIM, f"not counted: `right` fell, {signed(right)}"
    return verdict, ""


def comparison_verdict(row: Mapping[str, Any]) -> str:
    """By the interval; over seeds by the pooled one, and only where the difference of every seed says the same."""
    joint = mapping(row.get("pooled")) or row
    verdict, least = verdict_of(joint.get("low"), joint.get("high")), 0.0
    if row.get("set") == "base":
        verdict, least = _kept(joint, verdict), -TOLERATED_LOSS
    for score in sequence(row.get("by_seed")):
        mean = number(mapping(score).get("mean"))
        if mean is None or (verdict == WORKED and mean <= least) or (verdict == FAILED_CLAIM and mean >= 0):
            return UNRESOLVED
    return verdict


def _kept(row: Mapping[str, Any], verdict: str) -> str:
    low = number(row.get("low"))
    return WORKED if verdict == UNRESOLVED and low is not None and low >= -TOLERATED_LOSS else verdict


def _alarms(run: RunView) -> Iterator[Claim]:
    trained = [node for node in run.nodes.values() if node.steps]
    alarms = [alarm for node in run.nodes.values() for alarm in node.alarms]
    if alarms:
        names = ", ".join(sorted({str(alarm.get("id")) for alarm in alarms}))
        yield Claim(FAILED_CLAIM, "Training stayed healthy", f"alarms: {names}")
    elif trained:
        yield Claim(WORKED, "Training stayed healthy", f"no alarm in {len(trained)} trained nodes")


def share(score: Mapping[str, Any]) -> str:
    """`81.2 % [77.0, 84.8], n = 300` of a score in [0, 1]."""
    mean, low, high = (number(score.get(name)) for name in ("mean", "low", "high"))
    if mean is None:
        return "no number"
    ends = f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else ""
    return f"{100 * mean:.1f} %{ends}" + (f", n = {score['n']}" if "n" in score else "")


def signed(row: Mapping[str, Any]) -> str:
    """`+0.12 [+0.08, +0.16]`."""
    mean, low, high = (number(row.get(name)) for name in ("mean", "low", "high"))
    if mean is None:
        return "unknown"
    ends = f" [{low:+.3f}, {high:+.3f}]" if low is not None and high is not None else ""
    return f"{mean:+.3f}{ends}".replace("-", "−")
