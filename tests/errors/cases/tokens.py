"""Vocabularies and texts that do not fit."""

from __future__ import annotations

from qwenkit.tokenizer import ranks_text
from qwenkit.tokenizer.bytelevel import BYTES
from tests.errors.cases.case import Case

RANKS = ranks_text(BYTES).decode()

CASES = [
    Case(
        "nothing to extend",
        lambda d: d.rows("new.jsonl", {"text": "ab ab ab"}),
        "extend --corpus new.jsonl --threads 1 --out runs/o",
        """\
error: qwenkit extend: nothing to extend
  expected: `tokenizer`, `model`, or both
""",
        started=True,
    ),
    Case(
        "a vocabulary that is cut",
        lambda d: d.rows("new.jsonl", {"text": "ab ab ab"}).write("half.tiktoken", "YQ== 0\nYg="),
        "extend --tokenizer half.tiktoken --corpus new.jsonl --threads 1 --out runs/o",
        """\
error: qwenkit extend, half.tiktoken:2: not a line of a tiktoken vocabulary
  expected: base64, a space, a rank
""",
        started=True,
    ),
    Case(
        "a baseline that is not compared",
        lambda d: d.rows("new.jsonl", {"text": "ab ab ab"}).write("bytes.tiktoken", RANKS),
        "tokenizer-stats bytes.tiktoken --texts new.jsonl --baseline byte",
        """\
error: the baseline 'byte' is none of the tokenizers
  expected: bytes
  nearest: bytes
""",
    ),
    Case(
        "texts that are not there",
        lambda d: d.write("bytes.tiktoken", RANKS),
        "tokenizer-stats bytes.tiktoken --texts greek=absent",
        """\
error: source text: absent: no such file or folder
""",
    ),
    Case(
        "tokens of a vocabulary that is not there",
        lambda d: d,
        "inspect tokens hello --tokenizer absent.tiktoken",
        """\
error: absent.tiktoken: no such file or folder
  expected: a tokenizer folder, .tiktoken or .json
""",
    ),
]
