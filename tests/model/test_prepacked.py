"""Packed weights say the same, in every family, and the model that they were packed from stays as it was."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.config import MoEConfig
from qwenkit.model.gptq import quantize
from qwenkit.model.prepacked import PackedLinear, can_prepack, prepack
from qwenkit.model.quantized_linear import QuantConfig

PLAIN = ModelConfig(vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
EXPERTS = MoEConfig(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True)
CONFIGS = {
    "untied": PLAIN,
    "tied": replace(PLAIN, tie_word_embeddings=True),
    "norms": replace(PLAIN, qk_norm=True, qkv_bias=False, head_dim=24),
    "experts": replace(PLAIN, experts=EXPERTS),
}


def made(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=0, std=0.2).bfloat16().eval()


needs_products = pytest.mark.skipif(
    not can_prepack(made(PLAIN)), reason="this CPU has no bf16 products, or no room: nothing is packed here"
)


@needs_products
@pytest.mark.parametrize("name", CONFIGS)
def test_a_twin_says_the_same(name: str) -> None:
    model, ids = made(CONFIGS[name]), torch.arange(60).view(2, 30)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = prepack(model)
    with torch.no_grad():
        exact, found = made(CONFIGS[name]).float()(ids), twin(ids).float()
        near = (model(ids).float() - exact).abs().mean()
    assert sum(isinstance(part, PackedLinear) for part in twin.modules()) > PLAIN.num_hidden_layers
    assert (found - exact).abs().mean() < 1.5 * near  # as near to float32 as what is not packed
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are given back on Linux only")
def test_pages_of_the_folder_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation is replaced by a copy: not every CPU has it. 35 MB of matrices, of which the embedding is half."""
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, rows: weight.clone(), raising=False)
    config = replace(PLAIN, vocab_size=8192, hidden_size=1024, intermediate_size=2048, tie_word_embeddings=True)
    save_model(made(replace(config, num_hidden_layers=1)), tmp_path)
    model = load_model(tmp_path, device="cpu")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    before = {key: float(value.float().sum()) for key, value in model.state_dict().items()}
    read = file_bytes()
    twin = prepack(model)
    assert file_bytes() < read - 0.9 * weights
    assert {key: float(value.float().sum()) for key, value in model.state_dict().items()} == before
    assert isinstance(twin.lm_head, PackedLinear)


def file_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:")) * 1024


@needs_products
def test_what_is_quantized_stays_so() -> None:
    model = quantize(made(PLAIN), QuantConfig(4, 32), None)
    twin, ids = prepack(model), torch.arange(30).view(1, 30)
    assert [type(part) for part in twin.modules()].count(PackedLinear) == 1  # the head
    with torch.no_grad():
        assert (twin(ids).float() - model(ids).float()).abs().max() < 0.1


@needs_products
def test_an_engine_packs_what_it_loads_itself_and_follows_new_weights(tmp_path: Path) -> None:
    save_model(made(PLAIN), tmp_path)
    engine, params = Engine(tmp_path, native=False), SamplingParams.plain(temperature=0, max_tokens=8, ignore_eos=True)
    given = Engine(made(PLAIN), native=False)
    assert engine.runner.compute_model is not engine.model and given.runner.compute_model is given.model
    other = init_weights(Transformer(PLAIN), seed=1, std=0.2).bfloat16()
    (before,) = engine.generate([[1, 2, 3]], params)
    engine.update_weights(other.state_dict())
    (after,) = engine.generate([[1, 2, 3]], params)
    (wanted,) = Engine(other, packed=True).generate([[1, 2, 3]], params)
    assert after.ids == wanted.ids != before.ids


@needs_products
def test_a_configuration_that_is_set_is_followed(tmp_path: Path) -> None:
    """As `longctx` does: a twin that kept its own gave the same perplexity for every trick."""
    save_model(made(PLAIN), tmp_path)
    packed, plain, ids = Engine(tmp_path, native=False), Engine(tmp_path, packed=False), [list(range(60))]
    first = packed.score(ids)
    for engine in (packed, plain):
        engine.model.config = replace(PLAIN, windows=(4, 4, 4))
    assert packed.runner.compute_model is not packed.model
    assert packed.score(ids)[0][30:] != first[0][30:]
    assert packed.score(ids)[0] == pytest.approx(plain.score(ids)[0], abs=0.1)


def test_float32_is_never_packed(tmp_path: Path) -> None:
    save_model(made(PLAIN).float(), tmp_path)
    engine = Engine(tmp_path)
    assert engine.runner.compute_model is engine.model
    with pytest.raises(UserError, match="cannot be packed"):
        Engine(tmp_path, packed=True)
