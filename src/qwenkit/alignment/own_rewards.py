"""Rewards of a user's own: functions in a file of theirs, each called with the trajectories of a step.

    # checks.py
    def score(rows, trajectories):
        return [float(row["answer"] in each.text) for row, each in zip(rows, trajectories)]

A recipe names it in its table of rewards, `reward = {model = 1.0, "checks:score" = 0.5}`. `rows` are the rows of data
of the prompts, and a trajectory is a `trajectory.Trajectory`: its ids, its mask, its text. The function returns a
finite number for each; it should be a function of its arguments alone, or a resumed run is not the uninterrupted one.

Each runs in a process of its own, started once, with a time limit for a call: one that never returns is ended, and a
crash does not take the training with it. What the function has started ends with its process, unless it has left for a
session of its own. It is not a sandbox: the file is trusted as the recipe is. What it prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwenkit.alignment.reward_messages import Messages
from qwenkit.alignment.rewards import one_for_each, reward_place
from qwenkit.alignment.trajectory import Trajectory
from qwenkit.custom_functions import FunctionFile
from qwenkit.errors import UserError

_START = "import sys; sys.path[:] = sys.argv[2:]; from qwenkit.alignment.reward_worker import serve; serve(sys.argv[1])"


class OwnReward:
    """A reward of the user's own, in a process of its own.

    Its process starts with the first call and ends with this object. `seconds` limit each call, the loading of the file
    included."""

    def __init__(self, function: FunctionFile, seconds: float) -> None:
        """Prepare the reward; nothing runs yet."""
        self.function, self.seconds = function, seconds
        self._process: _Process | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]], trajectories: Sequence[Trajectory], /) -> list[float]:
        """Return the scores. Raises a `UserError` that names the reward and the trajectory for a call that fails, takes
        too long, or returns anything but a finite number for each."""
        name, place = self.function.name, reward_place(self.function.name, trajectories)
        question, deadline = pickle.dumps((list(rows), list(trajectories))), time.monotonic() + self.seconds
        try:
            process = self._process = self._process or _Process(self.function)
            values, error, more = json.loads(process.ask(question, deadline))
            if more:
                error = self._named(error, process, deadline)
        except TimeoutError:
            self.end()
            raise UserError(f"the reward did not return within {self.seconds:g} seconds", where=place,
                            hint="make it faster, or raise `reward_seconds`") from None  # fmt: skip
        except (EOFError, OSError):
            self.end()
            raise UserError("the process of the reward ended before it returned", where=place,
                            hint="it may have run out of memory, ended itself, or written to handles that are not its"
                            " own") from None  # fmt: skip
        except BaseException:  # Ctrl-C: a half-sent question cannot be answered any more
            self.end()
            raise
        if error is not None:
            raise UserError(**error)
        numbers = one_for_each(name, values, trajectories)
        for value, trajectory in zip(numbers, trajectories):
            if not math.isfinite(value):
                raise UserError(f"the reward returned {value}", where=reward_place(name, [trajectory]),
                                expected="a finite number for each trajectory")  # fmt: skip
        return numbers

    def _named(self, error: dict[str, Any], process: _Process, deadline: float) -> dict[str, Any]:
        """Return an error with the trajectory at fault, where the process finds that one in the time left."""
        try:
            return json.loads(process.receive(deadline))[1]
        except (TimeoutError, EOFError, OSError):
            self.end()
            return error

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _Process:
    """The process of one reward, and the socket to it."""

    def __init__(self, function: FunctionFile) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _START, json.dumps([theirs.fileno(), os.getpid(), *function]), *sys.path]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2,
                                        start_new_session=True)  # fmt: skip
        theirs.close()
        self.messages, self.number = Messages(ours), 0
        self.end = weakref.finalize(self, _end, self.process, ours.close)

    def ask(self, question: bytes, deadline: float) -> bytes:
        """Send a question, and return the answer to it."""
        self.number += 1
        self.messages.send(self.number, question, deadline)
        return self.receive(deadline)

    def receive(self, deadline: float) -> bytes:
        """Return the next answer to the present question; raises a `TimeoutError` where none comes in time."""
        return self.messages.receive(self.number, deadline)[1]


def _end(process: subprocess.Popen[bytes], close: Callable[[], None]) -> None:
    """Kill the process and everything in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(OSError):
        close()
