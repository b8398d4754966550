"""What CI installs has all clients, so that no test of them is skipped there."""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata

import pytest

from tests.conftest import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


@pytest.mark.skipif(
    not os.environ.get("CI"), reason="an environment without clients is one that may test; CI's has all"
)
def test_no_client_is_missing_where_everything_is_tested() -> None:
    for line in EXTRAS["clients"]:
        assert metadata.version(re.split(r"[<>=]", line)[0])


def test_the_extra_of_everything_has_the_clients() -> None:
    assert "clients" in EXTRAS["all"][0] and "dev" in EXTRAS["all"][0]
