"""From a line of a raw file to the steps that saw it, in every epoch, and back from a step; by the command line."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from qwenkit import rng
from qwenkit.artifacts import read_manifest
from qwenkit.data.tokens.tokenize import tokenize
from qwenkit.lineage.model_card import model_card
from qwenkit.lineage.trace import trace
from qwenkit.records import read_json, write_json, write_jsonl
from qwenkit.stages.base import Input
from qwenkit.training import Batches
from tests.errors.desk import TRAIN, WORDS, call

RECIPE = f"""\
seed = 1
threads = 1
out = "runs/traced"

[corpus]
extra = ["mine.jsonl"]
licences = {{extra = "CC-BY-4.0"}}
upsample = {{extra = 1.5}}

[tokenizer]
corpus = "corpus"
vocab_size = 300
extras = 1
pad_to = 8

[base]
kind = "pretrain"
corpus = "corpus"
tokenizer = "tokenizer"
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 16
tokens = 24000
validation_share = 0.1
{TRAIN}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of some epochs over a file of your own, with a copy, and ids that look like those of copies."""
    tmp, luck = tmp_path_factory.mktemp("trace"), random.Random(1)
    rows = [{"id": f"user~{n}", "text": " ".join(luck.choices(WORDS, k=40))} for n in range(60)]
    rows += [{"id": "user", "text": "a text that is all its own and longer than nothing"}, {**rows[7], "id": "again"}]
    write_jsonl(tmp / "mine.jsonl", rows)
    (tmp / "my.toml").write_text(RECIPE)
    with contextlib.chdir(tmp):
        code, _, err = call("run my.toml -q")
    assert code == 0, err
    return tmp


def explain(folder: Path, arguments: str) -> Any:
    with contextlib.chdir(folder):
        code, out, err = call(f"trace {arguments} --run runs/traced --node base --json")
    assert code == 0, err
    return json.loads(out)


def test_documents_and_steps_tell_the_same(folder: Path) -> None:
    metrics = read_json(folder / "runs/traced/base/manifest.json")["metrics"]
    assert metrics["epochs"] > 2
    shown = [explain(folder, f"--step {step}") for step in range(0, metrics["steps"], 29)]
    lines = [json.loads(line) for line in (folder / "mine.jsonl").read_text().splitlines()]
    copies: dict[str, int] = {}
    for number in (1, 2, 5, 7, 60):
        name = lines[number]["id"]
        found = explain(folder, name)
        assert [row["id"] for row in found["fates"] if row["step"] == "kept"] == [name]
        copies[name] = len(found["tokens"])
        for row in found["tokens"]:
            assert (row["place"], row["licence"]) == (f"mine.jsonl:{number + 1}", "CC-BY-4.0")
            assert len(row["steps"]) >= 2 and row["steps"][-1] > metrics["steps"] / metrics["epochs"]
            seen = [29 * n for n, rows in enumerate(shown) if any(
                (r["id"], r["copy"], r["start"]) == (name, row["copy"], row["start"]) for r in rows
            )]  # fmt: skip
            assert [step for step in row["steps"] if step % 29 == 0] == seen
    assert copies["user~7"] == 0 and {1, 2} <= set(copies.values())  # held out; taken once; taken twice
    assert [row["id"] for row in explain(folder, "user~7")["fates"]] == ["user~7", "again"]


def test_the_steps_are_those_that_were_trained_on(folder: Path, tmp_path: Path) -> None:
    """By the fingerprints of their tokens, which the training wrote into its log."""
    run = folder / "runs/traced"
    corpus, tokenizer = (Input(name, run / name, read_manifest(run / name).digest) for name in ("corpus", "tokenizer"))
    seed = rng.derive_seed(read_manifest(run / "base").seed, "held-out")
    store = tokenize(corpus, tokenizer, 0.1, seed, tmp_path).dataset
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    logged = {event["step"]: event["batch"] for event in events if event["event"] == "step"}
    traced = trace(run, "base")
    batches = Batches(store, traced.order, traced.batch_size)
    assert len(logged) == traced.steps
    for step in range(0, traced.steps, 17):
        assert batches(step).fingerprint == logged[step + 1]


def test_words_for_people(folder: Path) -> None:
    with contextlib.chdir(folder):
        code, out, _ = call("trace again --run runs/traced --node base")
        assert code == 0 and "dropped by exact_duplicates exact_copy of user~7" in out
        assert "did not learn it" in out and "(extra, mine.jsonl:62)" in out
        code, out, _ = call("trace --step 3 --run runs/traced --node base")
        assert code == 0 and "CC-BY-4.0): tokens " in out
        code, _, err = call("trace --step 99999 --run runs/traced --node base")
        assert code == 2 and "no step 99999" in err


def test_the_card_names_licence_and_source_of_every_token(folder: Path) -> None:
    found = read_json(folder / "runs/traced/base/manifest.json")["metrics"]["tokens_by_licence"]["CC-BY-4.0"]
    card = model_card(folder / "runs/traced/base")
    row = f"{found['documents']:,} | {found['tokens']:,} | 100.00% |"
    assert f"| CC-BY-4.0 | {row}" in card and f"| extra | {row}" in card


def test_other_tokens_than_those_learnt_are_refused(folder: Path) -> None:
    path = folder / "runs/traced/base/manifest.json"
    before = read_json(path)
    write_json(path, {**before, "metrics": {**before["metrics"], "corpus_digest": "0"}})
    with contextlib.chdir(folder):
        code, _, err = call("trace --step 1 --run runs/traced --node base")
    write_json(path, before)
    assert code == 2 and "not the index of the tokens" in err
