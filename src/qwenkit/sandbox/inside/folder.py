"""The program's folder: files in, files out, what it takes, its removal.

What lies in it was made by a program that nobody trusts. No link is followed, each name is opened below an open folder,
and nothing here recurses: a program can nest folders deeper than Python's stack or the kernel's longest path."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST = 64
"""Folders within folders that are looked into."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def prepare(box: str, uid: int, files: list[tuple[str, bytes]]) -> None:
    """Make the folders `work` and `tmp` of a box and write files below it."""
    own = os.getuid()
    for name in ("work", "tmp"):
        os.mkdir(f"{box}/{name}", 0o700)
    for name, content in files:
        path = f"{box}/{name}"
        _make_parents(box, name, uid)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            file.write(content)
            if uid not in (-1, own):
                os.fchown(fd, uid, uid)
    if uid not in (-1, own):
        for name in ("work", "tmp"):
            os.chown(f"{box}/{name}", uid, uid)


def _make_parents(box: str, name: str, uid: int) -> None:
    """Make the folders above a file."""
    path = box
    for part in name.split("/")[:-1]:
        path = f"{path}/{part}"
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)
            if uid != -1:
                os.chown(path, uid, uid)


class Walk:
    """A walk through a folder: yields (path from there on, the open folder, entry) of all that is in it."""

    def __init__(self, root: str) -> None:
        """Walk below `root`; `deep` counts the folders that were not looked into."""
        self.root, self.deep = root, 0

    def __iter__(self) -> Iterator[tuple[str, int, os.DirEntry[str]]]:
        """Yield what is in the folder, and then what is in those inside it."""
        try:
            top = os.open(self.root, _FOLDER)
        except OSError:
            return
        stack = [("", top, iter(_entries(top)))]
        try:
            while stack:
                prefix, fd, entries = stack[-1]
                entry = next(entries, None)
                if entry is None:
                    os.close(stack.pop()[1])
                    continue
                path = f"{prefix}{entry.name}"
                yield path, fd, entry
                if entry.is_dir(follow_symlinks=False):
                    self._enter(stack, path, fd, entry.name)
        finally:
            for _, fd, _ in stack:
                os.close(fd)

    def _enter(self, stack: list, path: str, above: int, name: str) -> None:
        """Put a folder on the stack, or count it."""
        try:
            if len(stack) >= DEEPEST:
                raise OSError
            fd = os.open(name, _FOLDER, dir_fd=above)
        except OSError:
            self.deep += 1
            return
        stack.append((f"{path}/", fd, iter(_entries(fd))))


def _entries(fd: int) -> list[os.DirEntry[str]]:
    """Return what is in an open folder; nothing where it cannot be read."""
    try:
        with os.scandir(fd) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def usage(box: str, pids: list[int], mounted: bool) -> tuple[int, int]:
    """Return (bytes, files and folders) that a box takes. A file system of its own says it at once; in another one the
    files are counted, and those that have no name any more but are open."""
    if mounted:
        state = os.statvfs(box)
        return (state.f_blocks - state.f_bfree) * state.f_frsize, state.f_files - state.f_ffree
    taken, walk = {}, Walk(box)
    for _, fd, entry in walk:
        try:
            state = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            continue
        taken[state.st_ino] = 0 if stat.S_ISDIR(state.st_mode) else state.st_blocks * 512  # as in memory: no bytes
    for state in _nameless(pids, os.stat(box).st_dev):
        taken[state.st_ino] = state.st_blocks * 512
    return sum(taken.values()) + walk.deep * (1 << 62), len(taken)  # what cannot be counted is too much


def _nameless(pids: list[int], device: int) -> Iterator[os.stat_result]:
    """Yield the state of files that processes have open, and that stand in no folder."""
    for pid in pids:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                state = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(state.st_mode) and state.st_nlink == 0 and state.st_dev == device:
                    yield state
        except OSError:
            continue


def oversized(work: str, given: dict[str, bytes], largest: int) -> bool:
    """Return whether a file has more bytes than a program may write: the kernel lets it write one more than that.
    A file that was given so large, and has not grown, is none."""
    for path, fd, entry in Walk(work):
        if not entry.is_file(follow_symlinks=False):
            continue
        try:
            size = os.stat(entry.name, dir_fd=fd, follow_symlinks=False).st_size
        except OSError:
            continue
        if size > max(largest, len(given.get(path, b""))):
            return True
    return False


def changed(work: str, given: dict[str, bytes], most: int, most_bytes: int) -> tuple[list[tuple[str, bytes]], int]:
    """Return (path, content) of the files that are new or differ from those given, and how many are left out."""
    files, omitted, total, walk = [], 0, 0, Walk(work)
    for path, fd, entry in walk:
        if not entry.is_file(follow_symlinks=False):
            continue
        content = _content(fd, entry.name, most_bytes - total)
        if content is None or len(files) >= most:
            omitted += 1
        elif given.get(path) != content:
            files.append((path, content))
            total += len(content)
    return files, omitted + walk.deep


def _content(above: int, name: str, room: int) -> bytes | None:
    """Return what is in a file; None where it cannot be read or is larger than `room` bytes."""
    try:
        fd = os.open(name, _FILE, dir_fd=above)
    except OSError:
        return None
    with open(fd, "rb") as file:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_size > room:
            return None
        try:
            return file.read()
        except OSError:
            return None


def remove(box: str, top: bool = True) -> None:
    """Remove all that is in a box, and the box itself if `top`.

    A folder inside a folder is first moved up into the box, so that paths stay short however deep it was."""
    root = os.open(box, _FOLDER)
    try:
        waiting = _empty(root, root)
        while waiting:
            name = waiting.pop()
            fd = os.open(name, _FOLDER, dir_fd=root)
            try:
                waiting += _empty(fd, root)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    if top:
        os.rmdir(box)


def _empty(fd: int, root: int) -> list[str]:
    """Remove the files of an open folder and move its folders to `root`; return their new names."""
    moved = []
    for entry in _entries(fd):
        if entry.is_dir(follow_symlinks=False):
            name = f".removed.{os.urandom(12).hex()}"
            os.chmod(entry.name, 0o700, dir_fd=fd)
            os.rename(entry.name, name, src_dir_fd=fd, dst_dir_fd=root)
            moved.append(name)
        else:
            os.unlink(entry.name, dir_fd=fd)
    return moved
