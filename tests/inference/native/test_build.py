"""Compiling: once, into a folder that nobody else may write to; what fails says why, and is not tried again."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from qwenkit.errors import Notice
from qwenkit.inference import Engine
from qwenkit.inference.native import build
from qwenkit.inference.native.build import FLAGS, SOURCES, Unavailable, cache_folder, shared_library

from .conftest import make, needs_compiler


def compiler(folder: Path, script: str, name: str = "cxx") -> str:
    """A compiler that does this; `$out` is where it should write."""
    path = folder / name
    path.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nout=$2\n' + script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def compile_now() -> Path:
    """The library, as a new process gets it."""
    build._compiled.forget()  # pyright: ignore
    return shared_library()


def kept(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "cache/qwenkit/native"
    return [*folder.iterdir()] if folder.exists() else []


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, f'echo >> {tmp_path}/calls; echo code > "$out"'))
    first, second = compile_now(), compile_now()
    assert first == second and first.read_text() == "code\n" and (tmp_path / "calls").read_text() == "\n"
    assert first.parent == tmp_path / "cache/qwenkit/native" and kept(tmp_path) == [first]
    assert {folder.stat().st_mode & 0o777 for folder in (first.parent, tmp_path / "cache/qwenkit")} == {0o700}


def test_another_compiler_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo one > "$out"'))
    first = compile_now()
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo another > "$out"'))
    assert compile_now() != first


@pytest.mark.parametrize("damage", [b"", b"cod", b"c0de\n", b"code\n" * 1000])
def test_a_library_that_was_cut_or_changed_is_made_anew(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, f'echo >> {tmp_path}/calls; echo code > "$out"'))
    path = compile_now()
    path.write_bytes(damage)
    assert compile_now() == path and path.read_text() == "code\n" and (tmp_path / "calls").read_text() == "\n\n"


def test_two_processes_compile_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write slowly, and each waits until the other has begun: neither sees a part of the other's."""
    script = (f'echo >> {tmp_path}/calls; for i in $(seq 200); do [ $(wc -l < {tmp_path}/calls) = 2 ] && break; '
              'sleep 0.05; done; for i in 1 2 3 4 5; do echo line >> "$out"; sleep 0.02; done')  # fmt: skip
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    program = "from qwenkit.inference.native.build import shared_library; print(shared_library().read_text())"
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=-1, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split() for process in both] == [["line"] * 5] * 2
    assert len(kept(tmp_path)) == 1 and (tmp_path / "calls").read_text() == "\n\n"


# ---- compilers that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, message",
    [
        ('echo "a.h:1: error: no such thing" >&2; exit 1', "the C++ compiler failed: a.h:1: error: no such thing"),
        ("exit 1", "the C++ compiler failed: no message"),
        ("exit 0", "the C++ compiler failed: no message"),
        ('printf "\\377: error: no" >&2; kill -9 $$', "the C++ compiler failed: \ufffd: error: no"),
    ],
)
def test_a_compiler_that_fails(script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    with pytest.raises(Unavailable) as error:
        compile_now()
    assert str(error.value) == message
    assert not kept(tmp_path)


def test_a_compiler_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_SECONDS", 0.3)
    monkeypatch.setenv("CXX", compiler(tmp_path, f"sleep 61 & echo $! > {tmp_path}/child; wait"))
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"^the C\+\+ compiler failed: it timed out after 0\.3 seconds$"):
        compile_now()
    assert time.monotonic() - start < 30
    status = Path("/proc", (tmp_path / "child").read_text().strip(), "status")
    deadline = time.monotonic() + 10
    while status.exists() and "zombie" not in status.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not status.exists() or "zombie" in status.read_text()


def test_a_compiler_that_fails_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine asks; the user is told once."""
    monkeypatch.setenv("CXX", compiler(tmp_path, f"echo >> {tmp_path}/calls; exit 1"))
    monkeypatch.setattr("qwenkit.inference.native.decoder.library", shared_library)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        engines = [Engine(make(), None, native=None) for _ in range(3)]
    assert len(engines) == 3 and (tmp_path / "calls").read_text() == "\n"
    text = "answers are computed by torch, which is slower: the C++ compiler failed: no message"
    assert [str(one.message) for one in told if one.category is Notice] == [text]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match=r"^there is no C\+\+ compiler \(CXX=no-such-compiler\)$"):
        compile_now()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match=r"^there is no C\+\+ compiler \(c\+\+, g\+\+ or clang\+\+\)$"):
        compile_now()


@needs_compiler
@pytest.mark.parametrize("processor", ["-march=skylake-avx512", "-march=sapphirerapids", "-march=alderlake",
                                       "-march=x86-64", "-DPORTABLE=16"])  # fmt: skip
def test_every_processor_has_code_that_compiles(processor: str, tmp_path: Path) -> None:
    command = [str(build.compiler_path()), *FLAGS, "-O0", processor, "-o"]
    probe = [*command, os.devnull, "-E", "-x", "c++", os.devnull]
    if subprocess.run(probe, capture_output=True, timeout=60).returncode:
        pytest.skip(f"the compiler does not know {processor}")
    command += [str(tmp_path / "decoder.so"), str(SOURCES / "decoder.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- folders that cannot be used ------------------------------------------------------------------------------------


def compiled_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: str) -> Path:
    """The library of this process alone; the notice must give this reason."""
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo code > "$out"'))
    with pytest.warns(Notice) as told:
        path = compile_now()
    assert [str(one.message) for one in told] == [f"native code is compiled by each process for itself: {reason}"]
    assert path.read_text() == "code\n" and path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.name.startswith("qwenkit-native-")
    return path


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache_folder()
    assert folder == tmp_path / "cache/qwenkit/native"
    folder.chmod(0o777)
    compiled_apart(monkeypatch, tmp_path, f"others may write to {folder}")
    folder.chmod(0o1777)  # as /tmp: the libraries of others may lie in it
    compiled_apart(monkeypatch, tmp_path, f"others may write to {folder}")
    assert not kept(tmp_path)


def test_a_folder_above_that_others_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = cache_folder().parents[1]
    above.chmod(0o777)
    compiled_apart(monkeypatch, tmp_path, f"others may write to {above}")
    above.chmod(0o1777)  # what lies in it belongs to this user
    assert cache_folder() == above / "qwenkit/native"


def test_a_link_to_a_folder_that_others_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    (shared / "native").mkdir(parents=True)
    shared.chmod(0o777)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/qwenkit").symlink_to(shared)
    compiled_apart(monkeypatch, tmp_path, f"others may write to {tmp_path}/cache/qwenkit")


def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = cache_folder(), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    if real == 0:  # what the root owns is safe
        assert cache_folder() == folder
        os.chown(folder, 12345, 12345)
    compiled_apart(monkeypatch, tmp_path, f"{folder} belongs to another user")


def test_a_group_of_one_user_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each user has a group of the same name, folders are made for it to write to."""
    folder = cache_folder()
    folder.chmod(0o770)
    names = {"name": pwd.getpwuid(os.getuid()).pw_name, "members": []}

    def group(_number: int) -> object:
        return type("Group", (), {"gr_name": names["name"], "gr_mem": names["members"]})

    monkeypatch.setattr(build.grp, "getgrgid", group)
    assert cache_folder() == folder
    names["members"] = ["somebody"]
    compiled_apart(monkeypatch, tmp_path, f"others may write to {folder}")
    names.update(name="users", members=[])
    compiled_apart(monkeypatch, tmp_path, f"others may write to {folder}")


def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # not used, says its specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/qwenkit/native"
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    compiled_apart(monkeypatch, tmp_path, f"[Errno 20] Not a directory: '{tmp_path}/file/.cache'")
    monkeypatch.delenv("HOME")

    def nobody(_number: int) -> object:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    compiled_apart(monkeypatch, tmp_path, "Could not determine home directory.")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_a_folder_that_takes_no_file(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise error

    monkeypatch.setattr(build.os, "replace", no_room)
    compiled_apart(monkeypatch, tmp_path, str(error))
    assert not kept(tmp_path)


def test_what_lies_in_a_read_only_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'echo code > "$out"'))
    path = compile_now()
    path.parent.chmod(0o500)
    assert compile_now() == path
    path.parent.chmod(0o700)


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 0"))
    monkeypatch.setattr(build.tempfile, "TemporaryDirectory", no_room)
    with pytest.raises(Unavailable, match=r"^it cannot be compiled: \[Errno 28\] No space left on device$"):
        compile_now()


def test_the_folders_of_a_process_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = compiler(tmp_path, 'echo code > "$out"')
    program = "from qwenkit.inference.native.build import shared_library; print(shared_library())"
    command = f"XDG_CACHE_HOME={tmp_path}/file CXX={shlex.quote(script)} {sys.executable} -W ignore -c '{program}'"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("decoder.so\n") and not Path(done.stdout.strip()).parent.exists(), done.stderr


def test_threads_of_a_process_get_one_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'sleep 0.2; echo code > "$out"'))
    build._compiled.forget()  # pyright: ignore
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(shared_library())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and len({*found}) == 1 and found[0].read_text() == "code\n"
