"""The first seconds: what is loaded, how fast, and that nothing asks the network."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import qwenkit
from tests.docs.conftest import GUARDED

HEAVY = ("torch", "transformers", "pyarrow", "matplotlib", "tokenizers")
REPORT = f"""import atexit
atexit.register(lambda: print("LOADED", *(name for name in {HEAVY!r} if name in sys.modules)))
"""


def start(*arguments: str, cwd: Path) -> tuple[int, str, set[str]]:
    """Exit code, output, and which heavy libraries a command has loaded; the network is closed."""
    code = GUARDED.replace("import sys\n", "import sys\n" + REPORT, 1)
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    output = done.stdout + done.stderr
    return done.returncode, output, set(output.split("LOADED", 1)[1].split("\n")[0].split())


@pytest.mark.parametrize(
    "arguments", [("--help",), ("sft", "--help"), ("init", "my.toml"), ("run", "nano", "--dry-run")], ids=" ".join
)
def test_cheap_commands_load_nothing_heavy_and_ask_nobody(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, output, loaded = start(*arguments, cwd=tmp_path)
    assert code == 0, output
    assert not loaded


def test_a_mistake_is_answered_without_a_traceback(tmp_path: Path) -> None:
    code, output, loaded = start("run", "nona", cwd=tmp_path)
    assert code == 2 and "nearest: nano" in output and "Traceback" not in output
    assert not loaded


def test_the_guard_guards(tmp_path: Path) -> None:
    """The net is closed in these tests: the same process fails when it opens a socket."""
    code = GUARDED.split("from qwenkit")[0] + "import socket\nsocket.socket()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "the network was touched" in done.stderr


def test_importing_the_package_loads_next_to_nothing() -> None:
    """No heavy library, and but a few modules of its own: what is imported at all is what costs time."""
    code = "import sys, qwenkit\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)
    assert len([name for name in loaded if name.startswith("qwenkit")]) <= 3


def lazy_packages() -> list[str]:
    """Every package of qwenkit whose public names load on first use, by its `__getattr__`."""
    inner = (module.name for module in pkgutil.walk_packages(qwenkit.__path__, "qwenkit.") if module.ispkg)
    return [name for name in ("qwenkit", *inner) if hasattr(importlib.import_module(name), "__getattr__")]


LAZY = lazy_packages()


def test_every_package_with_lazy_names_is_listed() -> None:
    users = [path for path in Path(qwenkit.__file__).parent.rglob("__init__.py") if "lazy(__name__" in path.read_text()]
    assert len(users) == len(LAZY) >= 8


@pytest.mark.parametrize("package", LAZY)
def test_public_names_load_on_first_use(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = module.nonsense


def test_telemetry_is_off_before_anything_is_imported() -> None:
    code = "import os, qwenkit\nprint(*(os.environ[k] for k in ('DO_NOT_TRACK', 'HF_HUB_DISABLE_TELEMETRY')))"
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", "1"]
