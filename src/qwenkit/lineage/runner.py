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
import errno
import fcntl
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qwenkit import artifacts, platform
from qwenkit.artifacts import MANIFEST, Manifest
from qwenkit.config import differences
from qwenkit.errors import Interrupted, QwenkitError, Stopped, UserError, within
from qwenkit.events import SCHEMA as EVENTS
from qwenkit.events import EventLog
from qwenkit.lineage import graph
from qwenkit.lineage.recipe import Node, Recipe
from qwenkit.records import read_json, read_object, write_json
from qwenkit.stages import load_stage
from qwenkit.stages.base import Progress, Work

SCHEMA = 1


class Screen(Protocol):
    """What the runner tells the person who watches; `lineage.screen` has the terminal's form of it."""

    def begin(self, verdicts: list[graph.Verdict], recipe: Recipe) -> None: ...
    def start(self, node: Node, why: str) -> Progress: ...
    def done(self, node: Node, manifest: Manifest, run: dict[str, Any], skipped: bool) -> None: ...
    def end(self, rows: list[dict[str, Any]]) -> None: ...


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
    refuse_foreign(run_dir, recipe)
    refuse_outside(recipe, wanted, options.reuse)
    if not run_dir.exists():
        refuse_missing_parents(recipe, run_dir, wanted)
    with locked(run_dir):
        recover(run_dir)
        refuse_missing_parents(recipe, run_dir, wanted)
        verdicts = graph.judge(recipe, run_dir, wanted)
        threads = recipe.threads or platform.free_cores()
        threads = fix_environment(
            recipe, run_dir, threads, options.allow_drift, any(v.state != "done" for v in verdicts)
        )
        log = EventLog(run_dir / "events.jsonl")
        log("run_start", schema=EVENTS, recipe=recipe.title, nodes=wanted)
        screen.begin(verdicts, recipe)
        rows = [run_node(recipe.nodes[name], recipe, run_dir, threads, log, options, screen) for name in wanted]
        log("run_end")
        log.close()
        draw_card(recipe, run_dir, wanted)
        screen.end(rows)


def draw_card(recipe: Recipe, run_dir: Path, wanted: list[str]) -> None:
    """Draw `report.html` and `report.md` when the run has a report node and has reached it: of this run, or of the
    one that the node is about."""
    reports = [recipe.nodes[name] for name in wanted if recipe.nodes[name].kind == "report"]
    if reports:
        from qwenkit.lineage.card import write_card

        kind, target = reports[-1].inputs.get("of.0", ("", ""))
        told = Path(target) if kind == "path" and artifacts.is_run(Path(target)) else run_dir
        write_card(told, run_dir, run_dir / reports[-1].name)


def refuse_missing_parents(recipe: Recipe, run_dir: Path, wanted: list[str]) -> None:
    """`--only` reads what earlier runs published; a parent that is neither there nor wanted is the user's mistake."""
    for name in wanted:
        for parent in recipe.nodes[name].parents():
            if parent not in wanted and graph.current(run_dir, parent) is None:
                raise UserError(
                    f"`{name}` reads `{parent}`, which has not been made",
                    where=str(run_dir),
                    mend=f"--until {name} makes all it needs",
                )
            if parent not in wanted:
                graph.refuse_damaged(run_dir / parent, f"--until {name} makes it again")


def refuse_outside(recipe: Recipe, wanted: list[str], other: Path | None) -> None:
    """What a run takes from outside, looked at before its folder is made: device, artifacts, `--reuse`."""
    platform.refuse_device(recipe.device, recipe.source)
    for name in wanted:
        for kind, target in recipe.nodes[name].inputs.values():
            if kind == "path":
                graph.refuse_damaged_outside(Path(target))
    if other is not None and not artifacts.is_run(other):
        raise UserError("no run in this folder", where=f"--reuse {other}", expected="a folder that `qwenkit run` made")


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder alone; refuse a second process."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("a+")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(
            "the run folder cannot be made", where=str(run_dir), expected="a folder one may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError("another process is working in this run folder", where=str(run_dir)) from error
    with lock:
        yield


def refuse_foreign(run_dir: Path, recipe: Recipe) -> None:
    """A folder with other content, or with another recipe's run, is never written into."""
    if not run_dir.is_dir() or not any(p.name != ".lock" for p in run_dir.iterdir()):
        return
    if not (run_dir / "run.json").exists():
        raise UserError(
            "the output folder holds something that is no run",
            where=str(run_dir),
            expected="an empty or new folder, or a run of this recipe",
            mend="choose another with --out",
        )
    path = run_dir / "run.json"
    known = read_object(path)
    artifacts.refuse_newer(known, SCHEMA, path)
    fixed = known.get("fixed")
    if not isinstance(fixed, dict) or not isinstance(fixed.get("threads"), int) or "recipe" not in known:
        raise UserError(
            "a damaged run.json: keys are missing", where=str(path), expected="recipe, fixed.threads",
            mend="remove the file and its folder, or choose another with --out",
        )  # fmt: skip
    if known.get("recipe") != recipe.title:
        raise UserError(
            f"the output folder is a run of another recipe, `{known.get('recipe')}`",
            where=str(run_dir),
            expected=f"a run of `{recipe.title}`",
            mend="choose another with --out",
        )


def fix_environment(recipe: Recipe, run_dir: Path, threads: int, allow: bool, working: bool) -> int:
    """Fix threads, device and versions at the first start; refuse to work on under others. Returns the threads."""
    path = run_dir / "run.json"
    if not path.exists():
        fixed = platform.fingerprint(threads, recipe.device)
        write_json(path, {"schema": SCHEMA, "recipe": recipe.title, "fixed": fixed, "drift": []})
    known = read_json(path)
    if recipe.threads == 0:
        threads = known["fixed"]["threads"]
    drift = differences(known["fixed"], platform.fingerprint(threads, recipe.device))
    if drift and working:
        if not allow:
            raise UserError(
                "the run was started under other conditions: " + "; ".join(drift),
                where=str(run_dir),
                expected="the same, so that a resumed run gives the same bits",
                mend="--allow-drift goes on and marks the run, --out starts a new one",
            )
        write_json(path, {**known, "drift": sorted({*known["drift"], *drift})})
    platform.set_threads(threads)
    return threads


def recover(run_dir: Path) -> None:
    """Publish what a kill left finished: a complete `out` whose node has no artifact with that key."""
    for out in sorted((run_dir / ".work").glob("*/out")):
        if (out / MANIFEST).exists():
            manifest = artifacts.read_manifest(out)
            artifacts.publish(out, run_dir / manifest.node, run_dir / ".old")
    for scratch in sorted((run_dir / ".work").glob("*")):
        name, _, stem = scratch.name.rpartition("-")
        published = graph.current(run_dir, name)
        if published is not None and published.key.startswith(stem):
            shutil.rmtree(scratch)


def run_node(
    node: Node, recipe: Recipe, run_dir: Path, threads: int, log: EventLog, options: Options, screen: Screen
) -> dict[str, Any]:
    """Bring one node up to date. Returns a row for the closing table: planned and actual minutes, peak, headline."""
    found = graph.verdict(node, recipe, run_dir)
    assert found.key is not None
    reused = found.state != "done" and options.reuse and reuse(node, found.key, options.reuse, run_dir)
    skipped = found.state == "done" or bool(reused)
    if skipped:
        log("node_skipped", node=node.name, reused=bool(reused))
    else:
        work_node(node, found, recipe, run_dir, threads, log, screen)
    manifest = artifacts.read_manifest(run_dir / node.name)
    run = artifacts.read_run(run_dir / node.name)
    screen.done(node, manifest, run, skipped)
    return {"node": node.name, "headline": manifest.headline, "skipped": skipped, **run}


def reuse(node: Node, key: str, other: Path, run_dir: Path) -> bool:
    """Copy the artifact from another run if its key is the same and its bytes are whole."""
    manifest = graph.current(other, node.name)
    if manifest is None or manifest.key != key or artifacts.damage(other / node.name):
        return False
    out = run_dir / ".work" / f"{node.name}-{key[:12]}" / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(other / node.name, out)
    artifacts.fsync_tree(out)
    artifacts.publish(out, run_dir / node.name, run_dir / ".old")
    shutil.rmtree(out.parent)
    return True


def work_node(
    node: Node, found: graph.Verdict, recipe: Recipe, run_dir: Path, threads: int, log: EventLog, screen: Screen
) -> None:
    """Run the stage in its scratch folder and publish what it made."""
    assert found.key is not None
    inputs = graph.gather_inputs(node, run_dir)
    scratch = run_dir / ".work" / f"{node.name}-{found.key[:12]}"
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    attempts = count_attempt(scratch)
    log("node_start" if attempts == 1 else "resumed", node=node.name, why=found.why, attempts=attempts)
    started, clock = time.time(), time.monotonic()
    platform.reset_peak()
    progress = screen.start(node, found.why)
    seed = graph.seed_of(node, recipe)
    work = Work(node.name, run_dir, scratch, out, seed, threads, recipe.device, log.bind(node=node.name), progress)
    stage = load_stage(node.kind)
    with reported(node, recipe.source, scratch, log):
        result = stage.run(node.config, inputs, work)
        manifest = {
            "node": node.name, "kind": node.kind, "version": stage.VERSION, "key": found.key, "seed": seed,
            "config": node.config.identity(), "metrics": result.metrics, "headline": result.headline,
            "inputs": {name: {"node": item.node or "", "digest": item.digest} for name, item in inputs.items()},
        }  # fmt: skip
        run = {
            "schema": SCHEMA, "started": round(started, 3), "seconds": round(time.monotonic() - clock, 2),
            "attempts": attempts, "planned_minutes": node.config.minutes, "peak_mb": platform.peak_mb(),
            "versions": platform.versions(), "machine": platform.machine(),
        }  # fmt: skip
        artifacts.finish(out, manifest, run)
        artifacts.publish(out, run_dir / node.name, run_dir / ".old")
        shutil.rmtree(scratch)
    log("node_done", node=node.name, headline=result.headline, seconds=run["seconds"])


def count_attempt(scratch: Path) -> int:
    """How often this node's work has been started, this time included."""
    path = scratch / "attempts.json"
    attempts = 1 + (read_json(path) if path.exists() else 0)
    write_json(path, attempts)
    return attempts


@contextlib.contextmanager
def reported(node: Node, source: str, scratch: Path, log: EventLog) -> Iterator[None]:
    """Turn whatever breaks in a stage into a message; the other nodes stay whole and the run can be resumed."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted in `{node.name}`", mend="the same command goes on from here") from error
    except Interrupted:
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # where the disk is full, the log is full too
            log("node_failed", node=node.name, reason=str(error))
        if disk_full(error):
            raise UserError(
                f"the disk is full, `{node.name}` stopped",
                where=str(getattr(error, "filename", None) or scratch),
                mend="free some space (`qwenkit clean`), then the same command goes on from here",
            ) from error
        if isinstance(error, UserError):
            with within(source if source == f"qwenkit {node.kind}" else f"{source}, [{node.name}]"):
                raise
        if isinstance(error, QwenkitError):
            raise
        what = f"`{node.name}` failed: {error}" if str(error) else f"`{node.name}` failed"
        raise Stopped(what, mend=save_trace(scratch)) from error


def disk_full(error: Exception) -> bool:
    """Whether a disk or a quota is full; libraries in other languages say so only in their text."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "No space left on device" in str(error) or "StorageFull" in str(error)


def save_trace(scratch: Path) -> str:
    """Keep the traceback in a file beside the scratch, for a bug report."""
    path = scratch / "error.txt"
    with contextlib.suppress(OSError):
        path.write_text(traceback.format_exc())
    return f"this is a fault of qwenkit: please report {path}"
