"""Adapters of a running engine, by name: several in one batch, loaded and unloaded while requests run.

    adapter = read_engine_adapter("legal", folder, model, max_rank=128)      # checked; on any thread
    adapters = Adapters(max_adapters=16)
    adapters.add(adapter, in_use=())
    adapters.find("legal")                                                   # what a request keeps

A request keeps the adapter itself, not its name: one that is unloaded meanwhile is gone when its last request has
ended, and counts until then. What a request's keys and values depend on is the name and the digest of the tensors
(`EngineAdapter.identity`), so a name that is used again for other weights finds nothing of the first.

A and B are rounded once to the dtype of the model's table (as vLLM does) and multiplied in float32. Adapters that
change more than products of decoder layers (DoRA's norms, modules that were trained whole, the head, experts) are
refused: merged, they are served like any model.

Legend: N outputs, K inputs, R rank.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.adapter_files import is_adapter
from qwenkit.errors import UserError, listed, nearest
from qwenkit.hub import resolve
from qwenkit.inference.argument_checks import shown
from qwenkit.model import Transformer
from qwenkit.model.adapter_folder import Adapter, read_adapter
from qwenkit.model.lora import shared_copy

MAX_ADAPTERS, MAX_RANK = 16, 128
"""How many adapters an engine has at a time, and how high their ranks may be, unless it is made with other limits."""
NAME = re.compile(r"[\w.:@/+-]{1,200}")
_PROJECTION = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj")
_MERGE = "add it to the weights, with `qwenkit merge`, and load that as a model"
_numbers = itertools.count(1)


class LowRankChange(NamedTuple):
    """What one layer's output is changed by: scale * B (A x), in float32."""

    A_RK: Tensor
    B_NR: Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class EngineAdapter:
    """An adapter in memory. Two are the same only where they are the same object."""

    name: str
    folder: Path
    digest: str
    """SHA-256 of all that is computed with."""
    rank: int
    """The highest of a layer."""
    layers: Mapping[str, LowRankChange]
    """By the names of the layers, such as `model.layers.0.self_attn.q_proj`."""
    number: int = field(default_factory=lambda: next(_numbers))
    """In the order in which they were read."""

    @property
    def identity(self) -> Hashable:
        """Return what the keys and values of its requests depend on."""
        return self.name, self.digest


class Adapters:
    """The adapters of an engine by name; `find` may be called on any thread."""

    def __init__(self, max_adapters: int) -> None:
        """Start without any; at most `max_adapters` are in memory at a time."""
        self.max_adapters = max_adapters
        self._by_name: dict[str, EngineAdapter] = {}

    def __len__(self) -> int:
        """Return how many can be asked."""
        return len(self._by_name)

    @property
    def loaded(self) -> dict[str, EngineAdapter]:
        """Return those that can be asked."""
        return dict(self._by_name)

    def find(self, name: str | None, where: str) -> EngineAdapter | None:
        """Return the adapter of a name, None for None; raises a `UserError` for one that is not there."""
        if name is None:
            return None
        adapter = self._by_name.get(name) if isinstance(name, str) else None
        if adapter is None:
            known = list(self._by_name)
            raise UserError(f"adapter = {shown(name)}, which is not loaded", where=where,
                            expected=listed(known, 8) if known else "one that was loaded, and none is",
                            nearest=nearest(str(name), known), hint="engine.load_adapter(name, folder)")  # fmt: skip
        return adapter

    def add(self, adapter: EngineAdapter, in_use: Iterable[EngineAdapter | None]) -> None:
        """Let an adapter be asked. `in_use` are those that requests still have. Raises a `UserError` for a second one
        of a name, and where there is no place."""
        if adapter.name in self._by_name:
            raise UserError(f"two adapters are called {adapter.name}", expected="one of each name",
                            hint=f"engine.unload_adapter({adapter.name!r}) before")  # fmt: skip
        present = {*self._by_name.values(), *(each for each in in_use if each is not None)}
        if len(present) >= self.max_adapters:
            gone = len(present) - len(self._by_name)
            ending = f", {gone} of them unloaded, whose requests have not ended" if gone else ""
            raise UserError(f"{len(present)} adapters are in memory{ending}", expected=f"at most {self.max_adapters}",
                            hint="unload one, or make the engine with more max_adapters")  # fmt: skip
        self._by_name[adapter.name] = adapter

    def remove(self, name: str) -> EngineAdapter:
        """Let an adapter be asked no more, and return it; raises a `UserError` for a name that is not there."""
        adapter = self.find(name, "unload_adapter")
        assert adapter is not None, "a name was given"
        return self._by_name.pop(adapter.name)


@torch.no_grad()
def read_engine_adapter(name: str, folder: str | Path, model: Transformer, max_rank: int) -> EngineAdapter:
    """Return the adapter of a folder, or of the Hub, under a name, for an engine of this model.

    Raises a `UserError` where it is another model's (by names, shapes, or the digest of the model's tensors), where its
    rank is above `max_rank`, and for what cannot be computed beside others."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"name = {shown(name)}", where="adapter", expected="1 to 200 letters, digits or . : @ / + - _")
    if not isinstance(folder, (str, os.PathLike)):
        raise UserError(f"folder = {shown(folder)}", where=f"adapter {name}", expected="the folder of an adapter")
    if model.adapter is not None:
        raise UserError("the engine's model has an adapter itself", where=f"adapter {name}",
                        hint="make the engine with the model alone, and load both by name")  # fmt: skip
    folder = resolve(folder)
    if not is_adapter(folder):
        raise UserError("no adapter is in this folder", where=str(folder), expected="adapter_config.json")
    read = read_adapter(folder, shared_copy(model))  # where a head is parted, it is the copy's
    _refuse(read, folder, max_rank)
    table = model.model.embed_tokens.weight
    tensors = {key: tensor.to(table.dtype).to(table.device, torch.float32) for key, tensor in read.tensors.items()}
    names = dict.fromkeys(key.removesuffix(".lora.A") for key in tensors if key.endswith(".lora.A"))
    layers = {layer: LowRankChange(tensors[f"{layer}.lora.A"], tensors[f"{layer}.lora.B"], read.config.scale_of(layer))
              for layer in names}  # fmt: skip
    return EngineAdapter(name, folder, _digest(layers), max(len(each.A_RK) for each in layers.values()), layers)


def _refuse(adapter: Adapter, folder: Path, max_rank: int) -> None:
    """Raise a `UserError` for what cannot be computed beside other adapters."""
    config, where = adapter.config, str(folder)
    layers = {key.partition(".lora.")[0] for key in adapter.tensors if ".lora." in key}
    if config.dora:
        raise UserError("use_dora: norms of whole rows", where=where, expected="LoRA or rsLoRA", hint=_MERGE)
    if config.modules_to_save:
        raise UserError(f"modules_to_save: {listed(list(config.modules_to_save))}", where=where,
                        expected="an adapter of linear layers alone", hint=_MERGE)  # fmt: skip
    if odd := sorted(layer for layer in layers if not _PROJECTION.fullmatch(layer)):
        raise UserError(f"it changes {listed(odd, 2)}", where=where, hint=_MERGE,
                        expected="projections of attention and MLP, not of heads or experts")  # fmt: skip
    rank = max(len(tensor) for key, tensor in adapter.tensors.items() if key.endswith(".lora.A"))
    if rank > max_rank:
        raise UserError(f"its rank is {rank}", where=where, expected=f"at most {max_rank}",
                        hint="make the engine with a higher max_adapter_rank, or merge it")  # fmt: skip


def _digest(layers: Mapping[str, LowRankChange]) -> str:
    digest = hashlib.sha256()
    for name, change in sorted(layers.items()):
        digest.update(f"{name} {list(change.A_RK.shape)} {list(change.B_NR.shape)} {change.scale!r}\n".encode())
        digest.update(change.A_RK.cpu().numpy().tobytes() + change.B_NR.cpu().numpy().tobytes())
    return digest.hexdigest()
