"""What a run's numbers depend on: the device, and the fingerprint of a start."""

import pytest

from qwenkit import platform
from qwenkit.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as far as this module asks."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"])
def test_names_of_devices(name: str) -> None:
    assert platform.is_device_name(name)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:1234", "CPU", "cpu:0", "meta", "cuda:1\n"])
def test_what_names_no_device(name: str) -> None:
    assert not platform.is_device_name(name)


def test_auto_is_the_first_gpu_or_the_processor(gpus, monkeypatch) -> None:
    import torch

    assert platform.pick_device("auto") == "cuda"
    assert [platform.pick_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert platform.pick_device("auto") == "cpu"


def test_a_device_that_is_not_there_is_named_beside_those_that_are(gpus, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        platform.pick_device("cuda:9", "my.toml:3")
    assert caught.value.text() == (
        "my.toml:3: no device `cuda:9` on this machine\n  expected: auto or cpu or cuda:0 or cuda:1"
    )


def test_numbers_depend_on_the_processor_only_where_it_computes(gpus, monkeypatch) -> None:
    monkeypatch.setattr(platform, "cpu_model", lambda: "a processor")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    here, there = platform.fingerprint(2, "cpu", True), platform.fingerprint(2, "cuda:1", False)
    assert (here["cpu"], here["accelerator"], here["world_size"], here["layout"]) == ("a processor", None, 1, "single")
    assert there["cpu"] is None and there["deterministic"] is False
    assert (here["vectors"], there["vectors"]) == (platform.vector_instructions(), None)
    assert isinstance(there["accelerator"], dict) and there["accelerator"]["name"] == "GPU of cuda:1"


def test_an_older_fingerprint_is_one_process_with_deterministic_kernels() -> None:
    old = {"threads": 2, "device": "cpu", "cpu": "a processor", "versions": {"torch": "2.13"}}
    wanted = {"deterministic": True, "world_size": 1, "layout": "single", "compiler": platform.compiler()}
    assert platform.upgraded_fingerprint(old) == {**old, **wanted}
    on_gpu = platform.upgraded_fingerprint({**old, "device": "cuda"})
    assert on_gpu["cpu"] is None and on_gpu["compiler"] is None and "accelerator" not in on_gpu
