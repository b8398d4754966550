"""Qwen-VL's spelling of pictures: the official tokenizer's own ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer
from qwenkit.tokenizer.images import ImageTokenizer

ROWS = [json.loads(line) for line in (Path(__file__).parent / "golden/vl_tokenizer.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def images(qwen: Tokenizer) -> ImageTokenizer:
    return ImageTokenizer.of(qwen)


def rows(kind: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["kind"] == kind]


def test_facts(images: ImageTokenizer) -> None:
    (facts,) = rows("facts")
    assert images.n_tokens == facts["n_vocab"] and images.eot_id == facts["eod"]
    assert {name: images.special[name] for name in facts["image_special"]} == facts["image_special"]


def test_encode(images: ImageTokenizer) -> None:
    for row in rows("encode"):
        if isinstance(row["ids"], dict):
            with pytest.raises(UserError):
                images.encode(row["text"], "all")
        else:
            assert images.encode(row["text"], "all") == row["ids"], row["text"]
    for row in rows("encode_none"):
        assert images.encode(row["text"], row["allowed_special"]) == row["ids"]


def test_decode(images: ImageTokenizer) -> None:
    for row in rows("decode"):
        ids = images.encode(row["ids_of"], "all")
        for key, skip in (("decode", False), ("decode_skip", True)):
            if isinstance(row[key], dict):
                with pytest.raises(UserError, match="ends the path"):
                    images.decode(ids, skip_special_tokens=skip)
            else:
                assert images.decode(ids, skip_special_tokens=skip) == row[key]


def test_a_picture_that_is_not_closed_cannot_be_decoded(images: ImageTokenizer) -> None:
    with pytest.raises(UserError, match="is not closed"):
        images.decode([images.special["<img>"], 97])
