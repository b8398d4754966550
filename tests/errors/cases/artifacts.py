"""Artifacts that were changed, cut or lost."""

from __future__ import annotations

from tests.errors.cases.case import SFT, WEIGHTS, Case, changed

CASES = [
    Case(
        "verify finds changed bytes",
        changed(WEIGHTS),
        "verify runs/family",
        """\
error: runs/family/base/model.safetensors: its bytes changed
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "verify finds a missing file",
        lambda d: d.family().remove(WEIGHTS),
        "verify runs/family/base",
        """\
error: runs/family/base/model.safetensors: missing
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "verify names every damage",
        lambda d: (
            d.family()
            .cut("runs/family/base/manifest.json")
            .remove("runs/family/pmp/config.json")
            .write("runs/family/chat/notes.txt", "mine")
        ),
        "verify runs/family",
        """\
error: runs/family/base/manifest.json, line 47: broken JSON: Unterminated string starting at
runs/family/chat/notes.txt: not in the manifest
runs/family/pmp/config.json: missing
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "verify finds a lost manifest",
        lambda d: d.family().remove("runs/family/base/manifest.json"),
        "verify runs/family",
        """\
error: runs/family/base/manifest.json: no such file
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "verify finds a stray file",
        lambda d: d.family().write("runs/family/base/notes.txt", "mine"),
        "verify runs/family",
        """\
error: runs/family/base/notes.txt: not in the manifest
  hint: move it out of the folder
""",
    ),
    Case(
        "run finds a stray file",
        lambda d: d.family().write("runs/family/base/notes.txt", "mine"),
        "run family.toml",
        """\
error: runs/family/base: a corrupted artifact: notes.txt: not in the manifest
  hint: move it out of the folder
""",
    ),
    Case(
        "damaged input of a verb",
        changed(WEIGHTS),
        SFT.replace("bad.jsonl", "chat.jsonl"),
        """\
error: runs/family/base: a corrupted artifact: model.safetensors: its bytes changed
  hint: fetch or make it again
""",
    ),
    Case(
        "damaged input under --only",
        changed(WEIGHTS),
        "run family.toml --only chat --set chat.steps=2",
        """\
error: runs/family/base: a corrupted artifact: model.safetensors: its bytes changed
  hint: --until chat makes it again
""",
    ),
    Case(
        "broken manifest",
        lambda d: d.family().cut("runs/family/base/manifest.json"),
        "verify runs/family",
        """\
error: runs/family/base/manifest.json, line 47: broken JSON: Unterminated string starting at
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "manifest with a false digest",
        lambda d: d.family().edit("runs/family/base/manifest.json", digest="0"),
        "status runs/family",
        """\
error: runs/family/base/manifest.json: a corrupted manifest: its digest is not that of its files
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "manifest without a key",
        lambda d: d.family().edit("runs/family/base/manifest.json", key=None),
        "status runs/family",
        """\
error: runs/family/base/manifest.json: a corrupted manifest: keys are missing or unknown
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "newer schema of a manifest",
        lambda d: d.family().edit("runs/family/base/manifest.json", schema=9),
        SFT.replace("bad.jsonl", "chat.jsonl"),
        """\
error: runs/family/base/manifest.json: written by a newer qwenkit (schema 9)
  expected: schema 1 or older
  hint: upgrade qwenkit
""",
    ),
    Case(
        "damaged run.json of an artifact",
        lambda d: d.family().edit("runs/family/base/run.json", seconds=None),
        "status runs/family",
        """\
error: runs/family/base/run.json: missing key `seconds`
  hint: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "a report on no artifact",
        lambda desk: desk.family().write("mine/notes.txt", "mine"),
        "report --of mine --threads 1 --out runs/o",
        """\
error: qwenkit report, mine: no artifact of a run
  expected: a folder with manifest.json, or a run folder
""",
        started=True,
    ),
    Case(
        "other seeds from no run",
        lambda desk: desk.family(),
        "report --of runs/family --seeds runs/family/chat --threads 1 --out runs/o",
        """\
error: qwenkit report --seeds: `report.seeds` names `runs/family/chat`, whose kind is sft
  expected: run: run folders of the same recipe with another seed
""",
    ),
    Case(
        "other seeds of nodes from two runs",
        lambda desk: desk.family().copy("runs/family", "runs/mine"),
        "report --of runs/family/chat,runs/mine/pmp --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/family, runs/mine: `seeds` joins nodes of one run, `of` names others
  expected: nodes of one run in `of`
""",
        started=True,
    ),
    Case(
        "the same seed as another",
        lambda desk: desk.family().copy("runs/family", "runs/mine"),
        "report --of runs/family --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/family and runs/mine: `base` has the seed 1 twice
  expected: a seed of its own for every run
""",
        started=True,
    ),
    Case(
        "another seed of another recipe",
        lambda desk: desk.family().run("runs/mine", "--set seed=2 --set chat.lr=0.002"),
        "report --of runs/family --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/mine: a run of another recipe: chat.lr: 0.001 -> 0.002
  expected: another seed and nothing else
""",
        started=True,
    ),
    Case(
        "another seed that is not finished",
        lambda desk: desk.family().run("runs/mine", "--set seed=2 --until chat"),
        "report --of runs/family --seeds runs/mine --threads 1 --out runs/o",
        """\
error: qwenkit report, runs/mine: `pmp` is missing in this run
  expected: a finished run of the same recipe
  hint: `qwenkit run` goes on with it
""",
        started=True,
    ),
]
