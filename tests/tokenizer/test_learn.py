"""The learner: step by step what the encoder does, and in the end what the `tokenizers` library learns."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from qwenkit.errors import UserError
from qwenkit.tokenizer import PATTERNS, Tokenizer, extend_bpe, train_bpe
from qwenkit.tokenizer.bytelevel import BYTES, from_printable
from qwenkit.tokenizer.count import Pieces, count_pieces
from qwenkit.tokenizer.learn import _State, bpe, learn

from .conftest import TEXTS

words = st.lists(st.text("abc", min_size=1, max_size=14), min_size=1, max_size=40, unique=True)


def counted(names: list[str], seed: int) -> Pieces:
    rng = random.Random(seed)
    return Pieces(sorted(names), np.array([rng.randint(1, 9) for _ in names], np.int64))


def awkward(seed: int) -> dict[bytes, int]:
    """A vocabulary of random joins: nothing that BPE would have learnt, so tokens can be spelled in many ways."""
    rng = random.Random(seed)
    ids, parts = dict(BYTES), [b"a", b"b", b"c"]
    for _ in range(rng.randint(0, 30)):
        token = rng.choice(parts) + rng.choice(parts)
        if token not in ids and len(token) < 9:
            ids[token] = len(ids)
            parts.append(token)
    return ids


def most_frequent(sequences: list[list[int]], counts: list[int]) -> tuple[int, int] | None:
    """The pair to join next, counted in the plainest way."""
    found: Counter[tuple[int, int]] = Counter()
    for ids, count in zip(sequences, counts):
        for pair in pairwise(ids):
            found[pair] += count
    best = min(found, key=lambda pair: (-found[pair], pair), default=None)
    return best if best is not None and found[best] >= 2 else None


def sequence(state: _State, piece: int) -> list[int]:
    at, ids = int(state.starts[piece]), []
    while at != state.end:
        ids.append(int(state.token[at]))
        at = int(state.next[at])
    return ids


@settings(max_examples=150, deadline=None)
@given(names=words, seed=st.integers(0, 10_000))
def test_every_step_is_the_encoders_state_and_joins_the_most_frequent_pair(names: list[str], seed: int) -> None:
    pieces = counted(names, seed)
    state = _State(pieces, awkward(seed), 2, None)
    for _ in range(25):
        encoded = [bpe(text.encode(), state.ids) for text in pieces.texts]
        assert [sequence(state, n) for n in range(len(encoded))] == encoded
        pair, key = most_frequent(encoded, pieces.counts.tolist()), state.best()
        assert (None if key is None else (key >> 32, key & 0xFFFFFFFF)) == pair
        if key is None:
            break
        state.join(key, state.spelled(key), len(state.ids))


@given(text=st.text("abcd", min_size=1, max_size=30), seed=st.integers(0, 10_000))
def test_the_plain_encoder_is_tiktokens(text: str, seed: int) -> None:
    ids = awkward(seed)
    tok = Tokenizer(ids, {"<|endoftext|>": len(ids)}, r"\p{L}+|\P{L}+")
    assert bpe(text.encode(), ids) == tok.encode(text)


def peer(texts: list[str], vocab_size: int) -> dict[bytes, int]:
    """What the `tokenizers` library learns."""
    learner = tokenizers.Tokenizer(BPE())
    learner.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS["qwen"]), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return {from_printable(token): rank for token, rank in learner.get_vocab().items()}


def test_training_learns_what_the_library_learns(real_texts: list[str]) -> None:
    for texts, size in ((TEXTS, 340), (real_texts, 3000)):
        assert train_bpe(texts, size).ranks == peer(texts, size)


def test_workers_and_order_cannot_be_seen(real_texts: list[str]) -> None:
    one = train_bpe(real_texts, 1500)
    assert train_bpe(reversed(real_texts), 1500, workers=2).digest == one.digest


def test_progress_is_told_of_texts_and_of_merges() -> None:
    seen: list[tuple[int, int | None]] = []
    train_bpe(TEXTS, 400, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20, 20), (100, 144)]


def test_a_pattern_of_ones_own() -> None:
    tok = train_bpe(TEXTS, 300, r"\p{N}|[^\p{N}]+")
    assert tok.pretokenize("a1 b") == ["a", "1", " b"]
    assert tok.decode(tok.encode("你好 2023")) == "你好 2023"
    with pytest.raises(UserError, match="leaves out text"):
        train_bpe(TEXTS, 300, r"\p{L}+")
    with pytest.raises(UserError, match="every engine takes"):
        train_bpe(TEXTS, 300, r"(unclosed")
    with pytest.raises(UserError, match="matches nothing"):
        train_bpe(TEXTS, 300, r"(?=q)|q|[^q]+")
    with pytest.raises(UserError, match="engines read this pattern differently"):
        train_bpe(TEXTS, 300, r"\s+$|\s+|\S+")
    with pytest.raises(UserError, match="captures groups"):
        train_bpe(TEXTS, 300, r"(\p{L}+)|\P{L}+")


def test_pieces_are_counted_and_sorted() -> None:
    pieces = count_pieces(["b a", "a 1", "e\u0301"], PATTERNS["qwen"])
    assert dict(zip(pieces.texts, pieces.counts.tolist())) == {" ": 1, " a": 1, "1": 1, "a": 1, "b": 1, "é": 1}
    assert pieces.texts == sorted(pieces.texts)


def test_learning_stops_where_nothing_occurs_twice() -> None:
    pieces = Pieces(["ab", "abc"], np.array([1, 1]))
    assert learn(pieces, BYTES, 10, 256) == {b"ab": 256}
    assert list(learn(pieces, BYTES, 10, 256, min_count=1)) == [b"ab", b"abc"]


# ---- extending ------------------------------------------------------------------------------------------------------

GREEK = [
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n",
    "Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.\n",
] * 3


def test_old_ids_stay_and_new_ones_follow_the_special_tokens(tiny: Tokenizer) -> None:
    longer = extend_bpe(tiny, GREEK, 50)
    assert {token: longer.ranks[token] for token in tiny.ranks} == tiny.ranks
    assert longer.special == tiny.special
    new = [i for token, i in longer.ranks.items() if token not in tiny.ranks]
    assert new == list(range(tiny.n_tokens, tiny.n_tokens + 50))
    assert longer.n_tokens == tiny.n_tokens + 50
    assert longer.vocab_size % 128 == 0


def test_new_merges_are_of_known_tokens_and_never_cross_a_piece(tiny: Tokenizer) -> None:
    longer = extend_bpe(tiny, GREEK, 50)
    known = set(tiny.ranks)
    for token in list(longer.ranks)[len(tiny.ranks) :]:
        assert any(token[:i] in known and token[i:] in known for i in range(1, len(token)))
        known.add(token)
        text = token.decode("utf-8", "ignore")
        assert text.encode() != token or len(longer.pretokenize(text)) == 1


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.lists(st.sampled_from(" ".join(GREEK).split()), max_size=8).map(" ".join))
def test_text_without_new_tokens_is_encoded_as_before_and_none_gets_longer(tiny: Tokenizer, text: str) -> None:
    longer = extended(tiny)
    before, after = tiny.encode(text), longer.encode(text)
    assert len(after) <= len(before)
    assert after == before or max(after) >= tiny.n_tokens
    assert longer.decode(after) == tiny.decode(before)


_EXTENDED: dict[str, Tokenizer] = {}


def extended(tok: Tokenizer) -> Tokenizer:
    if tok.digest not in _EXTENDED:
        _EXTENDED[tok.digest] = extend_bpe(tok, GREEK, 50)
    return _EXTENDED[tok.digest]


def test_extending_is_the_same_again_and_in_two_halves(tiny: Tokenizer) -> None:
    longer = extend_bpe(tiny, GREEK, 50)
    assert extend_bpe(tiny, GREEK[::-1], 50, workers=2).digest == longer.digest
    assert extend_bpe(extend_bpe(tiny, GREEK, 20), GREEK, 30).ranks == longer.ranks


def test_extending_mistakes_are_named(tiny: Tokenizer) -> None:
    with pytest.raises(UserError, match="hold only"):
        extend_bpe(tiny, GREEK, 10_000)
    with pytest.raises(UserError, match="0 merges"):
        extend_bpe(tiny, GREEK, 0)


def test_the_true_vocabulary_is_extended(qwen: Tokenizer, real_greek: list[str]) -> None:
    longer = extend_bpe(qwen, real_greek, 200)
    assert min(i for token, i in longer.ranks.items() if token not in qwen.ranks) == 151851
    text = "".join(real_greek)
    assert len(longer.encode(text)) < 0.75 * len(qwen.encode(text))
    plain = "The quick brown fox. 通义千问是一个语言模型。"
    assert longer.encode(plain) == qwen.encode(plain)
