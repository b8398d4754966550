"""Which nodes must run, and why: keys computed over the graph, compared with the artifacts in the run folder.

A node's key needs its inputs' digests, and those are known only for artifacts that exist. So a node that reads one that
must run is `waiting`: it runs unless its inputs come out byte-equal. A node that reads a reused artifact is not: that
digest is already known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwenkit import artifacts, hub
from qwenkit.artifacts import MANIFEST, Manifest
from qwenkit.errors import UserError, nearest
from qwenkit.json_values import mapping
from qwenkit.lineage.recipe import Node, Recipe
from qwenkit.records import read_object
from qwenkit.schema import current_names, frozen_inputs
from qwenkit.stages import load_stage, views
from qwenkit.stages.base import Input
from qwenkit.toml_file import toml_value


@dataclass(frozen=True)
class PlanEntry:
    """What a run does with one node, and the reason in words.

    State: `done`, `reuse` (its artifact is taken from another run), `run`, `waiting` for a node that it reads, `absent`
    (the data that it reads) or `blocked` (it reads a node that is neither there nor wanted: a run refuses it)."""

    node: str
    state: str
    why: str
    key: str | None = None

    @property
    def works(self) -> bool:
        """Return whether the node has to be worked on."""
        return self.state in ("run", "waiting", "absent", "blocked")


def current(run_dir: Path, node: str) -> Manifest | None:
    """Return the manifest of the node's published artifact, or None; a corrupted one counts as none. Raises a
    `UserError` for one that a newer qwenkit wrote."""
    if not (run_dir / node / MANIFEST).exists():
        return None
    try:
        return artifacts.read_manifest(run_dir / node)
    except UserError:
        if artifacts.is_newer(run_dir / node):
            raise
        return None


def gather_inputs(node: Node, run_dir: Path, elsewhere: Mapping[str, Path] | None = None) -> dict[str, Input]:
    """Return the node's inputs with their digests; every parent must have been published, here or `elsewhere`."""
    inputs: dict[str, Input] = {}
    for name, (kind, target) in node.inputs.items():
        with_manifest = node.config.reads_manifest(name)
        if kind == "node":
            folder = (elsewhere or {}).get(target, run_dir / target)
            inputs[name] = Input(name, folder, digest_of(folder, with_manifest), target)
        elif kind == "hub":
            commit = pinned(run_dir).get(target) or hub.commit(target)
            inputs[name] = Input(name, hub.snapshot(target, commit), commit, hub=hub.repo_of(target))
        else:
            inputs[name] = Input(name, Path(target), outside_digest(Path(target), with_manifest))
    return inputs


def _place(kind: str, target: str, run_dir: Path) -> Path:
    """Return the path of an input."""
    if kind == "hub":
        return hub.snapshot(target, pinned(run_dir).get(target, ""))
    return run_dir / target if kind == "node" else Path(target)


def _signatures(path: Path) -> dict[Path, list[int]] | None:
    """Return the signature of every file of an input; None where the file system cannot tell."""
    try:
        return {file: artifacts.signature(file) for file in artifacts.outside_files(path, views())}
    except OSError:
        return None


class Watch:
    """Checks that the inputs of a node stay as their digests say, from before the digests were taken until after the
    work: an artifact must not claim inputs that it was not made from. An untouched file is recognised by its signature,
    another is hashed again."""

    def __init__(self, node: Node, run_dir: Path) -> None:
        """Take the signatures of the node's inputs."""
        self._node = node
        self._before = {
            name: _signatures(_place(kind, target, run_dir)) for name, (kind, target) in node.inputs.items()
        }

    def changed(self, inputs: Mapping[str, Input]) -> Input | None:
        """Return the first input that changed, or None."""
        return next((item for name, item in inputs.items() if not self._stands(name, item)), None)

    def _stands(self, name: str, item: Input) -> bool:
        if (before := self._before.get(name)) is not None and before == _signatures(item.path):
            return True
        try:
            if item.hub:
                hub.refuse_changed(item.path)
                return True
            with_manifest = self._node.config.reads_manifest(name)
            lines = artifacts.damage(item.path) if (item.path / MANIFEST).exists() else []
            if lines and not artifacts.only_stray(lines):
                return False
            return digest_of(item.path, with_manifest) == item.digest
        except (UserError, OSError):
            return False

    def refuse(self, inputs: Mapping[str, Input]) -> None:
        """Raise a `UserError` where an input changed, so that its artifact is not published."""
        if item := self.changed(inputs):
            raise self.error(item)

    def error(self, item: Input) -> UserError:
        """Return the error of an input that changed."""
        return UserError(
            f"the input `{item.title}` changed while `{self._node.name}` worked", where=str(item.path),
            expected="data that stays as it is until the work is done",
            hint="nothing was published; the same command begins again with what is there now",
        )  # fmt: skip


def pinned(run_dir: Path) -> dict[str, str]:
    """Return the commit of each Hub model that the run began with: a branch may move on, but a run stays with its
    commit."""
    path = run_dir / "run.json"
    known = mapping(read_object(path).get("hub")) if path.exists() else {}
    for reference, commit in known.items():
        if not hub.is_commit(commit):
            what = f"corrupted: {commit!r} is not a commit of {reference}"
            raise UserError(what, where=str(path), expected="40 digits")
    return known


def outside_digest(path: Path, with_manifest: bool = False) -> str:
    """Return the digest of a path that a recipe names; raises a `UserError` for a corrupted artifact in it."""
    refuse_damaged_outside(path)
    return digest_of(path, with_manifest)


def digest_of(path: Path, with_manifest: bool = False) -> str:
    """Return the digest of what a recipe names: that of an artifact, of a run, or of any other path.

    With `with_manifest` the manifest itself is hashed, for nodes that also read metrics and summary: those are in no
    other file."""
    if not (path / MANIFEST).exists():
        return artifacts.path_digest(path, views())
    manifest = artifacts.read_manifest(path)
    return artifacts.sha256_file(path / MANIFEST) if with_manifest else manifest.digest


def refuse_damaged_outside(path: Path) -> None:
    """Raise a `UserError` where artifacts at a path that a recipe names, or in the run there, differ from their
    manifests."""
    folders = [path / name for name in artifacts.run_artifacts(path, views())] if artifacts.is_run(path) else [path]
    for folder in folders:
        if (folder / MANIFEST).exists():
            artifacts.refuse_damaged(folder, "fetch or make it again")


def seed_of(node: Node, recipe: Recipe) -> int:
    """Return the node's own seed, or the run's."""
    return recipe.seed if node.config.seed is None else node.config.seed


def key_of(node: Node, inputs: dict[str, Input], recipe: Recipe) -> str:
    """Return the node's identity: a hash of kind, stage version, content keys, input digests, seed, and the stage's
    environment."""
    stage = load_stage(node.kind)
    environment: dict[str, str] = stage.environment() if hasattr(stage, "environment") else {}
    digests = {name: item.digest for name, item in frozen_inputs(node.kind, inputs).items()}
    return artifacts.make_key(node.kind, stage.VERSION, node.identity(), digests, seed_of(node, recipe), environment)


def make_plan(recipe: Recipe, run_dir: Path, wanted: Iterable[str], other: Path | None = None) -> list[PlanEntry]:
    """Return what a run would do with the wanted nodes in order, and why; `other` is a run whose equal artifacts are
    reused."""
    entries: dict[str, PlanEntry] = {}
    taken: dict[str, Path] = {}
    for name in wanted:
        node = recipe.nodes[name]
        moving = [p for p in node.parents() if p in entries and entries[p].works]
        missing = [p for p in node.parents() if p not in entries and current(run_dir, p) is None]
        if node.absent:
            entries[name] = PlanEntry(name, "absent", "; ".join(problem.what for problem in node.absent))
        elif missing:
            why = f"reads {', '.join(missing)}, not made yet: --until {name} makes all it needs"
            entries[name] = PlanEntry(name, "blocked", why)
        elif moving:
            entries[name] = PlanEntry(name, "waiting", "after " + ", ".join(moving))
        else:
            try:
                entries[name] = plan_node(node, recipe, run_dir, other, taken)
            except UserError as error:
                if not node.from_hub():
                    raise
                entries[name] = PlanEntry(name, "absent", error.what)
        if other is not None and entries[name].state == "reuse":
            taken[name] = other / name
    return list(entries.values())


def plan_node(
    node: Node, recipe: Recipe, run_dir: Path, other: Path | None = None, taken: Mapping[str, Path] | None = None
) -> PlanEntry:
    """Return `done` where the published artifact has the node's key, `reuse` where that of another run has, else `run`
    with the differences.

    The inputs must exist, here or where they are `taken` from."""
    inputs = gather_inputs(node, run_dir, taken)
    key = key_of(node, inputs, recipe)
    manifest = current(run_dir, node.name)
    if manifest is None:
        why = "its artifact is corrupted" if (run_dir / node.name).exists() else "never run"
    elif manifest.key != key:
        why = difference(node, inputs, recipe, manifest)
    elif lines := _damage(run_dir / node.name):
        why = f"its artifact is corrupted: {lines[0]}"
    else:
        return PlanEntry(node.name, "done", manifest.headline, key)
    equal = current(other, node.name) if other else None
    if other is None or equal is None or equal.key != key:
        return PlanEntry(node.name, "run", why, key)
    lines = artifacts.damage(other / node.name, quick=True)
    if lines:
        return PlanEntry(node.name, "run", f"{why}; that of {other} is corrupted: {lines[0]}", key)
    return PlanEntry(node.name, "reuse", f"reused from {other / node.name}", key)


def _damage(folder: Path) -> list[str]:
    """Return the corruption that a run would fix by working again. Foreign files are left to their owner."""
    lines = artifacts.damage(folder, quick=True)
    if artifacts.only_stray(lines):
        raise artifacts.damaged(folder, lines, "")
    return lines


def difference(node: Node, inputs: dict[str, Input], recipe: Recipe, old: Manifest) -> str:
    """Return a description of why a node's key differs from that of its artifact."""
    if node.kind != old.kind:
        return f"kind was {old.kind}"
    before, new = current_names(old.kind, old.config), node.config.identity()
    changed = [key for key in {**new, **before} if new.get(key) != before.get(key)]
    reasons = [f"{key}: {toml_value(before.get(key))} -> {toml_value(new.get(key))}" for key in changed]
    inputs = frozen_inputs(node.kind, inputs)
    reasons += [
        f"input {item.title} changed"
        for name, item in inputs.items()
        if old.inputs.get(name, {}).get("digest") != item.digest
    ]
    gone = [name.partition(".") for name in old.inputs if name not in inputs]
    reasons += [f"input {key} {'has one less' if index else 'is gone'}" for key, _, index in gone]
    if seed_of(node, recipe) != old.seed:
        reasons.append(f"seed: {old.seed} -> {seed_of(node, recipe)}")
    if old.version != load_stage(node.kind).VERSION:
        reasons.append(f"the stage changed (version {old.version} -> {load_stage(node.kind).VERSION})")
    return "; ".join(reasons) or "its environment changed"


def select(recipe: Recipe, only: list[str], until: str | None) -> list[str]:
    """Return the nodes to consider: all, those named by `only`, or `until` and everything that it needs.

    Raises a `UserError` for unknown nodes, and where both are given."""
    if only and until:
        raise UserError("--only and --until at once", expected="one of them", hint="leave one out")
    for name in [*only, *([until] if until else [])]:
        if name not in recipe.nodes:
            raise UserError(
                f"the recipe has no node `{name}`",
                where=recipe.source,
                expected="one of " + ", ".join(recipe.nodes),
                nearest=nearest(name, recipe.nodes),
            )
    if only:
        return [name for name in recipe.nodes if name in only]
    if until is None:
        return list(recipe.nodes)
    needed = {until}
    for name in reversed(recipe.nodes):
        if name in needed:
            needed.update(recipe.nodes[name].parents())
    return [name for name in recipe.nodes if name in needed]
