"""Decontamination of chats (report §2.1, last paragraph): which rows share a 13-gram with a test question.

    without_overlap(rows, tests)         # the rows that share none
    overlapping_messages(rows, tests)    # how many messages of each row share one

`tests` is a file or folder of test sets; None: there are none. Their grams are indexed once in a process.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.artifacts import stamps
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.data.decontamination import TestIndex


def without_overlap(rows: list[Row], tests: Path | None) -> list[Row]:
    """Return those rows no message of which shares a 13-gram with a test question."""
    return [row for row, count in zip(rows, overlapping_messages(rows, tests)) if not count]


def overlapping_messages(rows: list[Row], tests: Path | None) -> list[int]:
    """Return how many messages of each row share a 13-gram with a test question."""
    if tests is None or not rows:
        return [0] * len(rows)
    from qwenkit.chat.messages import text_of

    holding = iter(_index(tests, *stamps(tests)).holding([text_of(each) for row in rows for each in row["messages"]]))
    return [sum(islice(holding, len(row["messages"]))) for row in rows]


@lru_cache(maxsize=1)
def _index(testsets: Path, *_: int) -> TestIndex:
    from qwenkit.data.decontamination import TestIndex
    from qwenkit.data.test_sets import question_texts

    return TestIndex(question_texts(testsets))
