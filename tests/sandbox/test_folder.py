"""The supervisor's hands in a folder that nobody trusts."""

from __future__ import annotations

import os
from pathlib import Path

from qwenkit.sandbox.inside import folder


def deep(root: Path, depth: int) -> None:
    """Make folders within folders, deeper than a path may be long."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 60, dir_fd=fd)
        below = os.open("d" * 60, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_remove_reaches_any_depth_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    box = tmp_path / "box"
    box.mkdir()
    deep(box, 300)
    (box / "link").symlink_to(outside)
    (box / "shut" / "in").mkdir(parents=True)
    (box / "shut" / "in" / "f").write_text("x")
    (box / "shut" / "in").chmod(0)
    (box / "shut").chmod(0)
    os.mkfifo(box / "pipe")
    folder.remove(str(box), top=False)
    assert list(box.iterdir()) == []
    folder.remove(str(box))
    assert not box.exists() and (outside / "kept").read_text() == "kept"


def test_prepare_and_changed(tmp_path: Path) -> None:
    files = [("work/a", b"1"), ("work/d/b", b"2"), ("main.py", b"3")]
    folder.prepare(str(tmp_path), -1, files)
    work = tmp_path / "work"
    (work / "a").write_bytes(b"changed")
    (work / "new").write_bytes(b"n" * 10)
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    given = {"a": b"1", "d/b": b"2"}
    assert folder.changed(str(work), given, 100, 100) == ([("a", b"changed"), ("new", b"n" * 10)], 0)
    assert folder.changed(str(work), given, 1, 100) == ([("a", b"changed")], 2)
    assert folder.changed(str(work), given, 100, 9) == ([("a", b"changed")], 1)


def test_usage_counts_nameless_files_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 8192)
    os.link(tmp_path / "a", tmp_path / "same")
    size, count = folder.usage(str(tmp_path), [], False)
    assert (size >= 8192, size < 16384, count) == (True, True, 1)
    _, before = folder.usage(str(tmp_path), [os.getpid()], False)  # the test runner has nameless files of its own
    with open(tmp_path / "gone", "wb") as file:
        file.write(b"x" * 65536)
        file.flush()
        os.unlink(tmp_path / "gone")
        more, count = folder.usage(str(tmp_path), [os.getpid()], False)
    assert more >= size + 65536 and count == before + 1


def test_what_cannot_be_counted_is_too_much(tmp_path: Path) -> None:
    deep(tmp_path, 100)
    assert folder.usage(str(tmp_path), [], False)[0] >= 1 << 60
    assert folder.changed(str(tmp_path), {}, 100, 100) == ([], 1)
