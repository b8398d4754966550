"""Where the seconds of a PPO step go, on a real model.

    python benchmarks/ppo_seconds.py MODEL --data DATA [--steps 3] [--set "--activation-checkpointing full"]

The same work as the PPO of `real_chain.py` (8 prompts, 2 answers of at most 32 tokens, a reward model trained for a few
steps), by the verb in this process, with a clock around each part of the step. Prints seconds of a step (median) and
shares; what no clock covers is the last row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwenkit.alignment import ppo as ppo_module
from qwenkit.alignment.passes import Passes
from qwenkit.alignment.ppo import PPO
from qwenkit.alignment.rewards import Rewards
from qwenkit.cli import main as cli
from real_chain import EDGES, WORK, prepare, train

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("sampling", PPO, "sample"),
    ("rewards", Rewards, "__call__"),
    ("log-probabilities and values of what was sampled", Passes, "read"),
    ("gradient of the value model", PPO, "value_gradient"),
    ("gradient of the policy", PPO, "policy_gradient"),
    ("optimizer steps", ppo_module, "optimizer_step"),
)
"""A name for people, the owner of a function, and the function."""


def clocked(seconds: dict[str, list[float]]) -> None:
    """Put a clock around each part; a step's sums are added to `seconds`, one number a step."""
    sums: dict[str, float] = defaultdict(float)

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                sums[name] += time.perf_counter() - started

        return call

    for name, owner, attribute in PARTS:
        setattr(owner, attribute, around(name, getattr(owner, attribute)))
    update = PPO.update

    def step(self: PPO, *args: Any) -> Any:
        sums.clear()
        started = time.perf_counter()
        metrics = update(self, *args)
        seconds["a step"].append(time.perf_counter() - started)
        for name, _, _ in PARTS:
            seconds[name].append(sums[name])
        return metrics

    PPO.update = step  # type: ignore[method-assign]


def main() -> None:
    """Train a reward model, run PPO under the clocks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", default="", help="more options of the verb")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        paths = prepare(given.data, Path(place), given.steps) | {"model": given.model.resolve()}
        own = str(Path(sys.executable).with_name("qwenkit"))
        train(own, "preference", Path(place) / "reward", 2, "", **paths)
        paths["reward"] = Path(place) / "reward" / "preference"
        clocked(seconds)
        words = f"ppo {EDGES['ppo']} {WORK['ppo']} {given.set} --out {place}/ppo".format(steps=given.steps, **paths)
        sys.argv = ["qwenkit", *words.split()]
        try:
            cli()
        except SystemExit as done:
            if done.code:
                raise
    middle = {name: statistics.median(values[1:] or values) for name, values in seconds.items()}
    whole = middle.pop("a step")
    print("| part of a step | seconds | share |\n|---|---|---|")
    for name, value in (*middle.items(), ("everything else", whole - sum(middle.values())), ("a step", whole)):
        print(f"| {name} | {value:.2f} | {value / whole:.0%} |")


if __name__ == "__main__":
    main()
