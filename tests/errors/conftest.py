"""The family that cases damage, trained once; and a desk for each case."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errors.desk import Desk, raise_family


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The family's folder, raised when it is first asked for."""

    @functools.cache
    def make() -> Path:
        folder = tmp_path_factory.mktemp("family")
        raise_family(folder)
        return folder

    return make


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[], Path]) -> Desk:
    """An empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return Desk(tmp_path, monkeypatch, made)
