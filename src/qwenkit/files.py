"""The one entry point for files from outside: what kind of file it is, how large it may be, and which text it holds.

    with open_file(path) as file: ...           # a regular file, whatever links lead to it
    data = read_bytes(path)                     # at most CONFIG_BYTES, unless another limit is given
    text = read_text(path)                      # UTF-8, with or without a mark at its beginning

A device never ends, a pipe waits for ever, and git-lfs leaves three lines of text in place of a large file: each is
refused with a message before anything is read. Nothing here trusts the size that a file claims to have.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from typing import BinaryIO

from qwenkit.errors import UserError

MEGABYTE = 1 << 20
CONFIG_BYTES = 64 * MEGABYTE
"""The largest settings file in bytes. The largest tokenizer.json in use is half of it."""
LFS = b"version https://git-lfs.github.com/spec/"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip
Place = str | os.PathLike[str]


def open_file(path: Place, expected: str | None = None) -> BinaryIO:
    """Open a regular file to read its bytes; raises a `UserError` for anything else. `expected` says what it should
    be."""
    where = str(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
    except FileNotFoundError as error:
        raise UserError("no such file", where=where, expected=expected) from error
    except ValueError as error:
        raise UserError("not a path: it holds a NUL character", where=where) from error
    except OSError as error:
        refuse_special(path, expected)  # a socket cannot be opened at all
        raise unreadable(error, path) from error
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise _not_a_file(kind, where, expected)
    return os.fdopen(handle, "rb")


def refuse_special(path: Place, expected: str | None = None) -> None:
    """Raise a `UserError` for a path that exists and is not a file, where a library opens it by its name."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return
    if kind != stat.S_IFREG:
        raise _not_a_file(kind, str(path), expected)


def _not_a_file(kind: int, where: str, expected: str | None) -> UserError:
    return UserError(f"{_KINDS.get(kind, 'not a file')}, where a file was expected", where=where, expected=expected)


def unreadable(error: OSError, path: Place) -> UserError:
    """Return the error of a file that the system cannot read."""
    return UserError(f"the file cannot be read ({error.strerror or 'the disk fails'})", where=str(path))


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def corrupted(path: Place, form: str) -> UserError:
    """Return the error of a file that a library cannot read as `form`, such as Parquet."""
    return UserError(f"corrupted file: it cannot be read as {form}", where=str(path), hint="fetch or write it again")


def read_bytes(path: Place, limit: int = CONFIG_BYTES, expected: str | None = None) -> bytes:
    """Return all bytes of a regular file; raises a `UserError` where it is larger than `limit` bytes or a git-lfs
    pointer."""
    with open_file(path, expected) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise unreadable(error, path) from error
    if len(data) > limit:
        raise UserError(
            f"the file is larger than {limit / MEGABYTE:.3g} MB", where=str(path), expected=expected or "a smaller file"
        )
    refuse_pointer(data, path)
    return data


def refuse_pointer(head: bytes, path: Place) -> None:
    """Raise a `UserError` for a git-lfs pointer, whose file was not fetched; `head` is how the file begins."""
    if head.startswith(LFS):
        raise UserError("a git-lfs pointer, not the file itself", where=str(path), hint="git lfs pull")


def refuse_pointer_at(path: Place) -> None:
    """Raise a `UserError` for a git-lfs pointer at a path that a library will read."""
    with open_file(path) as file:
        refuse_pointer(file.read(len(LFS)), path)


def is_pointer(path: Place) -> bool:
    """Return whether a file is a git-lfs pointer, for files that a library reads."""
    try:
        with open_file(path) as file:
            return file.read(len(LFS)) == LFS
    except (UserError, OSError):
        return False


def read_text(path: Place, limit: int = CONFIG_BYTES, expected: str | None = None) -> str:
    """Return the text of a small file, with every line end as a newline."""
    text = decode(read_bytes(path, limit, expected), str(path))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes, where: str) -> str:
    """Return UTF-8 bytes as text, without a byte order mark; raises a `UserError` that names the invalid line."""
    if data.startswith(_UTF16):
        raise UserError("UTF-16, where UTF-8 was expected", where=where, hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError("invalid UTF-8", where=f"{where}, line {line}") from error
