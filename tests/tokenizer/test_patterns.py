"""Patterns out of other people's folders: what no engine bears is refused before it cuts anything."""

from __future__ import annotations

import pytest

from qwenkit.errors import UserError
from qwenkit.tokenizer.patterns import PATTERNS, refuse_broken

HOSTILE = {
    "(": "not a regular expression",
    r"\p{Foo}": "not a regular expression",
    "a{999999999}|.": "not a regular expression",
    "(?:(?:a{1,1000}){1,1000}){1,1000}|.": "not a regular expression",
    "(?:" * 3000 + "a" + ")" * 3000: "not a regular expression",
    "a|" * 10_000: "more than 10000 characters",
    r"(?:a|a)+(?!\S)b|.": "without end",
    r"\p{L}+|\s*": "matches nothing at all",
    "": "matches nothing at all",
}


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:20])
def test_a_hostile_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=HOSTILE[pattern]) as caught:
        refuse_broken(pattern, "m/tokenizer.json")
    assert str(caught.value).startswith("m/tokenizer.json") and len(str(caught.value)) < 700


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), r"\p{N}{1,3}|[^\p{N}]+"])
def test_patterns_in_use_are_taken(pattern: str) -> None:
    assert refuse_broken(pattern, "m") == pattern
