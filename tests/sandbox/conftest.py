"""Sandboxes for the tests, in each tier that works here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwenkit.sandbox import Limits, Sandbox, probe
from qwenkit.sandbox.launch import Backend

SMALL = Limits(cpu_seconds=5, memory_bytes=256 << 20, processes=32, files=200, file_bytes=2 << 20, output_bytes=10_000,
               disk_bytes=8 << 20)  # fmt: skip


@pytest.fixture(scope="session", params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """A tier; the test skips, and says why, where it does not work."""
    tier = probe(request.param)
    if not tier.works:
        pytest.skip(f"the tier does not work here: {tier.reason}")
    return request.param


@pytest.fixture(scope="session")
def box(backend: Backend) -> Iterator[Sandbox]:
    """A sandbox with small limits."""
    with Sandbox(SMALL, backend) as sandbox:
        yield sandbox
