"""What is trained is one answer: frozen parts and second names of tied ones are not in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qwenkit.errors import UserError
from qwenkit.model import ModelConfig, ScalarModel, Transformer, init_weights
from qwenkit.model.trainable import load_trainable_state, trainable_parameters, trainable_state


def make(seed: int = 0, **changes: bool) -> Transformer:
    config = ModelConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, **changes
    )
    return init_weights(Transformer(config), seed)


def test_of_a_model_that_is_trained_as_a_whole_it_is_all() -> None:
    model = make()
    assert trainable_state(model).keys() == model.state_dict().keys() == trainable_parameters(model).keys()
    assert all(tensor is dict(model.named_parameters())[name] for name, tensor in trainable_state(model).items())
    assert "score_head.weight" in trainable_state(ScalarModel(make(), 1))


def test_frozen_layers_are_left_out() -> None:
    model = make()
    model.model.layers[0].requires_grad_(False)
    names = trainable_state(model).keys()
    assert names and not any(name.startswith("model.layers.0.") for name in names)
    assert names | {name for name in model.state_dict() if name.startswith("model.layers.0.")} == set(
        model.state_dict()
    )


def test_tied_parameters_have_one_name() -> None:
    model = make()
    model.lm_head.weight = model.model.embed_tokens.weight
    assert set(model.state_dict()) - set(trainable_state(model)) == {"lm_head.weight"}
    assert len(trainable_state(make(tie_word_embeddings=True))) == len(trainable_state(make())) - 1


class Counting(nn.Module):
    """A module with a weight, a statistic that is saved, and one that is computed anew."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("table", torch.zeros(3), persistent=False)


def test_statistics_are_saved_beside_the_weights_that_they_belong_to() -> None:
    model = nn.Sequential(Counting(), Counting())
    model[1].requires_grad_(False)
    assert trainable_state(model).keys() == {"0.weight", "0.mean"}
    assert trainable_parameters(model).keys() == {"0.weight"}


class Centred(nn.Module):
    """A module whose statistics are its own, beside parts with parameters or with none at all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1))
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.out = nn.Linear(2, 2, bias=False)


def test_statistics_of_modules_without_parameters_of_their_own_are_saved() -> None:
    model, statistics = Centred(), {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert trainable_state(model).keys() == {"shift", "out.weight", *statistics}
    model.norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    other = Centred()
    load_trainable_state(other, trainable_state(model))
    assert torch.equal(other.norm.running_mean, model.norm.running_mean) and other.norm.running_mean.any()
    model.out.requires_grad_(False)
    assert trainable_state(model).keys() == statistics  # all parameters beside `shift` are frozen


def test_what_was_saved_comes_back_and_the_rest_stays() -> None:
    one, two = make(0), make(1)
    for model in (one, two):
        model.model.layers[0].requires_grad_(False)
    kept = two.model.layers[0].self_attn.q_proj.weight.clone()
    load_trainable_state(two, {name: tensor.clone() for name, tensor in trainable_state(one).items()})
    assert all(torch.equal(tensor, trainable_state(one)[name]) for name, tensor in trainable_state(two).items())
    assert torch.equal(two.model.layers[0].self_attn.q_proj.weight, kept)


def test_a_state_that_does_not_fit_is_refused_before_anything_is_copied() -> None:
    model, hint = make(), "\n  hint: train the same parameters as before, or remove the checkpoints"
    state = {name: torch.zeros_like(tensor) for name, tensor in trainable_state(model).items()}
    before = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    norm = "model.norm.weight"
    without = {name: tensor for name, tensor in state.items() if name != norm}
    cases = {
        f"nothing is saved for {norm} of the module `policy`{hint}": without,
        f"other.weight is saved, but not trained in the module `policy`{hint}": {**state, "other.weight": state[norm]},
        f"`{norm}` of the module `policy` is saved as [1]\n  expected: [16]": {**state, norm: torch.zeros(1)},
    }
    for message, wrong in cases.items():
        with pytest.raises(UserError) as caught:
            load_trainable_state(model, wrong, "the module `policy`")
        assert str(caught.value) == message
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainable_state(model).items())
