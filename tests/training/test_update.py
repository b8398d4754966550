"""The stock update: one read from the device a step, and what it decides by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from qwenkit.training import build_schedule, train_update
from tests.training.conftest import Run

WAITING_CALLS = {"tolist", "item", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__", "nonzero"}
"""Methods of a tensor that wait for its device, as they are called from Python."""
WAITING_OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique"}
"""Operators that wait for a device, also where another operator calls them."""


class Calls(TorchFunctionMode):
    """Counts the calls that wait; what they do inside is theirs."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITING_CALLS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    """Counts the operators that wait."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING_OPERATORS or (name.startswith("index") and _has_mask(args)):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args: Any) -> bool:
    """Return whether a tensor is indexed by a mask: the device must say how many places it has."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)


@contextmanager
def reads() -> Iterator[tuple[list[str], list[str]]]:
    """Collect the calls and the operators that wait for a device inside the block."""
    calls: list[str] = []
    operators: list[str] = []
    with Calls(calls), Operators(operators):
        yield calls, operators


def test_the_counter_sees_every_kind_of_read():
    x = torch.tensor([1.0, 0.0])
    for read in (
        lambda: x.tolist(), lambda: float(x[0]), lambda: x[0].item(), lambda: bool(x[0]), lambda: x[x > 0],
        lambda: torch.equal(x, x), lambda: x.nonzero(), lambda: x.numpy(), lambda: int(x[0]),
    ):  # fmt: skip
        with reads() as (calls, operators):
            read()
        assert calls or operators
    with reads() as (calls, operators):
        (x + 1).sum()
    assert not calls and not operators


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_reads_once_from_the_device_before_the_optimizer_moves(monkeypatch, optimizer, dtype):
    """Four micro-batches, whose tensors were built on the host before. (AdamW itself reads its step counters, which lie
    on the host.)"""
    training = Run(optimizer=optimizer)
    training.batches.micro_batch_size = 1
    prepared = [training.batches(step) for step in range(2)]
    assert len(prepared[0].micro_batches) == 4
    update = train_update(
        training.model, training.optimizer, prepared.__getitem__, build_schedule("constant", 9), dtype=dtype
    )
    seen: list[list[str]] = []

    def step() -> None:
        seen.append([*calls, *operators])

    update(training.state, 0)
    monkeypatch.setattr(training.optimizer, "step", step)
    with reads() as (calls, operators):
        update(training.state, 1)
    assert seen == [["tolist"]] and [*calls, *operators] == ["tolist"]
