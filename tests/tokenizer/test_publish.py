"""The published folder: equal ids in transformers, and read back to the same tokenizer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer

from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, load, save_tokenizer
from qwenkit.tokenizer.publish import tokenizer_json

COMBINING = "\u0338 e\u0301 \u1112\u1161\u11ab \u2126 ſ İ ² Ⅷ 👨\u200d👩".split(" ")
SPACES = [" ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "!!\n"]
PARTS = [*COMBINING, *SPACES, *"中文 语言模型 the 12 'S it's <| <|im_end|> <|endoftext|> <|extra_0|>".split(" ")]


def random_texts(seed: int, count: int) -> list[str]:
    """Strings of awkward parts and random code points, surrogates left out: `tokenizers` cannot take them."""
    rng = random.Random(seed)
    code = [c for c in range(1, 0x2FFFF) if not 0xD800 <= c < 0xE000]
    return [
        "".join(rng.choice([*PARTS, chr(rng.choice(code))]) for _ in range(rng.randint(0, 12))) for _ in range(count)
    ]


def check_equal(tok: Tokenizer, folder: Path, texts: list[str]) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ids == tok.encode(text, "all"), text
        assert theirs.decode(ids) == tok.decode(ids)


def test_transformers_encodes_the_same(tiny: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tiny, tmp_path)
    check_equal(tiny, tmp_path, random_texts(0, 1500))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token, theirs.pad_token) == ("<|endoftext|>", "<|endoftext|>")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_transformers_encodes_the_same_beside_a_model(tiny: Tokenizer, tmp_path: Path, family: str) -> None:
    save_tokenizer(tiny, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 512}))
    texts = random_texts(0, 400)
    if family == "qwen2":  # its class in transformers looks for special tokens before NFC
        texts = [text for text in texts if "|>\u0338" not in text]
    check_equal(tiny, tmp_path, texts)
    assert load(tmp_path).vocab_size == 512


def test_the_true_vocabulary_survives_publishing(qwen: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(qwen, tmp_path)
    check_equal(qwen, tmp_path, random_texts(0, 1500))
    assert load(tmp_path).digest == qwen.digest


def test_a_folder_reads_back_and_is_written_the_same_again(tiny: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tiny, tmp_path / "a")
    back = load(tmp_path / "a")
    assert (back.digest, back.pattern, back.special) == (tiny.digest, "qwen", tiny.special)
    save_tokenizer(back, tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert load(tmp_path / "a" / "tokenizer.json").encode("语言 model") == tiny.encode("语言 model")


def test_merges_are_exact_for_vocabularies_that_bpe_did_not_learn() -> None:
    """Random joins in random order: one canonical split per token fails on these (0.9 % of strings)."""
    for seed in range(40):
        rng = random.Random(seed)
        ranks, words = {bytes([b]): b for b in range(256)}, [b"a", b"b", b"c"]
        for _ in range(30):
            word = rng.choice(words) + rng.choice(words)
            if word not in ranks and len(word) < 9:
                ranks[word] = len(ranks)
                words.append(word)
        tok = Tokenizer(ranks, {"<|endoftext|>": len(ranks)})
        theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tok)))
        for _ in range(60):
            text = "".join(rng.choice("abc") for _ in range(rng.randint(1, 25)))
            assert theirs.encode(text).ids == tok.encode(text)


def drop_normalizer(content: dict[str, Any]) -> None:
    content["normalizer"] = None


def swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def wordpiece(content: dict[str, Any]) -> None:
    content["model"] = {"type": "WordPiece", "vocab": {}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(drop_normalizer, "NFC"), (swap_merges, "out of the order"), (wordpiece, "a WordPiece tokenizer")],
)
def test_a_file_that_would_encode_differently_is_refused(
    tiny: Tokenizer, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = tokenizer_json(tiny)
    spoil(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer in this folder"):
        load(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent")
    broken = tmp_path / "x.tiktoken"
    broken.write_text("YQ== 0\nnot base64 1\n")
    with pytest.raises(UserError, match=r"x\.tiktoken:2"):
        load(broken)
