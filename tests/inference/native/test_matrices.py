"""Single products: near to exact ones by the error of their arithmetic, and each row by itself to the bit."""

from __future__ import annotations

import pytest
import torch

from qwenkit.inference.native.matrices import product, weights
from qwenkit.model.quantized_linear import QuantConfig, from_qvalues

from .conftest import needs_compiler

pytestmark = needs_compiler
SIZES = [(8, 64), (5, 33), (37, 130), (64, 576), (1, 1)]


def linear(rows: int, columns: int, dtype: torch.dtype) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(columns, rows).to(dtype)


def quantized(rows: int, columns: int, scheme: QuantConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    groups = scheme.groups(columns)
    levels, zeros = (torch.randint(0, 2**scheme.bits, (rows, n)) for n in (columns, groups))
    return from_qvalues(levels, torch.rand(rows, groups) * 0.1, zeros, scheme, torch.randn(rows)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows, columns", SIZES)
def test_float_products(rows: int, columns: int, dtype: torch.dtype) -> None:
    layer, x = linear(rows, columns, dtype), torch.randn(7, columns)
    exact = x.double() @ layer.weight.double().T + layer.bias.double()
    size = x.double().abs() @ layer.weight.double().abs().T + layer.bias.double().abs()
    found = product(weights(layer), x, threads=2)
    assert ((found.double() - exact).abs() <= columns * 2.0**-24 * size + 1e-30).all()


@pytest.mark.parametrize("scheme", [QuantConfig(b, g) for b in (4, 8) for g in (32, 64, 96, 128, -1)], ids=str)
@pytest.mark.parametrize("rows, columns", [(8, 64), (40, 136), (64, 576), (16, 1000)])
def test_quantized_products(rows: int, columns: int, scheme: QuantConfig) -> None:
    """An input of 16 bits is off by half a step at most: 1 / 65534 of the largest of its block."""
    layer, x = quantized(rows, columns, scheme), torch.randn(7, columns)
    weight = layer.weight().double()
    exact = x.double() @ weight.T + layer.bias.double()
    size = x.double().abs() @ weight.abs().T
    steps = x.abs().max() / 65534 * weight.abs().sum(-1)
    found = product(weights(layer), x, threads=2)
    assert ((found.double() - exact).abs() <= steps + columns * 2.0**-24 * (size + exact.abs()) + 1e-6).all()


@pytest.mark.parametrize("rows, columns", [(8, 64), (40, 136)])
def test_minimums_in_place_of_zeros(rows: int, columns: int) -> None:
    layer, x = quantized(rows, columns, QuantConfig(4, 32)), torch.randn(7, columns)
    plain = product(weights(layer), x)
    minimums_GN = (-layer.scales.float() * layer.zeros(slice(None)).t()).half()  # what the zeros come to
    layer.group_minimums = lambda rows: minimums_GN.t()[rows]
    weight = layer.levels(slice(None)) * layer.scales.t().float().repeat_interleave(32, 1)[:, :columns]
    weight = (weight + minimums_GN.t().float().repeat_interleave(32, 1)[:, :columns]).double()
    exact = x.double() @ weight.T + layer.bias.double()
    size = x.double().abs() @ (weight.abs() + 2 * minimums_GN.double().abs().max()).T
    found = product(weights(layer), x)
    assert (
        (found.double() - exact).abs()
        <= x.abs().max() / 65534 * weight.abs().sum(-1) + columns * 2.0**-24 * size + 1e-6
    ).all()
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "4", "8"])
def test_the_bits_of_a_row_are_its_own(kind: str) -> None:
    for rows, columns in [(40, 136), (64, 576)]:
        if kind in "48":
            made = weights(quantized(rows, columns, QuantConfig(int(kind), 32)))
        else:
            made = weights(linear(rows, columns, getattr(torch, kind)))
        x = torch.randn(11, columns)
        alone = torch.cat([product(made, row[None]) for row in x])
        for count in range(1, 12):
            assert torch.equal(product(made, x[:count], threads=count % 3 + 1), alone[:count])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "4", "8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_shows(kind: str, value: float) -> None:
    layer = quantized(16, 64, QuantConfig(int(kind), 32)) if kind in "48" else linear(16, 64, getattr(torch, kind))
    x = torch.randn(2, 64)
    x[1, 40] = value
    found = product(weights(layer), x)
    assert found[0].isfinite().all() and not found[1].isfinite().any()


def test_every_float16_number_is_read_exactly() -> None:
    """In the vectors, and in the columns that are left over: a product with 1 is the number."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    for columns in (64, 7):
        layer = torch.nn.Linear(columns, 2**16, bias=False).half()
        with torch.no_grad():
            layer.weight.zero_()[:, 3] = numbers
        x = torch.zeros(1, columns)
        x[0, 3] = 1.0
        found = product(weights(layer), x)[0]
        assert torch.equal(found.nan_to_num(7.0), numbers.float().nan_to_num(7.0))
        assert torch.equal(found.isinf(), numbers.isinf())
