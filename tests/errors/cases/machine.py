"""What the machine does to a run: no device, a full disk, Ctrl-C, a fault of ours, a loss that is no number."""

from __future__ import annotations

import numpy as np

from tests.errors.cases.case import TRAIN, Case, faulty, no_cuda, other_device, tensors

CASES = [
    Case(
        "no such device",
        no_cuda,
        "run my.toml --set device=cuda",
        """\
error: --set device=cuda: no device `cuda` on this machine
  expected: auto or cpu
""",
    ),
    Case(
        "a device of another machine",
        no_cuda,
        "run my.toml --set device=cuda:9",
        """\
error: --set device=cuda:9: no device `cuda:9` on this machine
  expected: auto or cpu
""",
    ),
    Case(
        "a device of another machine, in the recipe",
        other_device,
        "run my.toml",
        """\
error: my.toml, line 2: no device `cuda:9` on this machine
  expected: auto or cpu
""",
    ),
    Case(
        "a fault of ours",
        lambda d: faulty(d, RuntimeError("boom")),
        "run my.toml",
        """\
error: `tokenizer` failed: boom
  hint: this is a fault of qwenkit: please report runs/my/.work/tokenizer-KEY/error.txt
""",
        1,
        started=True,
    ),
    Case(
        "disk full in a library",
        lambda d: faulty(d, RuntimeError("IoError: No space left on device (os error 28)")),
        "run my.toml",
        """\
error: runs/my/.work/tokenizer-KEY: the disk is full, `tokenizer` stopped
  hint: free some space (`qwenkit clean` keeps unfinished work), then the same command goes on from here
""",
        started=True,
    ),
    Case(
        "interrupted",
        lambda d: faulty(d, KeyboardInterrupt()),
        "run my.toml",
        """\
error: interrupted in `tokenizer`
  hint: the same command goes on from here
""",
        130,
        started=True,
    ),
    Case(
        "the loss is no number",
        tensors(lambda t: t.update({"model.norm.weight": np.full(16, np.nan, np.float32)})),
        f"sft --model model --data chat.jsonl --steps 1 --warmup-steps 0 {TRAIN}",
        """\
error: rows (epoch:number) 0:0, 0:1; documents c6, c2: stopped by the alarm nonfinite-loss: loss is nan (a broken row, weights that already hold NaN, or an overflow in low precision)
  expected: not: the loss of a step is NaN or infinite
  hint: look at the rows named, check the model that was loaded, lower the learning rate, or train in float32
""",
        1,
        started=True,
    ),
]
