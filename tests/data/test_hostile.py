"""Texts made to be slow: every pattern is linear. One that tries again from each character would not end here."""

from __future__ import annotations

import pytest

from qwenkit.data import detect_language
from qwenkit.data.charset import decode
from qwenkit.data.extract import extract_text, tidy
from qwenkit.data.language import UNKNOWN
from qwenkit.data.pii import scrub

LONG = 1_000_000


def _long(unit: str) -> str:
    return unit * (LONG // len(unit))


@pytest.mark.parametrize("unit", ["x", "a@", "x@x", "#", "1.", "中", "[", "<tag>"])
def test_language_of_a_text_without_spaces(unit: str) -> None:
    detect_language(_long(unit))


@pytest.mark.parametrize("text", ["mail@example.org", "@name", "#tag", "https://example.org/a@b.c"])
def test_links_and_addresses_have_no_language(text: str) -> None:
    assert detect_language(text) == (UNKNOWN, 0.0)


def test_a_lone_surrogate_has_no_say() -> None:
    assert detect_language("The town hall opens at nine \ud800 in the morning.")[0] == "en"


@pytest.mark.parametrize("unit", ["<ul", "<title", "<title>", "<"])
def test_pages_of_open_tags(unit: str) -> None:
    extract_text(_long(unit))


@pytest.mark.parametrize("unit", ["<", "<a ", "<script>", "<style", "</title", "<meta charset= "])
def test_bytes_of_open_tags(unit: str) -> None:
    assert decode(_long(unit).encode() + b"\xe9", None).startswith(unit)


def test_spaces_before_a_word() -> None:
    assert tidy("a" + " " * LONG + "b" + " " * LONG) == "a" + " " * LONG + "b"


@pytest.mark.parametrize("unit", ["x.", "1-", "1 ", "+1 ", "a@"])
def test_personal_data(unit: str) -> None:
    assert scrub(_long(unit))[0] == _long(unit)
