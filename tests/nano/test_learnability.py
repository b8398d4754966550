"""The overfitting script: its sets are sound for every task; a training fits what can be fitted, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from benchmarks import learnability

from qwenkit.chat import ChatTokenizer
from qwenkit.nano import Scale, build_world
from qwenkit.nano.items import CHAT_TASKS, PREFERENCE_TASKS
from qwenkit.tokenizer import train_bpe


@pytest.fixture(scope="module")
def tok():
    world = build_world(1, Scale(0, 60_000, 2500, 2500, *[0] * 7))
    texts = (row["text"] for row in chain(world.stdlib(), world.text(), world.instructions()))
    return ChatTokenizer(train_bpe(texts, 1400))


def test_no_task_is_forgotten():
    names = {name for name, _ in learnability.all_tasks()}
    chats = {row["task"] for row in build_world(2, "tiny").chat()}
    base = {f"base {row['task']}" for row in build_world(2, "tiny").base_test()}
    assert {*CHAT_TASKS, *PREFERENCE_TASKS, *chats, *base} <= names
    assert all({(name, "en"), (name, "zh")} <= set(learnability.all_tasks()) for name in names - base)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few questions to choose from, and a smaller model: the script's own sizes take minutes."""
    nodes = learnability.RECIPE
    small = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "seq_length": 128}
    base = replace(nodes["base"], config=nodes["base"].config.model_copy(update=small))
    monkeypatch.setattr(learnability, "RECIPE", {**nodes, "base": base})
    monkeypatch.setattr(learnability, "CANDIDATES", 900)


@pytest.mark.parametrize(("name", "language"), learnability.all_tasks())
def test_every_reference_is_right_and_can_be_learnt_and_written(name, language, tok):
    known, fresh = learnability.sets(name, language, 3, 40)
    asked = [str(row.get("messages") or row["prompt"]) for row in (*known, *fresh)]
    assert len(known) >= 20 and len(fresh) >= 5 and len(set(asked)) == len(asked)
    assert {row["language"] for row in (*known, *fresh)} == {language}
    for row in (*known, *fresh):
        if "reference" in row:
            found = learnability.score(row, row["reference"])
            assert found.right == found.system == 1, row
            assert len(tok.encode(row["reference"])) <= learnability.RECIPE["exam"].config.max_tokens, row
        else:
            assert row["choices"][row["gold"]] == row["answer"]
        assert len(learnability.document(tok, row).ids) <= learnability.RECIPE["base"].config.seq_length


@pytest.mark.parametrize(("name", "language"), [("opposite", "zh"), ("base fact_en", "en")])
def test_a_small_set_is_fitted_and_another_is_not(name, language, tok):
    known, _ = learnability.sets(name, language, 3, 12)
    done, looks = learnability.Fit(name, language, 3), []
    engine = learnability.fit(done, tok, known, 100, looks.append)
    assert done.set_right == 1 and done.steps in (50, 75, 100) and len(looks) == done.steps
    if "rubric" in known[0]:
        rubrics = [row["rubric"] for row in known]
        known = [{**row, "rubric": rubric} for row, rubric in zip(known, [*rubrics[1:], rubrics[0]])]
    else:
        known = [{**row, "gold": (row["gold"] + 1) % len(row["choices"])} for row in known]
    assert sum(learnability.rightly(engine, known)) < len(known)
    assert learnability.line([learnability.Fit(name, language, 3, set_right=0.5, fresh=[0.0])]).count("NOT FITTED") == 1
