"""The code that other processors get, and the sanitizers' builds: run here (`variants.py`)."""

from __future__ import annotations

import pytest

from .conftest import needs_compiler
from .variants import FLAGS, HERE, libraries, run

pytestmark = needs_compiler


@pytest.mark.parametrize("name", ["portable", "wide"])
def test_products_without_intrinsics(name: str) -> None:
    done = run(name, ["-q", "-x", "-p", "no:cacheprovider", str(HERE / "test_matrices.py")], timeout=250)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FLAGS)
def test_all_tests_on_every_build(name: str) -> None:
    if libraries(name) is None:
        pytest.skip(f"the compiler has no libraries for {name}")
    done = run(name, ["-q", "-x", "-s", "-p", "no:cacheprovider"], timeout=1700)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
