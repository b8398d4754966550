"""Run folders that are not ours, not alone, not of this version, or on a full disk."""

from __future__ import annotations

from tests.errors.cases.case import TOKENIZER, Case, full_disk, held, recipe

CASES = [
    Case(
        "output folder that is no run",
        lambda d: recipe(TOKENIZER)(d).write("mine/letter", "dear"),
        "run my.toml --out mine",
        """\
error: mine: the output folder holds something that is not a run
  expected: an empty or new folder, or a run of this recipe
  hint: choose another with --out
""",
    ),
    Case(
        "output folder that is a file",
        lambda d: recipe(TOKENIZER)(d).write("mine", "dear"),
        "run my.toml --out mine",
        """\
error: mine: the run folder cannot be made
  expected: a folder one may write
""",
    ),
    Case(
        "output folder of another recipe",
        lambda d: recipe(TOKENIZER)(d.family()),
        "run my.toml --out runs/family",
        """\
error: runs/family: the output folder is a run of another recipe, `family`
  expected: a run of `my`
  hint: choose another with --out
""",
    ),
    Case(
        "locked run folder",
        held,
        "run family.toml",
        """\
error: runs/family: another process is working in this run folder
""",
    ),
    Case(
        "clean of a locked run folder",
        held,
        "clean runs/family",
        """\
error: runs/family: another process is working in this run folder
""",
    ),
    Case(
        "newer schema of a run",
        lambda d: d.family().edit("runs/family/run.json", schema=9),
        "run family.toml",
        """\
error: runs/family/run.json: written by a newer qwenkit (schema 9)
  expected: schema 1 or older
  hint: upgrade qwenkit
""",
    ),
    Case(
        "damaged run.json",
        lambda d: d.family().edit("runs/family/run.json", fixed=None),
        "run family.toml",
        """\
error: runs/family/run.json: a corrupted run.json: keys are missing
  expected: recipe, fixed.threads, fixed.device
  hint: choose another with --out; a new run takes what is intact in this folder with --reuse
""",
    ),
    Case(
        "other threads",
        lambda d: d.family(),
        "run family.toml --set threads=2 --set tokenizer.extras=2",
        """\
error: runs/family: the run was started under other conditions: threads: 1 -> 2
  expected: the same, so that a resumed run gives the same bits
  hint: --allow-env-change goes on and marks the run, --out starts a new one
""",
    ),
    Case(
        "disk full before the first node",
        full_disk,
        "run my.toml",
        """\
error: runs/my/run.json: No space left on device
  hint: free some space
""",
        started=True,
    ),
    Case(
        "disk full within a node",
        lambda d: full_disk(d, 5),
        "run my.toml",
        """\
error: runs/my/.work/tokenizer-KEY: the disk is full, `tokenizer` stopped
  hint: free some space (`qwenkit clean` keeps unfinished work), then the same command goes on from here
""",
        started=True,
    ),
]
