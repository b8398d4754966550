"""Named rewards: their sum, and what a reward must not return; a user's own, in a process that can be stopped."""

import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit.alignment import ModelReward, OwnReward, Rewards, Trajectories, Trajectory, Weighted, find_reward
from qwenkit.alignment.reward_messages import Messages
from qwenkit.alignment.reward_model import score_texts
from qwenkit.errors import Stopped, UserError

from .conftest import IM_END
from .test_trajectories import trajectory

ITEMS = [trajectory([1, 2, 3 + n], "001", row={"id": f"q{n}", "answer": n}, prompt=n, sample=0, turns=(f"it is {n}",),
                    ended=n % 2 == 0) for n in range(6)]  # fmt: skip
BATCH = Trajectories.of(ITEMS)
ROWS = [each.row for each in ITEMS]
Write = Callable[[str], OwnReward]


@pytest.fixture
def own(tmp_path: Path) -> Write:
    """A reward in a file of its own: the body of `score(rows, trajectories)`."""

    def write(body: str, seconds: float = 60) -> OwnReward:
        path = tmp_path / "checks.py"
        path.write_text("import math, os, time\n\n\ndef score(rows, trajectories):\n    " + body + "\n")
        return OwnReward(find_reward(f"{path}:score"), seconds)

    return write  # type: ignore[return-value]


def test_rewards_are_summed_by_their_weights_and_logged_by_their_names() -> None:
    def known(rows: Any, items: Any) -> list[float]:
        return [float(row["answer"]) for row in rows]

    def length(rows: Any, items: Any) -> list[int]:
        return [len(each.ids) for each in items]

    scores = Rewards(
        {"known": Weighted(2.0, known), "length": Weighted(-1.0, length), "watched": Weighted(0.0, known)}
    )(BATCH)
    assert scores.total_B.tolist() == [-3, -1, 1, 3, 5, 7] and scores.total_B.dtype == torch.float32
    assert scores.by_name == {"known": [0, 1, 2, 3, 4, 5], "length": [3] * 6, "watched": [0, 1, 2, 3, 4, 5]}
    metrics = scores.metrics()
    assert metrics["reward"] == 2 and metrics["reward_std"] == pytest.approx(math.sqrt(35 / 3))
    assert {name: metrics[f"reward_{name}"] for name in scores.by_name} == {"known": 2.5, "length": 3, "watched": 2.5}


def test_a_reward_model_alone_gives_its_own_bits(make_scalar: Any) -> None:
    """It reads whole chats that end with the turn, also where the policy did not end it."""
    model, reward = make_scalar(3), ModelReward(make_scalar(3), IM_END)
    texts = [[1, 2, 3 + n] + [IM_END] * (n % 2) for n in range(6)]
    assert [reward.text(each) for each in ITEMS] == texts
    assert torch.equal(Rewards({"model": Weighted(1.0, reward)})(BATCH).total_B, score_texts(model, texts))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1.0] * 5, "reward rule, {all}: the reward returned 5 values\n  expected: 6, one for each trajectory"),
        (1.0, "reward rule, {all}: the reward returned 1.0\n  expected: a list of numbers, one for each trajectory"),
        ("good!!", "reward rule, {all}: the reward returned 'good!!'\n"
                   "  expected: a list of numbers, one for each trajectory"),
        ([1, 2, "good", 4, 5, 6], "reward rule, sample 0 of prompt q2: the reward returned 'good'\n"
                                  "  expected: a finite number for each trajectory"),
        ([None] * 6, "reward rule, sample 0 of prompt q0: the reward returned None\n"
                     "  expected: a finite number for each trajectory"),
    ],
)  # fmt: skip
def test_what_is_not_a_number_for_each_is_refused(values: Any, what: str) -> None:
    rewards = Rewards({"rule": Weighted(1.0, lambda rows, items: values)})
    with pytest.raises(UserError) as caught:
        rewards(BATCH)
    names = ", ".join(f"sample 0 of prompt q{n}" for n in range(4)) + " and 2 more"
    assert caught.value.text() == what.format(all=names)


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400])
def test_a_model_s_reward_that_is_not_finite_raises_an_alarm(value: float) -> None:
    rewards = Rewards({"model": Weighted(1.0, lambda rows, items: [0.0, value, 0.0, 0.0, value, 0.0])})
    with pytest.raises(Stopped) as caught:
        rewards(BATCH)
    assert caught.value.where == "reward model, prompts [1, 4]" and "nonfinite-reward" in caught.value.what


def test_an_own_reward_sees_rows_and_trajectories(own: Write) -> None:
    score = own(
        "return [row['answer'] + each.text.endswith(str(row['answer'])) for row, each in zip(rows, trajectories)]"
    )
    assert score(ROWS, ITEMS) == [1, 2, 3, 4, 5, 6] and score(ROWS[:1], ITEMS[:1]) == [1]
    given = own("return [len(t.ids) + sum(t.sampled) + t.prompt for t in trajectories]")
    assert given(ROWS, ITEMS) == [4, 5, 6, 7, 8, 9]


def test_its_process_starts_without_torch(own: Write) -> None:
    assert own("import sys; return [float('torch' in sys.modules)] * len(rows)")(ROWS, ITEMS) == [0] * 6


def test_arrays_and_booleans_are_numbers(own: Write) -> None:
    assert own("import numpy; return numpy.ones(len(rows), 'float32')")(ROWS, ITEMS) == [1.0] * 6
    assert own("return [each.prompt > 2 for each in trajectories]")(ROWS, ITEMS) == [0, 0, 0, 1, 1, 1]


ALL = "sample 0 of prompt q0, sample 0 of prompt q1, sample 0 of prompt q2, sample 0 of prompt q3 and 2 more"


@pytest.mark.parametrize(
    ("body", "where", "what", "rest"),
    [
        ("return [1.0]", f"reward {{name}}, {ALL}", "the reward returned 1 values", "6, one for each trajectory"),
        ("return [0.0] * 5 + ['good']", "reward {name}, sample 0 of prompt q5", "the reward returned 'good'",
         "a finite number for each trajectory"),
        ("return [0.0, math.nan] * 3", "reward {name}, sample 0 of prompt q1", "the reward returned nan",
         "a finite number for each trajectory"),
        ("return [math.inf] * 6", "reward {name}, sample 0 of prompt q0", "the reward returned inf",
         "a finite number for each trajectory"),
        ("return [0.0] * 4 + [-10**9999, 0.0]", "reward {name}, sample 0 of prompt q4", "the reward returned -inf",
         "a finite number for each trajectory"),
        ("return 'good'", f"reward {{name}}, {ALL}", "the reward returned 'good'",
         "a list of numbers, one for each trajectory"),
        ("return [1 / (row['answer'] - 3) for row in rows]", "reward {name}: {path}:5, sample 0 of prompt q3",
         "the reward failed: ZeroDivisionError: division by zero", None),
        ("1 / (len(rows) - 6); return [0.0] * len(rows)", f"reward {{name}}: {{path}}:5, {ALL}",
         "the reward failed: ZeroDivisionError: division by zero", None),
        ("os._exit(3)", f"reward {{name}}, {ALL}", "the process of the reward ended before it returned", None),
    ],
)  # fmt: skip
def test_an_own_reward_that_goes_wrong_is_named_with_its_row(
    own: Write, body: str, where: str, what: str, rest: str | None
) -> None:
    score = own(body)
    with pytest.raises(UserError) as caught:
        score(ROWS, ITEMS)
    error, function = caught.value, score.function
    assert error.where == where.format(name=function.name, path=function.path)
    assert (error.what, error.expected) == (what, rest)


@pytest.mark.parametrize("body", ["while True: pass", "time.sleep(3600)"])
def test_an_own_reward_that_never_returns_is_ended(own: Any, body: str) -> None:
    score = own(body, seconds=1.5)
    with pytest.raises(UserError) as caught:
        score(ROWS, ITEMS)
    assert caught.value.text() == (
        f"reward {score.function.name}, {ALL}: the reward did not return within 1.5 seconds\n"
        "  hint: make it faster, or raise `reward_seconds`"
    )


def test_an_error_is_not_lost_where_the_search_for_the_trajectory_takes_too_long(own: Any) -> None:
    score = own("len(rows) == 6 or time.sleep(3600); raise KeyError('no answer')", seconds=3)
    with pytest.raises(UserError) as caught:
        score(ROWS, ITEMS)
    path = score.function.path
    assert caught.value.text() == f"reward {path}:score: {path}:5, {ALL}: the reward failed: KeyError: 'no answer'"
    assert score._process is None


def test_an_error_is_not_lost_where_the_search_for_the_trajectory_ends_the_process(own: Write) -> None:
    score = own("len(rows) == 6 or os._exit(3); raise KeyError('no answer')")
    with pytest.raises(UserError, match="the reward failed: KeyError: 'no answer'"):
        score(ROWS, ITEMS)


LEFT = {
    "a program": "import subprocess; started = subprocess.Popen(['sleep', '600']).pid",
    "a busy fork": "started = os.fork()\n    while not started: pass",
}
"""What a reward starts and never ends; the file `started` then holds the number of that process."""
TELL = "\n    open('{file}', 'w').write(str(started)); "


def ends(process: int) -> bool:
    """Whether a process is gone, or will be within 20 seconds; one that nobody waits for yet is gone."""
    for _ in range(400):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes in /proc")


@needs_proc
@pytest.mark.parametrize("after", ["time.sleep(3600)", "os._exit(3)", "return [0.0] * len(rows)"])
@pytest.mark.parametrize("left", LEFT)
def test_what_a_reward_has_started_ends_with_it(own: Any, tmp_path: Path, left: str, after: str) -> None:
    """After a call that takes too long, after a crash, and at the end of the run."""
    file = tmp_path / "started"
    score = own(LEFT[left] + TELL.format(file=file) + after, seconds=2 if "sleep" in after else 60)
    try:
        score(ROWS, ITEMS)
    except UserError:
        assert "return" not in after
    else:
        assert "return" in after and Path(f"/proc/{file.read_text()}").exists()
        score.end()
    assert ends(int(file.read_text()))


@needs_proc
@pytest.mark.parametrize("left", LEFT)
def test_what_a_reward_has_started_ends_where_the_training_is_killed(own: Write, tmp_path: Path, left: str) -> None:
    file = tmp_path / "started"
    reward = own(LEFT[left] + TELL.format(file=file) + "os.kill(int(os.environ['TRAINING']), 9); time.sleep(3600)")
    code = (
        "import os; os.environ['TRAINING'] = str(os.getpid())\nfrom qwenkit.alignment import OwnReward, find_reward\n"
        f"OwnReward(find_reward({reward.function.name!r}), 600)([], [])"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -signal.SIGKILL
    assert ends(int(file.read_text()))


def test_a_reward_that_forks_and_returns_twice_answers_once(own: Write) -> None:
    """The fork comes back from the function too: its answer must not be taken for that of the next call."""
    score = own("globals().setdefault('calls', []).append(1); os.fork(); return [float(len(calls))] * len(rows)")
    assert [score(ROWS, ITEMS)[0] for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]


def test_what_a_reward_writes_to_handles_that_are_not_its_own_is_no_answer(own: Any) -> None:
    sockets = "fd for fd in range(3, 99) if 'socket' in os.path.realpath(f'/proc/self/fd/{fd}')"
    score = own(f"[os.write(fd, b'x' * 100) for fd in [{sockets}]]", seconds=5)
    with pytest.raises(UserError, match="the process of the reward ended before it returned"):
        score(ROWS, ITEMS)


def test_a_message_that_never_ends_is_not_waited_for(own: Any) -> None:
    score = own("os.kill(os.getpid(), 19)", seconds=1.5)  # stopped, not ended
    with pytest.raises(UserError, match="the reward did not return within"):
        score(ROWS, ITEMS)
    ours, theirs = socket.socketpair()
    theirs.send(struct.pack("!QQ", 1, 100) + b"a part")
    with pytest.raises(TimeoutError):
        Messages(ours).receive(1, time.monotonic() + 0.2)
    theirs.close()
    ours.close()


def test_the_process_of_an_own_reward_ends_with_it(own: Write) -> None:
    score = own("print('on standard error'); return [float(os.getpid())] * len(rows)")
    (first,), (again,) = score(ROWS[:1], ITEMS[:1]), score(ROWS[:1], ITEMS[:1])
    process = score._process
    assert first == again and process is not None and process.process.poll() is None
    score.end()
    assert process.process.poll() is not None


def test_a_reward_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text("def scores(rows, trajectories): ...\n")
    with pytest.raises(UserError) as caught:
        find_reward(f"{tmp_path}/checks.py:score")
    name = f"{tmp_path}/checks.py"
    assert caught.value.text() == (
        f"reward {name}:score: {name}: no `score` in this file\n"
        "  expected: def score(rows, trajectories): ...\n  nearest: scores"
    )


def test_a_trajectory_is_plain_data() -> None:
    """So that it can be sent to a process that has no torch."""
    assert all(type(x) in (tuple, str, bool, dict, int) for x in vars(ITEMS[0]).values())
    assert isinstance(ITEMS[0], Trajectory)
