"""Evaluation and the comparison of models: tasks, answer equivalence, the rubric of chat answers (report §2.6,
§3.3).

Names are imported on first use, so that `import qwenkit.evaluation` costs nothing.
"""

from __future__ import annotations

from qwenkit.lazy import lazy

_HOME = {
    "answers_equal": "answers",
    "Item": "tasks",
    "Task": "task_files",
    "TaskItem": "task_items",
    "TaskRunner": "task_runner",
    "load_task": "task_files",
    "score": "scorers",
    "task_names": "task_files",
    "chat_eval": "tasks",
    "compare": "tasks",
    "exact_match": "tasks",
    "multiple_choice": "tasks",
    "paired_scores": "tasks",
    "aggregate": "tasks",
    "aggregate_components": "tasks",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
