"""Sets of quality rules by the names that recipes give them (`rules = ["gopher", "c4"]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qwenkit.data.filters.c4 import C4_RULES
from qwenkit.data.filters.code import CODE_RULES
from qwenkit.data.filters.default import DEFAULT_RULES
from qwenkit.data.filters.fineweb import FINEWEB_RULES
from qwenkit.data.filters.gopher import GOPHER_RULES
from qwenkit.data.filters.rules import Rule

RULE_SETS: Mapping[str, tuple[Rule, ...]] = {
    "own": DEFAULT_RULES,
    "gopher": GOPHER_RULES,
    "c4": C4_RULES,
    "fineweb": FINEWEB_RULES,
}


def prose_rules(sets: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules of some sets, in order."""
    return tuple(rule for name in sets for rule in RULE_SETS[name])


def rule_names(sets: Sequence[str]) -> list[str]:
    """Return the names of all rules that may judge a text: those of some sets, and those of code."""
    return [rule.name for rule in (*prose_rules(sets), *CODE_RULES)]
