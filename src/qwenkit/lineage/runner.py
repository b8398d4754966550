"""Run a recipe: each node once, in order, published atomically, resumable after a kill at any moment.

    runs/NAME/run.json           the recipe, and what was fixed at the first start (threads, device, versions)
    runs/NAME/events.jsonl       the event log
    runs/NAME/NODE/              the current artifact of a node
    runs/NAME/.work/NODE-KEY/    scratch of a node at work: checkpoints, finished phases, `out` to be published
    runs/NAME/.old/              superseded artifacts, until `qwenkit clean`

A kill between the last write and the rename leaves a finished `out`: the next start publishes it without working again.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qwenkit import artifacts, hub, platform
from qwenkit.artifacts import Manifest
from qwenkit.errors import Interrupted, QwenkitError, Stopped, UserError, within
from qwenkit.events import SCHEMA as EVENTS
from qwenkit.events import EventLog, Log
from qwenkit.files import is_disk_full
from qwenkit.json_values import sequence
from qwenkit.lineage import estimate, graph, scratch
from qwenkit.lineage.model_card import write_model_card
from qwenkit.lineage.preflight import (
    SCHEMA,
    Environment,
    choose_environment,
    drifted,
    refuse_drift,
    refuse_folders,
    refuse_missing_parents,
    refuse_outside,
    refuse_rows,
)
from qwenkit.lineage.recipe import Node, Recipe
from qwenkit.model.formats.keys import accepting
from qwenkit.records import Row, read_json, write_json
from qwenkit.schema import frozen_inputs
from qwenkit.stages import is_view, load_stage
from qwenkit.stages.base import Input, Progress, StageContext


class Screen(Protocol):
    """What the runner shows to people; `lineage.progress.Terminal` is the form for a terminal."""

    def begin(self, entries: list[graph.PlanEntry], recipe: Recipe) -> None:
        """Show what the run will do."""
        ...

    def start(self, node: Node, why: str) -> Progress:
        """Show that a node starts; return the function that moves its bar."""
        ...

    def done(self, node: Node, manifest: Manifest, run: Row, entry: graph.PlanEntry) -> None:
        """Show that a node is finished."""
        ...

    def end(self, rows: list[Row]) -> None:
        """Show the closing table."""
        ...


@dataclass(frozen=True)
class Options:
    """How to run: which nodes, and what is allowed."""

    only: tuple[str, ...] = ()
    until: str | None = None
    allow_drift: bool = False
    reuse: Path | None = None


def run_recipe(recipe: Recipe, options: Options, screen: Screen) -> None:
    """Bring the wanted nodes of the recipe up to date in its run folder."""
    wanted = graph.select(recipe, list(options.only), options.until)
    run_dir = recipe.out
    refuse_folders(recipe, wanted, options.reuse)
    refuse_outside(recipe, wanted)
    commits = commits_of(recipe, run_dir, wanted)
    estimate.refuse_too_large(recipe, wanted, [run_dir, *([options.reuse] if options.reuse else [])])
    if not run_dir.exists():
        refuse_missing_parents(recipe, run_dir, wanted)
    with artifacts.locked(run_dir, "run folder"):
        recover(run_dir)
        refuse_missing_parents(recipe, run_dir, wanted)
        entries = plan(recipe, options)
        environment = fix_environment(recipe, run_dir, any(v.works for v in entries))
        note_nodes(recipe, run_dir / "run.json")
        fetch_models(recipe, run_dir, commits, [v.node for v in entries if v.works])
        log = EventLog(run_dir / "events.jsonl")
        log("run_start", schema=EVENTS, recipe=recipe.title, nodes=wanted)
        screen.begin(entries, recipe)
        rows = [run_node(recipe.nodes[name], recipe, run_dir, environment, log, options, screen) for name in wanted]
        log("run_end")
        log.close()
        draw_card(recipe, run_dir, wanted)
        screen.end(rows)


def plan(recipe: Recipe, options: Options) -> list[graph.PlanEntry]:
    """Return what a run would do with every wanted node, and why; raises a `UserError` where a run would be refused."""
    wanted = graph.select(recipe, list(options.only), options.until)
    refuse_folders(recipe, wanted, options.reuse)
    refuse_rows(recipe, wanted)
    entries = graph.make_plan(recipe, recipe.out, wanted, options.reuse)
    if any(entry.works for entry in entries):
        refuse_drift(recipe, recipe.out, options.allow_drift)
    return entries


def draw_card(recipe: Recipe, run_dir: Path, wanted: list[str]) -> None:
    """Write `report.html` and `report.md` when the run has a report node and has reached it: of this run, or of the one
    that the node names."""
    reports = [recipe.nodes[name] for name in wanted if is_view(recipe.nodes[name].kind)]
    if reports:
        from qwenkit.lineage.report_card import write_card

        node = reports[-1]
        shown = (source for edge, source in node.inputs.items() if node.config.reads_manifest(edge))
        kind, target = next(shown, ("", ""))
        shown_run = Path(target) if kind == "path" and artifacts.is_run(Path(target)) else run_dir
        write_card(shown_run, run_dir, run_dir / node.name)


def commits_of(recipe: Recipe, run_dir: Path, wanted: list[str]) -> dict[str, str]:
    """Return the commit of each Hub model that the wanted nodes read: the one pinned by the run, or the present one."""
    known = graph.pinned(run_dir)
    with within(recipe.source):
        references = [reference for name in wanted for reference in recipe.nodes[name].from_hub()]
        return {reference: known.get(reference) or hub.commit(reference) for reference in references}


def fetch_models(recipe: Recipe, run_dir: Path, commits: dict[str, str], working: list[str]) -> None:
    """Record the commits, then fetch and hash the files of the models that are needed, before any work."""
    if not commits:
        return
    path = run_dir / "run.json"
    write_json(path, {**read_json(path), "hub": {**graph.pinned(run_dir), **commits}})
    with within(recipe.source):
        asked = (pair for name in working for pair in recipe.nodes[name].from_hub().items())
        for folder in dict.fromkeys(hub.fetch(reference, commits[reference], what) for reference, what in asked):
            hub.refuse_changed(folder)  # once for all nodes: a model is large


def fix_environment(recipe: Recipe, run_dir: Path, working: bool) -> Environment:
    """Record threads, device and versions at the first start; mark a run that continues under others (`refuse_drift`
    allowed it). Return what this start computes with."""
    path = run_dir / "run.json"
    if not path.exists():
        fixed = choose_environment(recipe, {}).fingerprint()
        write_json(path, {"schema": SCHEMA, "recipe": recipe.title, "fixed": fixed, "drift": []})
    known = read_json(path)
    chosen, drift = drifted(recipe, known["fixed"])
    if drift and working:
        write_json(path, {**known, "drift": sorted({*map(str, sequence(known.get("drift"))), *drift})})
    platform.set_threads(chosen.threads, chosen.deterministic)
    return chosen


def note_nodes(recipe: Recipe, path: Path) -> None:
    """Record the recipe's description, its nodes and what is planned of them, so that `qwenkit status` and the card
    also show what is not there yet."""
    nodes = {name: {"kind": node.kind, **plans(node)} for name, node in recipe.nodes.items()}
    known = read_json(path)
    noted = {**known, "about": recipe.about, "nodes": nodes}
    if known != noted:
        write_json(path, noted)


def plans(node: Node) -> dict[str, float | None]:
    """Return the planned minutes and memory of a node."""
    return {"planned_minutes": node.config.planned_minutes, "planned_mb": node.config.planned_memory_mb}


def recover(run_dir: Path) -> None:
    """Publish what a kill left finished: an intact `out` of a scratch folder that is named after it. Everything else
    there is unfinished work, which is done again."""
    for out in sorted((run_dir / scratch.WORK).glob("*/out")):
        if manifest := finished(out, run_dir):
            publish(out, run_dir, manifest.node)
    for folder in scratch.all_of(run_dir):
        name, _, stem = folder.name.rpartition("-")
        published = graph.current(run_dir, name) if artifacts.is_node_name(name) and stem else None
        if published is not None and published.key.startswith(stem):
            shutil.rmtree(folder)


def finished(out: Path, run_dir: Path) -> Manifest | None:
    """Return the manifest of a finished artifact that was not published yet, or None.

    The name of the scratch folder says whose it is: a manifest that says something else came from elsewhere."""
    manifest = graph.current(out.parent, out.name)
    if manifest is None or out.parent != scratch.scratch_of(run_dir, manifest.node, manifest.key):
        return None
    return None if artifacts.damage(out, quick=True) else manifest


def publish(out: Path, run_dir: Path, node: str) -> None:
    """Move a finished artifact to its place, a model with its card; what was there is superseded."""
    write_model_card(out, run_dir)
    artifacts.publish(out, run_dir / node, run_dir / ".old")


def run_node(
    node: Node, recipe: Recipe, run_dir: Path, environment: Environment, log: EventLog, options: Options, screen: Screen
) -> Row:
    """Bring one node up to date. Return a row for the closing table: planned and actual minutes, peak memory,
    headline."""
    entry = graph.plan_node(node, recipe, run_dir, options.reuse)
    if entry.state == "reuse":
        reuse(node, entry, options.reuse, run_dir)
    if entry.works:
        work_node(node, entry, recipe, run_dir, environment, log, screen)
    else:
        log("node_skipped", node=node.name, reused=entry.state == "reuse")
    manifest = artifacts.read_manifest(run_dir / node.name)
    run = artifacts.read_run(run_dir / node.name)
    screen.done(node, manifest, run, entry)
    return {"node": node.name, "headline": manifest.headline, "state": entry.state, **run}


def reuse(node: Node, entry: graph.PlanEntry, other: Path | None, run_dir: Path) -> None:
    """Copy an equal artifact from another run, and check every byte of the copy.

    The copy is not called `out`, which `recover` would publish: a kill may leave an incomplete copy with a complete
    manifest."""
    assert other is not None and entry.key is not None
    source, copy = other / node.name, scratch.scratch_of(run_dir, node.name, entry.key) / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    artifacts.copy(source, copy)
    lines = artifacts.damage(copy)
    if lines:
        shutil.rmtree(copy)
        raise artifacts.damaged(source, lines, "make it again there, or run without --reuse")
    artifacts.fsync_tree(copy)
    publish(copy, run_dir, node.name)
    shutil.rmtree(copy.parent)


def work_node(
    node: Node,
    entry: graph.PlanEntry,
    recipe: Recipe,
    run_dir: Path,
    environment: Environment,
    log: EventLog,
    screen: Screen,
) -> None:
    """Run the stage in its scratch folder and publish its artifact."""
    assert entry.key is not None
    watch = graph.Watch(node, run_dir)
    inputs = graph.gather_inputs(node, run_dir)
    folder = scratch.scratch_of(run_dir, node.name, entry.key)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    attempts = scratch.count_attempt(folder)
    log("node_start" if attempts == 1 else "resumed", node=node.name, why=entry.why, attempts=attempts)
    started, clock = time.time(), time.monotonic()
    platform.reset_peak()
    progress = screen.start(node, entry.why)
    seed, notes = graph.seed_of(node, recipe), list[str]()
    own = noting(log.bind(node=node.name), notes)
    if changes := scratch.note_versions(folder, platform.versions()):
        own("note", text=f"work of other versions is continued: {'; '.join(changes)}")
    context = StageContext(node.name, run_dir, folder, out, seed, environment.threads, environment.device, own,
                           progress)  # fmt: skip
    stage = load_stage(node.kind)
    with reported(node, recipe.source, folder, log), discard_if_inputs_change(watch, inputs, folder):
        if inputs and graph.key_of(node, inputs, recipe) != entry.key:
            raise watch.error(next(iter(inputs.values())))
        with accepting(recipe.accept_unknown):
            result = stage.run(node.config, inputs, context)
        watch.refuse(inputs)
        manifest = {
            "node": node.name, "kind": node.kind, "version": stage.VERSION, "key": entry.key, "seed": seed,
            "config": node.identity(), "metrics": result.metrics, "headline": result.summary,
            "inputs": {name: described(item) for name, item in frozen_inputs(node.kind, inputs).items()},
        }  # fmt: skip
        run = {
            "schema": SCHEMA, "started": round(started, 3), "seconds": round(time.monotonic() - clock, 2),
            "attempts": attempts, **plans(node), "peak_mb": platform.peak_mb(), "versions": platform.versions(),
            "machine": platform.machine(), "remarks": [*notes, *result.warnings],
            scratch.OVERTOOK: scratch.others_of(folder), "version_changes": changes,
        }  # fmt: skip
        artifacts.finish(out, manifest, run)
        publish(out, run_dir, node.name)
        shutil.rmtree(folder)
    for remark in result.warnings:
        log("note", node=node.name, text=remark)
    log("node_done", node=node.name, headline=result.summary, seconds=run["seconds"])


def noting(log: Log, notes: list[str]) -> Log:
    """Return a log whose notes are also collected in `notes`, to be shown with the node's headline."""

    def log_and_collect(event: str, **fields: Any) -> None:
        if event == "note":
            notes.append(str(fields["text"]))
        log(event, **fields)

    return log_and_collect


@contextlib.contextmanager
def discard_if_inputs_change(watch: graph.Watch, inputs: dict[str, Input], folder: Path) -> Generator[None, None, None]:
    """Remove the scratch folder where the work inside the `with` block breaks off after an input changed.

    It may hold what was read of the changed bytes, and must not be continued."""
    try:
        yield
    except BaseException:
        if watch.changed(inputs):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def described(item: Input) -> dict[str, str]:
    """Return an input as the manifest records it."""
    return {"node": item.node or "", "digest": item.digest, **({"hub": item.hub} if item.hub else {})}


@contextlib.contextmanager
def reported(node: Node, source: str, folder: Path, log: EventLog) -> Generator[None, None, None]:
    """Turn any error of a stage into a message; the other nodes stay intact and the run can be resumed."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted in `{node.name}`", hint="the same command goes on from here") from error
    except Interrupted:
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # where the disk is full, the log is full too
            log("node_failed", node=node.name, reason=str(error))
        if disk_full(error):
            raise UserError(
                f"the disk is full, `{node.name}` stopped",
                where=str(getattr(error, "filename", None) or folder),
                hint="free some space (`qwenkit clean` keeps unfinished work), then the same command goes on from here",
            ) from error
        if isinstance(error, UserError):
            with within(source if source == f"qwenkit {node.kind}" else f"{source}, [{node.name}]"):
                raise
        if isinstance(error, QwenkitError):
            raise
        what = f"`{node.name}` failed: {error}" if str(error) else f"`{node.name}` failed"
        raise Stopped(what, hint=save_trace(folder)) from error


def disk_full(error: Exception) -> bool:
    """Return whether an error says that a disk or a quota is full; some libraries say so only in their text."""
    if isinstance(error, OSError):
        return is_disk_full(error)
    words = ("No space left on device", "StorageFull", "File too large", "FileTooLarge")
    return any(word in str(error) for word in words)


def save_trace(folder: Path) -> str:
    """Write the traceback into a file beside the scratch folder, for a bug report."""
    path = folder / "error.txt"
    with contextlib.suppress(OSError):
        path.write_text(traceback.format_exc())
    return f"this is a fault of qwenkit: please report {path}"
