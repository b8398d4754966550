"""JSON values from files that may be anybody's: each function takes any value and returns one of a known type.

    losses = mapping(metrics.get("heldout_loss"))      # {} where it is missing or of another type
    loss = number(losses.get("wiki"))                  # None where it is not a finite number

They never raise: a reader of manifests and events shows what it can, and leaves out the rest.
"""

from __future__ import annotations

import math
from typing import Any, cast


def mapping(value: object) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """Return the value if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Return the value as a finite float, or None; a boolean is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
