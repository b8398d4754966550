"""The official tokenizer's own ids, on the true vocabulary."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.tokenizer import IM_END, Tokenizer, load

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


def test_allowed_and_disallowed_special(qwen: Tokenizer) -> None:
    for row in rows("special.jsonl"):
        arguments = {"allowed_special": "all", **row["kwargs"]}
        if "error" in row:
            with pytest.raises(UserError, match="special token"):
                qwen.encode(row["text"], **arguments)
        else:
            assert qwen.encode(row["text"], **arguments) == row["ids"]


def test_pretokenize(qwen: Tokenizer) -> None:
    for row in rows("pretokenize.jsonl"):
        assert qwen.pretokenize(row["text"]) == row["pieces"]


def test_extra_vocab(vocabulary: Path, qwen: Tokenizer) -> None:
    first, *others = rows("extra_vocab.jsonl")
    tok = load(vocabulary, extra_vocab=GOLDEN / "qwen_extra.tiktoken")
    assert tok.n_tokens == first["n_vocab"]
    for row in others:
        assert tok.encode(row["text"]) == row["ids"]
        assert qwen.encode(row["text"]) == row["base_ids"]
        assert tok.decode(row["ids"]) == row["text"]


def test_an_extra_vocabulary_moves_nothing_that_is_there(vocabulary: Path, qwen: Tokenizer, tmp_path: Path) -> None:
    taken = tmp_path / "extra.tiktoken"
    taken.write_text(
        "SGVsbG8= 151900\n5LiA5Y+q54yr 151644\n5LiA5Y+q54yr 5\n5Y+q54yr 151860\n"
    )  # known, taken, taken, new
    tok = load(vocabulary, extra_vocab=taken)
    assert {token: i for token, i in tok.ranks.items() if token not in qwen.ranks} == {"只猫".encode(): 151860}
    assert tok.ranks[b"Hello"] == 9707


def test_facts(qwen: Tokenizer) -> None:
    facts = json.loads((GOLDEN / "facts.json").read_text("utf-8"))
    assert (qwen.n_tokens, len(qwen.ranks)) == (facts["n_vocab"], facts["n_mergeable"])
    assert qwen.special == facts["special_tokens"]
    assert {str(b): qwen.ranks[bytes([b])] for b in range(256)} == facts["byte_to_id"]
    assert qwen.regex == facts["pat_str"]
    for i, token in facts["some_tokens"].items():
        assert qwen.decode_bytes([int(i)]) == base64.b64decode(token)
    assert max(map(len, qwen.ranks)) == facts["max_token_bytes"]
    assert qwen.encode("\n") == facts["id_of_newline"]
    assert [[qwen.im_end_id], [qwen.im_start_id]] == facts["stop_words_chatml"]
    assert [qwen.encode("Human:"), [qwen.eot_id]] == facts["stop_words_raw"]
    assert qwen.special_id(IM_END) == facts["im_end_id"]


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
