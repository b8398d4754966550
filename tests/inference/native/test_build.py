"""Compiling: once, into a folder of the user's own; what fails says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.inference.native import build
from qwenkit.inference.native.build import Unavailable, cache_folder, shared_library

compile_now = shared_library.__wrapped__


def compiler(folder: Path, script: str) -> str:
    """A compiler that does this; `$out` is where it should write."""
    path = folder / "cxx"
    path.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nout=$2\n' + script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, f'echo >> {tmp_path}/calls; echo code > "$out"'))
    first, second = compile_now(), compile_now()
    assert first == second and first.read_text() == "code\n" and (tmp_path / "calls").read_text() == "\n"
    assert first.parent == tmp_path / "cache/qwenkit/native" and [*first.parent.iterdir()] == [first]
    assert first.parent.stat().st_mode & 0o777 == 0o700


def test_another_compiler_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo one > "$out"'))
    first = compile_now()
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo another > "$out"'))
    assert compile_now() != first


@pytest.mark.parametrize(
    "script, message",
    [
        ('echo "a.h:1: error: no such thing" >&2; exit 1', "the C++ compiler failed: a.h:1: error: no such thing"),
        ("exit 1", "the C++ compiler failed: no message"),
    ],
)
def test_a_compiler_that_fails(script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    with pytest.raises(Unavailable) as error:
        compile_now()
    assert str(error.value) == message
    assert not [*(tmp_path / "cache/qwenkit/native").iterdir()]


def test_a_compiler_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_SECONDS", 0.2)
    monkeypatch.setenv("CXX", compiler(tmp_path, "exec sleep 60"))
    with pytest.raises(Unavailable, match=r"^the C\+\+ compiler failed: .*timed out after 0\.2 seconds$"):
        compile_now()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match=r"^there is no C\+\+ compiler \(CXX=no-such-compiler\)$"):
        compile_now()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match=r"^there is no C\+\+ compiler \(c\+\+, g\+\+ or clang\+\+\)$"):
        compile_now()


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    folder = cache_folder()
    assert folder == tmp_path / "cache/qwenkit/native"
    folder.chmod(0o777)
    other = cache_folder()
    assert other != folder and other.stat().st_mode & 0o777 == 0o700
    other.rmdir()
