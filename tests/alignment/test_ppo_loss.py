"""The mathematics of PPO against naive loops and numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.alignment import ppo_loss as o
from qwenkit.rng import uniform


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_gae(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Straight from the definition: sum over l of (gamma gae_lambda)^l delta_{t+l}."""
    after = [*values[1:], 0.0]
    delta = [r + gamma * n - v for r, n, v in zip(rewards, after, values)]
    return [sum((gamma * gae_lambda) ** (k - t) * delta[k] for k in range(t, len(delta))) for t in range(len(delta))]


def with_rubbish(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x, and NaN wherever the mask is false: what stands there must not be read."""
    return x.masked_fill(~mask, float("nan"))


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    """A mask [B, T] of any pattern, each row with one true at least: answers, several turns, padding at both ends."""
    width = draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=width, max_size=width).filter(any)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=5)))


@settings(max_examples=100, deadline=None)
@given(masks(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_gae_is_the_definition_over_the_sampled_tokens(
    mask: torch.Tensor, gamma: float, gae_lambda: float, seed: int
) -> None:
    """Each trajectory by itself, its sampled tokens in order, whatever stands between them."""
    rewards, values = (with_rubbish(randn(seed + n, *mask.shape), mask) for n in range(2))
    advantages, returns = o.gae(rewards, values, mask, gamma, gae_lambda)
    for row, here in enumerate(mask):
        expected = naive_gae(rewards[row, here].tolist(), values[row, here].tolist(), gamma, gae_lambda)
        assert advantages[row, here].tolist() == pytest.approx(expected, abs=1e-12)
        assert not advantages[row, ~here].any() and not returns[row, ~here].any()
        torch.testing.assert_close(returns[row, here], advantages[row, here] + values[row, here])


@given(masks(), st.integers(0, 99))
def test_compact_keeps_the_order_and_spread_is_its_inverse(mask: torch.Tensor, seed: int) -> None:
    x = randn(seed, *mask.shape)
    compact = o.compact(with_rubbish(x, mask), mask)
    for row, here in enumerate(mask):
        count = int(here.sum())
        assert compact[row, :count].tolist() == x[row, here].tolist() and not compact[row, count:].any()
    assert torch.equal(o.spread(compact, mask), x * mask)


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 99))
def test_a_mask_of_any_pattern_gives_what_the_tokens_alone_give(mask: torch.Tensor, seed: int) -> None:
    """Rewards, whitening and KL of scattered tokens are those of the same tokens moved together."""
    kl, scores = (with_rubbish(randn(seed + n, *mask.shape), mask) for n in range(2))
    moved = o.compact(mask.double(), mask) > 0

    def whole(x: torch.Tensor, at: torch.Tensor) -> list[torch.Tensor]:
        rewards = o.token_rewards(x, x, at, kl_coef=0.3)
        last = o.token_rewards(o.at_last(x.nan_to_num().sum(1), at), x, at, kl_coef=0.3)
        return [rewards, last, o.whiten(x, at)]

    for x in (kl, scores):
        for scattered, together in zip(whole(x, mask), whole(o.compact(x, mask), moved), strict=True):
            assert not scattered[~mask].any()
            torch.testing.assert_close(o.compact(scattered, mask), together)


def test_gae_with_lambda_one_is_return_minus_value() -> None:
    mask = torch.tensor([[True, True, True]])
    rewards, values = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[5.0, 4.0, 3.0]])
    assert o.gae(rewards, values, mask, 1.0, 1.0)[0].tolist() == [[-2.0, -1.0, -1.0]]


def test_reward_stands_at_the_last_token_and_kl_at_every_one() -> None:
    mask = torch.tensor([[True, True, False], [True, False, True], [False, True, False]])
    kl = torch.tensor([[1.0, 2.0, 99.0], [0.0, 99.0, 0.5], [99.0, 1.0, 99.0]])
    scores = o.at_last(torch.tensor([10.0, 20.0, 30.0]), mask)
    assert scores.tolist() == [[0, 10, 0], [0, 0, 20], [0, 30, 0]]
    rewards = o.token_rewards(scores, kl, mask, kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 9.8, 0.0], [0.0, 0.0, 19.95], [0.0, 29.9, 0.0]]))


def test_a_reward_may_stand_at_any_token() -> None:
    """In the first of two turns: what was sampled later gets no credit for it."""
    mask = torch.tensor([[False, True, True, False, True]])
    rewards = o.token_rewards(torch.tensor([[0.0, 0.0, 5.0, 0.0, 0.0]]), torch.zeros(1, 5), mask, kl_coef=0.1)
    advantages, _ = o.gae(rewards, torch.zeros(1, 5), mask, 1.0, 1.0)
    assert advantages.tolist() == [[0, 5, 5, 0, 0]]


def test_policy_loss_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, clipped = o.policy_loss(ratio.log(), torch.zeros(5), advantages, clip=0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))
    assert clipped.tolist() == [1, 0, 0, 1, 0]


def test_clipped_tokens_have_no_gradient() -> None:
    logprobs = torch.tensor([math.log(1.5), math.log(0.5), 0.0], requires_grad=True)
    o.policy_loss(logprobs, torch.zeros(3), torch.tensor([1.0, -1.0, 3.0]), 0.2)[0].sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0.0, 0.0, -3.0]


def test_value_loss_by_hand() -> None:
    values, old = torch.tensor([1.0, 1.0, 0.1]), torch.tensor([0.0, 0.0, 0.0])
    loss, clipped = o.value_loss(values, old, torch.tensor([1.0, 3.0, 1.0]), clip=0.15)
    torch.testing.assert_close(loss, 0.5 * torch.tensor([0.85**2, 2.85**2, 0.9**2]))
    assert clipped.tolist() == [1, 1, 0]


def test_both_kl_estimators_find_the_true_divergence() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    truth = float((p * (p / q).log()).sum())
    drawn = torch.searchsorted(p.cumsum(0), torch.from_numpy(uniform(0, range(200_000))))
    for estimator in (o.kl_k1, o.kl_k3):
        assert float(estimator(p.log()[drawn], q.log()[drawn]).mean()) == pytest.approx(truth, abs=0.01)
    assert float(o.kl_k3(p.log()[drawn], q.log()[drawn]).min()) >= 0


def test_kl_of_equal_models_is_zero() -> None:
    x = randn(0, 4, 5)
    assert not o.kl_k1(x, x).any() and not o.kl_k3(x, x).any()


def test_whitening_looks_at_real_tokens_only() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    x = randn(0, 2, 3)
    white = o.whiten(x, mask)
    assert float(white[mask].mean()) == pytest.approx(0, abs=1e-12)
    assert float(white[mask].var(correction=0)) == pytest.approx(1, abs=1e-6)
    assert float(white[0, 2]) == 0


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=9), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_running_moments_are_those_of_everything_seen(batches: list[list[float]]) -> None:
    moments = o.RunningMoments()
    for batch in batches:
        moments.update(torch.tensor(batch, dtype=torch.float64))
    seen = torch.tensor([x for batch in batches for x in batch], dtype=torch.float64)
    assert moments.mean == pytest.approx(float(seen.mean()), abs=1e-9)
    if float(seen.std(correction=0)) > 1e-3:
        assert moments.std == pytest.approx(float(seen.std(correction=0)), rel=1e-6)
    assert torch.equal(moments.normalise(seen, "none"), seen)
    assert float(moments.normalise(seen, "mean").mean()) == pytest.approx(0, abs=1e-9)


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert o.explained_variance(returns, returns) == pytest.approx(1)
    assert o.explained_variance(torch.zeros(3), returns) == pytest.approx(0, abs=1e-6)
    assert o.explained_variance(-returns, returns) == pytest.approx(-3, abs=1e-6)
