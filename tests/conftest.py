"""Shared by all tests: one thread for torch, no network, and where the real test data lies (if it is there)."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.timing import pytest_addoption, pytest_runtest_logreport, pytest_terminal_summary

__all__ = [
    "pytest_addoption",
    "pytest_runtest_logreport",
    "pytest_terminal_summary",
]  # pytest looks for hooks here

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # what might be the name of a model asks nobody; the tests of the Hub undo it
ROOT = Path(__file__).parents[1]


_HEAVY = ("torch", "torch._dynamo", "transformers", "gradio")
_exempt: set[str] = set()


def pytest_runtest_setup() -> None:
    """Exempt heavy packages from garbage collection once they are loaded: a run collects before each node, and would
    visit all of torch and its compiler each time, which is most of what runs of toys take."""
    loaded = {name for name in _HEAVY if name in sys.modules}
    if loaded - _exempt:
        _exempt.update(loaded)
        gc.collect()
        gc.freeze()


def test_data() -> Path | None:
    """The folder of real test data: QWENKIT_TEST_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("QWENKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real test data; the test skips, and says so, without it."""
    folder = test_data()
    if folder is None:
        pytest.skip("no real test data: set QWENKIT_TEST_DATA")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub on this machine, an empty cache, no token, the test's folder to work in, and no way to anywhere else."""
    from tests.hub_server import serve

    with serve(tmp_path, monkeypatch) as server:
        yield server
