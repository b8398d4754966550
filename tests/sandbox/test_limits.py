"""Limits are checked where they are made."""

from __future__ import annotations

import dataclasses

import pytest

from qwenkit.errors import UserError
from qwenkit.sandbox import Limits


def test_every_limit_has_a_default() -> None:
    names = [item.name for item in dataclasses.fields(Limits())]
    assert names == ["cpu_seconds", "memory_bytes", "processes", "files", "file_bytes", "output_bytes", "disk_bytes"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cpu_seconds", 0, "a number from 0.01 to 86,400.0"),
        ("cpu_seconds", float("inf"), "a number from 0.01 to 86,400.0"),
        ("cpu_seconds", "5", "a number from 0.01 to 86,400.0"),
        ("memory_bytes", 1, "an integer from 33,554,432 to 70,368,744,177,664"),
        ("memory_bytes", 1e9, "an integer from 33,554,432 to 70,368,744,177,664"),
        ("processes", 0, "an integer from 1 to 65,536"),
        ("processes", True, "an integer from 1 to 65,536"),
        ("files", -1, "an integer from 1 to 1,048,576"),
        ("file_bytes", 0, "an integer from 1 to 70,368,744,177,664"),
        ("output_bytes", 0, "an integer from 1 to 4,294,967,296"),
        ("disk_bytes", 1, "an integer from 65,536 to 70,368,744,177,664"),
        ("disk_bytes", None, "an integer from 65,536 to 70,368,744,177,664"),
    ],
)
def test_a_limit_out_of_range(name: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        Limits(**{name: value})  # pyright: ignore[reportArgumentType]
    assert str(error.value) == f"Limits.{name}: {value!r}\n  expected: {expected}"


def test_smallest_limits_that_are_accepted() -> None:
    Limits(0.01, 32 << 20, 1, 1, 1, 1, 64 << 10)
