"""The documentation says what the code does: tables, files, metrics, events, links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qwenkit import artifacts
from qwenkit.data.tokens import shards
from qwenkit.events import KINDS as EVENTS
from qwenkit.events import read_events
from qwenkit.lineage import preflight, recipe
from qwenkit.stages import KINDS
from qwenkit.training import ALARMS
from tests.docs import pages

FORMATS = pages.DOCS / "formats.md"
COMMON = {"event", "time", "attempt"}


def words(*paths: Path) -> set[str]:
    """Everything that stands in backticks."""
    return {word for path in paths for word in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", pages.all_pages(), ids=lambda path: path.stem)
def test_tables_are_the_codes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == pages.filled(text), "run: python -m tests.docs.pages"


@pytest.mark.parametrize("page", pages.all_pages(), ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name) if name else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_every_stage_has_a_page_with_its_keys() -> None:
    assert {path.stem for path in (pages.DOCS / "stages").glob("*.md")} == set(KINDS)
    for kind in KINDS:
        text = pages.stage_page(kind).read_text(encoding="utf-8")
        assert text.startswith(f"# `{kind}`") and f"keys {kind}" in pages.names(text)
        assert "**Inputs:**" in text and "**Section:**" in text


def test_every_alarm_stands_in_its_page_once() -> None:
    text = (pages.DOCS / "alarms.md").read_text(encoding="utf-8")
    assert "alarms" in pages.names(text)
    assert re.findall(r"^\| `([\w-]+)` \|", text, re.M) == list(ALARMS)


def test_every_event_and_run_key_is_described() -> None:
    text = FORMATS.read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \|", text.split("## `events.jsonl`")[1].split("## Recipes")[0], re.M)
    assert sorted(told) == sorted(EVENTS)
    keys = re.findall(r"^\| `(\w+)` \|", text.split("## Recipes")[1].split("## Rows")[0], re.M)
    assert sorted(keys) == sorted(recipe.RUN_KEYS)


def test_schema_versions_are_those_described() -> None:
    assert (artifacts.SCHEMA, preflight.SCHEMA, recipe.SCHEMA, shards.SCHEMA) == (1, 1, 2, 2), "tell docs/formats.md"


def test_every_file_of_a_run_is_described(family: Path) -> None:
    told = words(FORMATS)
    for path in sorted(family.glob("runs/nano/*/manifest.json")):
        manifest = artifacts.read_manifest(path.parent)
        for name in manifest.files:
            exam = re.sub(r"^.*\.(base|chat)\.jsonl$", r"MODEL.\1.jsonl", name) if manifest.kind == "evaluate" else name
            exam = re.sub(r"-\d{5}(?=\.parquet$)", "-00000", exam)
            assert exam in told, f"{manifest.node}/{name}"


def test_every_field_of_the_books_is_described(family: Path) -> None:
    told = words(FORMATS)
    for path in family.glob("runs/nano/**/*.json"):
        if path.name in (artifacts.MANIFEST, artifacts.RUN):
            assert set(json.loads(path.read_text())) <= told, path


def test_every_metric_is_described_on_its_stages_page(family: Path) -> None:
    for path in sorted(family.glob("runs/nano/*/manifest.json")):
        manifest = artifacts.read_manifest(path.parent)
        missing = set(manifest.metrics) - words(pages.stage_page(manifest.kind))
        assert not missing, f"{manifest.kind}: {missing}"


def test_every_field_of_every_event_is_described(family: Path) -> None:
    kinds = {
        path.parent.name: artifacts.read_manifest(path.parent).kind for path in family.glob("runs/nano/*/manifest.json")
    }
    seen = set()
    for event in read_events(family / "runs/nano/events.jsonl"):
        seen.add(event["event"])
        if event["event"] == "eval":  # its fields are the names of held-out groups
            continue
        told = words(FORMATS, *([pages.stage_page(kinds[event["node"]])] if "node" in event else []))
        assert set(event) <= told | COMMON, f"{event['event']}: {set(event) - told - COMMON}"
    assert {"run_start", "node_start", "step", "eval", "checkpoint", "node_done", "run_end"} <= seen
