"""The process in which a reward of a user's own runs (`own_rewards.py`): it answers one call after the other until its
parent closes the pipe or ends it. No torch is imported here, so that it starts at once.

An answer is `[values, null]`, or `[null, error]` with the parts of a message.
"""

from __future__ import annotations

import json
import pickle
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from qwenkit.alignment.trajectory import Trajectory
from qwenkit.custom_functions import FunctionFile, failure, load_function
from qwenkit.errors import UserError, listed
from qwenkit.workers import end_with_parent


def serve(given: str) -> None:
    """Answer calls; `given` is JSON: the handle of the pipe, the parent's process number, and the function."""
    handle, parent, *parts = json.loads(given)
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    pipe, function_file = Connection(handle), FunctionFile(*parts)
    with pipe:
        while True:
            pipe.send_bytes(b"ready")
            try:
                rows, trajectories = pickle.loads(pipe.recv_bytes())
            except EOFError:
                return
            pipe.send_bytes(json.dumps(answer(function_file, rows, trajectories)).encode())


def answer(function_file: FunctionFile, rows: Sequence[Any], trajectories: Sequence[Trajectory]) -> list[Any]:
    """Return what a reward returns, as plain values, or the parts of its error."""
    try:
        score = load_function(function_file, "reward")
        try:
            return [_plain(score(rows, trajectories)), None]
        except Exception as error:
            place = listed(_culprits(function_file, rows, trajectories), 4)
            raise failure(function_file, "reward", error, place) from error
    except UserError as error:
        parts = {name: getattr(error, name) for name in ("what", "where", "expected", "nearest", "hint")}
        return [None, parts]


def _culprits(function_file: FunctionFile, rows: Sequence[Any], trajectories: Sequence[Trajectory]) -> list[str]:
    """Return the name of the first trajectory that fails alone; those of all where none does."""
    score = load_function(function_file, "reward")
    for row, trajectory in zip(rows, trajectories):
        try:
            score([row], [trajectory])
        except Exception:
            return [trajectory.name]
    return [each.name for each in trajectories]


def _plain(values: Any) -> Any:
    """Return values of arrays and of their elements as JSON has them; what it has no form for, as text to be shown."""
    if hasattr(values, "tolist"):
        return _plain(values.tolist())
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return values if isinstance(values, str | int | float | None) else repr(values)
