"""Numbers of a step in one copy, and rows that need none."""

from __future__ import annotations

import torch

from qwenkit.inference.transfer import rows_of, to_device

CPU = torch.device("cpu")


def test_columns_come_as_they_were() -> None:
    tensors = to_device([[3, 1], [], [2**40]], CPU)
    assert [tensor.tolist() for tensor in tensors] == [[3, 1], [], [2**40]]
    assert all(tensor.dtype == torch.long for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1


def test_first_rows_are_a_view_and_others_a_copy() -> None:
    x_ND = torch.arange(12).view(4, 3)
    assert rows_of(x_ND, [0, 1]).data_ptr() == x_ND.data_ptr() and len(rows_of(x_ND, range(2))) == 2
    assert len(rows_of(x_ND, [])) == 0
    for rows in ([1, 2], [1, 0], [3], [0, 0]):
        assert torch.equal(rows_of(x_ND, rows), x_ND[rows])
