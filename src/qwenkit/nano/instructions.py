"""Multi-task instruction data as plain text, mixed into pretraining (section 2.1: "high-quality instruction data").

Questions and right answers of all tasks, chats' and preference pairs' alike, with the marks of plain text (no ChatML).
"""

from __future__ import annotations

from collections.abc import Iterator

from qwenkit.nano.chat import SHARES, item, weighted
from qwenkit.nano.facts import Facts
from qwenkit.nano.items import CHAT_TASKS, PREFERENCE_TASKS
from qwenkit.nano.response_styles import ANNOTATORS
from qwenkit.nano.row_rng import rows
from qwenkit.nano.text import LICENCE
from qwenkit.records import Row

_SHARES = {task: SHARES[task] for task in CHAT_TASKS} | {task: 0.04 for task in PREFERENCE_TASKS}
_MARKS = {
    "en": [("Question: ", "Answer: "), ("Q: ", "A: "), ("User: ", "Reply: ")],
    "zh": [("问题：", "回答："), ("问：", "答："), ("用户：", "回复：")],
}


def instructions(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Documents of questions and answers."""
    for number, draw in enumerate(rows(seed, "instructions", count)):
        made = item(draw, facts, weighted(draw, _SHARES), system=0.15)
        asks, answers = draw.pick(_MARKS[made.language])
        lines = [
            message["content"]
            if message["role"] == "system"
            else (asks if message["role"] == "user" else answers) + message["content"]
            for message in made.messages
        ]
        lines.append(answers + ANNOTATORS[draw.pick(["neutral", "curt", "polite"])](made, draw, "train"))
        yield {
            "id": f"instruction-{number:06d}", "text": "\n".join(lines), "source": "instructions", "licence": LICENCE,
            "language": made.language, "task": made.task,
        }  # fmt: skip
