"""Which documents a step of a pretraining saw, and which steps saw a document: the order of data is a pure function, so
both are computed again from the run's artifacts, as `pretrain` computed them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from qwenkit import draws
from qwenkit.artifacts import read_manifest
from qwenkit.errors import UserError
from qwenkit.stages import pretrain
from qwenkit.stages.corpus import documents
from qwenkit.stages.tokenizer import split


def corpus_of(run: Path, node: str) -> Path:
    """The corpus that a node learnt from, or the node itself if it is one."""
    manifest = read_manifest(run / node)
    return run / node if manifest.kind == "corpus" else _input(run, manifest, "corpus")


def trace(run: Path, node: str) -> tuple[Any, Any, int]:
    """(Order, token store, rows a step) of a pretraining; its documents are tokenized again."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.data.order import Order
    from qwenkit.data.shards import Examples, Shards

    manifest = read_manifest(run / node)
    if manifest.kind != "pretrain":
        raise UserError(f"`{node}` is no pretraining", where=str(run), expected="a node of the kind pretrain")
    edges = {name: given["node"] for name, given in manifest.inputs.items()}
    config = pretrain.Config.model_validate({**manifest.config, **edges})
    kept, _ = split(
        documents(_input(run, manifest, "corpus")), config.held_out, draws.derive(manifest.seed, "held-out")
    )
    tok = load_tokenizer(_input(run, manifest, "tokenizer"))
    with tempfile.TemporaryDirectory() as folder:
        pretrain.tokenize(tok, kept, Path(folder))
        store = Shards(folder)
        order = Order(store.digest, manifest.seed, store.lengths, config.row, split=True)
        names = Examples([])
        names.ids, names.lengths, names.digest = store.ids, store.lengths, store.digest
    return order, names, config.batch_rows


def _input(run: Path, manifest: Any, name: str) -> Path:
    if name not in manifest.inputs:
        raise UserError(
            f"`{manifest.node}` has no {name}", where=str(run), expected="a corpus, or what learnt from one"
        )
    node = manifest.inputs[name].get("node")
    if not node:
        raise UserError(f"the {name} of `{manifest.node}` lies outside this run", where=str(run))
    return run / node
