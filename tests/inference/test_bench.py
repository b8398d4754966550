"""What `bench` measures and by what it is bound; not how fast."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.inference import Engine
from qwenkit.inference import bench as measures
from qwenkit.inference.bench import bench, prefill_flops, weight_bytes
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import MoEConfig

from .conftest import SHAPE


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_QUICK_SECONDS", 0.0)
    monkeypatch.setattr(measures, "_READ_BYTES", 1_000_000)


def test_a_report_of_a_small_model(model: Transformer) -> None:
    engine, told = Engine(model), []
    report = bench(engine, quick=True, progress=lambda done, total, note: told.append((done, total, note)))
    assert [(row.what, row.size) for row in report.rows] == [
        ("prefill", 128), ("decode", 1), ("decode", 4), ("decode", 16)
    ]  # fmt: skip
    for row in report.rows:
        assert row.bound is not None and row.share == row.tokens_per_second / row.bound > 0
        assert row.tokens_per_second * row.seconds == pytest.approx(row.size)
    prefill, *decode = report.rows
    assert prefill.bound == 128 * report.flops / prefill_flops(model.config, 128)
    assert [row.bound for row in decode] == [n * report.bandwidth / report.weight_bytes for n in (1, 4, 16)]
    assert (report.parameters, report.dtype, report.threads) == (model.config.parameters, "float32", 1)
    cache = report.cache
    assert (cache.prefix, cache.bytes_per_token) == (200 - 16 - 1, 2 * 2 * 2 * 8 * 4)
    assert 0 < cache.cold_seconds < math.inf and 0 < cache.warm_seconds < math.inf
    assert [done for done, _, _ in told] == list(range(len(told))) and {total for _, total, _ in told} == {8}
    assert not engine.has_work


def test_no_prompt_is_asked_twice_but_the_shared_prefix(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = Engine(model), []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda prompts, *more: asked.extend(prompts) or generate(prompts, *more))
    bench(engine, quick=True)
    texts = [tuple(prompt) for prompt in asked]
    assert len(set(texts)) == len(texts)
    behind = [text[:183] for text in texts if len(text) == 183 + 16]
    assert [behind.count(prefix) for prefix in behind] == [1, 2, 2], "once new; then one that was read before"


def test_the_weights_that_a_step_reads() -> None:
    tied, untied = (
        Transformer(ModelConfig(**SHAPE, tie_word_embeddings=flag)).to(torch.bfloat16)  # type: ignore[arg-type]
        for flag in (True, False)
    )
    table, buffers = 264 * 32, sum(buffer.numel() * buffer.element_size() for buffer in tied.buffers())
    assert weight_bytes(tied) - buffers == 2 * tied.config.parameters
    assert weight_bytes(untied) - buffers == 2 * (untied.config.parameters - table)


def test_the_operations_of_a_prompt() -> None:
    """Two for each weight of the blocks that a token meets, two products in attention, the head for one token."""
    config = ModelConfig(**SHAPE)  # type: ignore[arg-type]
    blocks = 2 * (2 * 32 * 32 + 2 * 32 * 16 + (32 + 2 * 16) + 2 * 32 + 3 * 32 * 80) + 32
    attention = 2 * (4 * 8) * 2 * 2 * sum(range(1, 11))
    assert prefill_flops(config, 10) == 2 * blocks * 10 + attention + 2 * 264 * 32
    experts = MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16)
    few = replace(experts, num_experts=2)
    assert prefill_flops(replace(config, experts=experts), 10) == prefill_flops(replace(config, experts=few), 10)


def test_a_model_without_room_is_refused() -> None:
    config = ModelConfig(**{**SHAPE, "max_position_embeddings": 20})  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        bench(Engine(init_weights(Transformer(config), seed=0)), quick=True)
    assert str(caught.value) == "the model has 20 positions\n  expected: 32 or more"
    config = replace(config, max_position_embeddings=32)
    assert [row.size for row in bench(Engine(init_weights(Transformer(config), seed=0)), quick=True).rows] == [
        31,
        1,
        4,
        16,
    ]
