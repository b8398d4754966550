"""Odd rows: ids and texts of a wrong type, halves of characters, endless numbers, rubrics that no answer could meet, test
sets that say nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.errors.cases.case import CORPUS, PAIRS, PPO, SFT, Case, bad_bytes, bad_rows, recipe
from tests.errors.desk import Desk, chats, pairs, prompts, texts

DIGITS = "9" * 5000
EXAM = "evaluate --models runs/family/base --tests tests --threads 1 --out runs/o"
TESTSETS = "testsets --extra bad.jsonl --threads 1 --out runs/o"
BASE = {"id": "x", "task": "sums", "prompt": "so", "answer": "yes"}


def rubric(**changes: Any) -> Callable[[Desk], Desk]:
    """The family, and one prompt whose rubric differs."""
    row = prompts()[0]
    return bad_rows({**row, "rubric": {**row["rubric"], **changes}})


def exam(name: str, *rows: dict[str, Any]) -> Callable[[Desk], Desk]:
    """The family, and a folder of test sets."""
    return lambda desk: desk.family().rows(f"tests/{name}.jsonl", *rows)


def mixed(*lines: str) -> Callable[[Desk], Desk]:
    """A corpus of one source with odd lines only."""
    return lambda desk: recipe(CORPUS)(desk).write("text.jsonl", "\n".join(lines))


CASES = [
    Case(
        "half a character and an endless number",
        mixed(
            r'{"text": "lone \ud800 half"}',
            r'{"id": "\ud800", "text": "a"}',
            '{"text": "a", "n": ' + DIGITS + "}",
            '{"text": "a", "id": [1]}',
        ),
        "run my.toml",
        """\
error: my.toml, [corpus], text.jsonl: nothing is kept of the source extra (2 a lone surrogate, which is half of a character, 1 broken JSON, 1 not a text in key 'id')
  expected: text that can be read and passes the rules
  hint: read runs/my/.work/corpus-KEY/quarantine.jsonl and samples.jsonl beside it, or take the source out
""",
        started=True,
    ),
    Case(
        "a list over several lines that breaks in its first row",
        mixed(*json.dumps(texts()[:2], indent=1).split("\n")[:3]),
        "run my.toml",
        """\
error: my.toml, [corpus], text.jsonl: nothing is kept of the source extra (1 broken JSON, not read beyond)
  expected: text that can be read and passes the rules
  hint: read runs/my/.work/corpus-KEY/quarantine.jsonl and samples.jsonl beside it, or take the source out
""",
        started=True,
    ),
    Case(
        "a document with a list for its id",
        lambda d: d.family().rows("bad.jsonl", {"id": [1], "text": "a"}),
        "tokenizer --corpus bad.jsonl --threads 1 --out runs/o",
        """\
error: qwenkit tokenizer --corpus, `tokenizer.corpus`, bad.jsonl, row 1: `id` is a list
  expected: a string or a number
""",
        started=True,
    ),
    Case(
        "a chat with half a character",
        bad_bytes(rb'{"messages": [{"role": "user", "content": "\ud83d"}]}'),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: a lone surrogate, which is half of a character
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "a chat with an endless number",
        bad_bytes(b'{"n": ' + DIGITS.encode() + b"}"),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: broken JSON (a number with too many digits)
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "a chat with a list for its id",
        bad_rows({**chats()[0], "id": [1]}),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: `id` is a list
  expected: a string or a number
""",
        started=True,
    ),
    Case(
        "messages that are a text",
        bad_rows({**chats()[0], "messages": "yes"}),
        SFT,
        """\
error: qwenkit sft --data, `sft.data`, bad.jsonl, row 1: `messages` is a string that is not JSON
  expected: a list of role and content, or its JSON text
""",
        started=True,
    ),
    Case(
        "a pair with an empty id",
        bad_rows({**pairs()[0], "id": ""}),
        PAIRS,
        """\
error: qwenkit preference --data, `preference.data`, bad.jsonl, row 1: `id` is empty
  expected: a string or a number
""",
        started=True,
    ),
    Case(
        "a pair whose label is a word",
        bad_rows({**pairs()[0], "flipped": "no"}),
        PAIRS,
        """\
error: qwenkit preference --data, `preference.data`, bad.jsonl, row 1: `flipped` is a string
  expected: true or false
""",
        started=True,
    ),
    Case(
        "a prompt with a truth value for its id",
        bad_rows({**prompts()[0], "id": True}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `id` is a boolean
  expected: a string or a number
""",
        started=True,
    ),
    Case(
        "a prompt for an unknown use",
        bad_rows({**prompts()[0], "use": "rll"}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: unknown use 'rll'
  expected: rl, reward, test
  nearest: rl
""",
        started=True,
    ),
    Case(
        "prompts for another use only",
        bad_rows({**prompts()[0], "use": "reward"}),
        PPO,
        """\
error: qwenkit ppo, bad.jsonl: no prompt in this file is meant for `rl`
  expected: "use": "rl", or none
""",
        started=True,
    ),
    Case(
        "a candidate without its policy",
        bad_rows({**prompts()[0], "candidates": [{"text": "yes"}]}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `candidates` holds no answers
  expected: [{"text": ..., "policy": ...}, ...]
""",
        started=True,
    ),
    Case(
        "a rubric with a number for its parts",
        rubric(parts=5),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.parts` is 5
  expected: a list of strings
""",
        started=True,
    ),
    Case(
        "a rubric with a limit below 0",
        rubric(limit=-3),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.limit` is -3
  expected: a number above 0
""",
        started=True,
    ),
    Case(
        "a rubric with unknown manners",
        rubric(manners="zzz"),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.manners` is "zzz"
  expected: "polite" or "plain"
""",
        started=True,
    ),
    Case(
        "a rubric with an unknown rule",
        rubric(system={"kind": "start", "word": "yes"}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.system` is {"kind": "start", "word": "yes"}
  expected: null, or {"kind": "end", "word": ...}, {"kind": "brief"}, {"kind": "language"}
""",
        started=True,
    ),
    Case(
        "a rubric in an unknown language",
        rubric(language="tlh"),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.language` is "tlh"
  expected: "en", "zh" or null
""",
        started=True,
    ),
    Case(
        "a rubric with an unknown key",
        rubric(limits=3),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: unknown key `rubric.limits`
  expected: language, right, parts, limit, manners, system
  nearest: limit
""",
        started=True,
    ),
    Case(
        "a rubric whose number is none",
        rubric(right={"kind": "number", "value": "many"}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.right.value` is "many"
  expected: a number
""",
        started=True,
    ),
    Case(
        "a rubric that mentions a text",
        rubric(right={"kind": "mention", "any": "yes", "none": []}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: `rubric.right.any` is "yes"
  expected: a list of strings
""",
        started=True,
    ),
    Case(
        "a rubric of two kinds",
        rubric(right={"kind": ["exact", "json"], "value": "yes"}),
        PPO,
        """\
error: qwenkit ppo --prompts, `ppo.prompts`, bad.jsonl, row 1: a rubric that does not say what is right
  expected: {"right": {"kind": ...}, ...}
""",
        started=True,
    ),
    Case(
        "a test question without a task",
        exam("base", {key: BASE[key] for key in ("id", "prompt", "answer")}),
        EXAM,
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1: missing key `task`
  expected: id, task, prompt
""",
        started=True,
    ),
    Case(
        "a test question with a number for its answer",
        exam("base", {**BASE, "answer": 4}),
        EXAM,
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1: `answer` is a number
  expected: a string
""",
        started=True,
    ),
    Case(
        "a test question with nothing to ask",
        exam("base", {**BASE, "prompt": " "}),
        EXAM,
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1: `prompt` is empty
  expected: a string
""",
        started=True,
    ),
    Case(
        "a test question with a text for its choices",
        exam("base", {**BASE, "choices": "yes", "gold": 0}),
        EXAM,
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1, test row x: `choices` holds something other than strings
  expected: a list of strings
""",
        started=True,
    ),
    Case(
        "a test question with a gold answer out of range",
        exam("base", {**BASE, "choices": ["a", "b"], "gold": True}),
        EXAM,
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1, test row x: gold is True
  expected: an index from 0 to 1
""",
        started=True,
    ),
    Case(
        "two test questions of one id",
        exam("base", BASE, {**BASE, "id": "y"}, BASE),
        EXAM,
        """\
error: qwenkit evaluate, tests/base.jsonl, row 3: the id `x` stands in row 1 too
  expected: an id for each row
""",
        started=True,
    ),
    Case(
        "a chat question with a text for its messages",
        exam("chat", {**prompts()[0], "task": "sums", "messages": "so?"}),
        EXAM,
        """\
error: qwenkit evaluate, tests/chat.jsonl, row 1: `messages` is a string
  expected: a list of role and content
""",
        started=True,
    ),
    Case(
        "a chat question that ends with an answer",
        exam("chat", {**prompts()[0], **chats()[0], "task": "sums"}),
        EXAM,
        """\
error: qwenkit evaluate, tests/chat.jsonl, row 1, message 1: nothing to answer: the last turn is assistant
  expected: user or tool
""",
        started=True,
    ),
    Case(
        "a test set without questions",
        bad_bytes(b"\n"),
        TESTSETS,
        """\
error: qwenkit testsets, bad.jsonl: no questions in this file
  expected: one JSON object a line
""",
        started=True,
    ),
    Case(
        "a test row that says nothing",
        bad_rows(BASE, {"txt": "so"}),
        TESTSETS,
        """\
error: qwenkit testsets, bad.jsonl, row 2: a row that says nothing of a test
  expected: one of messages, prompt, question, answer, reference, chosen, rejected, problem, solution, canonical_solution, text, code, instruction, input, output, passage, context, choices
""",
        started=True,
    ),
    Case(
        "a test row with a number among its choices",
        bad_rows({"prompt": "so", "choices": ["a", 2]}),
        TESTSETS,
        """\
error: qwenkit testsets, bad.jsonl, row 1: `choices` holds something other than strings
  expected: a list of strings
""",
        started=True,
    ),
    Case(
        "a test set with an id twice",
        bad_rows(BASE, {"id": "y", "question": "so?"}, BASE),
        TESTSETS,
        """\
error: qwenkit testsets, bad.jsonl, row 3: the id `x` stands in row 1 too
  expected: an id for each row
""",
        started=True,
    ),
    Case(
        "decontaminate against rows that say nothing",
        lambda d: recipe(CORPUS + 'decontaminate = "bad.jsonl"\n')(d).rows("bad.jsonl", {"txt": "so"}),
        "run my.toml",
        """\
error: my.toml, [corpus], bad.jsonl, row 1: a row that says nothing of a test
  expected: one of messages, prompt, question, answer, reference, chosen, rejected, problem, solution, canonical_solution, text, code, instruction, input, output, passage, context, choices
""",
        started=True,
    ),
]
