"""Coloured masks: every character shown once, by its weight, and nothing of the text is markup."""

from __future__ import annotations

import re
from html import unescape

from qwenkit.chat import ChatTokenizer
from qwenkit.chat.inspect import mask_ansi, mask_html, mask_text, weighted_groups

from .test_render import talk


def test_units_are_whole_characters(tiny: ChatTokenizer) -> None:
    rendered = tiny.render(talk("龘 hi", "好 𠮷"))
    found = list(weighted_groups(rendered, tiny))
    assert "".join(group.text for group in found) == tiny.decode(rendered.ids)
    assert [i for group in found for i in group.ids] == rendered.ids
    assert all("\ufffd" not in group.text for group in found)


def test_the_terminal_shows_trained_text_in_green(tiny: ChatTokenizer) -> None:
    shown = mask_ansi(tiny.render(talk("hi \x1b[2J", "你好"), mask="assistant"), tiny)
    green = "".join(re.findall(r"\x1b\[1;32m([^\x1b]*)", shown))
    assert green == "你好<|im_end|>"
    assert "\x1b[2J" not in shown
    assert shown.splitlines()[-1].endswith("of them assistant content")


def test_without_colours_trained_text_stands_in_brackets(tiny: ChatTokenizer) -> None:
    shown = mask_text(tiny.render(talk("hi", "你好"), mask="assistant"), tiny)
    assert re.findall("⟦([^⟧]*)⟧", shown) == ["你好<|im_end|>"] and "\x1b" not in shown
    assert shown.splitlines()[-1].endswith("of them assistant content")


def test_the_page_is_self_contained_and_escaped(tiny: ChatTokenizer) -> None:
    page = mask_html([tiny.render(talk("<script>alert(1)</script>", "ok")), tiny.render(talk("二", "三"))], tiny)
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<section>") == 2
    trained = "".join(unescape(t) for t in re.findall(r'class="t" title="[^"]*">([^<]*)<', page))
    assert "ok" in trained and "三" in trained and "alert" not in trained
