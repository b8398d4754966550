"""A warm sandbox runs code in a copy of a process that has imported its modules, and nobody sees the difference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwenkit.errors import UserError
from qwenkit.sandbox import Sandbox
from tests.sandbox.conftest import SMALL


@pytest.fixture(scope="module")
def warm(backend: str) -> Iterator[Sandbox]:
    with Sandbox(SMALL, backend, imports=["decimal"]) as box:  # pyright: ignore[reportArgumentType]
        yield box


CODES = [
    "import sys; print('文', __name__, len(sys.argv), sys.stdin.read())",
    "import sys; sys.exit('bye')",
    "raise SystemExit(300)",
    "def f(x):\n    return 1 / x\nf(0)",
    "import atexit; atexit.register(print, 'last'); print('first')",
    "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "import os; print(sorted(os.listdir('..')) if os.access('..', os.R_OK) else '', os.getsid(0) == os.getpid())",
    "print(hash('text'), __file__.rpartition('/')[2])",
    "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True).stdout)",
    "x = bytearray(10 ** 10)",
    "import os\nwhile True: os.fork()",
    "print('x' * 50_000)",
]


@pytest.mark.parametrize("code", CODES)
def test_as_a_fresh_python(warm: Sandbox, box: Sandbox, code: str) -> None:
    first, second = warm.run(code, stdin="in"), box.run(code, stdin="in")
    assert (first.status, first.stdout) == (second.status, second.stdout)
    if first.status != "processes":  # which of many processes is refused first is not fixed
        assert first.returncode == second.returncode
    if first.status == "error":
        assert first.stderr.splitlines()[-1:] == second.stderr.splitlines()[-1:]


def test_modules_are_there_already(warm: Sandbox) -> None:
    assert warm.run("import sys; print('decimal' in sys.modules, 'sqlite3' in sys.modules)").stdout == "True False\n"


def test_what_one_program_does_to_a_module_the_next_does_not_see(warm: Sandbox) -> None:
    warm.run("import decimal; decimal.planted = 1; import os; os.environ['PLANTED'] = '1'")
    assert warm.run("import decimal, os; print(hasattr(decimal, 'planted'), 'PLANTED' in os.environ)").stdout == (
        "False False\n"
    )


def test_its_random_numbers_differ(warm: Sandbox) -> None:
    code = "import random; print(random.random())"
    assert warm.run(code).stdout != warm.run(code).stdout


def test_it_is_not_within_reach_of_its_supervisor(warm: Sandbox) -> None:
    code = (
        "import os\n"
        "for path in (f'/proc/{os.getppid()}/mem', f'/proc/{os.getppid()}/environ'):\n"
        "  try: print('ESCAPED', open(path, 'rb').read(1))\n"
        "  except OSError: pass\n"
        "try: print('ESCAPED', os.kill(os.getppid(), 0))\n"
        "except OSError: pass\n"
        "fds = [fd for fd in range(3, 256) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "print(len(fds) <= 1)"
    )
    assert warm.run(code).stdout == "True\n"


def test_a_warm_sandbox_is_this_python() -> None:
    with pytest.raises(UserError) as error:
        Sandbox(python="/usr/bin/python3", imports=[])
    assert str(error.value) == (
        "python: a warm sandbox runs this process's own Python\n  expected: no `python`"
    ) or "there is no Python" in str(error.value)
