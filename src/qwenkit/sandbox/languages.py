"""Languages beside Python, where a compiler or an interpreter of them is installed.

Programs are compiled inside the sandbox, by the same command that runs them: a compiler reads what a model wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Language:
    """How programs of a language are run."""

    name: str
    program: str
    """The compiler or interpreter, which must be installed."""
    source: str
    """The file that the program is written to."""
    command: str
    """The shell's command that compiles and runs it; `{program}` is the compiler's path."""
    prelude: str = ""
    """Code before it."""


LANGUAGES = {
    language.name: language
    for language in (
        Language("python", "python", "main.py", ""),
        Language("javascript", "node", "main.js", "exec {program} main.js",
                 "console.assert = require('assert').ok;"),  # its own only writes a line
        Language("java", "javac", "Main.java",
                 "{program} -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -J-Xshare:auto -nowarn -d . Main.java && "
                 "exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Xss16m -cp . Main"),
        Language("cpp", "g++", "main.cpp", "{program} -O1 -std=c++17 -o main main.cpp && exec ./main"),
        Language("rust", "rustc", "main.rs",
                 "if grep -q '^ *#.test.' main.rs; then tests=--test; fi; "
                 "{program} -A warnings -C opt-level=1 $tests -o main main.rs && exec ./main"),
        Language("go", "go", "main.go", "GOFLAGS=-mod=mod GOCACHE=$TMPDIR GO111MODULE=off exec {program} run main.go"),
    )
}  # fmt: skip


@cache
def compiler(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return (path, folders that it needs beside the system's) of a language's compiler; None where there is none."""
    program = LANGUAGES[name].program
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{os.path.expanduser('~/.cargo/bin')}")
    if path is None:
        return None
    if program == "rustc":  # the one of rustup only starts another one, which lies in the user's home
        return _rust(path)
    real = os.path.realpath(path)
    system = real.startswith(("/usr/", "/bin/", "/opt/"))
    return path, () if system and not real.startswith("/opt/") else (os.path.dirname(os.path.dirname(real)),)


def _rust(path: str) -> tuple[str, tuple[str, ...]] | None:
    """Return Rust's compiler and its folder, as it names that itself."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([path, "--print", "sysroot"], capture_output=True, text=True, timeout=20)
        root = done.stdout.strip()
        if done.returncode == 0 and os.access(f"{root}/bin/rustc", os.X_OK):
            return f"{root}/bin/rustc", (root,)
    return None


def available() -> list[str]:
    """Return the languages whose programs can be run here; Python first."""
    return [name for name in LANGUAGES if name == "python" or compiler(name)]
