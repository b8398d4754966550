"""Adapters of rows in native code: the eager model with each, alone or beside others, in any form of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwenkit.inference.adapters import EngineAdapter, LowRankChange
from qwenkit.inference.native.decoder import AdaptedRows
from qwenkit.inference.native.low_rank import LowRanks
from qwenkit.model import Transformer
from qwenkit.model.gptq import quantize
from qwenkit.model.lora import adapted_layers, add_adapter, linear_layers, shared_copy
from qwenkit.model.lora_config import LoRAConfig

from .conftest import FAMILIES, SCHEMES, Pages, bound, make, needs_compiler, random_ids

pytestmark = needs_compiler


def adapted(model: Transformer, seed: int, rank: int, **settings: object) -> tuple[Transformer, EngineAdapter]:
    """The model with an adapter on, and the same for the engine."""
    twin = add_adapter(shared_copy(model), LoRAConfig(rank=rank, **settings), seed=seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    with torch.no_grad():
        for name, layer in adapted_layers(twin):
            layer.lora.B.add_(0.2 * torch.randn(layer.lora.B.shape, generator=generator))
            for part in (layer.lora.A, layer.lora.B):
                part.copy_(part.bfloat16())  # what bf16 holds: nothing is rounded
            layers[name] = LowRankChange(layer.lora.A.detach(), layer.lora.B.detach(), layer.lora.scale)
    return twin, EngineAdapter(f"a{seed}", Path(), str(seed), rank, layers)


@torch.no_grad()
def far(found: Tensor, model: Transformer, ids_T: Tensor) -> float:
    wanted = model(ids_T[None])[0].float()
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_the_eager_model_with_the_adapter(family: str) -> None:
    model, ids_T = make(family), random_ids(90)
    twin, adapter = adapted(model, 1, rank=5)
    pages, ranks = Pages(model, threads=2), LowRanks(adapter, model)
    table, parts = pages.table(90), []
    for part in torch.arange(90).split([33, 1, 36, 20]):  # more than a tile, and one row
        parts.append(pages.decoder.step(ids_T[part], part, torch.tensor([table]), sequences_N=torch.zeros(len(part)),
                                        lengths_N=torch.full((len(part),), 90),
                                        adapted=[AdaptedRows(0, len(part), ranks)]))  # fmt: skip
    assert far(torch.cat(parts), twin, ids_T) < 2 * bound(model)


@pytest.mark.parametrize("scheme", [None, torch.bfloat16, *SCHEMES], ids=str)
def test_rows_side_by_side_have_the_bits_that_they_have_alone(scheme: object) -> None:
    """Sequences without an adapter, and with three of other ranks and layers; more rows than are computed at once."""
    model = make("qwen2-odd" if scheme is None else "qwen2")
    if isinstance(scheme, torch.dtype):
        model = model.to(scheme)
    elif scheme is not None:
        model = quantize(model, scheme, None)  # type: ignore[arg-type]
    assert linear_layers(model)
    made = [adapted(model, 1, 3)[1], adapted(model, 2, 18, targets=("k_proj", "down_proj"))[1], adapted(model, 3, 1)[1]]
    ranks = [None, *(LowRanks(adapter, model) for adapter in made)]
    lengths, ids_N = [70, 90, 1, 120], random_ids(281)
    pages = Pages(model, threads=2, dtype=torch.float32)
    tables = [pages.table(length) for length in lengths]
    width = max(map(len, tables))
    tables_Bn = torch.tensor([[*table, *[0] * (width - len(table))] for table in tables])
    starts = [0, 70, 160, 161, 281]
    groups = [AdaptedRows(starts[i], starts[i + 1], each) for i, each in enumerate(ranks) if each is not None]
    positions_N = torch.cat([torch.arange(length) for length in lengths])
    together = pages.decoder.step(ids_N, positions_N, tables_Bn, adapted=groups,
                                  sequences_N=torch.arange(4).repeat_interleave(torch.tensor(lengths)))  # fmt: skip
    for i, each in enumerate(ranks):
        rows, alone = slice(starts[i], starts[i + 1]), Pages(model, dtype=torch.float32)
        table, parts = alone.table(lengths[i]), []
        for part in torch.arange(lengths[i]).split(1 if lengths[i] < 80 else 50):
            given = [] if each is None else [AdaptedRows(0, len(part), each)]
            parts.append(alone.decoder.step(ids_N[rows][part], part, torch.tensor([table]), adapted=given,
                                            sequences_N=torch.zeros(len(part))))  # fmt: skip
        assert torch.equal(torch.cat(parts), together[rows]), i


def test_rows_that_are_not_there() -> None:
    model = make()
    ranks, pages = LowRanks(adapted(model, 1, 2)[1], model), Pages(model)
    table_1n, one = torch.tensor([pages.table(2)]), torch.zeros(2)
    for groups in ([(0, 3)], [(1, 0)], [(0, 2), (1, 2)]):
        with pytest.raises(IndexError, match="the rows of an adapter are not there"):
            pages.decoder.step(random_ids(2), torch.arange(2), table_1n, sequences_N=one,
                               adapted=[AdaptedRows(*group, ranks) for group in groups])  # fmt: skip
