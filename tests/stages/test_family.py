"""The whole graph at the smallest size, through the real command line: raised, killed, resumed, opened by others."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwenkit.artifacts import damage, read_manifest
from qwenkit.lineage.recipe import load_recipe

RECIPE = Path(__file__).with_name("family.toml")
NODES = list(load_recipe(str(RECIPE)).nodes)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "qwenkit.cli", *map(str, arguments)]


def qwenkit(*arguments: str | Path, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=check, env=env, **options)  # type: ignore[call-overload]


def manifests(run: Path) -> dict[str, str]:
    return {node: (run / node / "manifest.json").read_text() for node in NODES}


def differing(left: Path, right: Path) -> list[str]:
    return [node for node, text in manifests(left).items() if text != manifests(right)[node]]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run of the family."""
    out = tmp_path_factory.mktemp("runs") / "family"
    qwenkit("run", RECIPE, "--out", out, "-q")
    return out


def test_every_node_is_whole_and_nothing_runs_again(family: Path) -> None:
    assert [damage(family / node) for node in NODES] == [[]] * len(NODES)
    said = qwenkit("run", RECIPE, "--out", family).stdout
    assert "0 of 11 nodes to run" in said and "nothing to do" in said
    assert not any((family / ".work").glob("*")) and not (family / ".old").exists()


def kill_until_done(out: Path, kills: int, seed: int, recipe: Path | str = RECIPE, longest: float = 6.0) -> int:
    """Run, SIGKILL at a random moment, again; after `kills` kills let it end. Returns the kills that hit."""
    random_ = random.Random(seed)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    hits = 0
    for _ in range(kills):
        process = subprocess.Popen(command("run", recipe, "--out", out, "-q"), stdout=subprocess.DEVNULL, env=env)
        time.sleep(random_.uniform(0.5, longest))
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    qwenkit("run", recipe, "--out", out, "-q")
    return hits


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_kills_change_no_byte(family: Path, tmp_path: Path, kills: int) -> None:
    """SIGKILL at random moments: every manifest equals that of the uninterrupted run, byte for byte."""
    assert kill_until_done(tmp_path / "killed", kills, seed=1) >= kills / 2
    assert differing(family, tmp_path / "killed") == []


@pytest.mark.soak
def test_twenty_kills_of_the_quick_recipe_change_no_byte(tmp_path: Path) -> None:
    qwenkit("run", "nano-quick", "--out", tmp_path / "whole", "-q")
    assert kill_until_done(tmp_path / "killed", kills=20, seed=7, recipe="nano-quick", longest=11.0) >= 10
    assert differing(tmp_path / "whole", tmp_path / "killed") == []


@pytest.mark.soak
def test_twenty_kills_change_no_byte(family: Path, tmp_path: Path) -> None:
    for seed in range(5):
        kill_until_done(tmp_path / f"killed-{seed}", kills=20, seed=seed, longest=4.0)
        assert differing(family, tmp_path / f"killed-{seed}") == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_no_alarm_in_a_healthy_family(seed: int, tmp_path: Path) -> None:
    """What every alarm says of its injected fault is in tests/training; here nothing is wrong, ten times."""
    qwenkit("run", "nano-quick", "--set", f"seed={seed}", "--out", tmp_path / "run", "-q")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] == "alarm"] == []
    assert {event["node"] for event in events if event["event"] == "step"} >= {
        "base",
        "chat",
        "pmp",
        "reward",
        "chat-rlhf",
    }


def test_a_change_runs_what_lies_below_it(family: Path) -> None:
    plan = json.loads(qwenkit("run", RECIPE, "--out", family, "--set", "reward.lr=1e-4", "--dry-run", "--json").stdout)
    states = {row["node"]: row["state"] for row in plan}
    assert states["reward"] == "run" and states["chat-rlhf"] == states["exam"] == states["report"] == "waiting"
    assert all(states[node] == "done" for node in ("world", "corpus", "tokenizer", "base", "chat", "pmp"))


def test_transformers_opens_every_model(family: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from qwenkit import load_model, load_tokenizer
    from qwenkit.model import load_scalar

    messages = [{"role": "user", "content": "What is 你好?"}, {"role": "assistant", "content": "Yes."}]
    for node in ("base", "chat", "chat-rlhf"):
        tok, theirs = load_tokenizer(family / node), AutoTokenizer.from_pretrained(family / node)
        ids = tok.render(messages).ids
        assert theirs.apply_chat_template(messages, tokenize=True, return_dict=False) == ids
        with torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(family / node)(torch.tensor([ids])).logits
            assert torch.allclose(load_model(family / node)(torch.tensor([ids])), expected, atol=1e-4)
    for node in ("pmp", "reward"):
        ids = load_tokenizer(family / node).render(messages).ids[:-1]  # up to <|im_end|>
        with torch.no_grad():
            expected = AutoModelForSequenceClassification.from_pretrained(family / node)(torch.tensor([ids])).logits
            assert torch.allclose(
                load_scalar(family / node).score(torch.tensor([ids]))[0, -1], expected[0, 0], atol=1e-4
            )


def test_chat_models_say_where_a_turn_ends(family: Path) -> None:
    from qwenkit import load_tokenizer

    tok = load_tokenizer(family / "chat")
    for node in ("chat", "chat-rlhf"):
        assert json.loads((family / node / "generation_config.json").read_text())["eos_token_id"] == [
            tok.im_end_id, tok.eot_id,
        ]  # fmt: skip


def test_the_command_line_talks(family: Path) -> None:
    assert qwenkit("chat", family / "chat-rlhf", "-p", "Hello, 你好", "--max-tokens", "5").returncode == 0
    done = qwenkit("chat", family / "chat", "--max-tokens", "3", input="hi\n/clear\nhi\n/quit\n")
    assert done.returncode == 0 and done.stderr.count("all turns are forgotten") == 1
    masked = qwenkit(
        "inspect", "mask", family / "world" / "chat.jsonl", "--tokenizer", family / "chat", "--limit", "2"
    ).stdout
    assert "assistant" in masked


def test_books_balance_and_tests_stay_unseen(family: Path) -> None:
    corpus = read_manifest(family / "corpus").metrics
    dropped = sum(step["dropped"] for step in corpus["funnel"] if step["rule"] != "quarantined")
    assert corpus["read"] == corpus["kept"] + dropped
    assert corpus["overlap_13gram"] == 0 == read_manifest(family / "world").metrics["question_overlap_13gram"]


def test_the_report_asks_nothing_of_the_network(family: Path) -> None:
    page = (family / "report.html").read_text()
    assert len(page) < 3_000_000 and "chat-rlhf" in page
    assert "<script src" not in page and 'href="http' not in page and "url(http" not in page


def test_a_verb_is_a_recipe_of_one_node(family: Path, tmp_path: Path) -> None:
    """`qwenkit sft ...` gives the same bytes as the node of the recipe."""
    config = read_manifest(family / "chat").config
    keys = [
        f"--{name.replace('_', '-')}={json.dumps(v) if not isinstance(v, str) else v}" for name, v in config.items()
    ]
    edges = {"model": "base", "data": "world", "replay": "corpus", "decontaminate": "testsets"}
    qwenkit(
        "sft",
        *keys,
        *[f"--{key}={family / node}" for key, node in edges.items()],
        "--threads=1",
        f"--out={tmp_path / 'mine'}",
        "-q",
    )
    mine, theirs = read_manifest(tmp_path / "mine" / "sft"), read_manifest(family / "chat")
    assert mine.digest == theirs.digest


@pytest.mark.soak
def test_the_report_joins_another_seed(family: Path, tmp_path: Path) -> None:
    """By the verb, from two finished runs; `test_seed_report` does the same with runs that nothing trained."""
    pinned = [f"{node}.seed=1" for node in ("world", "testsets", "corpus", "tokenizer")]
    changes = [word for change in ("seed=2", *pinned) for word in ("--set", change)]
    other = tmp_path / "other"
    qwenkit("run", RECIPE, *changes, "--reuse", family, "--out", other, "-q")
    qwenkit("report", "--of", family, "--seeds", other, "--out", tmp_path / "joint", "-q")
    joined = json.loads((tmp_path / "joint" / "report" / "seeds.json").read_text())
    assert joined["seeds"] == ["1", "2"] and len(joined["comparisons"]) == 6
    shared = [name for name, node in joined["nodes"].items() if node["shared"]]
    assert shared == ["corpus", "testsets", "tokenizer", "world"]
    page = (tmp_path / "joint" / "report.html").read_text()
    assert "Across seeds" in page and "chat-rlhf" in page
    assert "Across seeds" not in (family / "report.html").read_text()


def test_one_artifact_or_the_run_itself_is_not_another_seed(family: Path, tmp_path: Path) -> None:
    for wrong, what in ((family, "has the seed 1 twice"), (family / "exam", "whose kind is evaluate")):
        said = qwenkit("report", "--of", family, "--seeds", wrong, "--out", tmp_path / "no", check=False)
        assert said.returncode == 2 and what in said.stderr, said.stderr
        assert not (tmp_path / "no" / "report").exists()
