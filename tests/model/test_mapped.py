"""Pages of files are given back and read again; what was written stays as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwenkit.model.mapped import release
from qwenkit.model.own_pages import in_own_pages

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are given back on Linux only")
MEGABYTES = 32


@pytest.fixture
def weight(tmp_path: Path) -> Tensor:
    """32 MB of a file, each number its place."""
    save_file({"w": torch.arange(MEGABYTES * 2**18).view(-1, 256).int()}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        return file.get_tensor("w")


def file_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:")) / 1024


def is_whole(tensor: Tensor) -> bool:
    return torch.equal(tensor.flatten(), torch.arange(tensor.numel(), dtype=tensor.dtype))


def test_pages_of_a_file_go_and_come_back(weight: Tensor) -> None:
    before = file_megabytes()
    assert is_whole(weight) and file_megabytes() - before > 0.9 * MEGABYTES
    release(weight)
    assert file_megabytes() - before < 0.1 * MEGABYTES
    assert is_whole(weight)


def test_parts_and_transposed_views_are_their_pages(weight: Tensor) -> None:
    before = file_megabytes()
    assert is_whole(weight)
    release(weight[: len(weight) // 2].t())
    assert 0.4 * MEGABYTES < file_megabytes() - before < 0.6 * MEGABYTES
    assert is_whole(weight)


def test_what_was_written_stays(weight: Tensor) -> None:
    assert is_whole(weight)
    weight[100, 7] = -1
    release(weight)
    assert weight[100, 7] == -1
    release(weight[200:], weight[:1])
    assert weight[100, 7] == -1 and weight[200, 0] == 200 * 256


def test_memory_that_is_no_files_stays() -> None:
    own = torch.arange(2**20)
    release(own, own[5:9], own.new_empty(0), torch.empty(3, device="meta"))
    assert is_whole(own)


def test_nothing_is_given_back_where_the_kernel_does_not_say(weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file_megabytes()
    assert is_whole(weight)
    monkeypatch.setattr("builtins.open", _refused)
    release(weight)
    monkeypatch.undo()
    assert file_megabytes() - before > 0.9 * MEGABYTES


def _refused(*given: object, **named: object) -> object:
    raise PermissionError


def test_pages_of_its_own_are_given_back_with_the_tensor() -> None:
    tensors = [in_own_pages(torch.arange(2**17).view(256, 512).t()) for _ in range(30)]
    assert all(torch.equal(tensor, torch.arange(2**17).view(256, 512).t()) for tensor in tensors)
    assert all(tensor.is_contiguous() and tensor.dtype == torch.int64 for tensor in tensors)
    held = private_megabytes()
    release(*tensors)  # no file has their numbers
    assert int(tensors[7][3, 4]) == 4 * 512 + 3 and private_megabytes() > held - 1
    del tensors[::2]
    assert private_megabytes() < held - 14  # every other one, wherever it lies


def private_megabytes() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024
