"""Encoding and decoding: properties on any text, and the streams."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, normalize, special_names, train_bpe

from .conftest import TEXTS

NAMES = special_names(5)
any_text = st.text(st.characters(codec=None), max_size=40)
marked = st.lists(st.sampled_from([*NAMES, "中", "e\u0301", "\u0338", " ", "\n", "7", "a"]), max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=any_text | marked)
def test_decode_inverts_encode_up_to_nfc(tiny: Tokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text)) == normalize(text)
    assert tiny.decode(tiny.encode(text, "all")) == normalize(text)


@given(text=marked)
def test_nothing_is_special_unless_allowed(tiny: Tokenizer, text: str) -> None:
    assert max(tiny.encode(text), default=0) < tiny.eot_id
    one = tiny.encode(text, {NAMES[1]})
    assert set(one) & set(tiny.special.values()) <= {tiny.im_start_id}
    assert one.count(tiny.im_start_id) == normalize(text).count(NAMES[1])


@given(text=any_text | marked)
def test_a_stream_emits_whole_characters_and_all_of_them(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text, "all")
    stream = tiny.stream()
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) + stream.flush() == tiny.decode(ids)
    if "\ufffd" not in normalize(text):
        assert not any("\ufffd" in part for part in parts)


def test_a_stream_cut_inside_a_character_shows_it_at_the_flush(tiny: Tokenizer) -> None:
    ids = [tiny.ranks[bytes([b])] for b in "龘".encode()][:2]
    stream = tiny.stream()
    assert [stream.push(i) for i in ids] == ["", ""]
    assert stream.flush() == "\ufffd"


def test_text_is_composed_and_lone_surrogates_are_replaced(tiny: Tokenizer) -> None:
    assert tiny.encode("e\u0301") == tiny.encode("é") == tiny.encode(unicodedata.normalize("NFC", "e\u0301"))
    assert tiny.decode(tiny.encode("a\ud800b")) == "a\ufffdb"
    assert tiny.decode(tiny.encode("\ud83d\ude00")) == "😀"


def test_numbers_are_spelled_by_digit(tiny: Tokenizer) -> None:
    assert [tiny.decode([i]) for i in tiny.encode(" 2023")] == [" ", "2", "0", "2", "3"]
    assert len(train_bpe([*TEXTS, "2023 " * 50], 340, "cl100k").encode("202")) == 1


def test_training_gives_the_same_bytes_again(tiny: Tokenizer) -> None:
    again = train_bpe(iter(TEXTS), vocab_size=340)
    assert (again.digest, again.ranks) == (tiny.digest, tiny.ranks)
    assert train_bpe(reversed(TEXTS), vocab_size=340).digest == tiny.digest
    assert train_bpe(TEXTS, vocab_size=341).digest != tiny.digest


def test_special_tokens_follow_the_regular_ones_and_rows_are_padded(tiny: Tokenizer) -> None:
    assert list(tiny.special.items()) == [(name, 340 + i) for i, name in enumerate(NAMES)]
    assert (tiny.n_tokens, tiny.vocab_size) == (348, 384)
    assert train_bpe(TEXTS, 340, extras=205, multiple=128).vocab_size == 640


def test_ids_that_mean_nothing_are_a_mistake(tiny: Tokenizer) -> None:
    for bad in (tiny.n_tokens, tiny.vocab_size, -1):
        with pytest.raises(UserError, match=f"token id {bad} means nothing"):
            tiny.decode([0, bad])


def test_skipping_special_tokens(tiny: Tokenizer) -> None:
    ids = [tiny.im_start_id, *tiny.encode("hi"), tiny.im_end_id, tiny.eot_id]
    assert tiny.decode(ids, skip_special_tokens=True) == "hi"


def test_endless_space_gives_the_ids_of_the_plain_cutter(tiny: Tokenizer) -> None:
    text = "a" + " " * 600_000 + "b<|im_end|> 12"
    assert tiny.encode(text) == tiny._encoding.encode_ordinary(text)
    assert tiny.encode(text, "all") == tiny._encoding.encode(text, allowed_special="all")
    assert tiny.encode(" " * 1_100_000)


@pytest.mark.parametrize(
    ("vocab_size", "pattern", "message"),
    [(340, "gwen", "unknown pattern 'gwen'"), (100, "qwen", "too small"), (100_000, "qwen", "the texts hold only")],
)
def test_training_mistakes_are_named(vocab_size: int, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_bpe(TEXTS, vocab_size, pattern)


def test_a_vocabulary_with_a_gap_or_a_double_is_refused(tiny: Tokenizer) -> None:
    ranks = dict(tiny.ranks)
    with pytest.raises(UserError, match="token id 5 is used twice"):
        Tokenizer(ranks, {"<|endoftext|>": 5})
    del ranks[b"\x00"]
    with pytest.raises(UserError, match="lacks 1 single bytes"):
        Tokenizer(ranks, tiny.special)


def test_what_is_disallowed_is_refused_even_where_it_is_allowed(tiny: Tokenizer) -> None:
    text = "a<|im_end|>"
    for allowed, disallowed in (("all", {"<|im_end|>"}), ({"<|im_end|>"}, ["<|im_end|>"]), ((), {"a<"})):
        with pytest.raises(UserError, match="disallowed"):
            tiny.encode(text, allowed, disallowed)
    assert tiny.encode(text, "all", "all") == tiny.encode(text, "all", {"<|im_start|>"}) == tiny.encode(text, "all")


def test_padding_rows_are_skipped_with_special_tokens(tiny: Tokenizer) -> None:
    ids = [*tiny.encode("hi"), tiny.n_tokens, tiny.vocab_size + 5]
    assert tiny.decode(ids, skip_special_tokens=True) == tiny.decode(ids[:-2], errors=None) == "hi"
    with pytest.raises(UserError, match="token id -1"):
        tiny.decode([-1], skip_special_tokens=True)


def test_long_runs_of_space_are_found_in_one_pass(tiny: Tokenizer) -> None:
    text = (" " * 499_999 + "a") * 3
    start = time.process_time()
    tiny.encode(text)
    assert time.process_time() - start < 20, "the time grew with the square of a run's length: minutes"


def test_ids_that_no_vocabulary_can_have_are_refused(tiny: Tokenizer) -> None:
    for special in ({"<|endoftext|>": -1}, {"<|endoftext|>": 2**31}, {"<|endoftext|>": 400.0}):
        with pytest.raises(UserError, match="is not a token id"):
            Tokenizer(tiny.ranks, special)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="without a name"):
        Tokenizer(tiny.ranks, {"": 400})


def test_a_misspelt_pattern_loses_no_text(tiny: Tokenizer) -> None:
    with pytest.raises(UserError, match="unknown pattern 'gwen'"):
        Tokenizer(tiny.ranks, tiny.special, "gwen")
