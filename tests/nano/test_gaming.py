"""The true rubric over the real prompt mix: references are perfect, and no single trick beats a typical chat answer."""

from __future__ import annotations

from statistics import mean

import pytest

from qwenkit.evaluation.rubric import score
from qwenkit.nano import Scale, build_world, chat, preferences
from qwenkit.nano.items import CHAT_TASKS, PREFERENCE_TASKS
from qwenkit.nano.response_styles import ANNOTATORS, POLICIES, TEST_POLICIES
from qwenkit.nano.row_rng import rows

WORLD = build_world(0, Scale(0, 0, 0, 0, 0, 1200, 960, 48, 0, 20, 480))


@pytest.fixture(scope="module")
def prompts():
    return [row for row in WORLD.prompts() if row["use"] == "rl"]


@pytest.fixture(scope="module")
def items():
    tasks = [*CHAT_TASKS, *PREFERENCE_TASKS]
    return [(chat.item(draw, WORLD.facts, tasks[i % len(tasks)]), draw) for i, draw in enumerate(rows(1, "t", 1800))]


def _scored(made, text):
    return score({"messages": made.messages, "rubric": made.rubric}, text)


def test_every_reference_is_perfect(prompts):
    for row in [*prompts, *WORLD.chat_test()]:
        assert score(row, row["reference"]).total == pytest.approx(1.0), row


@pytest.mark.parametrize("name", list(ANNOTATORS))
def test_annotators_are_always_right(items, name):
    for made, draw in items:
        assert _scored(made, ANNOTATORS[name](made, draw, "train")).right == 1.0, (made, name)


def test_wrong_answers_are_wrong(items):
    for made, draw in items:
        for name in ("wrong", "wrong_polite", "off_topic", "empty", "echo", "foreign"):
            assert _scored(made, POLICIES[name](made, draw, "train")).right == 0.0, (made, name)


def test_manners_matter_where_they_are_wanted(items):
    for made, draw in items:
        if made.rubric["manners"] == "polite" and made.task != "refuse":  # a refusal is sorry in any case
            best, rest = (_scored(made, ANNOTATORS[name](made, draw, "train")).total for name in ("polite", "neutral"))
            assert best > rest
        rude = _scored(made, POLICIES["rude"](made, draw, "train"))
        assert rude.total < 0.5 and rude.mannered == 0.0


def test_no_trick_beats_a_typical_answer(prompts, items):
    """Typical: the drawn annotator of training, made to err on half of all prompts."""
    typical = mean(
        _scored(made, ANNOTATORS[chat.weighted(draw, chat.MANNERS)](made, draw, "train")).total for made, draw in items
    )
    asked = [row["messages"][-1]["content"] for row in prompts]
    longest = max((row["reference"] for row in prompts), key=len)
    tricks = {
        "empty": [""] * len(prompts),
        "echo": asked,
        "polite echo": ["Of course! " + text for text in asked],
        "longest": [longest] * len(prompts),
        "constant": ["Of course! I hope this helps! 很高兴为您解答!"] * len(prompts),
        "refuse": ["I'm sorry, but I can't help with that. 对不起,我不能帮忙。"] * len(prompts),
        "everything": [" ".join([*row["rubric"]["right"].get("any", []), *row["rubric"]["right"].get("none", [])])
                       for row in prompts],
    }  # fmt: skip
    for name, answers in tricks.items():
        assert mean(score(row, text).total for row, text in zip(prompts, answers)) < 0.5 * typical, name


def test_a_wrong_answer_never_reaches_a_right_one(items):
    for made, draw in items:
        wrong = max(_scored(made, POLICIES[name](made, draw, "train")).total for name in ("wrong_polite", "echo"))
        assert wrong <= 0.07 < 0.55 <= _scored(made, ANNOTATORS["verbose"](made, draw, "train")).total


def test_training_pairs_have_the_stated_noise_and_are_otherwise_true():
    pairs = list(WORLD.pmp_pairs())
    assert abs(mean(pair["flipped"] for pair in pairs) - preferences.NOISE) < 0.04
    assert {pair["task"] for pair in pairs} == set(PREFERENCE_TASKS)
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)


def test_test_pairs_are_clean_and_by_others():
    pairs = list(WORLD.pair_test())
    assert not any(pair["flipped"] for pair in pairs) and {pair["set"] for pair in pairs} == {"pmp", "reward"}
    heard = {name for pair in WORLD.pmp_pairs() for name in pair["policy"].split("/")}
    assert heard <= set(POLICIES) and not heard & {name for pair in pairs for name in pair["policy"].split("/")}
    assert not set(POLICIES) & set(TEST_POLICIES)
    assert len({pair["component"] for pair in pairs}) >= 3


def test_reward_prompts_bring_the_policies_answers():
    row = next(row for row in WORLD.prompts() if row["use"] == "reward")
    assert {one["policy"] for one in row["candidates"]} == set(POLICIES)
