"""Coloured pieces: nothing of a text is lost, partial characters are whole, control characters are harmless."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from qwenkit.tokenizer import Tokenizer
from qwenkit.tokenizer.show import printable, token_groups, tokens_ansi, tokens_html, tokens_plain, tokens_text


@given(text=st.text(max_size=40))
def test_units_are_the_text(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    found = list(token_groups(tiny, ids))
    assert "".join(group.text for group in found) == tiny.decode(ids)
    assert [i for group in found for i in group.ids] == ids


@given(text=st.text(max_size=40))
def test_colours_taken_away_the_text_is_there(tiny: Tokenizer, text: str) -> None:
    shown = tokens_ansi(tiny, text)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain.rsplit("\n", 1)[0] == printable(tiny.normalize(text))
    assert "\x1b" not in plain


def test_one_character_of_several_tokens_is_one_piece(tiny: Tokenizer) -> None:
    assert tokens_text(tiny, "龘 ab").splitlines() == ["龘│ a│b", "5 tokens, 4 characters, 1.20 bytes per token"]
    assert [row["text"] for row in tokens_plain(tiny, "龘")] == [None] * 3


def test_special_tokens_only_when_asked(tiny: Tokenizer) -> None:
    assert "\x1b[7m" not in tokens_ansi(tiny, "<|im_end|>")
    assert "\x1b[7m<|im_end|>" in tokens_ansi(tiny, "<|im_end|>", "all")


def test_a_page_cannot_be_broken_out_of(tiny: Tokenizer) -> None:
    page = tokens_html(tiny, ["<script>alert('x')</script>\x00\u202e", ""])
    assert "<script>" not in page and "\x00" not in page and "\u202e" not in page and "{{texts}}" not in page
