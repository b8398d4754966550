"""A checkpoint gives back what was saved, whatever happens while it is written."""

import errno
import os
import resource
import signal

import pytest
import torch

from qwenkit.training import state as state_module
from qwenkit.training.state import latest_checkpoint, load_checkpoint, save_checkpoint

TREE = {
    "tensors": {"half": torch.randn(3, 4).bfloat16(), "whole": torch.arange(5), "scalar": torch.tensor(2.5)},
    "plain": {"none": None, "pair": (0.9, 0.95), "list": [1, "ä中", True], "numbers": {3: {"nested": []}}, "empty": {}},
}


def same(one, two):
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return type(one) is type(two) and one == two


def test_everything_comes_back_with_its_type(tmp_path):
    save_checkpoint(TREE, tmp_path, 3)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000003"
    assert same(load_checkpoint(found), TREE)


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 9, 10, 100):
        save_checkpoint(TREE, tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def damage_cut(path):
    data = next(path.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1])


def damage_flip(path):
    data = next(path.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def damage_missing(path):
    (path / ".metadata").unlink()


def damage_mark(path):
    (path / "complete.json").unlink()


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_missing, damage_mark])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    save_checkpoint(TREE, tmp_path, 1)
    damage(save_checkpoint(TREE, tmp_path, 2))
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000001"


@pytest.mark.parametrize("moment", ["write_json", "fsync_tree"])
def test_a_kill_while_saving_leaves_the_one_before(tmp_path, moment):
    save_checkpoint(TREE, tmp_path, 1)
    child = os.fork()
    if child == 0:
        setattr(state_module, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        save_checkpoint(TREE, tmp_path, 2)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "step-00000002.part").exists()
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000001"
    assert save_checkpoint(TREE, tmp_path, 2) == latest_checkpoint(tmp_path)


def test_an_empty_folder_holds_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("most", [100, 3000, 100_000])
def test_a_full_disk_is_an_error_of_the_disk(tmp_path, most):
    """Whether torch still knows why it could not write, or not: a user is told by the number of the error."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, usual[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_checkpoint({"a": torch.zeros(100_000)}, tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG) and "step-00000001.part" in str(caught.value.filename)
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(save_checkpoint(TREE, tmp_path, 2).parent) == tmp_path / "step-00000002"


def test_a_second_interrupt_while_saving_is_one(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(state_module.FileSystemWriter, "write_data", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(TREE, tmp_path, 1)
