"""The one head against plain cross entropy, in pieces and whole, whatever the head is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.logprobs import cross_entropy_sum, logsumexp, token_logprobs
from qwenkit.platform import torch_threads

V, D, N = 37, 16, 11
SOME_ROWS = 3 * 4 * V
"""Bytes of three rows of logits."""


def make_model(tied: bool = False, dtype: torch.dtype = torch.float64) -> Transformer:
    config = ModelConfig(vocab_size=V, hidden_size=D, intermediate_size=24, num_hidden_layers=1,
                         num_attention_heads=2, tie_word_embeddings=tied)  # fmt: skip
    model = init_weights(Transformer(config), seed=1).to(dtype)
    with torch.no_grad():
        model.head_weight.mul_(20)  # distributions that are not flat
    return model


def make_inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    h_ND = torch.randn(N, D, dtype=dtype, generator=generator).requires_grad_()
    return h_ND, torch.randint(V, (N,), generator=generator), torch.rand(N, generator=generator)


def gradients(loss: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss / 7, of))  # an outer factor, as the weight of a step is one


def plain(model: Transformer, h_ND: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(model.head(h_ND), targets_N, reduction="none") * weights_N).sum()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_bytes", [1, SOME_ROWS, 2**28])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(tied: bool, max_bytes: int) -> None:
    model, inputs = make_model(tied), make_inputs()
    expected, loss = plain(model, *inputs), cross_entropy_sum(model, *inputs, max_bytes=max_bytes)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    of = (inputs[0], model.head_weight)
    for one, other in zip(gradients(loss, *of), gradients(expected, *of)):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_a_tied_table_gets_both_of_its_gradients() -> None:
    model, (_, targets, weights) = make_model(tied=True), make_inputs()
    ids = targets.roll(1)[None]

    def table_gradient(loss_of) -> torch.Tensor:
        loss = loss_of(model, model.hidden(ids)[0], targets, weights)
        return torch.autograd.grad(loss, model.head_weight)[0]

    torch.testing.assert_close(table_gradient(cross_entropy_sum), table_gradient(plain), rtol=1e-11, atol=1e-14)


def test_a_frozen_head_passes_the_gradient_on() -> None:
    model, inputs = make_model(), make_inputs()
    model.lm_head.requires_grad_(False)
    loss = cross_entropy_sum(model, *inputs, max_bytes=SOME_ROWS)
    (expected,) = gradients(plain(model, *inputs), inputs[0])
    loss.backward(torch.tensor(1 / 7, dtype=loss.dtype))
    torch.testing.assert_close(inputs[0].grad, expected, rtol=1e-12, atol=1e-15)
    assert model.lm_head.weight.grad is None


def test_without_a_trace_there_is_no_gradient() -> None:
    model, inputs = make_model(), make_inputs()
    with torch.no_grad():
        loss = cross_entropy_sum(model, *inputs)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(model, *inputs).detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("max_bytes", [SOME_ROWS, 2**28])
def test_autocast_computes_products_in_bf16_and_sums_in_float32(max_bytes: int) -> None:
    model, inputs = make_model(dtype=torch.float32), make_inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(model, *inputs, max_bytes=max_bytes)
        logits = model.head(inputs[0])
    assert loss.dtype == torch.float32 and logits.dtype == torch.bfloat16
    expected = (F.cross_entropy(logits.float(), inputs[1], reduction="none") * inputs[2]).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    of = (inputs[0], model.head_weight)
    for one, other in zip(gradients(loss, *of), gradients(expected, *of)):
        assert one.dtype == torch.float32
        # each product has factors of bf16, whose relative error is 2**-9; the sums are over D or N of them
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-8 * float(other.abs().max()))


def test_a_second_backward_pass_is_refused() -> None:
    loss = cross_entropy_sum(make_model(), *make_inputs())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used already"):
        loss.backward()


class WithAdapter(nn.Module):
    """A head that is more than one matrix, as one with an adapter is."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.base, self.adapter = model.lm_head, nn.Linear(D, V, dtype=torch.float64)

    def head(self, h_ND: torch.Tensor) -> torch.Tensor:
        return self.base(h_ND) + self.adapter(h_ND)


@pytest.mark.parametrize("max_bytes", [SOME_ROWS, 2**28])
def test_a_head_of_several_matrices_trains_all_of_them(max_bytes: int) -> None:
    model, inputs = WithAdapter(make_model()), make_inputs()
    of = (inputs[0], *model.parameters())
    ones = gradients(cross_entropy_sum(model, *inputs, max_bytes=max_bytes), *of)
    for one, other in zip(ones, gradients(plain(model, *inputs), *of), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("max_bytes", [1, SOME_ROWS, 2**28])
def test_token_logprobs_entropy_and_the_most_likely(max_bytes: int) -> None:
    model, (h_ND, targets_N, weights_N) = make_model(), make_inputs()
    result = token_logprobs(model, h_ND, targets_N, entropy=True, top=3, max_bytes=max_bytes)
    logprobs_NV = model.head(h_ND).log_softmax(-1)
    expected = logprobs_NV.gather(1, targets_N[:, None])[:, 0]
    torch.testing.assert_close(result.logprobs, expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(
        result.entropy, -(logprobs_NV.exp() * logprobs_NV).sum(-1).detach(), rtol=1e-12, atol=1e-13
    )
    best = logprobs_NV.topk(3)
    assert torch.equal(result.top_ids, best.indices)
    torch.testing.assert_close(result.top_logprobs, best.values.detach(), rtol=1e-12, atol=1e-13)
    of = (h_ND, model.head_weight)
    for one, other in zip(
        gradients((result.logprobs.exp() * weights_N).sum(), *of), gradients((expected.exp() * weights_N).sum(), *of)
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-15)


def test_bits_of_a_row_do_not_depend_on_its_company() -> None:
    """Two threads would share the sum over a row that is alone."""
    logits_NV = torch.randn(100, 40_000, generator=torch.Generator().manual_seed(0)) * 3
    with torch_threads(2):
        together_N = logsumexp(logits_NV)
        assert torch.equal(torch.cat([logsumexp(row_1V) for row_1V in logits_NV.split(1)]), together_N)


def test_what_is_not_asked_for_is_not_there() -> None:
    model, (h_ND, targets_N, _) = make_model(), make_inputs()
    result = token_logprobs(model, h_ND[:0], targets_N[:0])
    assert result.logprobs.shape == (0,) and result.entropy is result.top_ids is result.top_logprobs is None
    assert float(cross_entropy_sum(model, h_ND[:0], targets_N[:0], torch.zeros(0)).detach()) == 0.0
    wider = token_logprobs(model, h_ND, targets_N, top=V + 5)
    assert wider.top_ids is not None and wider.top_ids.shape == (N, V)


def test_no_more_than_a_piece_of_the_logits_is_computed_at_once() -> None:
    model, (h_ND, targets_N, _) = make_model(), make_inputs()
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    token_logprobs(model, h_ND, targets_N, max_bytes=SOME_ROWS).logprobs.sum().backward()
    assert max(rows) == 3 and sum(rows) == 2 * N  # once forward, once more for the backward pass
