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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from qwenkit import rng
from qwenkit.errors import Interrupted, UserError
from qwenkit.training.checkpoint import RunState, load_latest, save_checkpoint
from qwenkit.training.sentinel import STOP, AlarmError, Raised, Sentinel

Log = Callable[..., None]
Evaluate = Callable[[RunState], Mapping[str, Any]]
LAST_METRICS = "last"


def null_log(event: str, **fields: Any) -> None:
    """A log that keeps nothing."""


def run(
    update: Callable[[RunState, int], dict[str, Any]],
    state: RunState,
    until: int,
    *,
    log: Log = null_log,
    checkpoint_dir: Path | None = None,
    checkpoint_seconds: float = 60.0,
    sentinel: Sentinel | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    progress: Callable[..., None] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Step until `state.step == until`, from the newest checkpoint if there is one; returns the last step's metrics.

    `evaluate(state)` runs at the start, every `evaluate_every` steps (0: only there) and at the end, as event `eval`.
    """
    keeper = _Keeper(state, sentinel or Sentinel(), checkpoint_dir, checkpoint_seconds, until, log)
    keeper.resume()
    with _signals() as caught:
        if evaluate and state.step == 0:
            _evaluate(evaluate, state, log)
        while state.step < until:
            _step(update, state, keeper.sentinel, log, seed)
            if progress:
                progress(state.step, until, **state.numbers[LAST_METRICS])
            due = state.step == until or (evaluate_every and state.step % evaluate_every == 0)
            if evaluate and due:  # before an interrupt is acted on: a resumed run never comes back to this step
                _evaluate(evaluate, state, log)
            if caught:
                keeper.save()
                raise Interrupted(f"interrupted at step {state.step} of {until}; the state is saved")
            keeper.save_if_due(done=state.step == until)
    return state.numbers.get(LAST_METRICS, {})


def _step(update: Callable[..., dict[str, Any]], state: RunState, sentinel: Sentinel, log: Log, seed: int) -> None:
    """One update, its event and its alarms."""
    torch.manual_seed(rng.derive_seed(seed, "step", state.step))
    started = time.perf_counter()
    try:
        metrics = update(state, state.step)
    except AlarmError as stopped:
        log("alarm", step=state.step + 1, **stopped.raised.fields())
        raise
    seconds = time.perf_counter() - started
    state.step += 1
    state.numbers[LAST_METRICS] = metrics
    timed = {**metrics, "seconds": round(seconds, 4)}
    if "tokens" in metrics:
        timed["tokens_per_second"] = round(metrics["tokens"] / max(seconds, 1e-9))
    log("step", step=state.step, **timed)
    _alarm(sentinel.observe(state.step, timed), state.step, log)


def _alarm(raised: list[Raised], step: int, log: Log) -> None:
    for alarm in raised:
        log("alarm", step=step, **alarm.fields())
    for alarm in raised:
        if alarm.alarm.action == STOP:
            raise alarm.error()


def _evaluate(evaluate: Evaluate, state: RunState, log: Log) -> None:
    """Evaluate without a trace: modules keep their mode, and the next step seeds its own draws."""
    modes = {name: module.training for name, module in state.modules.items()}
    started = time.perf_counter()
    metrics = evaluate(state)
    for name, module in state.modules.items():
        module.train(modes[name])
    log("eval", step=state.step, **{**metrics, "seconds": round(time.perf_counter() - started, 4)})


@dataclass
class _Keeper:
    """Saves and restores the state together with the sentinel's memory."""

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
                "the checkpoint is one of another training", where=str(self.folder), hint="remove the folder"
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
    """Collect the first SIGINT or SIGTERM; after it the usual handlers are back, so that a second one stops at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)
        restore()

    for number in usual:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()
