"""The tests of native code, on code that is compiled otherwise.

    python -m tests.inference.native.variants portable            # as for a processor without intrinsics, 8 lanes
    python -m tests.inference.native.variants wide                # the same with 16 lanes, as AVX-512 has
    python -m tests.inference.native.variants address             # under the address and undefined behaviour sanitizers
    python -m tests.inference.native.variants thread -k bits      # under the thread sanitizer; arguments go to pytest

Whatever a processor has, these compile anywhere with GCC (the sanitizers need its libraries).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from qwenkit.platform import compiler_path

HERE = Path(__file__).parent
_CHECKED = ["-g", "-O1", "-fno-omit-frame-pointer"]
FLAGS = {
    "portable": ["-DPORTABLE=8", "-O1"],
    "wide": ["-DPORTABLE=16", "-O1"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", *_CHECKED],
    "thread": ["-fsanitize=thread", *_CHECKED],
}
_LIBRARIES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
_OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_mutex_bugs=0:halt_on_error=1"}  # fmt: skip
_FILES = [str(HERE / name) for name in ("test_matrices.py", "test_decoder.py", "test_low_rank.py", "test_threads.py")]
_PROGRAM = """
import sys, pytest
from qwenkit.inference.native import build
build.FLAGS += {flags!r}
sys.exit(pytest.main({arguments!r}))
"""


def libraries(name: str) -> list[str] | None:
    """The libraries that must be loaded first; None where the compiler has none."""
    found = []
    for library in _LIBRARIES.get(name, ()):
        command = [str(compiler_path()), f"-print-file-name={library}"]
        path = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
        if not os.path.isabs(path):
            return None
        found.append(path)
    return found


def run(name: str, arguments: list[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run tests on a variant; its output goes to standard output, or with a time limit into the result."""
    first = libraries(name)
    if first is None:
        raise FileNotFoundError(f"the compiler has no libraries for {name}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": ":".join(first), **_OPTIONS}
    paths = [a for a in arguments if a.split("::")[0].endswith(".py")]
    program = _PROGRAM.format(flags=FLAGS[name], arguments=[*arguments, *([] if paths else _FILES)])
    command = [sys.executable, "-c", program]
    if name == "thread":  # it needs memory where it expects it
        command = ["setarch", platform.machine(), "-R", *command]
    return subprocess.run(command, env=environment, text=True, timeout=timeout, capture_output=timeout is not None)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]).returncode)
