"""AdamW and Muon: who is decayed, what a step is, and that it learns."""

import pytest
import torch
from torch import nn

from qwenkit.errors import UserError
from qwenkit.training.optim import Muon, build_optimizer, orthogonalize, split_parameters
from tests.training.conftest import make_model


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_newton_schulz_brings_singular_values_near_one(shape, dtype):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack, dtype=dtype))
    assert values.min() > 0.3 and values.max() < 1.3
    left, _, right = torch.linalg.svd(stack, full_matrices=False)
    cosine = torch.cosine_similarity((left @ right).flatten(1), orthogonalize(stack, dtype=dtype).flatten(1))
    assert cosine.min() > 0.95


def test_stacked_muon_is_muon_matrix_by_matrix():
    def trained(split):
        parts = [nn.Parameter(torch.full((6, 4), 0.1 * i)) for i in range(3)] + [nn.Parameter(torch.ones(4, 6))]
        groups = [Muon([part], weight_decay=0.1) for part in parts] if split else [Muon(parts, weight_decay=0.1)]
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            for part in parts:
                part.grad = torch.randn(part.shape, generator=generator)
            for optimizer in groups:
                optimizer.step()
        return torch.cat([part.flatten() for part in parts])

    assert torch.allclose(trained(True), trained(False), atol=1e-6)


def test_muon_step_follows_its_formula():
    weight, grad = torch.ones(8, 4), torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    param = nn.Parameter(weight.clone())
    param.grad = grad.clone()
    Muon([param], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    nesterov = 0.1 * grad + 0.9 * (0.1 * grad)  # lerp(grad, momentum, 0.9) with momentum = 0.1 grad
    expected = weight * (1 - 0.05) - 0.1 * 2**0.5 * orthogonalize(nesterov[None])[0]
    assert torch.allclose(param.detach(), expected, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_groups_hold_every_parameter_once(tied):
    model = make_model(tie_word_embeddings=tied)
    matrices, embeddings, vectors = split_parameters(model)
    assert len(matrices) == 2 * 7 and len(embeddings) == (1 if tied else 2)
    for name in ("adamw", "muon"):
        held = build_optimizer(model, name, 0.01).parameters
        assert {id(p) for p in held} == {id(p) for p in model.parameters()} and len(held) == len({id(p) for p in held})
    assert all(vector.ndim == 1 for vector in vectors.values())
    assert {**matrices, **embeddings, **vectors} == dict(model.named_parameters())


def test_only_linear_layers_are_decayed():
    model = make_model()
    groups = build_optimizer(model, "adamw", 0.01).optimizers[0].param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    assert decayed == {id(p) for name, p in model.named_parameters() if name.endswith("proj.weight")}
    assert all(group["betas"] == (0.9, 0.95) and group["eps"] == 1e-8 for group in groups)


def test_the_factor_scales_every_peak_also_after_loading():
    model = make_model()
    optimizer = build_optimizer(model, "muon", 0.02, other_lr=0.003)
    optimizer.set_factor(0.5)
    saved = optimizer.state_dict()
    again = build_optimizer(model, "muon", 0.02, other_lr=0.003)
    again.load_state_dict(saved)
    again.set_factor(1.0)
    assert again.lr == 0.02 and again.optimizers[1].param_groups[0]["lr"] == 0.003


def test_frozen_parameters_are_left_out_and_wrong_names_refused():
    model = make_model()
    model.model.embed_tokens.requires_grad_(False)
    held = build_optimizer(model, "adamw", 0.01).parameters
    assert id(model.model.embed_tokens.weight) not in {id(p) for p in held}
    with pytest.raises(UserError, match="adamw"):
        build_optimizer(model, "adam", 0.01)


class Two(nn.Module):
    """Matrices under some names, registered in their order."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_module(name, nn.Linear(4, 4, bias=False))


def stepped(model, kind="adamw", **settings):
    """An optimizer that has moved each matrix in a direction of its own."""
    optimizer = build_optimizer(model, kind, 0.1, **settings)
    for number, param in enumerate(model.parameters(), 1):
        param.grad = torch.full_like(param, 10.0**number)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def same_state(one, two):
    return one["state"].keys() == two["state"].keys() and all(
        torch.equal(tensor, two["state"][name][key])
        for name, each in one["state"].items()
        for key, tensor in each.items()
    )


@pytest.mark.parametrize("kind, keys", [("adamw", {"step", "exp_avg", "exp_avg_sq"}), ("muon", {"momentum"})])
def test_state_is_kept_by_name(kind, keys):
    """A model that has the same parameters in another order gets each its own."""
    saved = stepped(Two("a", "b"), kind).state_dict()
    assert list(saved["state"]) == ["a.weight", "b.weight"] and set(saved["state"]["a.weight"]) == keys
    assert [(group["kind"], group["names"], group["lr"]) for group in saved["groups"]] == [
        (kind, ["a.weight", "b.weight"], 0.1)
    ]
    other = build_optimizer(Two("b", "a"), kind, 0.1)
    other.load_state_dict(saved)
    assert list(other.state_dict()["state"]) == ["b.weight", "a.weight"] and same_state(other.state_dict(), saved)


def test_groups_keep_their_settings():
    saved = stepped(make_model(), "muon", other_lr=0.003, weight_decay=0.2, betas=(0.8, 0.9)).state_dict()
    again = build_optimizer(make_model(), "muon", 0.02)
    again.load_state_dict(saved)
    assert again.state_dict()["groups"] == saved["groups"] and same_state(again.state_dict(), saved)
    assert [(group["kind"], group["lr"]) for group in saved["groups"]] == [("muon", 0.1), ("adamw", 0.003)]
    assert saved["groups"][1]["betas"] == (0.8, 0.9) and saved["groups"][0]["weight_decay"] == 0.2


def test_a_parameter_without_a_step_has_no_state():
    """An expert that no token has reached."""
    model = Two("a", "b")
    optimizer = build_optimizer(model, "adamw", 0.1)
    model.a.weight.grad = torch.ones(4, 4)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["state"]["b.weight"] == {} and saved["state"]["a.weight"]
    again = build_optimizer(Two("a", "b"), "adamw", 0.1)
    again.load_state_dict(saved)
    assert same_state(again.state_dict(), saved) and again.state_dict()["state"]["b.weight"] == {}


HINT = "\n  hint: train the same parameters as before, or remove the checkpoints"


def test_names_that_do_not_fit_are_refused_by_name():
    saved = stepped(Two("a", "b")).state_dict()
    cases = {
        ("a", "b", "c"): f"nothing is saved for c.weight of the optimizer{HINT}",
        ("a",): f"b.weight is saved, but not trained in the optimizer{HINT}",
        ("a", "d"): f"nothing is saved for d.weight of the optimizer{HINT}",
    }
    for names, message in cases.items():
        with pytest.raises(UserError) as caught:
            build_optimizer(Two(*names), "adamw", 0.1).load_state_dict(saved)
        assert str(caught.value) == message
    with pytest.raises(UserError, match=r"^nothing is saved for b.weight of the optimizer `main`"):
        lost = {**saved, "state": {"a.weight": saved["state"]["a.weight"]}}
        build_optimizer(Two("a", "b"), "adamw", 0.1).load_state_dict(lost, "the optimizer `main`")


def test_another_optimizer_and_other_groups_are_refused():
    with pytest.raises(UserError) as caught:
        build_optimizer(Two("a", "b"), "muon", 0.1).load_state_dict(stepped(Two("a", "b")).state_dict())
    assert str(caught.value) == (
        "the optimizer is muon for `a.weight`, the saved one adamw\n"
        "  hint: train with the same optimizer as before, or remove the checkpoints"
    )
    saved = stepped(make_model()).state_dict()
    moved = saved["groups"][0]["names"].pop()
    saved["groups"][1]["names"].append(moved)
    with pytest.raises(UserError) as caught:
        build_optimizer(make_model(), "adamw", 0.1).load_state_dict(saved)
    assert str(caught.value) == (
        f"{moved} of the optimizer is saved in another group than now\n"
        "  hint: train with the same groups as before, or remove the checkpoints"
    )
