"""Rows that do not fit: put aside and counted up to `max_bad`, looked at before anything works."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qwenkit.config import validate
from qwenkit.data.chats.datasets import notes, refuse_bad
from qwenkit.errors import UserError
from qwenkit.evaluation.questions import read_prompts
from qwenkit.lineage.preflight import refuse_first_rows
from qwenkit.lineage.recipe import build
from qwenkit.lineage.runner import Options, plan
from qwenkit.records import Quarantine, write_jsonl
from qwenkit.stages import sft
from qwenkit.stages.base import Input, sources

GOOD = {"messages": [{"role": "user", "content": "Sum?"}, {"role": "assistant", "content": "Seven."}]}
BAD = {"messages": [{"role": "user", "content": "Sum?"}]}


def chats(path: Path, good: int, bad: int) -> Path:
    write_jsonl(path, [*[GOOD] * good, *[BAD] * bad])
    return path


def test_more_than_is_borne_ends_the_node_with_reasons() -> None:
    counts = Counter({"an empty answer": 2, "user after user": 1})
    rows = [{"reason": "an empty answer", "file": "a.jsonl", "line": 7}]
    refuse_bad(Path("a"), 300, counts, rows, 0.01)
    with pytest.raises(UserError, match=r"3 of 299 rows cannot be used") as refused:
        refuse_bad(Path("a"), 299, counts, rows, 0.01)
    assert "2 an empty answer (first: a.jsonl, row 7)" in refused.value.text() and "max_bad" in refused.value.text()


def test_first_rows_tell_what_a_source_is(tmp_path: Path) -> None:
    refuse_first_rows("sft", ("chats",), [chats(tmp_path / "a.jsonl", 200, 2)], 0.01)
    with pytest.raises(UserError, match="3 of 203 rows cannot be used"):  # small: weighed as a whole
        refuse_first_rows("sft", ("chats",), [chats(tmp_path / "b.jsonl", 200, 3)], 0.01)
    refuse_first_rows("sft", ("chats",), [chats(tmp_path / "c.jsonl", 2000, 100)], 0.01)  # not looked at further
    with pytest.raises(UserError, match=r"d\.jsonl, row 1: a chat without an answer"):
        refuse_first_rows("sft", ("chats",), [chats(tmp_path / "d.jsonl", 0, 3)], 1.0)
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(UserError, match="no chats here"):
        refuse_first_rows("sft", ("chats",), [tmp_path / "e.jsonl"], 1.0)
    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(prompts, [{"prompt": "Sum?"}])
    refuse_first_rows("ppo", ("prompts",), [prompts], 0.0)
    with pytest.raises(UserError, match="missing key `rubric`"):
        refuse_first_rows("reward", ("prompts",), [prompts], 0.0)
    with pytest.raises(UserError, match="missing key `text`"):
        refuse_first_rows("pretrain", ("documents",), [prompts], 0.0)


def recipe(data: Any, tmp_path: Path) -> Any:
    (tmp_path / "texts").mkdir(exist_ok=True)
    (tmp_path / "texts" / "a.txt").write_text("Some text.")
    table = {
        "title": "mine", "corpus": {"extra": ["texts"]}, "tokenizer": {"corpus": "corpus"},
        "base": {"kind": "pretrain", "corpus": "corpus", "tokenizer": "tokenizer"},
        "chat": {"kind": "sft", "model": "base", "data": data},
    }  # fmt: skip
    return build(table, {}, "mine.toml", tmp_path)


def test_a_plan_refuses_what_would_end_a_run_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chats(tmp_path / "bad.jsonl", 10, 10)
    chats(tmp_path / "good.jsonl", 10, 0)
    with pytest.raises(UserError, match=r"`chat\.data`.*\n?.*10 of 20 rows cannot be used"):
        plan(recipe("bad.jsonl", tmp_path), Options())
    assert [verdict.node for verdict in plan(recipe("good.jsonl", tmp_path), Options())][-1] == "chat"
    with pytest.raises(UserError, match="10 of 30 rows"):
        plan(recipe(["good.jsonl", "bad.jsonl"], tmp_path), Options())


@pytest.mark.parametrize("given", ["a.jsonl, b.jsonl", ["a.jsonl", "b.jsonl"]])
def test_several_sources_stand_at_one_key(given: Any, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        chats(tmp_path / name, 2, 0)
    node = recipe(given, tmp_path).nodes["chat"]
    assert {name: Path(target).name for name, (_, target) in node.inputs.items() if name != "model"} == {
        "data.0": "a.jsonl", "data.1": "b.jsonl",
    }  # fmt: skip
    inputs = {name: Input(name, Path(target), "") for name, (_, target) in node.inputs.items()}
    assert [path.name for path in sources(inputs, "data")] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(UserError, match=r"`chat\.data` is 3"):
        validate(sft.Config, {"model": "m", "data": 3}, "mine.toml", {}, "chat")


def test_prompts_of_other_uses_are_no_bad_ones(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "use": "reward"}, {"prompt": "c", "use": "rl"}, {"answer": "d"}]
    write_jsonl(tmp_path / "p.jsonl", rows)
    bad = Quarantine()
    assert [row["id"] for row in read_prompts(tmp_path / "p.jsonl", "rl", bad=bad, most=0.25)] == [
        "prompt-0",
        "prompt-2",
    ]
    assert bad.counts == {"missing key `messages`": 1}
    with pytest.raises(UserError, match="1 of 4 rows"):
        read_prompts(tmp_path / "p.jsonl", "rl", bad=Quarantine(), most=0.2)


def test_files_that_are_not_read_are_told(tmp_path: Path) -> None:
    chats(tmp_path / "train.jsonl", 2, 0)
    chats(tmp_path / "test.jsonl", 2, 0)
    assert notes([tmp_path], "chats") == ("not read: test.jsonl (of the split `test`)",)
