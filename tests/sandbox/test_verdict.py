"""One verdict a program: hidden tests, early ends, cases, languages."""

from __future__ import annotations

import pytest

from qwenkit.errors import UserError
from qwenkit.sandbox import Problem, Sandbox, run_tests
from qwenkit.sandbox.languages import LANGUAGES, available, compiler
from tests.sandbox.conftest import SMALL

ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (ADD, "ok"),
        (ADD + "\nif __name__ == '__main__':\n    print('a main of its own')", "ok"),
        (ADD.replace("+", "-"), "error"),
        ("def add(a, b):\n    return 3", "error"),  # the visible assertion by heart
        ("import os; os._exit(0)", "before the tests ended"),
        ("import sys; sys.exit(0)", "before the tests ended"),
        ("import atexit, os; atexit.register(os._exit, 0)\nraise SystemExit", "before the tests ended"),
        ("import sys; print(sys.stdin.read()); sys.exit()", "before the tests ended"),
        ("def add(a, b): import os; os._exit(0)", "before the tests ended"),
        ("print(open('main.py').read())", "error"),
        ("def add(:", "error"),
        ("while True: pass", "timeout"),
        ("x = bytearray(10 ** 10)", "memory"),
    ],
)
def test_programs_in_python(box: Sandbox, program: str, reason: str) -> None:
    verdict = run_tests(Problem(TESTS), program, box, timeout=1.0 if reason == "timeout" else 20)
    assert (verdict.state, verdict.reason) == ("passed" if reason == "ok" else "failed", reason)


def test_cases_share_one_time_limit(box: Sandbox) -> None:
    double = "print(2 * int(input()))"
    assert run_tests(Problem(cases=[("1\n", "2"), ("4", "8\n\n")]), double, box, 20).passed
    wrong = run_tests(Problem(cases=[("1", "2"), ("4", "9"), ("x", "")]), double, box, 20)
    assert (wrong.state, wrong.reason) == ("failed", "case 2 of 3 differs")
    slow = "import time; time.sleep(0.6); print(1)"
    verdict = run_tests(Problem(cases=[("", "1")] * 9), slow, box, timeout=1.5)
    assert (verdict.state, verdict.reason) == ("failed", "timeout")


def test_a_warm_sandbox_says_the_same(backend: str) -> None:
    with Sandbox(SMALL, backend, imports=[]) as box:  # pyright: ignore[reportArgumentType]
        assert run_tests(Problem(TESTS), ADD, box).passed
        assert run_tests(Problem(TESTS), "import os; os._exit(0)", box).reason == "before the tests ended"


def test_a_language_that_is_not_one() -> None:
    with pytest.raises(UserError) as error:
        run_tests(Problem(language="pyhton"), "")
    assert str(error.value) == (
        "`pyhton` is not a language\n  expected: cpp, go, java, javascript, python, rust\n  nearest: python"
    )


def test_a_compiler_that_is_missing_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenkit.sandbox.verdict.compiler", lambda name: None)
    verdict = run_tests(Problem("", language="go"), "package main")
    assert (verdict.state, verdict.reason, verdict.passed) == ("not run", "no go is installed", False)


ADDS = {
    "javascript": ("function add(a, b) { return a + b; }", "if (add(1, 2) !== 3) throw new Error('differs');"),
    "java": (
        "public class Main { static int add(int a, int b) { return a + b; }",
        "public static void main(String[] a) { if (add(1, 2) != 3) throw new AssertionError(); } }",
    ),
    "cpp": ("int add(int a, int b) { return a + b; }", "int main() { return add(1, 2) != 3; }"),
    "rust": ("fn add(a: i32, b: i32) -> i32 { a + b }", "fn main() { assert_eq!(add(1, 2), 3); }"),
    "go": (
        "package main\nfunc add(a int, b int) int { return a + b }",
        "func main() { if add(1, 2) != 3 { panic(1) } }",
    ),
}


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "python"])
def test_other_languages(backend: str, language: str) -> None:
    tools = compiler(language)
    if tools is None:
        pytest.skip(f"no {LANGUAGES[language].program} is installed")
    program, tests = ADDS[language]
    with Sandbox(backend=backend, readable=tools[1]) as box:  # pyright: ignore[reportArgumentType]
        good = run_tests(Problem(tests, language=language), program, box, timeout=60)
        assert good.passed, good.result and good.result.stderr
        bad = run_tests(Problem(tests, language=language), program.replace("a + b", "a - b"), box, timeout=60)
        assert (bad.state, bad.reason) == ("failed", "killed" if bad.reason == "killed" else "error")


def test_what_is_available_begins_with_python() -> None:
    assert available()[0] == "python" and set(available()) <= set(LANGUAGES)
