"""The table of mistakes, by theme; `case` says what a case is and how it is prepared."""

from __future__ import annotations

from tests.errors.cases import (
    artifacts,
    command_line,
    machine,
    misfits,
    models,
    odd_rows,
    recipes,
    rewards,
    rows,
    run_folders,
    tokens,
)
from tests.errors.cases.case import Case

__all__ = ["CASES", "Case"]

CASES: list[Case] = [
    case
    for theme in (
        recipes,
        misfits,
        command_line,
        run_folders,
        artifacts,
        rows,
        odd_rows,
        rewards,
        models,
        tokens,
        machine,
    )
    for case in theme.CASES
]
