"""PPO on toy policies: gradients, invariants, resume, and that it learns."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qwenkit import Engine
from qwenkit.alignment import (
    PPO,
    ModelReward,
    PPOConfig,
    Prompts,
    Rewards,
    SingleTurn,
    Trajectories,
    Weighted,
    sampled_logprobs,
)
from qwenkit.alignment.passes import Passes, minibatches
from qwenkit.errors import Stopped, UserError
from qwenkit.model.config import ContextExtension
from qwenkit.training import PackedBatch, StepBatch, lm_objective

from .conftest import IM_END, VOCAB

PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]
QUICK = PPOConfig(prompts_per_step=8, max_response_tokens=6, top_p=1.0, value_warmup_steps=0, ptx_coef=0.0,
                  policy_lr=3e-3, value_lr=3e-3, minibatches=2)  # fmt: skip


Score = Callable[[list[list[int]]], Tensor]


def likes(token: int) -> Score:
    """A reward model that counts a token."""
    return lambda texts: torch.tensor([float(text.count(token)) for text in texts])


def rewards_of(score: Score) -> Rewards:
    """A function of whole chats as the only reward, given what a reward model would read."""
    read = ModelReward(None, IM_END)  # type: ignore[arg-type]
    return Rewards({"model": Weighted(1.0, lambda rows, items: score([read.text(each) for each in items]).tolist())})


def documents(number: int) -> StepBatch[PackedBatch]:
    """A stream of pretraining batches: two documents packed in one row, other tokens for other numbers."""
    ids = torch.arange(12).add(number * 5).remainder(VOCAB)[None]
    packed = torch.tensor([[0] * 7 + [1] * 5])
    return StepBatch.of([PackedBatch.of(ids, ids.roll(-1, 1), torch.ones(1, 12), packed, (), (), 12)])


def build(make_policy, make_scalar, config: PPOConfig = QUICK, **given) -> PPO:
    policy = make_policy(0)
    prompts = Prompts(PROMPTS, config.prompts_per_step, seed=5)
    rewards = rewards_of(given.pop("reward", likes(7)))
    collect = SingleTurn(im_end_id=IM_END, samples=config.samples_per_prompt, max_tokens=config.max_response_tokens,
                         temperature=config.temperature, top_p=config.top_p)  # fmt: skip
    return PPO(policy, make_scalar(1), copy.deepcopy(policy), rewards, prompts, config, sampler=Engine(policy, None),
               collect=collect, **given)  # fmt: skip


def run(ppo: PPO, steps: int) -> list[dict[str, float]]:
    state = ppo.state()
    return [ppo.update(state, step) for step in range(steps)]


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])


def test_the_samplers_cache_is_given_back_before_learning(make_policy, make_scalar, monkeypatch) -> None:
    """And that changes no bit of what is learnt."""
    runs = []
    for kept in (False, True):
        if kept:
            monkeypatch.setattr(Engine, "release_cache", lambda engine: None)
        ppo = build(make_policy, make_scalar, QUICK)
        metrics = run(ppo, 2)
        assert ppo.sampler.runner.asleep is not kept
        runs.append((metrics, [weight.tolist() for weight in ppo.policy.parameters()]))
    assert runs[0] == runs[1]


def test_the_pretraining_term_adds_exactly_its_own_gradient(make_policy, make_scalar) -> None:
    """In float64: gradient of the sum = gradient of PPO alone + ptx_coef * gradient of the mean loss alone.

    Attention is float32 on a CPU in any case; a coefficient that is a power of two scales without rounding there too.
    """
    config = replace(QUICK, ptx_coef=0.5)
    ppo = build(make_policy, make_scalar, config, ptx=documents)
    experience = ppo.compute_experience(ppo.sample(0), ppo.state())
    for model in (ppo.policy, ppo.value, ppo.reference):
        model.double()
    rows = list(range(16))

    ppo.policy_gradient(experience, rows)
    alone = gradient(ppo.policy)
    ppo.policy.zero_grad()
    (batch,) = documents(3).micro_batches
    (lm_objective(ppo.policy, batch)[0] / batch.weight).backward()
    pretraining = gradient(ppo.policy)
    ppo.policy.zero_grad()
    ppo.policy_gradient(experience, rows)
    metrics = ppo.ptx_gradient(3)

    torch.testing.assert_close(gradient(ppo.policy), alone + 0.5 * pretraining, rtol=1e-9, atol=1e-12)
    assert float(pretraining.norm()) > 0.1 and float(alone.norm()) > 0.01
    assert metrics["ptx_loss"] == pytest.approx(float(lm_objective(ppo.policy, batch)[0].detach()) / 12)


def test_the_pretraining_stream_is_read_once_for_each_policy_update(make_policy, make_scalar) -> None:
    asked: list[int] = []

    def stream(number: int) -> StepBatch[PackedBatch]:
        asked.append(number)
        return documents(number)

    config = replace(QUICK, ptx_coef=0.1, epochs=2, value_warmup_steps=1)
    metrics = run(build(make_policy, make_scalar, config, ptx=stream), 3)
    assert asked == list(range(4, 12))  # step 0 is the value model's alone
    assert "ptx_loss" not in metrics[0] and metrics[1]["ptx_loss"] > 0


def test_rows_cut_into_micro_batches_give_the_same_gradients(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar)
    experience = ppo.compute_experience(ppo.sample(0), ppo.state())
    for gradient_of, model in ((ppo.policy_gradient, ppo.policy), (ppo.value_gradient, ppo.value)):
        found = []
        for micro_tokens in (8, 10_000):
            ppo.passes = Passes(micro_tokens)
            model.zero_grad()
            gradient_of(experience, range(16)[::-1])
            found.append(gradient(model))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_an_unchanged_policy_has_ratio_one_and_no_divergence(make_policy, make_scalar) -> None:
    metrics = run(build(make_policy, make_scalar), 1)[0]
    assert metrics["sampling_logp_difference"] < 1e-4
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    recomputed = run(build(make_policy, make_scalar, replace(QUICK, recompute_logprobs=True)), 1)[0]
    assert recomputed["sampling_logp_difference"] < 1e-4


def test_a_sampler_that_does_not_compute_the_same_is_seen(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar)
    ppo.sampler = Engine(make_policy(9), None)
    assert run(ppo, 1)[0]["sampling_logp_difference"] > 0.1


@pytest.mark.parametrize("row", range(16))
def test_a_sampler_that_errs_on_one_response_is_seen(make_policy, make_scalar, row: int) -> None:
    """Whichever minibatch it falls into."""
    ppo = build(make_policy, make_scalar, replace(QUICK, minibatches=4))
    batch = ppo.sample(0)
    batch.logprobs_BT[row, batch.items[row].sampled.index(True)] += 0.3
    ppo.sample = lambda step: batch
    assert run(ppo, 1)[0]["sampling_logp_difference"] == pytest.approx(0.3, abs=1e-3)


def test_metrics_are_means_over_the_updates_done(make_policy, make_scalar) -> None:
    """Six responses in four minibatches: four updates, and the clip fraction of all of them is 1."""
    config = replace(QUICK, prompts_per_step=3, minibatches=4, value_clip=1e-9, value_lr=1.0, epochs=2)
    ppo = build(make_policy, make_scalar, config)
    learnt: list[dict[str, float]] = []
    ppo.value_gradient = lambda experience, rows: {"value_loss": 1.0}  # type: ignore[method-assign]
    ppo.policy_gradient = lambda experience, rows: learnt.append({"policy_loss": 2.0}) or learnt[-1]
    metrics = run(ppo, 1)[0]
    assert (metrics["value_loss"], metrics["policy_loss"], len(learnt)) == (1.0, 2.0, 8)


def test_bf16_learns_beside_a_sampler_of_fp32(make_policy, make_scalar) -> None:
    """Its ratio starts from its own log-probabilities, the reference reads as it does, and weights stay in fp32."""
    config = replace(QUICK, precision="bf16", prompts_per_step=16, epochs=2, kl_coef=0.01)
    ppo = build(make_policy, make_scalar, config)
    metrics = run(ppo, 30)
    assert metrics[0]["kl"] == 0 and 1e-5 < metrics[0]["sampling_logp_difference"] < 0.1
    assert metrics[-1]["reward"] > metrics[0]["reward"] + 1
    assert {x.dtype for model in (ppo.policy, ppo.value) for x in model.state_dict().values()} == {torch.float32}


def test_sampled_logprobs_are_those_of_one_row_at_a_time(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar)
    batch = ppo.sample(0)
    together, _ = sampled_logprobs(ppo.policy, batch)
    alone: list[float] = []
    for each in batch:
        logprobs = ppo.policy(torch.tensor([each.ids])).log_softmax(-1)[0].detach()
        alone += [float(logprobs[at - 1, id]) for at, id in enumerate(each.ids) if each.sampled[at]]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def test_value_warm_up_freezes_the_policy(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar, replace(QUICK, value_warmup_steps=2))
    before = [copy.deepcopy(model.state_dict()) for model in (ppo.policy, ppo.value)]
    metrics = run(ppo, 2)
    assert all(torch.equal(x, before[0][name]) for name, x in ppo.policy.state_dict().items())
    assert any(not torch.equal(x, before[1][name]) for name, x in ppo.value.state_dict().items())
    assert metrics[0]["policy_frozen"] == 1 and metrics[0]["entropy"] > 0 and "policy_loss" not in metrics[0]
    assert run(ppo, 3)[2]["policy_frozen"] == 0


def test_the_reference_and_frozen_parts_never_move(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar)
    before = copy.deepcopy(ppo.reference.state_dict())
    run(ppo, 2)
    assert all(torch.equal(x, before[name]) for name, x in ppo.reference.state_dict().items())


def test_missing_end_costs_its_penalty_and_is_scored_with_an_end(make_policy, make_scalar) -> None:
    seen: list[list[int]] = []

    def reward(texts: list[list[int]]) -> Tensor:
        seen.extend(texts)
        return torch.zeros(len(texts))

    config = replace(QUICK, max_response_tokens=2, missing_eos_penalty=3.0, kl_coef=0.0)
    ppo = build(make_policy, make_scalar, config, reward=reward)
    batch = ppo.sample(0)
    experience = ppo.compute_experience(batch, ppo.state())
    assert all(text[-1] == IM_END and text.count(IM_END) == 1 for text in seen)
    cut = 1 - float(batch.ended_B.double().mean())
    assert cut > 0 and experience.metrics["normalised_reward"] == pytest.approx(-3 * cut)


def test_resume_is_the_same_run_bit_for_bit(make_policy, make_scalar) -> None:
    config = replace(QUICK, ptx_coef=0.1, epochs=2, reward_norm="mean_std", value_warmup_steps=1)
    whole = build(make_policy, make_scalar, config, ptx=documents)
    expected = run(whole, 5)

    first = build(make_policy, make_scalar, config, ptx=documents)
    state = first.state()
    for step in range(2):
        first.update(state, step)
    saved = copy.deepcopy(state.state_dict())
    torch.manual_seed(123)
    second = build(make_policy, make_scalar, config, ptx=documents)
    state = second.state()
    state.load_state_dict(saved)
    assert [second.update(state, step) for step in range(2, 5)] == expected[2:]
    for ours, theirs in ((second.policy, whole.policy), (second.value, whole.value)):
        assert all(torch.equal(x, theirs.state_dict()[name]) for name, x in ours.state_dict().items())


def test_the_policy_learns_what_is_rewarded(make_policy, make_scalar) -> None:
    """A bandit: say token 7, as often as there is room. Reward, value model and KL all move as they should."""
    metrics = run(build(make_policy, make_scalar, replace(QUICK, prompts_per_step=16, epochs=2, kl_coef=0.01)), 30)
    assert metrics[0]["reward"] < 1.0 and metrics[-1]["reward"] > 2.5
    assert metrics[-1]["kl"] > metrics[0]["kl"] and metrics[-1]["entropy"] < metrics[0]["entropy"]
    assert metrics[-1]["explained_variance"] > metrics[0]["explained_variance"]


def test_a_strong_penalty_keeps_the_policy_at_home(make_policy, make_scalar) -> None:
    ends = [run(build(make_policy, make_scalar, replace(QUICK, kl_coef=kl)), 12)[-1]["kl"] for kl in (0.0, 2.0)]
    assert ends[1] < 0.5 * ends[0]


def test_a_reward_that_is_not_finite_stops_before_the_weights_move(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar, reward=lambda texts: torch.full((len(texts),), float("nan")))
    before = copy.deepcopy(ppo.policy.state_dict())
    with pytest.raises(Stopped, match="prompts"):
        run(ppo, 1)
    assert all(torch.equal(x, before[name]) for name, x in ppo.policy.state_dict().items())


def test_observers_add_their_metrics(make_policy, make_scalar) -> None:
    def observe(batch: Trajectories) -> dict[str, float]:
        return {"rubric": float(len(batch))}

    assert run(build(make_policy, make_scalar, observe=observe), 1)[0]["rubric"] == 16


def test_minibatches_hold_every_response_once() -> None:
    parts = minibatches(16, 3, seed=0, step=4, epoch=1)
    assert len(parts) == 3 and sorted(row for part in parts for row in part) == list(range(16))
    assert parts == minibatches(16, 3, seed=0, step=4, epoch=1) != minibatches(16, 3, seed=0, step=5, epoch=1)
    assert [len(part) for part in minibatches(6, 4, seed=0, step=0, epoch=0)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "change", [{"minibatches": 99}, {"reward_norm": "median"}, {"epochs": 0}, {"precision": "fp8"}]
)
def test_settings_that_mean_nothing_are_refused(change: dict) -> None:
    with pytest.raises(UserError):
        replace(QUICK, **change)


def test_a_pretraining_term_without_a_corpus_is_refused(make_policy, make_scalar) -> None:
    with pytest.raises(UserError, match="pretraining corpus"):
        build(make_policy, make_scalar, replace(QUICK, ptx_coef=0.1))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_trajectories_than_minibatches_are_refused(make_policy, make_scalar, count: int) -> None:
    ppo = build(make_policy, make_scalar)
    whole = ppo.sample(0)
    ppo.collect = lambda sampler, prompts, step: Trajectories.of(whole.items[:count])
    with pytest.raises(UserError) as caught:
        ppo.update(ppo.state(), 3)
    assert caught.value.text() == (
        f"PPO, step 3: the collector returned {count} trajectories\n  expected: 2 or more: minibatches"
    )


def test_a_reward_that_is_not_finite_stops_before_anything_is_learnt(make_policy, make_scalar) -> None:
    ppo = build(make_policy, make_scalar, reward=lambda texts: torch.tensor([0.0] * 15 + [math.nan]))
    state, before = ppo.state(), copy.deepcopy([*ppo.policy.parameters(), *ppo.value.parameters()])
    with pytest.raises(Stopped, match="nonfinite-reward: reward is nan"):
        ppo.update(state, 0)
    after = [*ppo.policy.parameters(), *ppo.value.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


NTK = ContextExtension(seq_length=10, dynamic_ntk=True)


def with_extension(model: Any, extension: ContextExtension) -> Any:
    model.config = replace(model.config, extension=extension)
    return model


@pytest.mark.parametrize("name", ["policy", "value", "reference"])
def test_dynamic_ntk_is_refused_where_rows_may_pass_the_trained_length(make_policy, make_scalar, name: str) -> None:
    """The longest prompt has 4 tokens, a response up to 6."""

    def ppo(extension: ContextExtension) -> PPO:
        models = {"policy": make_policy(0), "value": make_scalar(1), "reference": make_policy(0)}
        with_extension(models[name], extension)
        sampler = Engine(models["policy"], None)
        collect = SingleTurn(im_end_id=IM_END, samples=2, max_tokens=6)
        return PPO(**models, rewards=rewards_of(likes(7)), prompts=Prompts(PROMPTS, 8, seed=5), config=QUICK,
                   sampler=sampler, collect=collect)  # fmt: skip

    text = (
        f"PPO: prompts with their responses have up to {{}} tokens, and the {name} model has dynamic NTK beyond "
        "{}, which would be another in learning than in sampling\n  expected: {} tokens at most, or a model without "
        "dynamic NTK\n  hint: lower `seq_length`, or set `use_dynamic_ntk` to false in the model's config.json"
    )
    with pytest.raises(UserError) as caught:
        ppo(replace(NTK, seq_length=9))
    assert caught.value.text() == text.format(10, 9, 9)
    ppo(replace(NTK, seq_length=9, dynamic_ntk=False))
    fits = ppo(NTK)
    run(fits, 1)
    (first, *_) = fits.sample(0)
    ids, mask = (*first.ids, *range(9)), (*first.sampled, *[False] * 9)
    longer = Trajectories.of([replace(first, ids=ids, sampled=mask)] * 2)
    fits.collect = lambda sampler, prompts, step: longer
    with pytest.raises(UserError) as caught:
        fits.sample(1)
    assert caught.value.text() == text.format(len(ids), 10, 10)


def test_the_defaults_are_the_report_s() -> None:
    config = PPOConfig()
    report = {"samples_per_prompt": 2, "top_p": 0.9, "kl_coef": 0.04, "reward_norm": "mean", "value_clip": 0.15,
              "value_warmup_steps": 50, "policy_lr": 1e-6, "value_lr": 5e-6}  # fmt: skip
    assert {name: getattr(config, name) for name in report} == report


def test_prompts_go_round_in_epochs_and_long_ones_are_counted() -> None:
    prompts = Prompts([[1], [2, 2], [3, 3, 3], [4]], per_step=2, seed=0, max_tokens=2)
    assert prompts.too_long == 1 and prompts.numbers == [0, 1, 3]
    seen = [i for step in range(3) for i in prompts.at(step)]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]
    assert prompts.at(1) == Prompts([[1], [2, 2], [4]], 2, seed=0).at(1)
    assert not set(prompts.rng_ids(0)) & set(prompts.rng_ids(1))
    with pytest.raises(UserError):
        Prompts([[1, 2, 3]], 2, seed=0, max_tokens=2)


def test_the_samples_of_a_step_depend_on_the_step_alone(make_policy, make_scalar) -> None:
    ppo, again = (build(make_policy, make_scalar) for _ in range(2))
    ppo.sample(0)
    ours, theirs = ppo.sample(3), again.sample(3)
    assert [each.ids for each in ours] == [each.ids for each in theirs] and torch.equal(
        ours.logprobs_BT, theirs.logprobs_BT
    )
    assert ours.tokens_N.tolist() != ppo.sample(4).tokens_N.tolist()
    assert [len({each.ids for each in ours.items[i : i + 2]}) for i in range(0, 16, 2)] != [1] * 8
