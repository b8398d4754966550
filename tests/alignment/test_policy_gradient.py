"""The gradients of policy and value model on trajectories of any mask, against loops over single tokens."""

import math

import torch
from torch import Tensor, nn

from qwenkit.alignment import Passes, Trajectories, Trajectory, gae_advantages, value_gradient
from qwenkit.alignment.policy_gradient import policy_gradient
from qwenkit.rng import random_bits

from .conftest import VOCAB
from .test_trajectories import trajectory

MASKS = ("0011", "01001", "0110110", "01", "010101", "00100")
PASSES = Passes(micro_tokens=16)  # two or three trajectories in a pass


def batch_of(masks: tuple[str, ...] = MASKS) -> Trajectories:
    """Trajectories of these masks, whose ids are drawn."""
    items: list[Trajectory] = []
    for n, mask in enumerate(masks):
        ids = [int(bits % VOCAB) for bits in random_bits(7, n, range(len(mask)))]
        items.append(trajectory(ids, mask))
    return Trajectories.of(items)


def numbers(batch: Trajectories, seed: int) -> Tensor:
    """A number for each sampled token, and NaN elsewhere: nothing there may be read."""
    drawn = torch.randn(batch.sampled_BT.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.masked_fill(~batch.sampled_BT, float("nan"))


def gradient(model: nn.Module) -> Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


def tokens_of(batch: Trajectories, rows: range) -> list[tuple[int, int]]:
    return [(row, at) for row in rows for at, here in enumerate(batch.items[row].sampled) if here]


def assert_close(one: Tensor, other: Tensor) -> None:
    """Attention is float32 on a CPU in any case: a difference of some units of the gradient's length is rounding."""
    assert other.norm() > 1e-3 and (one - other).norm() <= 256 * torch.finfo(torch.float32).eps * other.norm()


def test_the_policy_s_gradient_is_that_of_its_sampled_tokens(make_policy) -> None:
    policy, batch, rows = make_policy(0).double(), batch_of(), range(1, 6)
    advantages = numbers(batch, 1)
    old = torch.tensor([[-3.0] * batch.ids_BT.shape[1]] * len(batch), dtype=torch.float64)
    metrics = policy_gradient(policy, batch, old, advantages, rows, PASSES, clip=0.2)
    found, tokens, loss = gradient(policy), tokens_of(batch, rows), torch.zeros((), dtype=torch.float64)
    for row, at in tokens:
        ids = batch.items[row].ids
        logprob = policy(torch.tensor([ids[:at]])).log_softmax(-1)[0, -1, ids[at]]
        ratio = (logprob - old[row, at]).exp()
        clipped = ratio.clamp(0.8, 1.2)
        loss = loss - torch.minimum(ratio * advantages[row, at], clipped * advantages[row, at]) / len(tokens)
    loss.backward()
    assert math.isclose(metrics["policy_loss"], float(loss.detach()), rel_tol=1e-5)
    assert_close(found, gradient(policy))


def test_the_value_model_s_gradient_is_that_of_its_sampled_tokens(make_scalar) -> None:
    value, batch, rows = make_scalar(1).double(), batch_of(), range(6)
    advantages = gae_advantages(value, batch, numbers(batch, 2), PASSES, gamma=0.9, gae_lambda=0.8, whiten=False)
    metrics = value_gradient(value, batch, advantages, rows, PASSES, clip=0.15)
    found, tokens, loss = gradient(value), tokens_of(batch, rows), torch.zeros((), dtype=torch.float64)
    for row, at in tokens:
        said = value.score(torch.tensor([batch.items[row].ids[:at]]))[0, -1]
        loss = loss + 0.5 * (said - advantages.returns_BT[row, at]).square() / len(tokens)
    loss.backward()
    assert math.isclose(metrics["value_loss"], float(loss.detach()), rel_tol=1e-5)
    assert_close(found, gradient(value))


def test_what_a_model_gives_for_each_token_comes_back_to_its_token() -> None:
    batch = batch_of()
    (ids_BT,) = PASSES.read(batch, lambda part: (part.tokens_N,))
    assert torch.equal(ids_BT, batch.ids_BT * batch.sampled_BT) and len(PASSES.micro_batches(batch)) > 2
