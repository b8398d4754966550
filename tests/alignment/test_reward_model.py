"""Pairs, pairwise loss, the token at which a reward is read."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qwenkit.alignment import PairBatches, PairwiseObjective, pair_accuracy, pair_margins, score_texts
from qwenkit.alignment.pair_encoding import Pair, answer_ids, encode_pairs
from qwenkit.alignment.reward_model import PairBatch, pairwise_loss
from qwenkit.errors import UserError
from qwenkit.model.batching import length_batches, pad_right
from qwenkit.model.config import ContextExtension
from qwenkit.rng import random_bits
from qwenkit.training import RunState, build_optimizer, build_schedule, train_update

from .conftest import IM_END


class Letters:
    """A tokenizer of one id per letter; each turn ends with im_end and a newline (0), as in ChatML."""

    im_end_id = IM_END

    def render(self, messages: list[dict], tools: list | None = None) -> SimpleNamespace:
        turns = [[ord(c) - 96 for c in message["content"]] + [IM_END, 0] for message in messages]
        turns = [[20 + len(tools)], *turns] if tools else turns
        return SimpleNamespace(ids=[id for turn in turns for id in turn])


def texts(seed: int, count: int, low: int = 2, high: int = 12) -> list[list[int]]:
    """Random texts that end with im_end."""
    lengths = [low + int(b % (high - low)) for b in random_bits(seed, range(count))]
    return [
        [1 + int(b % (IM_END - 1)) for b in random_bits(seed, i, range(n))] + [IM_END] for i, n in enumerate(lengths)
    ]


def test_an_answer_ends_with_im_end_without_the_newline() -> None:
    row = {"messages": [{"role": "user", "content": "ab"}]}
    assert answer_ids(Letters(), row, "cd") == [1, 2, IM_END, 0, 3, 4, IM_END]
    assert answer_ids(Letters(), row, {"role": "assistant", "content": "cd"}) == [1, 2, IM_END, 0, 3, 4, IM_END]


def test_a_pair_reads_the_tools_that_its_row_offers() -> None:
    row = {"id": "x", "messages": [], "chosen": "a", "rejected": "b", "tools": [{"name": "add"}]}
    (pair,), _ = encode_pairs([row], Letters(), max_tokens=5)
    assert (pair.chosen, pair.rejected) == ([21, 1, IM_END], [21, 2, IM_END])


def test_long_pairs_are_dropped_and_counted_never_cut() -> None:
    rows = [{"id": i, "messages": [], "chosen": c, "rejected": r}
            for i, (c, r) in enumerate([("a", "bc"), ("abcdef", "b"), ("a", "abcdef"), ("ab", "ab")])]  # fmt: skip
    pairs, counts = encode_pairs(rows, Letters(), max_tokens=5)
    assert counts == {"kept": 1, "too_long": 2, "same_text": 1}
    assert (pairs[0].chosen, pairs[0].rejected) == ([1, IM_END], [2, 3, IM_END])


def test_the_reward_is_the_score_of_the_last_token(make_scalar) -> None:
    model, rows = make_scalar(), texts(1, 9)
    alone = [float(model.score(torch.tensor([row]))[0, -1].detach()) for row in rows]
    for max_tokens in (1, 24, 10_000):  # one by one, a few at a time, all together
        assert score_texts(model, rows, max_tokens).tolist() == pytest.approx(alone, abs=1e-5)


def test_dynamic_ntk_depends_on_the_text_and_not_on_its_padding(make_scalar) -> None:
    """A text of 5 tokens beside one of 66, by a model that was trained at 16: alpha is 1 for the one, 15 for the
    other."""
    model, rows = make_scalar(std=1.0), [[*range(1, 5), IM_END], [*range(1, 23)] * 3]
    plain = score_texts(model, rows, 1)
    model.config = replace(model.config, extension=ContextExtension(seq_length=16, dynamic_ntk=True))
    alone = score_texts(model, rows, 1)
    torch.testing.assert_close(score_texts(model, rows), alone, rtol=1e-4, atol=1e-4)
    assert alone[0] == plain[0] and abs(float(alone[1] - plain[1])) > 1e-2


def test_scoring_leaves_the_mode_as_it_was(make_scalar) -> None:
    model = make_scalar().train()
    score_texts(model, texts(0, 3))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_scoring_nothing_and_an_empty_text(make_scalar) -> None:
    assert score_texts(make_scalar(), []).shape == (0,)
    with pytest.raises(UserError, match="empty text"):
        score_texts(make_scalar(), [[1], []])


def test_pairwise_loss_by_hand() -> None:
    loss = pairwise_loss(torch.tensor([1.0, 0.0, -50.0]), torch.tensor([1.0, 2.0, 50.0]))
    assert loss.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(2)), 100.0])


def test_micro_batches_sum_to_the_whole_batch(make_scalar) -> None:
    model = make_scalar().double()
    pairs = [Pair(a, b, str(i)) for i, (a, b) in enumerate(zip(texts(1, 12), texts(2, 12)))]
    gradients = []
    for micro_pairs in (5, None):
        model.zero_grad()
        batches = PairBatches(pairs, 12, seed=0, micro_pairs=micro_pairs)(0).micro_batches
        assert [batch.weight for batch in batches] == ([5, 5, 2] if micro_pairs else [12])
        for batch in batches:
            PairwiseObjective()(model, batch)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)  # attention is float32 on a CPU


def test_every_pair_is_seen_once_an_epoch() -> None:
    pairs = [Pair([i], [i, i], str(i)) for i in range(10)]
    batches = PairBatches(pairs, batch_pairs=4, seed=1)
    seen = [row for step in range(5) for row in batches.rows(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    assert PairBatches(pairs, 4, seed=1).rows(3) == batches.rows(3)
    assert [batches.steps(epochs) for epochs in (0.1, 0.4, 1, 1.25)] == [1, 1, 3, 4]
    assert {row for step in range(batches.steps(1)) for row in batches.rows(step)} == set(range(10))


def test_accuracy_counts_a_tie_as_half(make_scalar) -> None:
    model, pairs = make_scalar(), [Pair(a, b) for a, b in zip(texts(1, 20), texts(2, 20))]
    swapped = [Pair(pair.rejected, pair.chosen) for pair in pairs]
    assert pair_accuracy(model, pairs) + pair_accuracy(model, swapped) == pytest.approx(1)
    assert pair_margins(model, pairs) == pytest.approx([-margin for margin in pair_margins(model, swapped)], abs=1e-5)
    torch.nn.init.zeros_(model.score_head.weight)
    assert pair_accuracy(model, pairs) == 0.5


def test_a_reward_model_learns_to_rank_held_out_pairs(make_scalar) -> None:
    """Preferred: the text that holds token 7. Learnt with the stock update, tested on texts never seen."""

    def pair(a: list[int]) -> Pair:
        plain = [8 if id == 7 else id for id in a]
        return Pair([7, *plain[1:]] if plain[0] < 12 else [*plain[:-2], 7, plain[-1]], plain)

    train, test = ([pair(text) for text in texts(seed, 256, low=3)] for seed in (5, 6))
    model = make_scalar(std=0.05)
    update = train_update(model, build_optimizer(model, "adamw", lr=3e-3), PairBatches(train, 32, seed=0),
                       build_schedule("constant", total=60), objective=PairwiseObjective())  # fmt: skip
    state = RunState({"model": model})
    first, *_, last = [update(state, step) for step in range(60)]
    assert first["loss"] == pytest.approx(math.log(2), abs=0.1) and last["loss"] < 0.2
    assert pair_accuracy(model, test) > 0.9


def test_a_pair_batch_is_what_the_stock_update_asks_for() -> None:
    batch = PairBatch.of([Pair([1, 2, 3], [4], "p"), Pair([5], [6, 7], "q")])
    assert (batch.weight, batch.content, batch.tokens) == (2.0, 2, 7)
    assert batch.ids_BT[:, 0].tolist() == [1, 5, 4, 6] and batch.describe() == "pairs p, q"


def test_a_step_of_pairs_knows_its_numbers() -> None:
    def numbers(last: int, micro_pairs: int | None = None) -> tuple[float, int | None, int, int]:
        pairs = [Pair([1, 2, 3], [4], "p"), Pair([5], [6, last], "q")]
        batch = PairBatches(pairs, 2, seed=0, micro_pairs=micro_pairs)(0)
        return batch.weight, batch.content, batch.tokens, batch.fingerprint

    assert numbers(7)[:3] == (2.0, 2, 7)
    assert numbers(7) == numbers(7, micro_pairs=1) != numbers(8)


def test_length_batches_hold_every_row_once_within_the_room() -> None:
    lengths = [3, 9, 1, 4, 9, 30, 2]
    batches = length_batches(lengths, 20)
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 20 for batch in batches)
    ids, sizes = pad_right([[1, 2], [3]])
    assert ids.tolist() == [[1, 2], [3, 0]] and sizes.tolist() == [2, 1]
