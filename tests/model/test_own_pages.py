"""Tensors on pages of their own: and memory that goes back to the system."""

from __future__ import annotations

import pytest
import torch

from qwenkit.model.own_pages import giving_back, own_pages
from qwenkit.platform import resident_mb, trim_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.uint8])
def test_zeros_take_nothing_before_they_are_written_and_go_back(dtype: torch.dtype) -> None:
    before = resident_mb()
    x = own_pages((400, 1000, 1000 // dtype.itemsize), dtype)
    assert (x.shape, x.dtype) == ((400, 1000, 1000 // dtype.itemsize), dtype) and resident_mb() - before < 200
    assert not x[0].any()
    x.fill_(1)
    assert resident_mb() - before > 200
    del x
    assert resident_mb() - before < 200


def test_memory_is_given_back_at_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes is the tensor itself; small ones and those of other devices are let alone."""
    calls: list[int] = []
    monkeypatch.setattr("qwenkit.model.own_pages.trim_memory", lambda: calls.append(1))
    x = torch.randn(512, 513, requires_grad=True)
    y = giving_back(2 * x)
    assert torch.equal(y, 2 * x) and len(calls) == 1
    (y**2).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, 8 * x.detach()) and len(calls) == 2
    for other in (torch.empty(512, 500), torch.empty(512, 513, device="meta")):
        assert giving_back(other) is other
    assert len(calls) == 2


def test_what_was_freed_goes_back() -> None:
    kept, freed = [], []
    for _ in range(2000):  # below the size from which glibc maps a block by itself
        freed.append(torch.ones(25_000))
        kept.append(torch.ones(25))
    del freed
    trim_memory()
    before = resident_mb()
    freed = [torch.ones(25_000) for _ in range(2000)]
    assert resident_mb() - before > 150
    del freed
    trim_memory()
    assert resident_mb() - before < 50 and kept
