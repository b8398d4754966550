"""The maker of pages: escaped, whole, in one style."""

from __future__ import annotations

import jinja2
import pytest

from qwenkit.pages import page


def test_values_are_escaped_and_the_style_is_shared() -> None:
    text = page("tokenizer/tokens.html", texts=[{"counts": "<b>", "groups": []}])
    assert "<b>" not in text and "&lt;b&gt;" in text
    assert "<title>Tokens" in text and '<html lang="en">' in text and "default-src 'none'" in text
    assert text.count("--paper:") == 3 and "screen and (prefers-color-scheme: dark)" in text


def test_a_value_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        page("tokenizer/tokens.html")
