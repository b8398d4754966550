"""A checkpoint gives back what was saved, whatever happens while it is written."""

import contextlib
import errno
import json
import os
import pickle
import resource
import signal

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.training import checkpoint as state_module
from qwenkit.training.checkpoint import latest_checkpoint, load_checkpoint, load_latest, save_checkpoint

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


class Program:
    """What a pickle runs when it is read."""

    def __init__(self, module, name, *arguments):
        self.function, self.arguments = getattr(__import__(module, fromlist=["_"]), name), arguments

    def __reduce__(self):
        return self.function, self.arguments


def rehashed(path):
    """As somebody does who writes the digests too."""
    mark = json.loads((path / "complete.json").read_text())
    mark["files"] = state_module._hashes(path)
    (path / "complete.json").write_text(json.dumps(mark))


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "mkdir"), ("posix", "mkdir"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load")],
)
def test_a_program_in_the_metadata_is_never_run(tmp_path, module, name):
    victim = tmp_path / "victim"
    save_checkpoint(TREE, tmp_path / "c", 1)
    path = save_checkpoint(TREE, tmp_path / "c", 2)
    argument = f"__import__('os').mkdir({str(victim)!r})" if name == "eval" else str(victim)
    more = ("mkdir",) if name == "getattr" else ()
    (path / ".metadata").write_bytes(pickle.dumps(Program(module, name, argument, *more)))
    rehashed(path)
    told = []
    found = load_latest(tmp_path / "c", told.append)
    assert same(found, TREE) and not victim.exists()
    assert len(told) == 1 and "step-00000002 is passed over" in told[0] and name in told[0]


def changed(path, change):
    """The metadata as somebody writes it who knows the format."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    found = FileSystemReader(path).read_metadata()
    change(found)
    (path / ".metadata").write_bytes(pickle.dumps(found))
    rehashed(path)


def elsewhere(found):
    for item in found.storage_data.values():
        item.relative_path = "../secret"


def enormous(found):
    found.state_dict_metadata["tensors/whole"].size = torch.Size([1 << 50])


def of_no_tensor(found):
    found.state_dict_metadata["tensors/whole"] = "whole"


@pytest.mark.parametrize("change", [elsewhere, enormous, of_no_tensor])
def test_metadata_that_leads_out_of_the_folder_is_refused(tmp_path, change):
    path = save_checkpoint(TREE, tmp_path, 1)
    key = next(name for name in state_module.Reader(path).read_metadata().state_dict_metadata if "whole" in name)
    changed(path, lambda found: change(found) if change is elsewhere else _renamed(found, key, change))
    with pytest.raises(UserError, match="not a checkpoint of ours"):
        load_checkpoint(path)


def _renamed(found, key, change):
    table = found.state_dict_metadata
    table["tensors/whole"] = table.pop(key)
    change(found)
    table[key] = table.pop("tensors/whole")


def test_a_program_in_the_values_is_never_run(tmp_path):
    """torch would take them apart as a pickle."""
    victim = tmp_path / "victim"
    folder = tmp_path / "c"
    with patched(state_module.json, "dumps", lambda *_: Program("os", "mkdir", str(victim))):
        with patched(state_module, "write_json", lambda *_: None):
            beside = save_checkpoint(TREE, folder, 1)
    with pytest.raises(UserError, match="not a checkpoint of ours"):
        load_checkpoint(beside)
    assert not victim.exists()


@contextlib.contextmanager
def patched(place, name, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, value)
        yield


@pytest.mark.parametrize("mark", ["", '{"schema": 1, "st', "{}", "[]", '{"files": {}}', '{"files": [1]}', "\xff"])
def test_a_damaged_mark_is_told_and_the_one_before_taken(tmp_path, mark):
    save_checkpoint({**TREE, "step": 1}, tmp_path, 1)
    path = save_checkpoint({**TREE, "step": 2}, tmp_path, 2)
    (path / "complete.json").write_bytes(mark.encode("latin-1"))
    told = []
    found = load_latest(tmp_path, told.append)
    assert found["step"] == 1 and len(told) == 1 and "step-00000002 is passed over" in told[0]
    (tmp_path / "step-00000001" / "complete.json").write_text("")
    assert load_latest(tmp_path, told.append) is None and told[-1].startswith("no checkpoint is intact")


def test_what_was_passed_over_takes_no_place(tmp_path):
    """Else a damaged one would count among the newest two."""
    for step in (10, 20):
        save_checkpoint(TREE, tmp_path, step)
    damage_cut(tmp_path / "step-00000020")
    assert load_latest(tmp_path, lambda _: None) is not None
    save_checkpoint(TREE, tmp_path, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
