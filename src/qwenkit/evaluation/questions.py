"""Prompts with a rubric, and questions of test sets: read, and refused where they do not fit.

    read_prompts(path, "rl", bad=bad)          # that wait for an answer; with `rubric=True` each needs a rubric
    read_checked(path, "questions", check_chat_test, ("task", "messages", "rubric"), once=True)

`bad` is the quarantine for rows that do not fit, which `refuse_bad` weighs; without one the first is a `UserError`.
"""

from __future__ import annotations

from typing import Any

from qwenkit.chat.messages import check
from qwenkit.data.chats.datasets import prompt_of, refuse_bad, refuse_empty, rows
from qwenkit.data.chats.reading import Check, Source
from qwenkit.data.documents import train_validation_split
from qwenkit.data.test_sets import require, require_messages, require_text
from qwenkit.errors import UserError, nearest
from qwenkit.evaluation.rubric import check_rubric
from qwenkit.evaluation.tasks import check_choices
from qwenkit.records import Quarantine, Row

USES = ("rl", "reward", "test")


def read_prompts(
    path: Source, use: str, rubric: bool = False, bad: Quarantine | None = None, most: float = 1.0
) -> list[Row]:
    """Prompts meant for this `use` (rl, reward) or for any; `rubric`: a row without one does not fit. At `most` such a
    share of all may go to the quarantine."""
    usable = list(rows(path, "prompts", bad, prompt_check(use, rubric)))
    if bad is not None:
        refuse_bad(path, len(usable) + len(bad), bad.counts, bad.rows, most)
    meant = [row for row in usable if row.get("use") in (use, None)]
    return meant or refuse_empty(path, f"no prompt in this file is meant for `{use}`", f'"use": "{use}", or none')


def split_prompts(prompts: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Return (prompts to learn from, prompts that only measure the rubric); a prompt without a rubric measures nothing,
    so it is learnt from wherever it falls."""
    train, validation = train_validation_split(prompts, share, seed, prompt_of)
    return [*train, *(row for row in validation if not row.get("rubric"))], [
        row for row in validation if row.get("rubric")
    ]


def prompt_check(use: str, rubric: bool) -> Check:
    """Return the check of what a prompt for this use must have besides its messages."""

    def checked(row: Row) -> None:
        check_prompt_keys(row)
        if row.get("use") not in (use, None):
            return
        if rubric and row.get("rubric") is None:
            raise UserError("missing key `rubric`", expected="messages, rubric")
        if row.get("rubric") is not None:
            check_rubric(row["rubric"])

    return checked


def check_prompt(row: Row) -> None:
    """A question and its rubric."""
    _check_question(row)
    check_rubric(row["rubric"])
    check_prompt_keys(row)


def check_prompt_keys(row: Row) -> None:
    """What a prompt is meant for, and answers of others where there are any."""
    use = row.get("use")
    if use is not None and use not in USES:
        raise UserError(f"unknown use {use!r}", expected=", ".join(USES), nearest=nearest(str(use), USES))
    others = row.get("candidates", [])
    if not isinstance(others, list) or not all(_is_candidate(other) for other in others):
        raise UserError("`candidates` holds no answers", expected='[{"text": ..., "policy": ...}, ...]')


def _is_candidate(other: Any) -> bool:
    return isinstance(other, dict) and all(isinstance(other.get(key), str) for key in ("text", "policy"))


def check_chat_test(row: Row) -> None:
    """A prompt of an exam: its score is told by task."""
    require_text(row, "task")
    check_prompt(row)


def check_base_test(row: Row) -> None:
    """A text to continue, with its answer or with choices."""
    require_text(row, "task")
    require_text(row, "prompt", filled=True)
    if row.get("choices"):
        check_choices(row)
    else:
        require(row, ("answer",))
        require_text(row, "answer", filled=True)


def _check_question(row: Row) -> None:
    require_messages(row)
    check(row["messages"], True, False)
