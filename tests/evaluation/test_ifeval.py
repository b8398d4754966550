"""The rules of IFEval: an answer that follows each of the 25 instructions, and one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.evaluation.ifeval import RULES, count_sentences, count_words, follows
from qwenkit.evaluation.scorers import Response, score
from qwenkit.evaluation.task_files import load_task

ENGLISH = "this is a plain sentence about the weather in the north of the country"
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["sea", "salt"]}, "Salt of the sea.", "Salt."),
    "keywords:frequency": ({"relation": "at least", "keyword": "no", "frequency": 2}, "No and no.", "No."),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "A category.", "A cat."),
    "keywords:letter_frequency": (
        {"let_relation": "less than", "letter": "E", "let_frequency": 2},
        "one",
        "Eleven e",
    ),
    "language:response_language": (
        {"language": "de"},
        "Das Wetter ist heute im ganzen Land sehr schön.",
        "The weather is fine in the whole country today.",
    ),
    "length_constraints:number_sentences": (
        {"relation": "at least", "num_sentences": 2},
        "Dr. Smith paid 3.50. He left!",
        "Dr. Smith paid 3.50 and left.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    "length_constraints:number_words": ({"relation": "less than", "num_words": 4}, "one two three", "one two 3 four"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
        "One.\n\nSo, two.",
        "So one.\n\nTwo.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Yes.\nP.S. No.", "Yes. PS no"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and *b*", "*a* and **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<A title>>\ntext", "<< >>"),
    "combination:two_responses": ({}, "one ****** two", "one ****** one"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it."}, "say it. It.", "It: Say it."),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So. "the end."', "The end. Or not"),
    "startend:quotation": ({}, '"all of it"', '"some" of it'),
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2},
        "NO, WELL-KNOWN",
        "NO, Well-Known",
    ),
    "change_case:english_capital": ({}, ENGLISH.upper(), ENGLISH.title()),
    "change_case:english_lowercase": ({}, ENGLISH, ENGLISH.title()),
    "punctuation:no_comma": ({}, "None at all.", "One, two."),
}


def test_every_rule_has_a_case() -> None:
    assert CASES.keys() == RULES.keys()
    assert len(RULES) == 25


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    arguments, good, bad = CASES[name]
    assert follows(name, arguments, good)
    assert not follows(name, arguments, bad)
    assert not follows(name, arguments, " \n")


def test_chinese_is_counted_as_it_is_written() -> None:
    assert count_words("今天天气很好 very good") == 8
    assert count_sentences("今天天气很好。明天呢？不知道！") == 3
    assert follows("keywords:forbidden_words", {"forbidden_words": ["天气"]}, "今天很好")
    assert not follows("keywords:forbidden_words", {"forbidden_words": ["天气"]}, "今天天气很好")
    assert not follows("punctuation:no_comma", {}, "今天，很好")
    assert follows("startend:quotation", {}, "“今天很好”")


def test_the_tolerance_of_the_paper() -> None:
    text = "Sure, here it is:\nnothing more\n*Bye, bye*"
    assert not follows("punctuation:no_comma", {}, text)
    assert follows("punctuation:no_comma", {}, text, loose=True)


def test_unknown_instructions_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        follows("punctuation:no_coma", {}, "x")
    assert caught.value.nearest == "punctuation:no_comma"
    with pytest.raises(UserError, match="needs `num_words`"):
        follows("length_constraints:number_words", {"relation": "less than"}, "x")


def test_all_published_instructions_have_a_rule(real_data: Path) -> None:
    for item in load_task("ifeval").items(real_data):
        scored = score(item, Response("A short answer."))
        assert set(scored.components) == {"right", "right_loose", "instructions", "instructions_loose"}
        assert scored.components["right"] <= scored.components["right_loose"]
