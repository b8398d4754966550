"""Exams and the comparison of models: tasks, answer equivalence, the rubric of chat answers (report §2.6, §3.3).

Names are imported on first use, so that `import qwenkit.evaluation` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "answers_equal": "answers",
    "Item": "tasks",
    "chat_exam": "tasks",
    "compare": "tasks",
    "exact_match": "tasks",
    "multiple_choice": "tasks",
    "paired_scores": "tasks",
    "summarise": "tasks",
    "summarise_components": "tasks",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
