"""The one loop: steps, checkpoints, events, sentinel and signals, for every kind of training (report §2.4, §3).

    run(update, state, until=1000, log=log, checkpoint_dir=scratch / "checkpoints", sentinel=Sentinel(vocab_size=1536))

`update(state, step) -> metrics` owns forward, backward and optimizer. Of its metrics `tokens` are counted in the run's
state, and `skipped` where it left the optimizer out. Before each step torch's generator is seeded from
(seed, step), so dropout is a pure function of the step and a resumed run draws what the uninterrupted one would.
Events count updates done: the event of step n follows update number n - 1, and `eval` of step 0 is the start.

The first Ctrl-C (or SIGTERM) ends the step (and an evaluation due after it), saves and raises `Interrupted`; the second
stops at once. An alarm whose action is "stop" raises without saving, so the last checkpoint is a healthy one.

In a `world` of several processes all of them run this loop, and it decides the same in each: rank 0's clock says when
to save, a signal or an alarm of one stops all at the same step, an error of the loop's own work in one is raised in
all. Update and evaluation may exchange, so they see to their own errors (`training.update.Update`). Rank 0 logs and
saves.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from qwenkit import rng
from qwenkit.errors import Interrupted, UserError, within
from qwenkit.events import Log
from qwenkit.model.modes import evaluating
from qwenkit.training.checkpoint import RunState, load_checkpoint, load_latest, save_checkpoint, step_folder
from qwenkit.training.checkpoint_upgrade import SCHEMA
from qwenkit.training.data_parallel import guarded
from qwenkit.training.sentinel import STOP, AlarmError, AlarmEvent, Sentinel
from qwenkit.training.update import Metrics, Update
from qwenkit.training.world import ALONE, World, together

LAST_METRICS = "last"
"""Where `RunState.numbers` holds the metrics of the last step."""


class Evaluate(Protocol):
    """A function that measures the modules of a run during training, such as the loss on a validation split.

    All processes call it at once. It may exchange; what can fail in one process alone is `together`'s."""

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
    world: World = ALONE,
) -> dict[str, Any]:
    """Train until `state.step == until`, from the newest checkpoint if there is one; return the last step's metrics.

    `evaluate(state)` runs at the start, every `evaluate_every` steps (0: never in between) and at the end; its metrics
    are the event `eval`. A checkpoint is written every `checkpoint_seconds` seconds and at the end. Raises
    `Interrupted` after a signal (the state is saved), `AlarmError` for an alarm that stops the run, and a `UserError`
    for a checkpoint of another training.

    All processes of a `world` call this with the same arguments; each has its share of the data behind `update`."""
    if world.rank:
        log, progress = null_log, None
    sentinel = sentinel or Sentinel()
    steps = _Steps(update, state, until, log, sentinel, progress, seed, world)
    checkpointer = _Checkpointer(state, sentinel, checkpoint_dir, checkpoint_seconds, until, log, world)
    checkpointer.resume()
    with _signals() as signals:
        if evaluate and state.step == 0:
            _evaluate(evaluate, state, log, world)
        while state.step < until:
            steps.run_one()
            due = state.step == until or (evaluate_every and state.step % evaluate_every == 0)
            if evaluate and due:  # before an interrupt is acted on: a resumed run never comes back to this step
                _evaluate(evaluate, state, log, world)
            if world.any(bool(signals)):
                checkpointer.save()
                raise Interrupted(f"interrupted at step {state.step} of {until}; the state is saved")
            checkpointer.save_if_due(done=state.step == until)
    return state.numbers.get(LAST_METRICS, {})


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of torch's generator in a step: each process draws its own dropout, rank 0 that of a single
    process."""
    return rng.derive_seed(seed, "step", step, *(("rank", rank) if rank else ()))


@dataclass
class _Steps:
    """Runs one step after another and shows what came of it."""

    update: Update
    state: RunState
    until: int
    log: Log
    sentinel: Sentinel
    progress: Progress | None
    seed: int
    world: World

    def run_one(self) -> None:
        """Run one update, log its event and raise its alarms."""
        state, world = self.state, self.world
        torch.manual_seed(step_seed(self.seed, state.step, world.rank))
        started = time.perf_counter()
        metrics = self._updated()
        seconds = world.agree(time.perf_counter() - started)  # one clock: all sentinels see the same
        state.step += 1
        state.tokens += int(metrics.get("tokens", 0))
        state.skipped_steps += int(metrics.get("skipped", 0))
        state.numbers[LAST_METRICS] = metrics
        alarm_events = together(world, lambda: self._observe(metrics, seconds))
        if world.any(bool(alarm_events)):
            _report(world, world.gather(alarm_events), state.step, self.log)

    def _updated(self) -> Metrics:
        """Run the update; an alarm that it raises in one process is logged once and raised in all."""
        state, world = self.state, self.world
        try:
            metrics, alarm = self.update(state, state.step), None
        except AlarmError as error:
            metrics, alarm = {}, error
        if world.any(alarm is not None):
            first = next(each for each in world.gather(alarm) if each)
            together(world, lambda: self.log("alarm", step=state.step + 1, **first.alarm_event.fields()))
            raise alarm or first
        return metrics

    def _observe(self, metrics: Metrics, seconds: float) -> list[AlarmEvent]:
        """Show and log the metrics of a step with its time; return the alarms that they raise."""
        timed = {**metrics, "seconds": round(seconds, 4)}
        if "tokens" in metrics:
            timed["tokens_per_second"] = round(metrics["tokens"] / max(seconds, 1e-9))
        self.log("step", step=self.state.step, **timed)
        if self.progress:
            self.progress(self.state.step, self.until, **metrics)
        return self.sentinel.observe(self.state.step, timed)


def _report(world: World, by_rank: Sequence[Sequence[AlarmEvent]], step: int, log: Log) -> None:
    """Log all alarms of a step, each once whichever processes raised it; then raise the first one that stops."""
    alarm_events: dict[str, AlarmEvent] = {}
    for event in itertools.chain.from_iterable(by_rank):
        alarm_events.setdefault(event.alarm.id, event)
    together(world, lambda: [log("alarm", step=step, **event.fields()) for event in alarm_events.values()])
    for event in alarm_events.values():
        if event.alarm.action == STOP:
            raise event.error()


def _evaluate(evaluate: Evaluate, state: RunState, log: Log, world: World) -> None:
    """Evaluate without a trace: modules keep their mode, and the next step seeds its own draws."""
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for module in state.modules.values():
            stack.enter_context(evaluating(module))
        metrics = evaluate(state)
    seconds = round(time.perf_counter() - started, 4)
    together(world, lambda: log("eval", step=state.step, **{**metrics, "seconds": seconds}))


@dataclass
class _Checkpointer:
    """Saves and restores the state together with the sentinel's history. All processes take part in the state, of which
    each may hold a part; rank 0 writes, and says when."""

    state: RunState
    sentinel: Sentinel
    folder: Path | None
    seconds: float
    until: int
    log: Log
    world: World

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Continue from the newest complete checkpoint that rank 0 finds."""
        if self.folder is None:
            return
        folder, newest = self.folder, together(self.world, self._newest)
        step = self.world.agree(newest[0] if newest else None)
        if step is None:
            return
        tree = together(self.world, lambda: newest[1] if newest else load_checkpoint(step_folder(folder, step)))
        guarded(self.world, self.state.modules.values(), lambda: self._load(tree))
        together(self.world, lambda: self.log("resumed", step=self.state.step))

    def _newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return step and state of the newest complete checkpoint in rank 0, None in the other processes."""
        if self.folder is None or self.world.rank:
            return None
        tree = load_latest(self.folder, lambda text: self.log("note", text=text))
        with self._of_this_training():
            if tree is None:
                return None
            if int(tree["run"].get("schema", 1)) < SCHEMA:
                self.log("note", text=f"the checkpoint of step {tree['run']['step']} is of an earlier version")
            return int(tree["run"]["step"]), tree

    def _load(self, tree: dict[str, Any]) -> None:
        with self._of_this_training():
            self.state.load_state_dict(tree["run"])
            self.sentinel.load_state_dict(tree["sentinel"])

    @contextlib.contextmanager
    def _of_this_training(self) -> Iterator[None]:
        """Turn the errors of a state that does not fit into one for the user, with the folder."""
        try:
            with within(str(self.folder)):
                yield
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                "the checkpoint belongs to another training", where=str(self.folder), hint="remove the folder"
            ) from error

    def save_if_due(self, done: bool) -> None:
        """Save when the interval is over by rank 0's clock, and at the end."""
        if self.world.agree(done or time.monotonic() - self._saved >= self.seconds):
            self.save()

    def save(self) -> None:
        """Save now: all processes give their part of the state, and wait until rank 0 has written it."""
        if self.folder is None:
            return
        folder, started = self.folder, time.monotonic()
        run_state = guarded(self.world, self.state.modules.values(), self.state.state_dict)
        together(self.world, lambda: self._write(run_state, folder, started))

    def _write(self, run_state: dict[str, Any], folder: Path, started: float) -> None:
        if self.world.rank:
            return
        save_checkpoint({"run": run_state, "sentinel": self.sentinel.state_dict()}, folder, self.state.step)
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
