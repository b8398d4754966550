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
  mend: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "verify finds a missing file",
        lambda d: d.family().remove(WEIGHTS),
        "verify runs/family/base",
        """\
error: runs/family/base/model.safetensors: missing
  mend: remove the folder; the next `qwenkit run` makes it again
""",
    ),
    Case(
        "damaged input of a verb",
        changed(WEIGHTS),
        SFT.replace("bad.jsonl", "chat.jsonl"),
        """\
error: runs/family/base: a damaged artifact: model.safetensors: its bytes changed
  mend: fetch or make it again
""",
    ),
    Case(
        "damaged input under --only",
        changed(WEIGHTS),
        "run family.toml --only chat --set chat.steps=2",
        """\
error: runs/family/base: a damaged artifact: model.safetensors: its bytes changed
  mend: --until chat makes it again
""",
    ),
    Case(
        "broken manifest",
        lambda d: d.family().cut("runs/family/base/manifest.json"),
        "verify runs/family",
        """\
error: runs/family/base/manifest.json, line 42: broken JSON: Unterminated string starting at
""",
    ),
    Case(
        "manifest with a false digest",
        lambda d: d.family().edit("runs/family/base/manifest.json", digest="0"),
        "status runs/family",
        """\
error: runs/family/base/manifest.json: a damaged manifest: its digest is not that of its files
""",
    ),
    Case(
        "manifest without a key",
        lambda d: d.family().edit("runs/family/base/manifest.json", key=None),
        "status runs/family",
        """\
error: runs/family/base/manifest.json: a damaged manifest: keys are missing or unknown
""",
    ),
    Case(
        "newer schema of a manifest",
        lambda d: d.family().edit("runs/family/base/manifest.json", schema=9),
        SFT.replace("bad.jsonl", "chat.jsonl"),
        """\
error: runs/family/base/manifest.json: written by a newer qwenkit (schema 9)
  expected: schema 1 or older
  mend: upgrade qwenkit
""",
    ),
    Case(
        "damaged run.json of an artifact",
        lambda d: d.family().edit("runs/family/base/run.json", seconds=None),
        "status runs/family",
        """\
error: runs/family/base/run.json: missing key `seconds`
""",
    ),
]
