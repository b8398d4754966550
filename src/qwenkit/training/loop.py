"""The one loop: steps, checkpoints, events, sentinel and signals, for every kind of training (report §2.4, §3).

    run(update, state, until=1000, log=log, checkpoint_dir=scratch / "checkpoints", sentinel=Sentinel(vocab_size=1536))

`update(state, step) -> metrics` owns forward, backward and optimizer. Before each step torch's generator is seeded from
(seed, step), so dropout is a pure function of the step and a resumed run draws what the uninterrupted one would.
Events count updates done: the event of step n follows update number n - 1, and `eval` of step 0 is the start.

The first Ctrl-C (or SIGTERM) ends the step (and an evaluation due after it), saves and raises `Interrupted`; the second
stops at once. An alarm whose action is "stop" raises without saving, so the last checkpoint is a healthy one.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from qwenkit import rng
from qwenkit.errors import Interrupted, UserError
from qwenkit.model.modes import evaluating
from qwenkit.training.checkpoint import RunState, load_latest, save_checkpoint
from qwenkit.training.sentinel import STOP, AlarmError, AlarmEvent, Sentinel
from qwenkit.training.update import Update

LAST_METRICS = "last"
"""Where `RunState.numbers` holds the metrics of the last step."""


class Log(Protocol):
    """A function that takes an event with its fields; `EventLog.log` is one."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Write the event."""
        ...


class Evaluate(Protocol):
    """A function that measures the modules of a run during training, such as the loss on a validation split."""

    def __call__(self, state: RunState, /) -> Mapping[str, Any]:
        """Return the metrics of the event `eval`."""
        ...


class Progress(Protocol):
    """A function that shows how far a training is."""

    def __call__(self, done: int, total: int, /, **metrics: float) -> None:
        """Show that `done` of `total` steps are done, with the metrics of the last one."""
        ...


def null_log(event: str, **fields: object) -> None:
    """Do nothing: the log of a run that keeps none."""


def run(
    update: Update,
    state: RunState,
    until: int,
    *,
    log: Log = null_log,
    checkpoint_dir: Path | None = None,
    checkpoint_seconds: float = 60.0,
    sentinel: Sentinel | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    progress: Progress | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train until `state.step == until`, from the newest checkpoint if there is one; return the last step's metrics.

    `evaluate(state)` runs at the start, every `evaluate_every` steps (0: never in between) and at the end; its metrics
    are the event `eval`. A checkpoint is written every `checkpoint_seconds` seconds and at the end. Raises
    `Interrupted` after a signal (the state is saved), `AlarmError` for an alarm that stops the run, and a `UserError`
    for a checkpoint of another training."""
    checkpointer = _Checkpointer(state, sentinel or Sentinel(), checkpoint_dir, checkpoint_seconds, until, log)
    checkpointer.resume()
    with _signals() as signals:
        if evaluate and state.step == 0:
            _evaluate(evaluate, state, log)
        while state.step < until:
            _step(update, state, checkpointer.sentinel, log, seed)
            if progress:
                progress(state.step, until, **state.numbers[LAST_METRICS])
            due = state.step == until or (evaluate_every and state.step % evaluate_every == 0)
            if evaluate and due:  # before an interrupt is acted on: a resumed run never comes back to this step
                _evaluate(evaluate, state, log)
            if signals:
                checkpointer.save()
                raise Interrupted(f"interrupted at step {state.step} of {until}; the state is saved")
            checkpointer.save_if_due(done=state.step == until)
    return state.numbers.get(LAST_METRICS, {})


def _step(update: Update, state: RunState, sentinel: Sentinel, log: Log, seed: int) -> None:
    """Run one update, log its event and raise its alarms."""
    torch.manual_seed(rng.derive_seed(seed, "step", state.step))
    started = time.perf_counter()
    try:
        metrics = update(state, state.step)
    except AlarmError as error:
        log("alarm", step=state.step + 1, **error.alarm_event.fields())
        raise
    seconds = time.perf_counter() - started
    state.step += 1
    state.numbers[LAST_METRICS] = metrics
    timed = {**metrics, "seconds": round(seconds, 4)}
    if "tokens" in metrics:
        timed["tokens_per_second"] = round(metrics["tokens"] / max(seconds, 1e-9))
    log("step", step=state.step, **timed)
    _report(sentinel.observe(state.step, timed), state.step, log)


def _report(alarm_events: list[AlarmEvent], step: int, log: Log) -> None:
    """Log all alarms of a step, then raise the first one that stops."""
    for event in alarm_events:
        log("alarm", step=step, **event.fields())
    for event in alarm_events:
        if event.alarm.action == STOP:
            raise event.error()


def _evaluate(evaluate: Evaluate, state: RunState, log: Log) -> None:
    """Evaluate without a trace: modules keep their mode, and the next step seeds its own draws."""
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for module in state.modules.values():
            stack.enter_context(evaluating(module))
        metrics = evaluate(state)
    log("eval", step=state.step, **{**metrics, "seconds": round(time.perf_counter() - started, 4)})


@dataclass
class _Checkpointer:
    """Saves and restores the state together with the sentinel's history."""

    state: RunState
    sentinel: Sentinel
    folder: Path | None
    seconds: float
    until: int
    log: Log

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Continue from the newest complete checkpoint."""
        tree = load_latest(self.folder, lambda text: self.log("note", text=text)) if self.folder else None
        if tree is None:
            return
        try:
            self.state.load_state_dict(tree["run"])
            self.sentinel.load_state_dict(tree["sentinel"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                "the checkpoint belongs to another training", where=str(self.folder), hint="remove the folder"
            ) from error
        self.log("resumed", step=self.state.step)

    def save_if_due(self, done: bool) -> None:
        """Save when the interval is over, and at the end."""
        if done or time.monotonic() - self._saved >= self.seconds:
            self.save()

    def save(self) -> None:
        """Save now."""
        if self.folder is None:
            return
        started = time.monotonic()
        tree = {"run": self.state.state_dict(), "sentinel": self.sentinel.state_dict()}
        save_checkpoint(tree, self.folder, self.state.step)
        self._saved = time.monotonic()
        self.log("checkpoint", step=self.state.step, until=self.until, seconds=round(self._saved - started, 3))


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM; after it the old handlers are back, so that a second one stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    old_handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)

    def catch(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in old_handlers:
        signal.signal(number, catch)
    try:
        yield received
    finally:
        restore()
