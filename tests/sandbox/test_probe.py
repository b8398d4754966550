"""Which tier works is found out by a child, and where none does nothing is run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwenkit.errors import Notice, UserError
from qwenkit.sandbox import Sandbox, launch, probe
from qwenkit.sandbox import probe as asked
from qwenkit.sandbox.inside import kernel

module = __import__("qwenkit.sandbox.probe", fromlist=["probe"])


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    """Each test asks anew, and leaves nothing behind for others."""
    asked.cache_clear()
    yield
    asked.cache_clear()


def test_a_tier_that_is_not_one() -> None:
    with pytest.raises(UserError) as error:
        Sandbox(backend="docker")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == "backend: 'docker'\n  expected: auto, bwrap, landlock"


def test_without_any_tier_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "bubblewrap", lambda: None)

    def refuse() -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(kernel, "landlock_abi", refuse)
    with pytest.raises(UserError) as error:
        Sandbox()
    assert str(error.value) == (
        "sandbox: there is no sandbox here, and no program is run without one (bwrap: bubblewrap is not installed; "
        "landlock: the kernel has no Landlock)\n  hint: apt install bubblewrap"
    )


def test_the_second_tier_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "bubblewrap", lambda: None)
    if not probe("landlock").works:
        pytest.skip("the kernel has no Landlock that is new enough")
    with pytest.warns(Notice, match=r"Landlock alone: bubblewrap is not installed \(apt install bubblewrap\)"):
        box = Sandbox()
    assert box.tier.backend == "landlock"


def test_a_bubblewrap_that_cannot_make_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    path = f"{tmp_path}/bwrap"
    with open(path, "w") as file:
        file.write("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    __import__("os").chmod(path, 0o755)
    monkeypatch.setattr(launch, "bubblewrap", lambda: path)
    tier = probe("bwrap")
    assert not tier.works and tier.reason == "bwrap: No permissions to create new namespace"


def test_a_tier_that_lets_a_program_out_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bubblewrap that isolates nothing is found out: the trial's program reads the file of the host."""
    if not probe("bwrap").works:
        pytest.skip("bubblewrap does not work here")
    asked.cache_clear()
    usual = launch.request

    def open_request(*arguments: object) -> dict[str, object]:
        return {**usual(*arguments), "landlock": 0}  # pyright: ignore[reportArgumentType]

    mounts = launch._fixed_mounts

    def all_of_it(python: str, readable: tuple[str, ...]) -> tuple[str, ...]:
        return (*mounts(python, readable)[:-3], "--bind", "/tmp", "/tmp")

    monkeypatch.setattr(launch, "request", open_request)
    monkeypatch.setattr(launch, "_fixed_mounts", all_of_it)
    tier = probe("bwrap")
    assert not tier.works and "a file of the host can be read" in tier.reason


def test_the_line_for_people() -> None:
    tier = module.Tier("bwrap", True, 7)
    assert tier.text() == "bwrap: namespaces, Landlock 7, seccomp"
    assert module.Tier("landlock", False, 0, "it needs Linux").text() == "landlock: does not work: it needs Linux"
