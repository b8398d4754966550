"""Learning-rate schedules as factors of the peak rate: pure functions of the step, never of wall time.

    schedule = build_schedule("cosine", total=1000, warmup=30)     # falls to 10 % of the peak (report §2.4)
    schedule(0), schedule(999)

A step has a fixed number of token positions, so a schedule by steps is one by tokens. The warm-up is linear and its
first step is not zero; the last step of a schedule has the factor `min_lr_ratio`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from qwenkit.errors import UserError, nearest

Schedule = Callable[[int], float]


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1 - progress


def _constant(progress: float) -> float:
    return 1.0


SHAPES: dict[str, Callable[[float], float]] = {"cosine": _cosine, "linear": _linear, "constant": _constant}


def build_schedule(name: str, total: int, warmup: int = 0, min_lr_ratio: float = 0.1) -> Schedule:
    """Return the factor of the peak rate as a function of the step: a linear warm-up over `warmup` steps, then from 1
    down to `min_lr_ratio` at the last step, in the shape of `name` (cosine: Loshchilov and Hutter, 2017).

    Raises a `UserError` for an unknown name, and for a warm-up longer than the training."""
    if name not in SHAPES:
        raise UserError(f"no schedule is called {name}", expected=", ".join(SHAPES), nearest=nearest(name, SHAPES))
    if not 0 <= warmup <= total:
        raise UserError(
            f"a warm-up of {warmup} steps in a training of {total}",
            expected=f"0 to {total}",
            hint=f"set warmup_steps = {total // 10}, a tenth of the training, or train longer",
        )
    shape = SHAPES[name]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
        return min_lr_ratio + (1 - min_lr_ratio) * shape(progress)

    return factor
