"""The official tokenizer's own ids, on the true vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, load

GOLDEN = Path(__file__).parent / "golden"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text("utf-8").splitlines()]


def test_sizes_and_names(qwen: Tokenizer) -> None:
    assert (len(qwen.ranks), qwen.n_tokens, qwen.vocab_size) == (151643, 151851, 151936)
    assert (qwen.eot_id, qwen.im_start_id, qwen.im_end_id) == (151643, 151644, 151645)
    assert qwen.special["<|extra_204|>"] == 151850


def test_encode(qwen: Tokenizer) -> None:
    for row in rows("encode.jsonl"):
        assert qwen.encode(row["text"], "all") == row["ids"], row["text"]
        assert qwen.encode(row["text"]) == row.get("ids_allowed_none", row["ids"]), row["text"]
        assert qwen.decode(row["ids"]) == row["decoded"]
        assert qwen.decode(row["ids"], skip_special_tokens=True) == row["decoded_skip_special"]


def test_allowed_special(qwen: Tokenizer) -> None:
    found = [row for row in rows("special.jsonl") if "disallowed_special" not in row["kwargs"]]
    assert len(found) > 5
    for row in found:
        assert qwen.encode(row["text"], row["kwargs"].get("allowed_special", "all")) == row["ids"]


def test_decode(qwen: Tokenizer) -> None:
    for row in rows("decode.jsonl"):
        if "error" in row:
            wrong = UnicodeDecodeError if row["error"] == "UnicodeDecodeError" else UserError
            with pytest.raises(wrong):
                qwen.decode(row["ids"], **row["kwargs"])
        else:
            assert qwen.decode(row["ids"], **row["kwargs"]) == row["text"]


def test_crlf_copies_are_the_same_vocabulary(vocabulary: Path, qwen: Tokenizer, tmp_path: Path) -> None:
    copy = tmp_path / "qwen.tiktoken"
    copy.write_bytes(vocabulary.read_bytes().replace(b"\n", b"\r\n"))
    assert load(copy).digest == qwen.digest
