"""A training that an earlier version began is finished by this one, to the same bits; or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.training import RunState, Sentinel, run, save_checkpoint
from qwenkit.training.checkpoint_upgrade import by_name, upgrade
from tests.training.conftest import VOCAB, Run


def schema_1(training: Run) -> dict[str, Any]:
    """The run state as schema 1 had it: all tensors of a module, optimizer states by position, tokens in the
    numbers."""
    optimizers = [optimizer.state_dict() for optimizer in training.optimizer.optimizers]
    for optimizer in optimizers:
        for group in optimizer["param_groups"]:
            del group["param_names"]
    state = training.state
    return {
        "modules": {"model": dict(training.model.state_dict())},
        "optimizers": {"main": {"optimizers": optimizers}},
        "numbers": {**state.numbers, "tokens": state.tokens},
        "step": state.step,
    }


def train(training: Run, until: int, **options: Any) -> None:
    run(training.update, training.state, until, log=training.log, seed=7, **options)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_of_schema_1_is_continued_to_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    uninterrupted, first, second = (Run(optimizer=optimizer) for _ in range(3))
    train(uninterrupted, 12)
    sentinel = Sentinel(VOCAB)
    train(first, 5, sentinel=sentinel)
    tree = {"run": schema_1(first), "sentinel": sentinel.state_dict()}
    for each in tree["run"]["optimizers"]["main"]["optimizers"]:
        assert each["state"] and all(isinstance(position, int) for position in each["state"])
    save_checkpoint(tree, tmp_path, 5)
    second.model.model.embed_tokens.weight.data.zero_()
    train(second, 12, checkpoint_dir=tmp_path)
    assert second.named("resumed") == [{"event": "resumed", "step": 5}]
    assert second.named("note") == [{"event": "note", "text": "the checkpoint of step 5 is of an earlier version"}]
    assert second.losses == uninterrupted.losses[5:] and torch.equal(second.weights, uninterrupted.weights)
    assert second.state.numbers == uninterrupted.state.numbers and "tokens" not in second.state.numbers
    assert (second.state.tokens, second.state.skipped_steps) == (uninterrupted.state.tokens, 0)


def test_frozen_parts_of_an_old_checkpoint_are_left_where_they_are() -> None:
    training = Run()
    train(training, 1)
    old = schema_1(training)
    other = Run()
    other.model.model.embed_tokens.requires_grad_(False)
    frozen = {"model": {"model.embed_tokens.weight"}}
    new = upgrade(old, frozen, {})
    assert set(old["modules"]["model"]) - set(new["modules"]["model"]) == frozen["model"]
    RunState({"model": other.model}).load_state_dict(old)
    assert not torch.equal(other.model.model.embed_tokens.weight, training.model.model.embed_tokens.weight)
    assert torch.equal(other.model.model.norm.weight, training.model.model.norm.weight)


def test_other_parameters_than_an_old_checkpoint_has_are_refused() -> None:
    training = Run()
    train(training, 1)
    saved = schema_1(training)["optimizers"]["main"]
    with pytest.raises(UserError) as caught:
        by_name(saved, [[["a", "b"]], [["c"]]])
    assert str(caught.value) == (
        "the checkpoint is of an earlier version, and its optimizer has other parameters\n  expected: 3 of them\n"
        "  hint: finish the training with the version that began it, or remove the checkpoints"
    )


def test_a_checkpoint_of_a_newer_version_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    training = Run()
    tree = {"run": {**training.state.state_dict(), "schema": 3}, "sentinel": {}}
    save_checkpoint(tree, tmp_path, 4)
    with pytest.raises(UserError) as caught:
        train(training, 5, checkpoint_dir=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: the checkpoint was written by a newer version (schema 3)\n  expected: schema 2 or an older one\n"
        "  hint: continue with the version that wrote it, or remove the checkpoints"
    )
