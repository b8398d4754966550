"""Both languages, complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwenkit import serving
from qwenkit.serving.page.texts import REFUSALS, TEXTS, Language, language_of, text


def test_both_languages_say_everything_with_the_same_values() -> None:
    for name, (english, chinese) in {**TEXTS, **REFUSALS}.items():
        assert english.strip() and chinese.strip(), name
        assert sorted(re.findall(r"\{\w*\}", english)) == sorted(re.findall(r"\{\w*\}", chinese)), name
        assert name in ("top_p",) or re.search(r"[\u4e00-\u9fff]", chinese), name


def test_a_code_that_is_translated_is_one_that_the_server_has() -> None:
    sources = "".join(path.read_text("utf-8") for path in Path(serving.__file__).parent.glob("**/*.py")
                      if path.name != "texts.py")  # fmt: skip
    assert [code for code in REFUSALS if f'"{code}"' not in sources] == []


@pytest.mark.parametrize(
    "header, expected",
    [(None, "en"), ("", "en"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("zh", "zh"), ("en-GB,zh;q=0.5", "en"), ("fr", "en"),
     ("fr, zh;q=0.2", "zh"), ("zh;q=x,en", "en"), ("zh;q=0.3, en;q=0.7", "en"), ("zh" * 5000, "zh")],
)  # fmt: skip
def test_the_browsers_language(header: str | None, expected: Language) -> None:
    assert language_of(header) == expected


def test_a_text() -> None:
    assert text("version", "zh", turn=1, number=2, count=3) == "问题 1：第 2 / 3 版"
