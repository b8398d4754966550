"""The interface through which a layer attends: nothing but the cache knows where keys and values lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qwenkit.model import ModelConfig, ScalarModel, Transformer, init_weights
from qwenkit.model.attention import Cache, NoCache, attention, document_mask, one_query
from qwenkit.model.modes import set_activation_checkpointing
from tests.model.conftest import tiny


class Appending:
    """The smallest cache: the keys and values of each layer as one growing tensor, for rows of one length."""

    def __init__(self) -> None:
        self.stored: dict[int, tuple[Tensor, Tensor]] = {}
        self.length = 0

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        self.length += x_BTC.shape[1]
        return torch.arange(self.length - x_BTC.shape[1], self.length)[None]

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        return torch.tensor([[9]])

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        if layer in self.stored:
            k_BGTD, v_BGTD = (torch.cat(pair, 2) for pair in zip(self.stored[layer], (k_BGTD, v_BGTD)))
        self.stored[layer] = k_BGTD, v_BGTD
        whole = document_mask(torch.zeros(1, self.length), window)
        return attention(q_BHTD, k_BGTD, v_BGTD, whole[:, :, self.length - q_BHTD.shape[2] :])


def _model(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=1, std=0.2).eval()


def _ids(*shape: int) -> Tensor:
    return torch.randint(0, 96, shape, generator=torch.Generator().manual_seed(0))


def test_any_object_that_attends_is_a_cache(config: ModelConfig) -> None:
    model, ids_BT = _model(config), _ids(3, 20)
    cache: Cache = Appending()
    with torch.no_grad():
        parts = [model.hidden(ids_BT[:, start:stop], cache) for start, stop in ((0, 9), (9, 10), (10, 17), (17, 20))]
        assert torch.allclose(torch.cat(parts, 1), model.hidden(ids_BT), atol=1e-5)


def test_documents_are_a_cache_of_their_own() -> None:
    model, ids_BT, documents_BT = _model(tiny()), _ids(1, 12), torch.arange(12)[None] // 5
    packed = model.hidden(ids_BT, documents_BT=documents_BT)
    assert torch.equal(packed, model.hidden(ids_BT, NoCache(documents_BT)))
    assert not torch.allclose(packed[0, 5:], model.hidden(ids_BT)[0, 5:])


def test_one_mask_serves_all_layers_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int | None] = []

    def counted(documents_BT: Tensor, window: int | None = None) -> Tensor:
        made.append(window)
        return document_mask(documents_BT, window)

    monkeypatch.setattr("qwenkit.model.attention.document_mask", counted)
    model = _model(tiny(num_hidden_layers=4, windows=(3, None, 3, None)))
    model.hidden(_ids(2, 12), documents_BT=torch.zeros(2, 12, dtype=torch.long))
    assert made == [3, None]


def test_a_window_that_was_not_announced_is_masked_too() -> None:
    model, documents_BT = _model(tiny(windows=(3, None))), torch.arange(12)[None] // 5
    packed = model.hidden(_ids(1, 12), documents_BT=documents_BT)
    assert torch.equal(packed, model.hidden(_ids(1, 12), NoCache(documents_BT)))


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("windows", [None, (3, None)])
def test_training_is_one_graph(documents: bool, windows: tuple[int | None, ...] | None, recompute: str) -> None:
    """Without a break, and with the same gradients; `eager` traces the graph and compiles nothing."""
    torch._dynamo.reset()  # all cases together would exceed the limit of recompilations
    model = init_weights(Transformer(tiny(windows=windows)), seed=1, std=0.2).train()
    set_activation_checkpointing(model, recompute)
    ids_BT = _ids(2, 12)
    documents_BT = (torch.arange(12)[None] // 5).expand(2, 12) if documents else None
    gradients = []
    for hidden in (model.hidden, torch.compile(model.hidden, backend="eager", fullgraph=True, dynamic=False)):
        model.zero_grad()
        hidden(ids_BT, documents_BT=documents_BT).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_scalar_model_is_one_graph() -> None:
    model, ids_BT = ScalarModel(_model(tiny()), seed=4), _ids(2, 9)
    compiled = torch.compile(model.score, backend="eager", fullgraph=True, dynamic=False)
    documents_BT = torch.zeros(2, 9, dtype=torch.long)
    assert torch.equal(compiled(ids_BT), model.score(ids_BT))
    assert torch.equal(compiled(ids_BT, documents_BT=documents_BT), model.score(ids_BT, documents_BT))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_heads_of_a_group_may_be_the_rows_of_one_product(groups: int) -> None:
    """What a GPU computes for one query a row. Sums of 70 float32 products of size 1 are equal to 1e-5."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, length, 16, generator=generator)
               for heads, length in ((6, 1), (groups, 70), (groups, 70)))  # fmt: skip
    mask = torch.rand(3, 1, 1, 70, generator=generator) < 0.5
    mask[..., 0] = True
    torch.testing.assert_close(one_query(q, k, v, mask), attention(q, k, v, mask), atol=1e-5, rtol=1e-5)
