"""The sentinel: watches the metrics of every step and raises alarms that name value, cause and fix.

    sentinel = Sentinel(vocab_size=1536)
    for alarm in sentinel.observe(step, metrics): ...      # the loop logs them and stops where `action` is "stop"

`ALARMS` is the whole table, from `alarms.toml`. Alarms of kind `update` are raised by the update itself, before the
optimizer moves; all others read one metric of the step. An alarm fires once its condition has been true for
`patience` steps in a row. Thresholds can be changed and alarms disabled:
`Sentinel(overrides={"kl-high": {"threshold": 5.0}}, disabled={"loss-spike"})`.
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
    """One row of the table of alarms. `condition` says in words what `kind`, `threshold` and `patience` mean
    together."""

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
class AlarmEvent:
    """An alarm that fired: its row of the table, the value that made it fire, and where."""

    alarm: Alarm
    value: float
    where: str = ""

    def fields(self) -> dict[str, Any]:
        """Return the fields of its event in the log."""
        row = self.alarm
        limits = {"id": row.id, "action": row.action, "metric": row.metric, "threshold": row.threshold}
        return {**limits, "value": self.value, "where": self.where, "cause": row.cause, "hint": row.hint}

    def error(self) -> AlarmError:
        """Return the error that stops the run."""
        return AlarmError(self)


class AlarmError(Stopped):
    """The error of a run that an alarm stopped."""

    def __init__(self, event: AlarmEvent) -> None:
        """Put the alarm's value, cause and hint into the message."""
        self.alarm_event = event
        row = event.alarm
        super().__init__(
            f"stopped by the alarm {row.id}: {row.metric} is {event.value:.6g} ({row.cause})",
            where=event.where or None,
            expected=f"not: {row.condition}",
            hint=row.hint,
        )

    def __reduce__(self) -> tuple[type[AlarmError], tuple[AlarmEvent]]:
        """Return how another process makes this error anew, with the same text."""
        return type(self), (self.alarm_event,)


def _table() -> dict[str, Alarm]:
    rows = tomllib.loads((Path(__file__).parent / "alarms.toml").read_text(encoding="utf-8"))
    return {id: Alarm(id, **fields) for id, fields in rows.items()}


ALARMS = _table()


def raise_alarm(id: str, value: float, where: str = "") -> NoReturn:
    """Raise an alarm as an `AlarmError` from inside an update, before the optimizer moves."""
    raise AlarmEvent(ALARMS[id], value, where).error()


@dataclass
class AlarmHistory:
    """What one alarm remembers: the latest healthy values, the first ones, how many there were, and for how many steps
    in a row its condition has been true."""

    values: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    count: int = 0
    streak: int = 0

    def append(self, value: float) -> None:
        """Add a healthy value to the history."""
        self.values = [*self.values, value][-WINDOW:]
        if len(self.first) < 16:
            self.first.append(value)


def _spike(history: AlarmHistory, row: Alarm, value: float) -> bool:
    """Compare with the noise from step to step: the fall of a young loss would widen plain ones and hide a spike."""
    if len(history.values) < 32:
        return False
    mean = statistics.fmean(history.values[-32:])
    changes = [(after - before) ** 2 for before, after in itertools.pairwise(history.values)]
    sigma = math.sqrt(statistics.fmean(changes) / 2)
    return value > mean + row.threshold * max(sigma, 0.01 * abs(mean))


def _ratio(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return len(history.values) >= 32 and value > row.threshold * statistics.median(history.values)


def _drop(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return len(history.values) >= 32 and value < row.threshold * statistics.median(history.values)


def _growth(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return len(history.first) >= 16 and value > row.threshold * statistics.fmean(history.first)


def _above(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return value > row.threshold


def _below(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return value < row.threshold


def _repeated(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return value in history.values[-int(row.threshold) :]


def _not_learning(history: AlarmHistory, row: Alarm, value: float) -> bool:
    return (
        row.threshold > 0 and history.count >= 200 and statistics.fmean([*history.values[-15:], value]) >= row.threshold
    )


KINDS: dict[str, Callable[[AlarmHistory, Alarm, float], bool]] = {
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
    """Watches the metrics of one run. Without `vocab_size` the alarm `not-learning` is off."""

    def __init__(
        self,
        vocab_size: int | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        disabled: Iterable[str] = (),
    ) -> None:
        """Take the table of alarms, with `overrides` of their fields by id and without those `disabled`.

        `not-learning` compares the loss with log(vocab_size), the loss of a uniform guess in nats. Raises a `UserError`
        for an unknown id."""
        changes = {"not-learning": {"threshold": math.log(vocab_size) if vocab_size else 0.0}, **(overrides or {})}
        for name in [*changes, *disabled]:
            if name not in ALARMS:
                raise UserError(f"no alarm is called {name}", nearest=nearest(name, ALARMS), expected=", ".join(ALARMS))
        rows = [dataclasses.replace(row, **changes.get(row.id, {})) for row in ALARMS.values()]
        self.alarms = [row for row in rows if row.kind in KINDS and row.id not in set(disabled)]
        self._histories = {row.id: AlarmHistory() for row in self.alarms}

    def observe(self, step: int, metrics: Mapping[str, float]) -> list[AlarmEvent]:
        """Return the alarms that fire at this step; `metrics` are those of its event."""
        events = (self._look(row, metrics[row.metric], step) for row in self.alarms if row.metric in metrics)
        return [event for event in events if event is not None]

    def _look(self, row: Alarm, value: float, step: int) -> AlarmEvent | None:
        history = self._histories[row.id]
        holds = KINDS[row.kind](history, row, value)
        history.streak = history.streak + 1 if holds else 0
        history.count += 1
        # What an alarm compares with is the healthy past: a spike must not raise its own limit.
        if not holds or row.kind not in ("spike", "ratio", "drop"):
            history.append(value)
        return AlarmEvent(row, value, f"step {step}") if history.streak == row.patience else None

    def state_dict(self) -> dict[str, Any]:
        """Return all histories as JSON values, by the names that checkpoints have for their fields."""
        return {
            name: {"history": each.values, "first": each.first, "seen": each.count, "streak": each.streak}
            for name, each in self._histories.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load saved histories; an alarm that had none starts with an empty one."""
        self._histories = {row.id: _history(state.get(row.id, {})) for row in self.alarms}


def _history(fields: Mapping[str, Any]) -> AlarmHistory:
    """Return a history from its fields in a checkpoint."""
    values, first = list(fields.get("history", ())), list(fields.get("first", ()))
    return AlarmHistory(values, first, fields.get("seen", 0), fields.get("streak", 0))
