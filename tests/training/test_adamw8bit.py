"""AdamW with moments of 8 bits: levels, rounding, that it learns as with float32, and that it continues to the bit."""

import pytest
import torch
from torch import nn

from qwenkit.data.tokens.order import EpochOrder
from qwenkit.training import Batches, RunState, build_optimizer, build_schedule, train_update
from qwenkit.training.adamw8bit import AdamW8bit, dequantize_blocks, dynamic_levels, quantize_blocks
from qwenkit.training.checkpoint import load_latest, save_checkpoint
from tests.training.conftest import make_model, make_store

SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.mark.parametrize("signed", [True, False])
def test_levels_are_256_and_finest_near_zero(signed):
    levels = dynamic_levels(signed)
    assert len(levels) == len(levels.unique()) == 256 and levels.equal(levels.sort().values)
    assert levels[-1] == 1 and 0 in levels and bool((levels < 0).any()) is signed
    above = levels[levels > 0]
    assert above[0] < 1e-6 and (above > 0.1).sum() == (65 if signed else 129)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 5000])
@pytest.mark.parametrize("signed", [True, False])
def test_each_value_is_the_nearest_level_of_its_block(count, signed):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    values = values if signed else values.square()
    codes, scales = quantize_blocks(values, signed)
    back = dequantize_blocks(codes, scales, values.shape, signed)
    assert codes.dtype == torch.uint8 and codes.shape == (count,) and len(scales) == -(-count // 256)
    known = dynamic_levels(signed) if signed else dynamic_levels(signed)[1:]  # zero is for zeros alone
    for start in range(0, count, 256):
        block, levels = values[start : start + 256], known * values[start : start + 256].abs().max()
        distance = (block[:, None] - levels).abs().amin(1)
        assert torch.allclose((back[start : start + 256] - block).abs(), distance, rtol=1e-4, atol=1e-6)


def test_zeros_stay_zeros_and_a_second_moment_above_zero_does_too():
    assert not dequantize_blocks(*quantize_blocks(torch.zeros(300), True), torch.Size([300]), True).any()
    values = torch.tensor([1.0, 1e-12, 0.0])
    back = dequantize_blocks(*quantize_blocks(values, False), values.shape, False)
    assert back[1] > 0 and back[2] == 0


def test_small_parameters_step_as_torchs_adamw_does():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = AdamW8bit([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for step in range(5):
        grad = torch.randn(40, generator=torch.Generator().manual_seed(step))
        for parameter, optimizer in zip((ours, theirs), optimizers):
            parameter.grad = grad.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def run(moments, until, state=None, seed=0):
    """Return the run state after `until` steps, and the losses of the steps that were taken."""
    model = make_model(seed, **SIZES)
    optimizer = build_optimizer(model, "adamw", 3e-3, moments=moments)
    store = make_store()
    order = EpochOrder(store.digest, 1, store.lengths, 32, split_documents=True)
    update = train_update(model, optimizer, Batches(store, order, 4), build_schedule("constant", 60, 0, 1.0))
    run_state = RunState({"model": model}, {"main": optimizer})
    if state is not None:
        run_state.load_state_dict(state)
    losses = []
    for step in range(run_state.step, until):
        losses.append(update(run_state, step)["loss"])
        run_state.step = step + 1
    return run_state, losses


def test_it_learns_as_with_moments_of_float32():
    """The last losses differ by less than losses of float32 do between seeds."""
    ends = {seed: sum(run("float32", 40, seed=seed)[1][-5:]) / 5 for seed in range(3)}
    first, eight = run("int8", 40)[1][0], sum(run("int8", 40)[1][-5:]) / 5
    assert eight < 0.8 * first and abs(eight - ends[0]) <= max(ends.values()) - min(ends.values())


def test_a_run_continued_from_a_checkpoint_is_equal_to_the_bit(tmp_path):
    whole, _ = run("int8", 8)
    half, _ = run("int8", 5)
    save_checkpoint(half.state_dict(), tmp_path, 5)
    again, _ = run("int8", 8, state=load_latest(tmp_path, notify=print), seed=1)
    moments = again.optimizers["main"].state_dict()["state"]["model.layers.0.mlp.gate_proj.weight"]
    assert moments["exp_avg_codes"].dtype == torch.uint8 and "exp_avg" not in moments
    for (name, one), (_, other) in zip(
        whole.modules["model"].named_parameters(), again.modules["model"].named_parameters()
    ):
        assert torch.equal(one, other), name
