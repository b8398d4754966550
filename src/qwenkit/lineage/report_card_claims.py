"""What worked and what did not: claims with an outcome, each drawn from published numbers and their intervals.

An outcome is `worked`, `did not work` or `not resolved`. The last one is the honest word for a difference whose
interval holds zero: the run was too small, or the effect too weak, to tell. A claim is only made where the numbers
exist. Where the report joins other seeds, comparisons and accuracies must hold over all of them. What is claimed of a
kind of node stands with the kind (`claims` of its stage); here are the claims about the run as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from qwenkit.lineage.run_reader import DONE, FAILED, UNFINISHED, RunView
from qwenkit.stages import KINDS, is_view, load_stage
from qwenkit.stages.claims import DID_NOT_WORK, UNRESOLVED, WORKED, Claim

MARKS = {WORKED: "✓", DID_NOT_WORK: "✗", UNRESOLVED: "?"}
ORDER = (DID_NOT_WORK, UNRESOLVED, WORKED)


def make_claims(run: RunView) -> list[Claim]:
    """Return every claim the run's numbers allow: failures first, then what is not resolved, then what worked."""
    makers = (_nodes, _kinds, _alarms)
    claims = [claim for maker in makers for claim in maker(run)]
    return sorted(claims, key=lambda claim: ORDER.index(claim.outcome))


def _kinds(run: RunView) -> Iterator[Claim]:
    """Yield what each kind says of its nodes, in the order of the pipeline."""
    for kind in KINDS:
        nodes = list(run.of_kind(kind))
        claims = getattr(load_stage(kind), "claims", None) if nodes or run.seeds else None
        if claims is not None:
            yield from claims(nodes, run.seeds)


def _nodes(run: RunView) -> Iterator[Claim]:
    broken = [node for node in run.nodes.values() if node.state in (FAILED, UNFINISHED) and not is_view(node.kind)]
    for node in broken:
        if node.state == FAILED:
            yield Claim(DID_NOT_WORK, f"{node.name} failed", node.reason or "no reason was recorded")
    done = [node for node in run.nodes.values() if node.state == DONE]
    if done and not broken:
        waiting = len(run.nodes) - len(done)
        evidence = f"{len(done)} artifacts" + (f", {waiting} nodes not run" if waiting else "")
        yield Claim(WORKED, "Every node that was started is published", evidence)


def _alarms(run: RunView) -> Iterator[Claim]:
    trained = [node for node in run.nodes.values() if node.steps]
    alarms = [alarm for node in run.nodes.values() for alarm in node.alarms]
    if alarms:
        names = ", ".join(sorted({str(alarm.get("id")) for alarm in alarms}))
        yield Claim(DID_NOT_WORK, "Training stayed healthy", f"alarms: {names}")
    elif trained:
        yield Claim(WORKED, "Training stayed healthy", f"no alarm in {len(trained)} trained nodes")
