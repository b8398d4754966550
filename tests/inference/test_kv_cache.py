"""Places in the cache: owners come and go, and what they stored stays theirs. And the engine on another cache."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.kv_cache import KVCache
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import ContextExtension

from .conftest import GREEDY, SHAPE, full_forward, make_prompts
from .paged import PagedCache

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]


def written(cache: KVCache, owner: object) -> int:
    """What stands in the first slot of an owner."""
    (row,) = cache._rows([owner])
    return int(cache.keys[0].tensors[0][row, 0, 0, 0])


def test_owners_come_and_go_and_keep_what_they_stored() -> None:
    """The rows in use are always the first ones."""
    draw, cache = random.Random(0), KVCache(CONFIG, 1, 1, torch.float32, "cpu")
    present: set[int] = set()
    for number in range(300):
        if draw.random() < 0.55:
            cache.allocate({number: draw.randrange(1, 90), **dict.fromkeys(sorted(present)[:2], 70)})
            cache.prefill([number], [1], [1])
            cache.keys[0].tensors[0][cache._rows([number])[0], 0, 0, 0] = number
            present.add(number)
        else:
            gone = draw.sample(sorted(present), min(len(present), draw.randrange(3)))
            cache.free([*gone, "a stranger"])
            present -= set(gone)
        assert set(cache.owners) == present and all(written(cache, owner) == owner for owner in present)
        order = cache.in_order(sorted(present))
        assert [sorted(present)[i] for i in order] == cache.owners
    assert len(present) > 10 and cache.rows < 4 * len(present)


@pytest.mark.parametrize("kind", ["auto", "int8"])
@pytest.mark.parametrize("batch", ["cab", "ca", "b"])
def test_a_batch_may_have_any_order_and_leave_owners_out(batch: str, kind: str) -> None:
    """In order and neighbours, it is read without a copy; otherwise the same, gathered."""
    model = init_weights(Transformer(CONFIG), seed=0, std=0.3).eval()
    prompts = {"a": [5, 6, 7], "b": [8, 9, 10], "c": [1, 2, 3]}

    @torch.inference_mode()
    def answer(owners: str, padding: int) -> dict[str, torch.Tensor]:
        cache = KVCache(CONFIG, 1, 1, torch.float32, "cpu", kind)
        cache.allocate(dict.fromkeys("abc", 4))
        model.hidden(torch.tensor(list(prompts.values())), cache.prefill("abc", [3] * 3, [3] * 3))
        next_B1 = torch.full((len(owners) + padding, 1), 4)
        return dict(zip(owners, model.hidden(next_B1, cache.decode(owners, [3] * len(owners), [3] * len(owners)))))

    found, wanted = answer(batch, padding=16 - len(batch)), answer("abc", padding=13)
    for owner in batch:
        assert torch.allclose(found[owner], wanted[owner], atol=1e-5)


def on_blocks(model: Transformer, **settings: Any) -> Engine:
    """An engine whose cache is the one of blocks."""
    engine = Engine(model, None, **settings)
    engine.runner.cache = PagedCache(model.config)
    return engine


EXTENSION = ContextExtension(seq_length=16, dynamic_ntk=True, logn=True)


@pytest.mark.parametrize("budget", [None, 7, 40])
@pytest.mark.parametrize("extended", [False, True])
def test_the_engine_runs_on_another_cache(extended: bool, budget: int | None) -> None:
    """Blocks in no order; with a budget in mixed steps, prompts cut anywhere: the same tokens."""
    config = replace(CONFIG, extension=EXTENSION, windows=(8, None)) if extended else CONFIG
    model = init_weights(Transformer(config), seed=0, std=0.3).eval()
    prompts = [*make_prompts(5, longest=60), [4] * 20, [4] * 20]
    params = [replace(GREEDY, max_tokens=3 + 4 * i, n=1 + i % 2) for i in range(7)]
    wanted = Engine(model, None).generate(prompts, params)
    engine = on_blocks(model, max_batch=4)
    engine._step_tokens = budget
    for output, same in zip(engine.generate(prompts, params), wanted, strict=True):
        assert [sample.ids for sample in output.samples] == [sample.ids for sample in same.samples]
        assert output.logprobs == pytest.approx(same.logprobs, abs=1e-4)
    engine.step()
    assert engine.runner.cache.owners == [], "every block was given back"


@pytest.mark.parametrize("budget", [1, 5, 33])
def test_mixed_steps_give_the_same_answers(budget: int) -> None:
    model, prompts = init_weights(Transformer(CONFIG), seed=0, std=0.3).eval(), make_prompts(7, longest=50)
    params = SamplingParams.plain(max_tokens=9, n=2, seed=4, logprobs=True, ignore_eos=True)
    wanted = Engine(model, None).generate(prompts, params)
    engine = Engine(model, None, max_batch=5)
    engine._step_tokens = budget
    for output, same in zip(engine.generate(prompts, params), wanted, strict=True):
        assert [sample.ids for sample in output.samples] == [sample.ids for sample in same.samples]
        assert output.logprobs == pytest.approx(same.logprobs, abs=1e-4)


def test_what_is_taken_out_of_the_cache_is_computed_again() -> None:
    """As preemption will: the draws go on where they were."""
    model, prompts = init_weights(Transformer(CONFIG), seed=0, std=0.3).eval(), make_prompts(3)
    engine = Engine(model, None)
    handles = [engine.submit(prompt, GREEDY) for prompt in prompts]
    deltas = [delta for _ in range(5) for delta in engine.step()]
    victim = engine.scheduler.running[1]
    engine.runner.cache.free([victim])
    victim.num_computed = 0
    while engine.has_work:
        deltas += engine.step()
    for handle, prompt in zip(handles, prompts, strict=True):
        ids = [id for delta in deltas if delta.handle == handle for id in delta.ids]
        assert ids == full_forward(model, prompt, 20)
