"""The process in which a reward of a user's own runs (`own_rewards.py`): it answers one call after the other until its
parent closes the socket or ends it. No torch is imported here, so that it starts at once.

An answer is `[values, null, false]`, or `[null, error, more]` with the parts of a message; where `more` is true, a
second answer follows, whose error names the trajectory at fault.

The process that the parent starts only watches: it leads the process group, and the functions run in a fork of it. When
the parent or that fork ends, it kills the group, with whatever a function has left running.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from qwenkit.alignment.reward_messages import Messages
from qwenkit.alignment.trajectory import Trajectory
from qwenkit.custom_functions import FORM, FunctionFile, failure, find_function, load_function
from qwenkit.errors import UserError, listed, nearest

MODEL_REWARD = "model"
"""The name of the reward model in a table of rewards; every other name is a function's."""
WATCH_SECONDS = 0.1
"""How long a group may outlive its parent."""


def find_reward(name: str) -> FunctionFile:
    """Return a reward by its name, `module:function` or `file.py:function`, without running any of its code; raises
    the `UserError`s of `find_function`."""
    return find_function(name, "reward", "(rows, trajectories)")


def find_rewards(names: Iterable[str]) -> dict[str, FunctionFile]:
    """Return the functions of a table of rewards by their names; raises a `UserError` for one that does not exist."""
    for name in names:
        if name != MODEL_REWARD and ":" not in name:
            expected, close = f"`{MODEL_REWARD}`, {FORM}", nearest(name, [MODEL_REWARD])
            raise UserError(f"no reward `{name}`", expected=expected, nearest=close)
    return {name: find_reward(name) for name in names if name != MODEL_REWARD}


def check_reward_weights(weights: Mapping[str, float], has_reward_model: bool) -> None:
    """Raise a `UserError` for an empty table of rewards, for names that do not exist, and for `model` without a reward
    model."""
    if not weights:
        raise UserError("`reward` is empty", expected='weights, like {model = 1.0, "checks:score" = 0.5}')
    if MODEL_REWARD in weights and not has_reward_model:
        hint = f"name one, or give `reward` a table without `{MODEL_REWARD}`"
        raise UserError(f"`reward` holds `{MODEL_REWARD}`, but there is no `reward_model`", hint=hint)
    find_rewards(weights)


def serve(given: str) -> None:
    """Answer calls; `given` is JSON: the handle of the socket, the parent's process number, and the function."""
    handle, parent, *parts = json.loads(given)
    if worker := os.fork():
        os.close(handle)
        _watch(parent, worker)
    function_file, messages, own = FunctionFile(*parts), Messages(socket.socket(fileno=handle)), os.getpid()
    while True:
        try:
            number, question = messages.receive()
        except EOFError:
            return
        rows, trajectories = pickle.loads(question)
        for answer in answers(function_file, rows, trajectories):
            if os.getpid() != own:  # the function has forked, and this is not the process that was asked
                os._exit(1)
            messages.send(number, json.dumps(answer).encode())


def _watch(parent: int, worker: int) -> None:
    """Kill this process group, itself included, when the parent or the worker has ended."""
    while os.getppid() == parent and os.waitpid(worker, os.WNOHANG) == (0, 0):
        time.sleep(WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


def answers(
    function_file: FunctionFile, rows: Sequence[Any], trajectories: Sequence[Trajectory]
) -> Iterator[list[Any]]:
    """Yield what a reward returns, as plain values, or the parts of its error; then, since it takes calls that may be
    as slow as the first, the error with the trajectory at fault."""
    try:
        score = load_function(function_file, "reward")
    except UserError as error:
        yield [None, _parts(error), False]
        return
    try:
        answer = [_plain(score(rows, trajectories)), None, False]
    except Exception as error:
        for more in (True, False):
            at_fault = trajectories if more else _culprits(score, rows, trajectories)
            place = listed([each.name for each in at_fault], 4)
            yield [None, _parts(failure(function_file, "reward", error, place)), more]
    else:
        yield answer


def _culprits(
    score: Callable[..., Any], rows: Sequence[Any], trajectories: Sequence[Trajectory]
) -> Sequence[Trajectory]:
    """Return the first trajectory that fails alone; all where none does."""
    for row, trajectory in zip(rows, trajectories):
        try:
            score([row], [trajectory])
        except Exception:
            return [trajectory]
    return trajectories


def _parts(error: UserError) -> dict[str, str | None]:
    return {name: getattr(error, name) for name in ("what", "where", "expected", "nearest", "hint")}


def as_float(number: Real | int) -> float:
    """Return a number as a float; infinity for one beyond its range."""
    try:
        return float(number)
    except OverflowError:
        return -math.inf if number < 0 else math.inf


def _plain(values: Any) -> Any:
    """Return values of arrays and of their elements as JSON has them; what it has no form for, as text to be shown."""
    if hasattr(values, "tolist"):
        return _plain(values.tolist())
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, int) and math.isinf(as_float(values)):
        return as_float(values)
    return values if isinstance(values, str | int | float | None) else repr(values)
