"""The sentinel: watches the metrics of every step and says what is wrong, why, and how to fix it.

    sentinel = Sentinel(vocab_size=1536)
    for alarm in sentinel.observe(step, metrics): ...      # the loop logs them and stops where `action` is "stop"

`ALARMS` is the whole table, from `alarms.toml`. Alarms of kind `update` are raised by the update itself, before the
optimizer moves; all others read one metric of the step. An alarm fires when its condition has held for `patience` steps
in a row, once. Limits can be moved or an alarm switched off:
`Sentinel(overrides={"kl-high": {"threshold": 5.0}}, off={"loss-spike"})`.
The history is part of the checkpoint: a resumed run is watched as the uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from qwenkit.errors import Stopped, UserError, nearest

WINDOW = 128
STOP = "stop"


@dataclass(frozen=True)
class Alarm:
    """One row of the table. `condition` says in words what `kind`, `threshold` and `patience` mean together."""

    id: str
    action: str
    kind: str
    metric: str
    threshold: float
    patience: int
    condition: str
    cause: str
    hint: str


@dataclass(frozen=True)
class Raised:
    """An alarm that fired: its row, the value that did it, and where."""

    alarm: Alarm
    value: float
    where: str = ""

    def fields(self) -> dict[str, Any]:
        """The fields of its event."""
        row = self.alarm
        limits = {"id": row.id, "action": row.action, "metric": row.metric, "threshold": row.threshold}
        return {**limits, "value": self.value, "where": self.where, "cause": row.cause, "hint": row.hint}

    def error(self) -> AlarmError:
        """The error that stops the run."""
        return AlarmError(self)


class AlarmError(Stopped):
    """A run stopped by an alarm."""

    def __init__(self, raised: Raised) -> None:
        self.raised = raised
        row = raised.alarm
        super().__init__(
            f"stopped by the alarm {row.id}: {row.metric} is {raised.value:.6g} ({row.cause})",
            where=raised.where or None,
            expected=f"not: {row.condition}",
            hint=row.hint,
        )


def _table() -> dict[str, Alarm]:
    rows = tomllib.loads((Path(__file__).parent / "alarms.toml").read_text(encoding="utf-8"))
    return {id: Alarm(id, **fields) for id, fields in rows.items()}


ALARMS = _table()


def raise_alarm(id: str, value: float, where: str = "") -> NoReturn:
    """Stop from inside an update, before the optimizer moves."""
    raise Raised(ALARMS[id], value, where).error()


@dataclass
class Watch:
    """What one alarm remembers: earlier healthy values, its first ones, and how long its condition holds."""

    history: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    seen: int = 0
    streak: int = 0

    def keep(self, value: float) -> None:
        """Remember a value."""
        self.history = [*self.history, value][-WINDOW:]
        if len(self.first) < 16:
            self.first.append(value)


def _spike(watch: Watch, row: Alarm, value: float) -> bool:
    """Deviations are those from step to step: the fall of a young loss would widen plain ones and hide a spike."""
    if len(watch.history) < 32:
        return False
    mean = statistics.fmean(watch.history[-32:])
    changes = [(after - before) ** 2 for before, after in itertools.pairwise(watch.history)]
    sigma = math.sqrt(statistics.fmean(changes) / 2)
    return value > mean + row.threshold * max(sigma, 0.01 * abs(mean))


def _ratio(watch: Watch, row: Alarm, value: float) -> bool:
    return len(watch.history) >= 32 and value > row.threshold * statistics.median(watch.history)


def _drop(watch: Watch, row: Alarm, value: float) -> bool:
    return len(watch.history) >= 32 and value < row.threshold * statistics.median(watch.history)


def _growth(watch: Watch, row: Alarm, value: float) -> bool:
    return len(watch.first) >= 16 and value > row.threshold * statistics.fmean(watch.first)


def _above(watch: Watch, row: Alarm, value: float) -> bool:
    return value > row.threshold


def _below(watch: Watch, row: Alarm, value: float) -> bool:
    return value < row.threshold


def _repeated(watch: Watch, row: Alarm, value: float) -> bool:
    return value in watch.history[-int(row.threshold) :]


def _not_learning(watch: Watch, row: Alarm, value: float) -> bool:
    return row.threshold > 0 and watch.seen >= 200 and statistics.fmean([*watch.history[-15:], value]) >= row.threshold


KINDS: dict[str, Callable[[Watch, Alarm, float], bool]] = {
    "spike": _spike,
    "ratio": _ratio,
    "drop": _drop,
    "growth": _growth,
    "above": _above,
    "below": _below,
    "repeated": _repeated,
    "not-learning": _not_learning,
}


class Sentinel:
    """Watches one run. Without `vocab_size` the alarm `not-learning` is off."""

    def __init__(
        self,
        vocab_size: int | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        off: Iterable[str] = (),
    ) -> None:
        changes = {"not-learning": {"threshold": math.log(vocab_size) if vocab_size else 0.0}, **(overrides or {})}
        for name in [*changes, *off]:
            if name not in ALARMS:
                raise UserError(f"no alarm is called {name}", nearest=nearest(name, ALARMS), expected=", ".join(ALARMS))
        rows = [dataclasses.replace(row, **changes.get(row.id, {})) for row in ALARMS.values()]
        self.alarms = [row for row in rows if row.kind in KINDS and row.id not in set(off)]
        self._watches = {row.id: Watch() for row in self.alarms}

    def observe(self, step: int, metrics: Mapping[str, Any]) -> list[Raised]:
        """The alarms that fire at this step."""
        raised = (self._look(row, metrics[row.metric], step) for row in self.alarms if row.metric in metrics)
        return [alarm for alarm in raised if alarm is not None]

    def _look(self, row: Alarm, value: float, step: int) -> Raised | None:
        watch = self._watches[row.id]
        holds = KINDS[row.kind](watch, row, value)
        watch.streak = watch.streak + 1 if holds else 0
        watch.seen += 1
        # What an alarm compares with is the healthy past: a spike must not raise its own limit.
        if not holds or row.kind not in ("spike", "ratio", "drop"):
            watch.keep(value)
        return Raised(row, value, f"step {step}") if watch.streak == row.patience else None

    def state_dict(self) -> dict[str, Any]:
        """All histories, as JSON values."""
        return {name: dataclasses.asdict(watch) for name, watch in self._watches.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over saved histories; an alarm that had none starts anew."""
        self._watches = {row.id: Watch(**state.get(row.id, {})) for row in self.alarms}
