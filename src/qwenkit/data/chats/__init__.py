"""Chats, prompts and comparisons as people have them: files, folders and forms, each row as this package's own.

    describe(path, "chats")                                  # files and formats, splits, forms, and what is not read
    for split in chat_splits(path, "chats", 16 << 20): ...   # that workers read apart, a function of the files
        for row in read_chat_split(split, quarantine): ...   # {"id", "messages", "tools"?, "place", ...}
    for row in read(path, "chats", quarantine): ...          # all of them

Kinds: `chats` end with an answer, `prompts` wait for one, `pairs` have `chosen` and `rejected`. A row that does not fit
goes to the quarantine with its file, number and reason (`read = kept + quarantined`); without a quarantine it is an
error. A corrupted file and a folder whose training split is unclear are always errors. Reading order: `files` (which
files a source holds), `formats` (bytes and rows of each), `reading` (splits), `turns` (messages), `forms` and `pairs`
(rows), `summary` (a description for people).
"""

from __future__ import annotations

from qwenkit.lazy import lazy

_HOME = {
    "KINDS": "files",
    "Files": "files",
    "find": "files",
    "ChatSplit": "reading",
    "chat_splits": "reading",
    "read": "reading",
    "read_chat_split": "reading",
    "Summary": "summary",
    "describe": "summary",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
