"""Trace which documents a step of a pretraining read, and which steps read a document: the order of data is a pure
function of the lengths in the index of its tokens, which the artifact keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.artifacts import MANIFEST, Manifest, read_manifest
from qwenkit.errors import UserError
from qwenkit.schema import current_names
from qwenkit.stages import KINDS, load_stage, produces
from qwenkit.stages.base import Input

if TYPE_CHECKING:
    from qwenkit.data.tokens.order import EpochOrder
    from qwenkit.data.tokens.shards import Index


@dataclass(frozen=True)
class Traced:
    """The order of a pretraining, the index of its tokens, its sequences per step and the number of its steps."""

    order: EpochOrder
    index: Index
    batch_size: int
    steps: int


def corpus_of(run: Path, node: str) -> Path:
    """Return the corpus that a node was trained on, or the node itself if it is a corpus."""
    manifest = read_manifest(run / node)
    return run / node if "documents" in produces(manifest.kind) else _input(run, manifest, "corpus").path


def keeps_order(kind: str) -> bool:
    """Return whether nodes of a kind keep the index of the tokens that they learnt from: `INDEX` of the stage names it,
    and its documents can be told step by step."""
    return kind in KINDS and hasattr(load_stage(kind), "INDEX")


def trace(run: Path, node: str) -> Traced:
    """Return the data order of a pretraining. Raises a `UserError` for a node of another kind, and for one whose
    manifest and index do not fit together."""
    from qwenkit.data.tokens.order import EpochOrder
    from qwenkit.data.tokens.shards import Index

    manifest = read_manifest(run / node)
    if not keeps_order(manifest.kind):
        raise UserError(f"`{node}` is not a pretraining", where=str(run), expected="a node that learnt from a corpus")
    stage = load_stage(manifest.kind)
    edges = {name: given.get("node", "") for name, given in manifest.inputs.items()}
    try:
        config = stage.Config.model_validate({**current_names(manifest.kind, manifest.config), **edges})
    except ValueError as error:  # of another version, or somebody's
        what = "its manifest holds no settings of a pretraining that this qwenkit knows"
        raise UserError(what, where=str(run / node / MANIFEST), hint="make it again") from error
    steps = manifest.metrics.get("steps")
    if not isinstance(steps, int) or steps < 0:
        raise UserError("its manifest names no steps", where=str(run / node / MANIFEST), hint="make it again")
    index: Any = Index(run / node / stage.INDEX)
    if index.digest != manifest.metrics.get("corpus_digest"):
        raise UserError("this is not the index of the tokens that it learnt from", where=str(index.index))
    order = EpochOrder(index.digest, manifest.seed, index.lengths, config.seq_length, split_documents=True)
    return Traced(order, index, config.batch_size, steps)


def _input(run: Path, manifest: Manifest, name: str) -> Input:
    if name not in manifest.inputs:
        raise UserError(
            f"`{manifest.node}` has no {name}", where=str(run), expected="a corpus, or what learnt from one"
        )
    given = manifest.inputs[name]
    if not given.get("node"):
        raise UserError(f"the {name} of `{manifest.node}` lies outside this run", where=str(run))
    return Input(name, run / given["node"], given["digest"], given["node"])
