"""What stands before a completion and behind it in the sets of programs that have one file for each language.

HumanEval-X and HumanEvalPack say in which fields a program begins, and that differs by language; here it is put
together as their authors' harnesses do, so that a task file needs `{_head}` and `{_tests}` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CRATES = re.compile(r"^use (rand|regex|md5)\b.*;$", re.MULTILINE)
"""Crates that nearly no solution needs, and that rustc alone does not have."""

_LODASH = re.compile(r"""require\(["']lodash["']\)""")
_EQUAL = "({isEqual: require('util').isDeepStrictEqual})"
"""MBXP's tests in JavaScript take one function of lodash, which node itself has under another name."""


def program_parts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return `_head` and `_tests` of a row that has a program to write; nothing for other rows."""
    declaration, prompt, test = (row.get(key) for key in ("declaration", "prompt", "test"))
    if not (isinstance(prompt, str) and isinstance(test, str)):
        return {}
    if not isinstance(declaration, str):
        return {"_head": prompt, "_tests": _LODASH.sub(_EQUAL, test)}
    language = str(row.get("task_id", "")).partition("/")[0].lower()
    head = prompt if language == "java" or (language == "cpp" and "buggy_solution" not in row) else declaration
    if language == "rust":
        head = _CRATES.sub("", head)
    if language == "go":
        head = f"{row.get('test_setup') or ''}{row.get('import') or ''}{head}"
    if language == "python" and "buggy_solution" not in row:
        return {"_head": prompt, "_tests": test}
    return {"_head": head, "_tests": test}
