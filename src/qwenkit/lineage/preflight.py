"""The checks before a run starts, so that a plan approves nothing that a run would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from qwenkit import artifacts, platform
from qwenkit.errors import UserError, within
from qwenkit.json_values import mapping
from qwenkit.lineage import graph
from qwenkit.lineage.recipe import Recipe
from qwenkit.lineage.status import refuse_no_run
from qwenkit.records import TEMPORARY, Row, read_json, read_object
from qwenkit.stages import load_stage
from qwenkit.toml_file import differences

SCHEMA = 1
"""The schema of a run's run.json."""


def refuse_folders(recipe: Recipe, wanted: list[str], reuse: Path | None) -> None:
    """Raise a `UserError` where the run's folder, or the one that `--reuse` names, is not a run, belongs to another
    recipe, or is of a newer qwenkit."""
    artifacts.refuse_not_utf8(recipe.out, "--out")
    refuse_foreign(recipe.out, recipe)
    artifacts.refuse_links(recipe.out)
    if reuse is not None:
        refuse_no_run(reuse, f"--reuse {reuse}")
    for run_dir in (recipe.out, *([reuse] if reuse else [])):
        for name in wanted:
            graph.current(run_dir, name)


def refuse_foreign(run_dir: Path, recipe: Recipe) -> None:
    """Raise a `UserError` for a folder with other content or another recipe's run: it is never written into."""
    begun = {".lock", "run.json" + TEMPORARY}  # what a kill at the start of a run leaves
    if not run_dir.is_dir() or all(path.name in begun for path in run_dir.iterdir()):
        return
    if (run_dir / artifacts.MANIFEST).exists():
        raise UserError(
            "the output folder is an artifact, not a run", where=str(run_dir),
            expected="an empty or new folder, or a run of this recipe", hint="choose another with --out",
        )  # fmt: skip
    if not (run_dir / "run.json").exists():
        raise UserError(
            "the output folder holds something that is not a run",
            where=str(run_dir),
            expected="an empty or new folder, or a run of this recipe",
            hint="choose another with --out",
        )
    path = run_dir / "run.json"
    known = read_object(path)
    artifacts.refuse_newer(known, SCHEMA, path)
    fixed = mapping(known.get("fixed"))
    kinds = {"threads": int, "device": str}
    if not all(isinstance(fixed.get(key), kind) for key, kind in kinds.items()) or "recipe" not in known:
        raise UserError(
            "a corrupted run.json: keys are missing", where=str(path), expected="recipe, fixed.threads, fixed.device",
            hint="choose another with --out; a new run takes what is intact in this folder with --reuse",
        )  # fmt: skip
    if known.get("recipe") != recipe.title:
        raise UserError(
            f"the output folder is a run of another recipe, `{known.get('recipe')}`",
            where=str(run_dir),
            expected=f"a run of `{recipe.title}`",
            hint="choose another with --out",
        )


def refuse_drift(recipe: Recipe, run_dir: Path, allow: bool) -> None:
    """Raise a `UserError` where a run with work to do would continue under other conditions than its first start,
    unless allowed."""
    path = run_dir / "run.json"
    drift = drifted(recipe, read_json(path)["fixed"])[1] if path.exists() and not allow else []
    if drift:
        raise UserError(
            "the run was started under other conditions: " + "; ".join(drift),
            where=str(run_dir),
            expected="the same, so that a resumed run gives the same bits",
            hint="--allow-env-change goes on and marks the run, --out starts a new one",
        )


class Environment(NamedTuple):
    """What a run computes with: threads of torch, its device, and whether kernels give the same bits each time."""

    threads: int
    device: str
    deterministic: bool

    def fingerprint(self) -> Row:
        """Return all that its numbers depend on, with the machine's own part."""
        return platform.fingerprint(*self)


def choose_environment(recipe: Recipe, fixed: Row) -> Environment:
    """Return what this start computes with. What the recipe leaves open is as at the run's first start (`fixed`, empty
    at that start itself)."""
    device = recipe.device
    if device == "auto":
        first = fixed.get("device", "auto")
        device = first if platform.has_device(first) else platform.pick_device("auto")
    deterministic = recipe.deterministic
    if deterministic is None:
        deterministic = fixed.get("deterministic", device == "cpu")
    return Environment(recipe.threads or fixed.get("threads") or platform.free_cores(), device, deterministic)


def drifted(recipe: Recipe, fixed: Row) -> tuple[Environment, list[str]]:
    """Return what this start would compute with, and what differs from the conditions of the first one, or is not known
    of that."""
    known = platform.upgraded_fingerprint(fixed)
    chosen = choose_environment(recipe, known)
    present = chosen.fingerprint()
    unknown = [key for key in sorted(present.keys() - known.keys()) if present.pop(key) is not None]
    return chosen, [*(f"{key}: not known" for key in unknown), *differences(known, present)]


def refuse_outside(recipe: Recipe, wanted: list[str]) -> None:
    """Check what a run takes from outside before its folder is made: data, device, artifacts. Raises a `UserError`."""
    absent = [problem.text() for name in wanted for problem in recipe.nodes[name].absent]
    if absent:
        raise UserError("\n".join(absent), hint="put it there, or name another path")
    platform.pick_device(recipe.device, recipe.device_place)
    for name in wanted:
        for kind, target in recipe.nodes[name].inputs.values():
            if kind == "path":
                graph.refuse_damaged_outside(Path(target))
    refuse_rows(recipe, wanted)


READ_AS = {"chats": "chats", "comparisons": "pairs", "prompts": "prompts"}
"""The kind of rows in a source, by the noun that an edge accepts."""


def refuse_rows(recipe: Recipe, wanted: list[str]) -> None:
    """Check the first rows from outside that a node would read only after hours, before anything works."""
    for node in (recipe.nodes[name] for name in wanted):
        paths: dict[str, list[Path]] = {}
        for key, (kind, target) in node.inputs.items():
            if kind == "path" and Path(target).exists():
                paths.setdefault(key.partition(".")[0], []).append(Path(target))
        for key, sources in paths.items():
            with within(f"{node.places[key]}, `{node.name}.{key}`"):
                most = getattr(node.config, "max_bad", 1.0)
                refuse_first_rows(node.kind, node.config.accepts(key), sources, most)


def refuse_first_rows(stage: str, accepts: Sequence[str], sources: Sequence[Path], most: float) -> None:
    """Raise a `UserError` where the first rows of what an edge of a stage names cannot be used: at most the share
    `most` of them may be bad.

    Edges that accept any `text` besides documents are not checked."""
    kind = next((READ_AS[noun] for noun in accepts if noun in READ_AS), None)
    if kind is not None:
        from qwenkit.data.chats.datasets import check_flipped, look_at_first_rows

        checks = {"pairs": check_flipped, **getattr(load_stage(stage), "ROW_CHECKS", {})}
        look_at_first_rows(kind, tuple(sources), most, checks.get(kind), _stamps(*sources))
    elif "documents" in accepts and "text" not in accepts:
        for path in sources:
            _first_document(path, _stamps(path))


def _stamps(*paths: Path) -> tuple[int, ...]:
    return tuple(stamp for path in paths for stamp in artifacts.stamps(path))


@lru_cache(maxsize=64)
def _first_document(path: Path, _: tuple[int, ...]) -> None:
    """Read one document, once while the file stays as it is (`_` are its stamps)."""
    from qwenkit.data.documents import iter_documents

    next(iter_documents(path))


def refuse_missing_parents(recipe: Recipe, run_dir: Path, wanted: list[str]) -> None:
    """Raise a `UserError` where a wanted node reads one that is neither wanted nor published (`--only` reads what
    earlier runs published)."""
    for name in wanted:
        for parent in recipe.nodes[name].parents():
            if parent not in wanted and graph.current(run_dir, parent) is None:
                raise UserError(
                    f"`{name}` reads `{parent}`, which has not been made",
                    where=str(run_dir),
                    hint=f"--until {name} makes all it needs",
                )
            if parent not in wanted:
                artifacts.refuse_damaged(run_dir / parent, f"--until {name} makes it again")
