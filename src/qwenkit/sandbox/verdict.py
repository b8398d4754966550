"""One verdict for a program and its unit tests: one run, one time limit for all of it.

    run_tests(Problem(tests="assert add(1, 2) == 3"), "def add(a, b): return a + b").passed

A program passes when its tests have run to their end, and not when it ends with code 0 before them: after the last
test a word is written that the program was not told. A program in Python runs in the same interpreter as its tests, so
one that digs in the interpreter's frames can find the word; the tests are as safe from it as unit tests can be, and the
host is safe from it altogether."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwenkit.errors import refuse_unnamed
from qwenkit.sandbox.languages import LANGUAGES, compiler
from qwenkit.sandbox.limits import Limits, Result
from qwenkit.sandbox.sandbox import Sandbox

State = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Problem:
    """What a program has to do."""

    tests: str = ""
    """Code that is run after the program's own, in its language; it fails by an error or an exit code."""
    cases: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """(standard input, standard output) of the program; blanks at the end of lines do not count."""
    language: str = "python"


@dataclass(frozen=True)
class Verdict:
    """Whether a program does what it has to."""

    state: State
    """`not run` where the language's compiler is not installed: that is not the program's fault, and not a failure."""
    reason: str
    """What ended it: a status of the sandbox, `before the tests ended`, or which case differs."""
    result: Result | None = None

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.state == "passed"


def run_tests(problem: Problem, program: str, sandbox: Sandbox | None = None, timeout: float = 10.0) -> Verdict:
    """Return the verdict on a program; `timeout` is in seconds, for its compiler, its tests and all cases together.

    Without a `sandbox` one is made for this program alone. Raises a `UserError` for a language that is not known."""
    refuse_unnamed("language", [problem.language], LANGUAGES)
    tools = None if problem.language == "python" else compiler(problem.language)
    if tools is None and problem.language != "python":
        return Verdict("not run", f"no {LANGUAGES[problem.language].program} is installed")
    if sandbox is not None:
        return _judge(problem, program, sandbox, timeout)
    with Sandbox(Limits(), readable=tools[1] if tools else ()) as box:
        return _judge(problem, program, box, timeout)


def _judge(problem: Problem, program: str, box: Sandbox, timeout: float) -> Verdict:
    """Run the tests, and then each case with the time that is left."""
    if problem.tests or not problem.cases:
        verdict = _tests(problem, program, box, timeout)
        if not verdict.passed or not problem.cases:
            return verdict
        timeout -= verdict.result.seconds if verdict.result else 0.0
    return _cases(problem, program, box, timeout)


def _tests(problem: Problem, program: str, box: Sandbox, timeout: float) -> Verdict:
    """Run a program and its tests once."""
    word = secrets.token_hex(16)
    if problem.language == "python":
        files = {"program_.py": program, "tests_.py": problem.tests}
        result = box.run(_HARNESS, stdin=word + "\n", files=files, timeout=timeout)
        ended = result.stdout.rstrip().endswith(word)
    else:
        result = _run(problem.language, f"{program}\n{problem.tests}\n", "", box, timeout)
        ended = True
    if result.status != "ok":
        return Verdict("failed", result.status, result)
    return Verdict("passed", "ok", result) if ended else Verdict("failed", "before the tests ended", result)


_HARNESS = """
def _run():
    import os, sys
    word = sys.stdin.buffer.raw.readline() if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer.readline()
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    sys.modules["__main__"].__dict__.clear()
    end, out = os._exit, os.dup(1)
    for name in ("program_.py", "tests_.py"):
        with open(name, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        os.unlink(name)
        exec(compile(text, name, "exec"), namespace)
    sys.stdout.flush()
    os.write(out, b"\\n" + word)
    end(0)
_run()
"""
"""Runs a program and then its tests in one namespace, as if they stood in one file."""


def _cases(problem: Problem, program: str, box: Sandbox, timeout: float) -> Verdict:
    """Run a program for each case, until one differs or the time is over."""
    result = None
    for number, (stdin, expected) in enumerate(problem.cases, 1):
        if timeout <= 0:
            return Verdict("failed", "timeout", result)
        result = _run(problem.language, program, stdin, box, timeout)
        timeout -= result.seconds
        if result.status != "ok":
            return Verdict("failed", result.status, result)
        if _lines(result.stdout) != _lines(expected):
            return Verdict("failed", f"case {number} of {len(problem.cases)} differs", result)
    return Verdict("passed", "ok", result)


def _run(language: str, program: str, stdin: str, box: Sandbox, timeout: float) -> Result:
    """Run a program by itself."""
    tools = compiler(language) if language != "python" else None
    if tools is None:
        return box.run(program, stdin=stdin, timeout=timeout)
    chosen = LANGUAGES[language]
    command = chosen.command.format(program=tools[0])
    return box.run(
        ["sh", "-c", command], stdin=stdin, files={chosen.source: f"{chosen.prelude}{program}"}, timeout=timeout
    )


def _lines(text: str) -> list[str]:
    """Return the lines of an output, without blanks at their ends and empty lines at its own."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
