"""The Transformer against itself: packing, caching, precision, first weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.inference.paged_cache import PagedCache, PagedRows, Segment
from qwenkit.model import ModelConfig, ScalarModel, Transformer, init_weights
from qwenkit.model.attention import NoCache, attention, document_positions
from qwenkit.model.modes import set_activation_checkpointing
from tests.model.conftest import tiny


def _ids(*shape: int, seed: int = 0, vocab: int = 96) -> torch.Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def _model(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=1, std=0.2).eval()


def test_packed_documents_equal_documents_alone(config: ModelConfig) -> None:
    model, lengths = _model(config), [5, 1, 11, 7]
    texts = [_ids(length, seed=i) for i, length in enumerate(lengths)]
    numbers = torch.cat([torch.full((length,), i) for i, length in enumerate(lengths)])[None]
    packed = model.hidden(torch.cat(texts)[None], documents_BT=numbers)[0]
    alone = torch.cat([model.hidden(text[None])[0] for text in texts])
    assert torch.allclose(packed, alone, atol=1e-5)


def test_no_token_sees_a_later_one(config: ModelConfig) -> None:
    model, ids = _model(config), _ids(1, 12)
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 96
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.allclose(before[:, 7:], after[:, 7:])


def test_positions_start_again_with_each_document() -> None:
    documents = torch.tensor([[4, 4, 4, 0, 0, 9], [1, 1, 1, 1, 1, 1]])
    assert document_positions(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]


def test_decoding_with_a_cache_equals_the_full_forward(config: ModelConfig) -> None:
    model, ids, lengths = _model(config), _ids(3, 20), [4, 9, 1]
    cache, tables = PagedCache(config, 6, torch.float32, "cpu"), [[4, 1], [2, 6], [3, 5]]
    with torch.no_grad():
        full = model.hidden(ids)
        pieces = [Segment(blocks, 0, length, 9) for blocks, length in zip(tables, lengths)]
        flat = torch.cat([ids[row, :length] for row, length in enumerate(lengths)])[None]
        model.hidden(flat, cache.forward([], pieces))
        for step in range(6):
            now = [length + step for length in lengths]
            token = torch.stack([ids[row, at] for row, at in enumerate(now)])[None]
            answers = [Segment(blocks, at, at + 1, 9) for blocks, at in zip(tables, now)]
            out = model.hidden(token, cache.forward(answers, []))[0]
            assert torch.allclose(out, torch.stack([full[row, at] for row, at in enumerate(now)]), atol=1e-5)


def test_several_tokens_on_top_of_a_cache_stay_causal(config: ModelConfig) -> None:
    model, ids = _model(config), _ids(2, 16)
    rows = PagedRows(config, 2, 16, torch.float32, "cpu")
    with torch.no_grad():
        rows.hidden(model, ids[:, :6], 0, 6)
        rest = rows.hidden(model, ids[:, 6:], 6, 6)
        assert torch.allclose(rest, model.hidden(ids)[:, 6:], atol=1e-5)


def test_embeddings_may_come_from_outside() -> None:
    model, ids = _model(tiny()), _ids(2, 8)
    assert torch.equal(model.hidden(None, embeds_BTD=model.model.embed_tokens(ids)), model.hidden(ids))


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_bf16_attention_is_close_to_float32(documents: bool, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 16, 8, generator=generator) for heads in (4, kv_heads, kv_heads))
    mask = (torch.arange(16)[:, None] // 5 == torch.arange(16) // 5).tril()[None, None] if documents else None
    exact = attention(q, k, v, mask)
    assert (attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask).float() - exact).abs().max() < 0.05


def test_rotary_stays_in_float32_when_the_model_is_bf16() -> None:
    """With bf16 angles, positions far out would fall together and the outputs with them."""
    config = tiny(max_position_embeddings=8192)
    model = _model(config)
    ids, far = _ids(1, 8), torch.arange(5000, 5008)[None]
    exact = model.hidden(ids, NoCache(positions_BT=far))
    rough = model.bfloat16().hidden(ids, NoCache(positions_BT=far)).float()
    assert (rough - exact).abs().mean() < 0.05


def test_first_weights_are_a_function_of_the_seed_and_follow_the_table() -> None:
    config = tiny(hidden_size=256, intermediate_size=512)
    one, same, other = (init_weights(Transformer(config), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    layer = one.model.layers[0]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)
    assert layer.self_attn.q_proj.bias.abs().max() == 0 and (one.model.norm.weight == 1).all()


def test_dropout_acts_in_training_only_and_follows_torchs_seed() -> None:
    model, ids = _model(tiny()), _ids(2, 8)
    model.config = replace(model.config, dropout=0.5)  # a trained model gets it like this
    assert torch.equal(model(ids), model(ids))
    model.train()
    torch.manual_seed(3)
    first, second = model(ids), model(ids)
    torch.manual_seed(3)
    assert torch.equal(first, model(ids)) and not torch.equal(first, second)


def test_scalar_model_gives_one_value_per_token() -> None:
    model = ScalarModel(_model(tiny()), seed=4)
    ids = _ids(2, 9)
    assert model.score(ids).shape == (2, 9) and torch.equal(model(ids), model.score(ids))
    packed = model.score(ids.reshape(1, -1), documents_BT=torch.arange(2).repeat_interleave(9)[None])
    assert torch.allclose(packed.view(2, 9), model.score(ids), atol=1e-5)


def test_bad_shapes_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        tiny(num_key_value_heads=3, head_dim=7, dropout=1.0)
    text = str(caught.value)
    assert "num_key_value_heads = 3" in text and "head_dim = 7" in text and "dropout = 1.0" in text
    with pytest.raises(UserError, match="vocab_size = 0"):
        tiny(vocab_size=0)
    with pytest.raises(UserError, match="does not divide"):
        tiny(hidden_size=34)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_no_bit(config: ModelConfig, dropout: float) -> None:
    gradients = []
    for mode in ("none", "full"):
        model = init_weights(Transformer(replace(config, dropout=dropout)), seed=1, std=0.2).train()
        set_activation_checkpointing(model, mode)
        torch.manual_seed(5)
        (model.hidden(_ids(2, 12)) ** 2).sum().backward()
        gradients.append([parameter.grad for parameter in model.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other) and bool(one.any())


def test_activation_checkpointing_keeps_only_the_inputs_of_blocks(config: ModelConfig) -> None:
    def kept(mode: str) -> int:
        model, sizes = _model(config).train(), []
        set_activation_checkpointing(model, mode)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            ScalarModel(model).score(_ids(2, 12))
        return sum(sizes)

    assert kept("full") < kept("none") / 2
