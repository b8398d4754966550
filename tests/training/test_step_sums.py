"""Sums of a step: the numbers that a host would have summed, read once."""

import pytest
import torch

from qwenkit.training.step_sums import StepSums
from qwenkit.training.world import ALONE


def test_they_are_pythons_sums_to_the_bit():
    """Of float32 values, which a host would read one by one and add in float64."""
    values = (torch.randn(7, generator=torch.Generator().manual_seed(0)) * 1e3).unbind()
    sums, expected = StepSums(torch.device("cpu")), 0.0
    for value in values:
        sums.add({"loss": value})
        expected += float(value)
    assert sums.read(ALONE, {"norm": torch.tensor(0.1)}) == {"loss": expected, "norm": float(torch.tensor(0.1))}
    assert expected != pytest.approx(float(torch.stack(values).sum()), rel=1e-12)


def test_counts_flags_and_gradients_are_summed_too():
    sums = StepSums(torch.device("cpu"))
    for value in (2.5, 4.0):
        sums.add({"loss": torch.tensor(value, requires_grad=True), "right": torch.tensor(3)})
    found = sums.read(ALONE, {})
    assert found == {"loss": 6.5, "right": 6.0} and list(found) == ["loss", "right"]


def test_a_metric_of_some_micro_batches_only_is_summed_over_these():
    sums = StepSums(torch.device("cpu"))
    sums.add({"loss": torch.tensor(1.0)})
    sums.add({"loss": torch.tensor(1.0), "extra": torch.tensor(5.0)})
    assert sums.read(ALONE, {}) == {"loss": 2.0, "extra": 5.0}
