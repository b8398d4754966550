"""Both languages, complete."""

from __future__ import annotations

import re

import pytest

from qwenkit.serving.page.texts import TEXTS, Language, language_of, text


def test_both_languages_say_everything_with_the_same_values() -> None:
    for name, (english, chinese) in TEXTS.items():
        assert english.strip() and chinese.strip(), name
        assert sorted(re.findall(r"\{\w*\}", english)) == sorted(re.findall(r"\{\w*\}", chinese)), name
        assert name in ("top_p",) or re.search(r"[\u4e00-\u9fff]", chinese), name


@pytest.mark.parametrize(
    "header, expected",
    [(None, "en"), ("", "en"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("zh", "zh"), ("en-GB,zh;q=0.5", "en"), ("fr", "en"),
     ("fr, zh;q=0.2", "zh"), ("zh;q=x,en", "en"), ("zh;q=0.3, en;q=0.7", "en"), ("zh" * 5000, "zh")],
)  # fmt: skip
def test_the_browsers_language(header: str | None, expected: Language) -> None:
    assert language_of(header) == expected


def test_a_text() -> None:
    assert text("version", "zh", turn=1, number=2, count=3) == "问题 1：第 2 / 3 版"
