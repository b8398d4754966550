"""Real text: the source and docstrings of the running Python's standard library, under the PSF licence.

    for row in stdlib(seed, byte_budget=3_000_000): row["id"], row["text"]

Files in sorted order, chosen by seed until the budget of bytes is used; tests, IDLE, generated tables and installed
packages are left out. The bytes depend on the Python version, so a run's manifest names it.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from qwenkit import rng
from qwenkit.records import Row

LICENCE, LARGEST = "PSF-2.0", 60_000
_SKIPPED = set(
    "test tests idlelib idle_test site-packages dist-packages lib2to3 pydoc_data encodings turtledemo __pycache__ "
    "ensurepip lib-dynload".split()
)


def stdlib(seed: int, byte_budget: int) -> Iterator[Row]:
    """Modules of the standard library, at most `byte_budget` bytes of them."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if not _SKIPPED & set(path.relative_to(root).parts))
    left = byte_budget
    for at in rng.permutation(rng.derive_seed(seed, "stdlib"), len(paths)).tolist():
        text = _source(paths[at])
        size = len(text.encode())
        if text and size <= left:
            left -= size
            name = paths[at].relative_to(root).as_posix()
            yield {"id": f"stdlib/{name}", "text": text, "source": "stdlib", "licence": LICENCE, "language": "code"}


def _source(path: Path) -> str:
    """A file's text; empty when it is not UTF-8 or too long to be one document."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text.strip() if len(text) <= LARGEST else ""
