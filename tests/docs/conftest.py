"""A family at the smallest size, trained once by the command line, in a process that may not touch the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARDED = """
import sys
def guard(event, arguments):
    if event in ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise RuntimeError(f"the network was touched: {event}")
sys.addaudithook(guard)
from qwenkit.cli import main
main()
"""
TINY = (
    "title=nano", "threads=1", "world.scale=tiny", "tokenizer.vocab_size=400", "base.tokens=40000",
    "base.warmup_steps=2", "base.evaluate_every=5", "base.compile=false", "chat.epochs=0.2", "chat.warmup_steps=0",
    "chat.compile=false", "reward.data=testsets", "chat-rlhf.steps=3", "chat-rlhf.value_warmup_steps=1",
    "chat-rlhf.prompts_per_step=8", "exam.limit=10",
)  # fmt: skip


def qwenkit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line without a network."""
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", GUARDED, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/nano`, as `make nano` leaves it, only smaller."""
    folder = tmp_path_factory.mktemp("family")
    changes = [word for change in TINY for word in ("--set", change)]
    done = qwenkit("run", "nano-quick", *changes, "--out", "runs/nano", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
