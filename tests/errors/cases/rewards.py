"""Rewards of PPO that a recipe names wrongly, and rewards of a user's own that go wrong while a policy is trained."""

from __future__ import annotations

from collections.abc import Callable

from tests.errors.cases.case import PPO, Case, bad_rows
from tests.errors.desk import Desk, prompts

CHECKS = """\
import time


def text(rows, trajectories):
    return ["good"] * len(rows)


def few(rows, trajectories):
    return [1.0]


def nothing(rows, trajectories):
    return [float("nan")] * len(rows)


def broken(rows, trajectories):
    return [1 / row["points"] for row in rows]


def endless(rows, trajectories):
    while True:
        time.sleep(1)
"""
RECIPE = """\
[rl]
kind = "ppo"
model = "runs/family/chat"
prompts = "bad.jsonl"
ptx_coef = 0.0
steps = 1
max_tokens = 4
prompts_per_step = 1
minibatches = 1
"""
ANSWERS = "sample 0 of prompt q0, sample 1 of prompt q0"


def rewarded(keys: str) -> Callable[[Desk], Desk]:
    """A recipe of PPO with these keys for its rewards, one prompt, and a file of rewards; its rewards begin at line 11."""
    return lambda desk: bad_rows(*prompts()[:1])(desk).write("checks.py", CHECKS).recipe(RECIPE + keys)


def wrong(name: str, keys: str, stderr: str, started: bool = False) -> Case:
    """A recipe whose rewards are refused."""
    return Case(name, rewarded(keys), "run my.toml", f"error: my.toml, {stderr}", started=started)


CASES = [
    wrong(
        "a reward of an unknown name",
        "reward = {modle = 1.0}\n",
        """\
line 2: `rl`: no reward `modle`
  expected: `model`, `module:function` or `file.py:function`
  nearest: model
""",
    ),
    wrong(
        "a reward of an unknown function",
        'reward = {"checks:txt" = 1.0}\n',
        """\
line 2: `rl`: reward checks:txt: checks.py: no `txt` in this file
  expected: def txt(rows, trajectories): ...
  nearest: text
""",
    ),
    wrong(
        "a reward of an unknown file",
        'reward = {"check:text" = 1.0}\n',
        """\
line 2: `rl`: reward check:text: check.py: no such file
  expected: `module:function` or `file.py:function`
  hint: looked for in the working directory, and for an installed module with a source file ({tmp})
""",
    ),
    wrong(
        "a weight that is not a number",
        'reward = {"checks:text" = "much"}\n',
        """\
line 11: `rl.reward.checks:text` is "much"
  expected: a number
""",
    ),
    wrong(
        "a weight that is not finite",
        'reward = {"checks:text" = nan}\n',
        """\
line 11: `rl.reward.checks:text` is nan
  expected: a finite number
""",
    ),
    wrong(
        "a table of no rewards",
        "reward = {}\n",
        """\
line 2: `rl`: `reward` is empty
  expected: weights, like {model = 1.0, "checks:score" = 0.5}
""",
    ),
    wrong(
        "a reward model by both of its names",
        'reward = "runs/family/pmp"\nreward_model = "runs/family/pmp"\n',
        """\
line 11: `rl.reward` and `rl.reward_model` name the same thing
  expected: `reward_model` alone
""",
    ),
    Case(
        "a policy without a reward",
        bad_rows(*prompts()),
        PPO.replace("--reward runs/family/pmp ", ""),
        """\
error: qwenkit ppo: `reward` holds `model`, but there is no `reward_model`
  hint: name one, or give `reward` a table without `model`
""",
    ),
    wrong(
        "a reward that returns text",
        'reward = {"checks:text" = 1.0}\n',
        """\
[rl], reward checks:text, sample 0 of prompt q0: the reward returned 'good'
  expected: a finite number for each trajectory
""",
        started=True,
    ),
    wrong(
        "a reward that returns too few values",
        'reward_model = "runs/family/pmp"\nreward = {model = 1.0, "checks:few" = 0.5}\n',
        f"""\
[rl], reward checks:few, {ANSWERS}: the reward returned 1 values
  expected: 2, one for each trajectory
""",
        started=True,
    ),
    wrong(
        "a reward that is not a number",
        'reward = {"checks:nothing" = 1.0}\n',
        """\
[rl], reward checks:nothing, sample 0 of prompt q0: the reward returned nan
  expected: a finite number for each trajectory
""",
        started=True,
    ),
    wrong(
        "a reward that fails",
        'reward = {"checks:broken" = 1.0}\n',
        """\
[rl], reward checks:broken: {tmp}/checks.py:17, sample 0 of prompt q0: the reward failed: KeyError: 'points'
""",
        started=True,
    ),
    wrong(
        "a reward that never returns",
        'reward = {"checks:endless" = 1.0}\nreward_seconds = 1.0\n',
        f"""\
[rl], reward checks:endless, {ANSWERS}: the reward did not return within 1 seconds
  hint: make it faster, or raise `reward_seconds`
""",
        started=True,
    ),
]
