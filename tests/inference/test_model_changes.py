"""Another configuration under an engine: only while nothing is pending, and nothing of the old one is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from qwenkit.errors import UserError
from qwenkit.inference import Engine
from qwenkit.inference.kv_quantization import token_bytes
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import ContextExtension
from qwenkit.model.trainable import trainable_state
from qwenkit.platform import resident_mb

from .conftest import GREEDY, SHAPE, full_forward, make_prompts

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
EXTENDED = replace(CONFIG, extension=ContextExtension(seq_length=16, logn=True), windows=(8, None),
                   max_position_embeddings=300, rope_theta=5000.0)  # fmt: skip
PROMPT = make_prompts(1, longest=60)[0] * 2


def make(config: ModelConfig = CONFIG) -> Transformer:
    return init_weights(Transformer(config), seed=0, std=0.3).eval()


@pytest.mark.parametrize("on_the_model", [False, True])
def test_a_new_configuration_is_followed_and_nothing_is_left(on_the_model: bool) -> None:
    """There and back; set on the model itself, it is noticed at the next call."""
    engine = Engine(make(), None)
    for config in (EXTENDED, CONFIG, EXTENDED):
        cache = engine.runner.cache
        if on_the_model:
            engine.model.config = config
        else:
            engine.reconfigure(config)
        assert engine.generate([PROMPT], GREEDY)[0].ids == full_forward(make(config), PROMPT, 20)
        assert engine.score([PROMPT]) == Engine(make(config)).score([PROMPT])
        assert engine.runner.cache is not cache and engine.max_length == config.max_length
    assert len(engine.generate([[1] * 290], replace(GREEDY, max_tokens=10))[0].ids) == 10


def test_the_same_configuration_clears_nothing() -> None:
    engine = Engine(make(), None)
    cache = engine.runner.cache
    engine.reconfigure(replace(CONFIG))
    assert engine.runner.cache is cache


def test_a_state_of_what_is_trained_is_enough() -> None:
    """As after a training that froze the rest; a name too few, too many or of another shape is named."""
    own, other = make(), init_weights(Transformer(CONFIG), seed=1, std=0.3).eval()
    for model in (own, other):
        model.requires_grad_(False)
        model.model.layers[1].requires_grad_(True)
    engine, state = Engine(own, None), trainable_state(other)
    first, norm = min(state), "model.norm.weight"
    frozen = other.state_dict()[norm]
    for broken, name in (
        ({**state, "model.layers.9.weight": frozen}, "model.layers.9.weight"),
        ({key: tensor for key, tensor in state.items() if key != first}, first),
        ({**state, first: state[first][..., :-1]}, first),
        ({**state, norm: frozen}, "lm_head.weight"),
        ({}, first),
    ):
        with pytest.raises(UserError) as caught:
            engine.update_weights(broken)
        assert str(caught.value).startswith(f"tensors that do not fit the model: {name}")
    assert engine.version == 0 and engine.generate([PROMPT], GREEDY)[0].ids == full_forward(make(), PROMPT, 20)
    engine.update_weights(state)
    mixed = make()
    mixed.load_state_dict({**make().state_dict(), **state})
    assert engine.version == 1 and engine.generate([PROMPT], GREEDY)[0].ids == full_forward(mixed, PROMPT, 20)
    engine.update_weights(other.state_dict())
    assert engine.generate([PROMPT], GREEDY)[0].ids == full_forward(other, PROMPT, 20)


def test_it_is_refused_while_requests_are_pending() -> None:
    engine = Engine(make(), None)
    handle = engine.submit(PROMPT, GREEDY)
    deltas = engine.step()
    with pytest.raises(UserError) as caught:
        engine.reconfigure(EXTENDED)
    assert str(caught.value) == ("a new configuration while requests are pending\n  hint: finish or abort them first")
    engine.model.config = EXTENDED
    with pytest.raises(UserError, match="a new configuration while requests are pending"):
        engine.step()
    engine.model.config = CONFIG
    while engine.has_work:
        deltas += engine.step()
    assert [id for delta in deltas for id in delta.ids] == full_forward(make(), PROMPT, 20)
    assert {delta.handle for delta in deltas} == {handle}


REFUSED = {"hidden_size": 64, "num_hidden_layers": 3, "rms_norm_eps": 1e-3, "int8_cache": True, "vocab_size": 300,
           "eos_token_id": 7, "qk_norm": True, "tie_word_embeddings": True}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_model_was_made_with_stays(name: str) -> None:
    engine = Engine(make(), None)
    changes: dict[str, Any] = {name: REFUSED[name], **({"head_dim": 8} if name == "hidden_size" else {})}
    with pytest.raises(UserError) as caught:
        engine.reconfigure(replace(CONFIG, **changes))
    old = getattr(CONFIG, name)
    assert str(caught.value) == (
        f"new configuration: {name} = {REFUSED[name]}\n  expected: {old}, as the model was made"
    )
    assert engine.model.config is CONFIG or engine.model.config == CONFIG
    with torch.no_grad():
        assert engine.generate([[1, 2, 3]], GREEDY)[0].ids == full_forward(make(), [1, 2, 3], 20)


@pytest.mark.parametrize("native", [None, False])
def test_a_released_cache_gives_its_memory_back_and_changes_no_answer(native: bool | None) -> None:
    """Of what was written the process keeps less than half; nothing is found again, and the bits are equal."""
    wide = replace(CONFIG, num_hidden_layers=2, num_key_value_heads=4, head_dim=1024, max_position_embeddings=4096)
    engine = Engine(make(wide), None, native=native)
    prompt = make_prompts(1, longest=60)[0] * 60
    wanted = engine.generate([prompt], replace(GREEDY, max_tokens=4))[0]
    written_mb = len(prompt) * token_bytes("auto", 4, 1024, 2, torch.float32) / 1e6
    before = resident_mb()
    engine.release_cache()
    assert before - resident_mb() > written_mb / 2
    engine.release_cache()
    again = engine.generate([prompt], replace(GREEDY, max_tokens=4))[0]
    assert (again.ids, again.logprobs, again.num_cached_tokens) == (wanted.ids, wanted.logprobs, 0)
    assert engine.generate([prompt], replace(GREEDY, max_tokens=4))[0].num_cached_tokens > 0


def test_a_released_engine_follows_weights_and_configuration() -> None:
    other = init_weights(Transformer(CONFIG), seed=1, std=0.3).eval()
    engine = Engine(make(), None)
    engine.release_cache()
    engine.update_weights(other.state_dict())
    engine.model.config = EXTENDED
    other.config = EXTENDED
    assert engine.generate([PROMPT], GREEDY)[0].ids == full_forward(other, PROMPT, 20)
    engine.release_cache()
    engine.reconfigure(CONFIG)
    assert engine.score([PROMPT]) == Engine(engine.model).score([PROMPT])


@pytest.mark.parametrize("change", ["a released cache", "a new configuration"])
def test_a_cache_whose_making_was_interrupted_is_made_anew(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, or no memory, while weights are put into tiles or graphs are made ready."""
    engine, config = Engine(make(), None), EXTENDED if change == "a new configuration" else CONFIG
    make_forward, failures = engine.runner._forward, [KeyboardInterrupt(), MemoryError()]

    def failing() -> Any:
        if failures:
            raise failures.pop()
        return make_forward()

    engine.generate([PROMPT], GREEDY)
    engine.release_cache() if config is CONFIG else None
    engine.model.config = config
    monkeypatch.setattr(engine.runner, "_forward", failing)
    for error in (MemoryError, KeyboardInterrupt):
        with pytest.raises(error):
            engine.generate([PROMPT], GREEDY)
    other = make()
    other.config = config
    assert engine.generate([PROMPT], GREEDY)[0].ids == Engine(other, None).generate([PROMPT], GREEDY)[0].ids


def test_a_cache_in_use_is_not_released() -> None:
    engine = Engine(make(), None)
    engine.submit(PROMPT, GREEDY)
    with pytest.raises(UserError) as refused:
        engine.release_cache()
    assert str(refused.value) == "the cache released while requests are pending\n  hint: finish or abort them first"
    while engine.has_work:
        engine.step()
    engine.release_cache()
