"""Matrix products alone: bf16 as they lie and packed, and a 4-bit layer by its kernel and by weights made whole.

    python benchmarks/packed_products.py [--threads 2]

Shapes of Qwen2-0.5B (24 layers), random weights, medians of 7 warm calls, milliseconds. "mapped" in a model is a little
slower still: pages of a file. The whole model is in `model_vs_transformers.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.model.prepacked import PackedLinear
from qwenkit.model.quantized_linear import QuantConfig, from_qvalues

LAYERS, WIDTH, WIDE = 24, 896, 4864
GROUPS = (((WIDTH, WIDTH), (128, WIDTH), (128, WIDTH)), ((WIDTH, WIDTH),), ((WIDE, WIDTH), (WIDE, WIDTH)),
          ((WIDTH, WIDE),))  # fmt: skip
"""Weights that are one product when packed: queries, keys, values; output; gate, up; down."""


def milliseconds(job: Callable[[], Any]) -> float:
    job()
    found = []
    for _ in range(7):
        start = time.perf_counter()
        job()
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def layer_of_four_bits() -> Any:
    groups = WIDTH // 64
    levels, zeros = torch.randint(0, 16, (WIDE, WIDTH)), torch.randint(0, 16, (WIDE, groups))
    return from_qvalues(levels, torch.rand(WIDE, groups) * 0.01 + 0.001, zeros, QuantConfig(4, 64)).eval()


def products(groups: list[list[Tensor]], packed: list[PackedLinear], rows: int) -> tuple[float, float]:
    """Milliseconds of all layers' products, as they lie and packed."""
    x = {width: torch.randn(1, rows, width).bfloat16() for width in (WIDTH, WIDE)}

    def lying() -> None:  # what comes out is let go at once, as in a model: fresh memory costs more than the product
        for weight in (weight for group in groups for weight in group):
            F.linear(x[weight.shape[1]], weight)

    def apart() -> None:
        for layer, group in zip(packed, groups):
            layer(x[group[0].shape[1]])

    return milliseconds(lying), milliseconds(apart)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    groups = [[torch.randn(shape).bfloat16() for shape in shapes] for _ in range(LAYERS) for shapes in GROUPS]
    packed = [PackedLinear(group, [None] * len(group)) for group in groups]
    print("| rows | as they lie | packed |\n|---|---|---|")
    for rows in (1, 16, 512):
        lying, apart = products(groups, packed, rows)
        print(f"| {rows} | {lying:.1f} | {apart:.1f} |", flush=True)
    layer = layer_of_four_bits()
    layer(torch.randn(1, 1, WIDTH).bfloat16())
    name, weight, scales = layer._kernel
    assert name == "int4"
    print(f"\n4 bits, {WIDE} x {WIDTH}: made whole in {milliseconds(layer.weight):.1f} ms")
    print("| rows | kernel | whole |\n|---|---|---|")
    for rows in (1, 64, 128, 512):
        x_TC = torch.randn(rows, WIDTH).bfloat16()
        kernel = milliseconds(partial(torch.ops.aten._weight_int4pack_mm_for_cpu, x_TC, weight, 64, scales))
        print(f"| {rows} | {kernel:.1f} | {milliseconds(partial(layer._exact, x_TC)):.1f} |", flush=True)


if __name__ == "__main__":
    main()
