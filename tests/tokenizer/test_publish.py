"""The published folder: equal ids in transformers, and read back to the same tokenizer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from tiktoken.load import load_tiktoken_bpe
from transformers import AutoTokenizer

from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, extend_bpe, load, normalize, ranks_text, save_tiktoken, save_tokenizer
from qwenkit.tokenizer.bytelevel import strays, to_printable
from qwenkit.tokenizer.learn import bpe
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


def test_the_true_vocabulary_survives_publishing(vocabulary: Path, qwen: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(qwen, tmp_path)
    check_equal(qwen, tmp_path, random_texts(0, 1500))
    back = load(tmp_path)
    assert back.digest == qwen.digest
    save_tiktoken(back, tmp_path / "qwen.tiktoken")
    assert (tmp_path / "qwen.tiktoken").read_bytes() == vocabulary.read_bytes().replace(b"\r\n", b"\n")


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


def other_normalizer(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "NFKC"}


def swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def wordpiece(content: dict[str, Any]) -> None:
    content["model"] = {"type": "WordPiece", "vocab": {}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(other_normalizer, "NFC"), (swap_merges, "out of the order"), (wordpiece, "a WordPiece tokenizer")],
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


# ---- later families: files as Qwen2 and Qwen3 publish them ---------------------------------------------------------

LATER = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<tool_call>": False, "<think>": False}


def halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that BPE joins last when it makes a token: the only merge that a published file lists for it."""
    below = {t: rank for t, rank in ranks.items() if rank < ranks[token]}
    left, right = (tok_bytes for tok_bytes in (_by_id(below)[i] for i in bpe(token, below)))
    return left, right


def _by_id(ranks: dict[bytes, int]) -> dict[int, bytes]:
    return {rank: token for token, rank in ranks.items()}


def published(tok: Tokenizer, as_strings: bool) -> dict[str, Any]:
    """tokenizer.json in the way of Qwen2.5 and Qwen3: one merge for each token, added tokens looked for before NFC."""
    content = tokenizer_json(tok)
    content["model"]["ignore_merges"] = False
    pairs = [halves(token, tok.ranks) for token in sorted(tok.ranks, key=tok.ranks.__getitem__) if len(token) > 1]
    lines = [(to_printable(left), to_printable(right)) for left, right in pairs]
    content["model"]["merges"] = [" ".join(pair) for pair in lines] if as_strings else [list(pair) for pair in lines]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    first = len(tok.ranks)
    content["added_tokens"] = [
        {"id": first + n, "content": name, **flags, "special": special}
        for n, (name, special) in enumerate(LATER.items())
    ]
    return content


@pytest.mark.parametrize("as_strings", [True, False])
def test_a_later_familys_file_loads_and_gives_its_ids(tiny: Tokenizer, tmp_path: Path, as_strings: bool) -> None:
    content = published(tiny, as_strings)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tok = load(tmp_path)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    for text in [*random_texts(1, 1500), "<|im_end|>\u0338 a\u0301<think>\u0338</think> <tool_call>{}"]:
        ids = theirs.encode(text).ids
        assert tok.encode(text, "all") == ids, text
        assert tok.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        assert tok.decode(ids, skip_special_tokens=True) == theirs.decode(ids)
    assert tok.encode("<think>") == tiny.encode("<think>")
    save_tokenizer(tok, tmp_path / "again")
    again = load(tmp_path / "again")
    assert (again.digest, again.flags) == (tok.digest, tok.flags)


def test_without_a_normal_form_nothing_is_composed(tiny: Tokenizer, tmp_path: Path) -> None:
    content = tokenizer_json(tiny)
    content["normalizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tok, theirs = load(tmp_path), tokenizers.Tokenizer.from_str(json.dumps(content))
    for text in random_texts(2, 500):
        assert tok.encode(text, "all") == theirs.encode(text).ids
        assert tok.decode(tok.encode(text)) == text


def test_merges_that_ranks_would_not_give_are_refused(tiny: Tokenizer, tmp_path: Path) -> None:
    """A token that is listed with halves which its bytes never come to."""
    ranks = {bytes([b]): b for b in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    content = tokenizer_json(Tokenizer(ranks, {"<|endoftext|>": 259}))
    content["model"] |= {"merges": [["a", "b"], ["b", "c"], ["a", "bc"]], "ignore_merges": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match="do not make 1 tokens of the vocabulary out of their bytes, the first is 'abc'"
    ):
        load(tmp_path)


def test_the_proof_of_merges_is_right_about_random_vocabularies() -> None:
    """Where no token strays, one listed merge a token gives the ids of the ranks; and where it says so, one does."""
    proven = 0
    for seed in range(300):
        ranks = random_ranks(seed)
        listed = [split for token in ranks if len(token) > 1 if (split := listed_halves(token, ranks)) is not None]
        vocab = {to_printable(token): rank for token, rank in ranks.items()}
        merges = [(to_printable(left), to_printable(right)) for left, right in listed]
        if strays(merges, vocab):
            continue
        proven += 1
        tok = Tokenizer(ranks, {"<|endoftext|>": len(ranks)})
        model = tokenizers.models.BPE(vocab, merges)
        theirs = tokenizers.Tokenizer(model)
        rng = random.Random(seed)
        for _ in range(60):
            text = "".join(rng.choice("abc") for _ in range(rng.randint(1, 25)))
            assert theirs.encode(text).ids == tok.encode(text)
    assert proven > 50


def random_ranks(seed: int) -> dict[bytes, int]:
    """Random joins in random order, few enough that many vocabularies are ones that BPE could have learnt."""
    rng = random.Random(seed)
    ranks, words = {bytes([b]): b for b in range(256)}, [b"a", b"b", b"c"]
    for _ in range(rng.randint(2, 8)):
        word = rng.choice(words) + rng.choice(words)
        if word not in ranks and len(word) < 9:
            ranks[word] = len(ranks)
            words.append(word)
    return ranks


def listed_halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    below = {t: rank for t, rank in ranks.items() if rank < ranks[token]}
    ids = bpe(token, below)
    return (_by_id(below)[ids[0]], _by_id(below)[ids[1]]) if len(ids) == 2 else None


# ---- extended vocabularies ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer(tiny: Tokenizer) -> Tokenizer:
    return extend_bpe(tiny, ["Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι. ", "语言模型回答问题。"] * 3, 40)


def test_an_extended_vocabulary_is_the_same_everywhere(tiny: Tokenizer, longer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(longer, tmp_path)
    texts = [*random_texts(3, 1000), "Όλοι οι άνθρωποι<|im_end|> είναι ίσοι", "语言模型 language<|extra_4|>"]
    check_equal(longer, tmp_path, texts)
    back = load(tmp_path)
    assert (back.ranks, back.special, back.n_tokens) == (longer.ranks, longer.special, longer.n_tokens)
    enc = tiktoken.Encoding("x", pat_str=longer.regex, mergeable_ranks=longer.ranks, special_tokens=longer.special)
    for text in texts:
        assert enc.encode(normalize(text), allowed_special="all") == longer.encode(text, "all")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_an_extended_vocabulary_beside_a_model(longer: Tokenizer, tmp_path: Path, family: str) -> None:
    save_tokenizer(longer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 512}))
    texts = [text for text in random_texts(4, 300) if "|>\u0338" not in text]
    check_equal(longer, tmp_path, [*texts, "Όλοι οι άνθρωποι<|im_end|>"])


# ---- .tiktoken ------------------------------------------------------------------------------------------------------


def test_an_extended_vocabulary_file_finds_its_special_tokens_in_the_gap(longer: Tokenizer, tmp_path: Path) -> None:
    save_tiktoken(longer, tmp_path / "x.tiktoken")
    back = load(tmp_path / "x.tiktoken")
    assert (back.ranks, back.special) == (longer.ranks, longer.special)
    assert load_tiktoken_bpe(str(tmp_path / "x.tiktoken")) == longer.ranks


def test_a_vocabulary_file_that_would_lose_something_is_not_written(tiny: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would lose its special tokens"):
        save_tiktoken(tiny, tmp_path / "tiny.tiktoken")
    assert not list(tmp_path.iterdir())
    save_tiktoken(tiny, tmp_path / "tiny.tiktoken", ranks_only=True)
    assert load(tmp_path / "tiny.tiktoken").ranks == tiny.ranks


def test_a_folder_with_a_vocabulary_file_keeps_all(tiny: Tokenizer, tmp_path: Path) -> None:
    odd = Tokenizer(
        tiny.ranks, {"<|endoftext|>": 340, "<think>": 341}, "cl100k", visible={"<think>"}, special_first=True, nfc=False
    )
    for n, tok in enumerate((tiny, odd)):
        save_tokenizer(tok, tmp_path / str(n), form="tiktoken")
        back = load(tmp_path / str(n))
        assert (back.digest, back.pattern, back.flags) == (tok.digest, tok.pattern, tok.flags)


def test_a_family_is_known_by_its_files_name(tiny: Tokenizer, tmp_path: Path) -> None:
    save_tiktoken(tiny, tmp_path / "cl100k_base.tiktoken", ranks_only=True)
    tok = load(tmp_path / "cl100k_base.tiktoken")
    assert (tok.pattern, tok.nfc, tok.special["<|endofprompt|>"]) == ("cl100k", False, 100276)
    assert tok.pretokenize("2023") == ["202", "3"]


def test_two_vocabularies_in_a_folder_are_named(tiny: Tokenizer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_tiktoken(tiny, tmp_path / f"{name}.tiktoken", ranks_only=True)
    with pytest.raises(UserError, match=r"a\.tiktoken, b\.tiktoken"):
        load(tmp_path)
    save_tokenizer(tiny, tmp_path)
    with pytest.raises(UserError, match="goes with a"):
        load(tmp_path, extra_vocab=tmp_path / "a.tiktoken")


def test_an_id_far_away_leaves_no_room_for_endless_special_tokens(tiny: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "far.tiktoken"
    path.write_bytes(ranks_text(tiny.ranks | {b"far away": 2_000_000_000}))
    assert len(load(path).special) == 3 + 2**16
    with pytest.raises(UserError, match=r"absent: no such file"):
        load(path, extra_vocab=tmp_path / "absent")


@pytest.mark.parametrize("key", ["merges", "vocab"])
@pytest.mark.parametrize("value", [[5], [["a", "b", "c"]], {"a": "b"}])
def test_a_file_of_another_form_is_a_mistake(tiny: Tokenizer, tmp_path: Path, key: str, value: Any) -> None:
    content = tokenizer_json(tiny)
    content["model"][key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError):
        load(tmp_path)
