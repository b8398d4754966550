"""Which documents a step of a pretraining saw, and which steps saw a document: the order of data is a pure function, so
both are computed again from the run's artifacts, as `pretrain` computed them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit import draws, platform
from qwenkit.artifacts import Manifest, read_manifest
from qwenkit.errors import UserError
from qwenkit.stages import pretrain
from qwenkit.stages.base import Input
from qwenkit.stages.tokens import tokenize


class Traced(NamedTuple):
    """The order of a pretraining, its tokens, its rows a step and how many steps it made."""

    order: Any
    store: Any
    batch_rows: int
    steps: int


def corpus_of(run: Path, node: str) -> Path:
    """The corpus that a node learnt from, or the node itself if it is one."""
    manifest = read_manifest(run / node)
    return run / node if manifest.kind == "corpus" else _input(run, manifest, "corpus").path


@contextlib.contextmanager
def trace(run: Path, node: str) -> Iterator[Traced]:
    """Inside the block, the data of a pretraining as it was; its documents are tokenized again."""
    from qwenkit.data.order import Order

    manifest = read_manifest(run / node)
    if manifest.kind != "pretrain":
        raise UserError(f"`{node}` is no pretraining", where=str(run), expected="a node of the kind pretrain")
    edges = {name: given["node"] for name, given in manifest.inputs.items()}
    config = pretrain.Config.model_validate({**manifest.config, **edges})
    corpus, tokenizer = (_input(run, manifest, name) for name in ("corpus", "tokenizer"))
    with tempfile.TemporaryDirectory() as folder:
        seed = draws.derive(manifest.seed, "held-out")
        workers = platform.free_cores()
        store, _, _ = tokenize(corpus, tokenizer, config.held_out, seed, Path(folder), workers=workers)
        if store.digest != manifest.metrics.get("corpus_digest", store.digest):
            raise UserError(
                "these documents no longer give the tokens that it learnt from", where=str(corpus.path),
                expected=f"tokens with the digest {manifest.metrics['corpus_digest']}", mend=f"run `{node}` again",
            )  # fmt: skip
        order = Order(store.digest, manifest.seed, store.lengths, config.row, split=True)
        yield Traced(order, store, config.batch_rows, int(manifest.metrics["steps"]))


def _input(run: Path, manifest: Manifest, name: str) -> Input:
    if name not in manifest.inputs:
        raise UserError(
            f"`{manifest.node}` has no {name}", where=str(run), expected="a corpus, or what learnt from one"
        )
    given = manifest.inputs[name]
    if not given.get("node"):
        raise UserError(f"the {name} of `{manifest.node}` lies outside this run", where=str(run))
    return Input(name, run / given["node"], given["digest"], given["node"])
