"""Adapters by name: what a request gets with one is what the model with that adapter gives, whatever else is in the
batch; they come and go while requests run."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit.adapter_files import BASE, CONFIG
from qwenkit.errors import Notice, UserError
from qwenkit.inference import Engine, EngineLoop, Output, PromptLookup, SamplingParams
from qwenkit.inference.forward_pass import by_adapter
from qwenkit.inference.native import NativeDecoder
from qwenkit.inference.speculation import Gain
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.adapter_folder import save_adapter, tensors_digest
from qwenkit.model.config import MoEConfig
from qwenkit.model.gptq import quantize
from qwenkit.model.lora import add_adapter, merge_adapter, shared_copy
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.quantized_linear import QuantConfig
from qwenkit.model.trainable import trainable_state
from qwenkit.platform import torch_threads

from .conftest import SHAPE, make_prompts

KINDS = {"a": dict(rank=4), "b": dict(rank=7, targets=("q_proj", "down_proj"), alpha=9.0), "c": dict(rank=1)}
LONG = SamplingParams.plain(temperature=0.8, max_tokens=12, logprobs=True, ignore_eos=True, seed=5)
WAYS = [False, pytest.param(True, marks=pytest.mark.skipif(
    NativeDecoder.reason_against(init_weights(Transformer(ModelConfig(**SHAPE)), 0)) is not None,  # type: ignore[arg-type]
    reason="no C++ compiler here"))]  # fmt: skip


def write(model: Transformer, folder: Path, seed: int, **settings: Any) -> Path:
    """An adapter that changes what the model says."""
    digest = tensors_digest(model)
    adapted = add_adapter(shared_copy(model), LoRAConfig(**settings), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_state(adapted).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(adapted, folder, "../base", digest=digest)
    return folder


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, model: Transformer) -> Path:
    """A model and its adapters a, b and c."""
    place = tmp_path_factory.mktemp("adapters")
    save_model(model, place / "base")
    for seed, (name, settings) in enumerate(KINDS.items()):
        write(model, place / name, seed, **settings)
    return place


def engine_at(place: Path, names: str = "abc", model: Transformer | None = None, **options: Any) -> Engine:
    engine = Engine(load_model(place / "base") if model is None else model, kv_tokens=2048, **options)
    for name in names:
        engine.load_adapter(name, place / name)
    return engine


def asked(engine: Engine, prompts: list[list[int]], adapters: list[str | None], **changes: Any) -> list[Output]:
    return engine.generate(prompts, LONG, adapter=adapters, **changes)


def exact(output: Output) -> tuple[list[int], list[float] | None]:
    return output.samples[0].ids, output.samples[0].logprobs


@torch.no_grad()
def full_logprobs(model: torch.nn.Module, output: Output) -> torch.Tensor:
    """The log-probabilities of an answer's tokens, by one forward pass over the whole text."""
    ids = [*output.prompt_ids, *output.ids]
    table = model(torch.tensor([ids]))[0].float().log_softmax(-1)
    start = len(output.prompt_ids)
    return table[range(start - 1, len(ids) - 1), ids[start:]]


# ---- what is computed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_model_with_the_adapter_and_the_merged_one(place: Path, name: str, native: bool) -> None:
    output = engine_at(place, native=native).generate(make_prompts(1), LONG, adapter=name)[0]
    found = torch.tensor(output.logprobs)
    adapted = load_model(place / "base", adapter=place / name)
    assert (found - full_logprobs(adapted, output)).abs().max() < 2e-4
    assert (found - full_logprobs(merge_adapter(adapted), output)).abs().max() < 2e-4
    assert (found - full_logprobs(load_model(place / "base"), output)).abs().max() > 0.05, "it changes something"


@pytest.mark.parametrize("native", WAYS)
def test_it_is_what_transformers_with_peft_computes(place: Path, native: bool) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    output = engine_at(place, native=native).generate(make_prompts(1), LONG, adapter="a")[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, place / "a").eval()
    wanted = full_logprobs(_Logits(theirs), output)
    assert (torch.tensor(output.logprobs) - wanted).abs().max() < 2e-4


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        return self.model(ids_BT).logits


@pytest.mark.parametrize("native", WAYS)
def test_bits_do_not_depend_on_company(place: Path, native: bool) -> None:
    """Twelve requests of the model and three adapters together, each alone, and the model's own in an engine that has
    no adapter."""
    prompts, names = make_prompts(12, longest=150), [None, "a", "b", "c", "a", None] * 2
    with torch_threads(1):
        together = list(map(exact, asked(engine_at(place, native=native, step_tokens=70), prompts, names)))
        for i, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
            engine = engine_at(place, native=native) if name else engine_at(place, "", native=native)
            assert exact(asked(engine, [prompt], [name], rng_ids=[i])[0]) == together[i], (i, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("native", WAYS)
def test_weights_of_16_bits(place: Path, model: Transformer, dtype: torch.dtype, native: bool) -> None:
    small = shared_copy(model).to(dtype)
    engine = engine_at(place, "ab", small, native=native)
    for output, name in zip(asked(engine, make_prompts(2), ["a", "b"]), "ab", strict=True):
        wanted = full_logprobs(add_from(copy.deepcopy(small).float(), place / name), output)
        assert (torch.tensor(output.logprobs) - wanted).abs().mean() < 0.06


@pytest.mark.parametrize("bits", [QuantConfig(4, -1), QuantConfig(8, -1)])
@pytest.mark.parametrize("native", WAYS)
def test_a_quantized_base(place: Path, tmp_path: Path, bits: QuantConfig, native: bool) -> None:
    small = quantize(load_model(place / "base"), bits, None)
    write(small, tmp_path / "q", 3, rank=4)
    engine = engine_at(tmp_path, "q", small, native=native)
    output = engine.generate(make_prompts(1), LONG, adapter="q")[0]
    adapted = add_from(small, tmp_path / "q")
    assert (torch.tensor(output.logprobs) - full_logprobs(adapted, output)).abs().max() < 5e-3


def add_from(model: Transformer, folder: Path) -> Transformer:
    from qwenkit.model.adapter_folder import put_on, read_adapter

    twin = shared_copy(model)
    return put_on(twin, read_adapter(folder, twin))


def test_packed_weights(place: Path, model: Transformer) -> None:
    from qwenkit.model.prepacked import can_prepack

    small = shared_copy(model).bfloat16()
    if not can_prepack(small):
        pytest.skip("this processor has no products of packed bf16")
    engine = engine_at(place, "ab", small, native=False, packed=True)
    for output, name in zip(asked(engine, make_prompts(2), ["a", "b"]), "ab", strict=True):
        wanted = full_logprobs(add_from(copy.deepcopy(small).float(), place / name), output)
        assert (torch.tensor(output.logprobs) - wanted).abs().mean() < 0.06


def test_tokens_of_one_adapter_stand_side_by_side(place: Path) -> None:
    engine = engine_at(place)
    for name, prompt in zip(["b", None, "a", "b"], make_prompts(4), strict=True):
        engine.submit(prompt, LONG, adapter=name)
    seen = []
    states = engine.runner.forward.states
    engine.runner.forward.states = lambda tokens: (seen.append(by_adapter(tokens)), states(tokens))[1]  # type: ignore[method-assign]
    engine.step()
    rows = [[segment.adapter and segment.adapter.name for segment in tokens.segments] for tokens in seen]
    assert rows == [[None, "a", "b", "b"]]


def test_scores_and_streams(place: Path) -> None:
    engine, (prompt, other) = engine_at(place), make_prompts(2, longest=40)
    first, second = engine.score([prompt, prompt], [other, other], adapter=["a", None])
    assert first != second and second == engine_at(place, "").score([prompt], [other])[0]
    adapted = Engine(load_model(place / "base", adapter=place / "a"), kv_tokens=1024)
    assert torch.allclose(torch.tensor(first), torch.tensor(adapted.score([prompt], [other])[0]), atol=2e-4)


@pytest.mark.parametrize("native", WAYS)
def test_guesses_are_checked_with_the_adapter(place: Path, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gain, "wanted", lambda self: True)  # whether a guess pays is measured by a clock
    params = SamplingParams.plain(temperature=0, max_tokens=40, ignore_eos=True)
    prompts, names = [[1, 2, 3, 4] * 8, [5, 6] * 10], ["a", None]
    guessing = engine_at(place, native=native, invariant=False, speculation=PromptLookup())
    plain = engine_at(place, native=native, invariant=False)
    found, wanted = (each.generate(prompts, params, adapter=names) for each in (guessing, plain))
    assert [output.ids for output in found] == [output.ids for output in wanted]
    assert guessing.stats().tokens_guessed > 0


# ---- what is found in the cache -------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", WAYS)
def test_beginnings_are_not_shared_across_adapters(
    place: Path, tmp_path: Path, model: Transformer, native: bool
) -> None:
    engine, prompt = engine_at(place, native=native), [make_prompts(1, seed=3)[0] * 4][0][:90]
    fresh = {name: asked(engine_at(place, native=native), [prompt], [name])[0] for name in (None, "a", "b")}
    for name in (None, "a", "b"):
        output = asked(engine, [prompt], [name])[0]
        assert output.num_cached_tokens == 0 and exact(output) == exact(fresh[name])
    for name in (None, "a", "b"):
        output = asked(engine, [prompt], [name])[0]
        assert output.num_cached_tokens == len(prompt) // 16 * 16 and exact(output) == exact(fresh[name])
    engine.unload_adapter("a")
    engine.load_adapter("a", write(model, tmp_path / "a", 77, rank=4))  # the name again, with other weights
    output = asked(engine, [prompt], ["a"])[0]
    assert output.num_cached_tokens == 0 and exact(output) != exact(fresh["a"])
    engine.unload_adapter("a")
    engine.load_adapter("a", place / "a")  # and the first ones: what was computed with them may be found
    output = asked(engine, [prompt], ["a"])[0]
    assert output.num_cached_tokens > 0 and exact(output) == exact(fresh["a"])


# ---- coming and going -----------------------------------------------------------------------------------------------


def test_loaded_and_unloaded_while_requests_run(place: Path) -> None:
    engine, (first, second) = engine_at(place, "a"), make_prompts(2)
    wanted = [exact(asked(engine_at(place), [first], ["a"])[0]), exact(asked(engine_at(place), [second], ["b"])[0])]
    engine.submit(first, LONG, 0, adapter="a")
    engine.step()
    engine.unload_adapter("a")
    engine.load_adapter("b", place / "b")
    engine.submit(second, LONG, 0, adapter="b")
    with pytest.raises(UserError, match="not loaded"):
        engine.submit(first, LONG, adapter="a")
    outputs: dict[int, Output] = {}
    while engine.has_work:
        outputs |= {delta.output.request: delta.output for delta in engine.step() if delta.output}
    assert [exact(outputs[handle]) for handle in sorted(outputs)] == wanted


def test_a_place_is_free_when_the_last_request_has_ended(place: Path) -> None:
    engine = engine_at(place, "ab", max_adapters=2)
    handle = engine.submit(make_prompts(1)[0], LONG, adapter="a")
    engine.step()
    engine.unload_adapter("a")
    with pytest.raises(UserError, match="2 adapters are in memory, 1 of them unloaded"):
        engine.load_adapter("c", place / "c")
    engine.abort(handle)
    engine.load_adapter("c", place / "c")
    assert list(engine.adapters) == ["b", "c"]


def test_from_other_threads_through_a_loop(place: Path) -> None:
    engine, prompt = engine_at(place, ""), make_prompts(1)[0]
    with EngineLoop(engine) as loop:
        running = loop.submit(prompt, LONG, 0)
        loop.load_adapter("a", place / "a", timeout=60)
        other = loop.submit(prompt, LONG, 0, adapter="a")
        loop.unload_adapter("a", timeout=60)
        results = [exact(handle.result()) for handle in (running, other)]
        with pytest.raises(UserError, match="not loaded"):
            loop.submit(prompt, LONG, adapter="a")
    assert results == [exact(asked(engine_at(place), [prompt], [name])[0]) for name in (None, "a")]


def test_a_prepared_request_whose_adapter_went(place: Path) -> None:
    engine = engine_at(place, "a")
    request = engine.prepare([1, 2], LONG, adapter="a")
    engine.unload_adapter("a")
    engine.load_adapter("a", place / "b")
    with pytest.raises(UserError, match="its adapter a was unloaded"):
        engine.enqueue(request)
    assert not engine.has_work


@pytest.mark.parametrize("native", WAYS)
def test_the_cache_released_and_a_hook(place: Path, native: bool) -> None:
    """Native code gives way to torch where the model has a hook, with the same adapter."""
    engine, prompt = engine_at(place, native=native), make_prompts(1)[0]
    before = exact(asked(engine, [prompt], ["a"])[0])
    engine.release_cache()
    assert exact(asked(engine, [prompt], ["a"])[0]) == before
    engine.scheduler.pool.forget_all()
    seen: list[int] = []
    hook = engine.model.get_submodule("model.layers.0.mlp.down_proj").register_forward_hook(
        lambda *given: seen.append(1)
    )
    with pytest.warns(Notice, match="has a hook") if native else contextlib.nullcontext():
        ids, logprobs = exact(asked(engine, [prompt], ["a"])[0])
    hook.remove()
    assert seen and ids == before[0] and torch.allclose(torch.tensor(logprobs), torch.tensor(before[1]), atol=2e-4)


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_random_schedules(place: Path, seed: int, native: bool) -> None:
    """Requests come, are aborted and lose their blocks; adapters come and go: every answer is what it is alone."""
    draw = random.Random(seed)
    prompts = make_prompts(14, seed=seed, longest=60)
    beginning = prompts[0][:40]
    prompts = [beginning + prompt if draw.random() < 0.5 else prompt for prompt in prompts]
    with torch_threads(1):
        engine = engine_at(place, "ab", native=native, max_batch=5, step_tokens=draw.choice([13, 40, 200]))
        small = Engine(engine.model, kv_tokens=400, native=native, max_batch=5, step_tokens=draw.choice([13, 40, 200]))
        for name in "ab":
            small.load_adapter(name, place / name)
        told: dict[int, tuple[int, str | None]] = {}
        found: dict[int, Output] = {}
        left = list(range(len(prompts)))
        while left or small.has_work:
            action = draw.random()
            if left and action < 0.5:
                i = left.pop()
                name = draw.choice([None, *small.adapters])
                told[small.submit(prompts[i], LONG, i, adapter=name)] = i, name
            elif action < 0.6:
                name = draw.choice("abc")
                small.unload_adapter(name) if name in small.adapters else small.load_adapter(name, place / name)
            elif action < 0.63 and told:
                small.abort(draw.choice(list(told)))
            found |= {delta.output.request: delta.output for delta in small.step() if delta.output}
        engine.load_adapter("c", place / "c")
        for handle, output in found.items():
            i, name = told[handle]
            assert exact(output) == exact(asked(engine, [prompts[i]], [name], rng_ids=[i])[0]), (i, name)
    assert len(found) > 5 and small.stats().kv_tokens_used == 0


# ---- what is refused ------------------------------------------------------------------------------------------------


def configured(**change: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**settings, **change}))

    return edit


def no_adapter(folder: Path) -> None:
    (folder / CONFIG).unlink()


def other_digest(folder: Path) -> None:
    (folder / BASE).write_text(json.dumps({"schema": 1, "tensors": "0" * 64}))


BAD: dict[str, tuple[dict[str, Any], Callable[[Path], None] | None, str]] = {
    "DoRA": (dict(dora=True), None, "use_dora: norms of whole rows"),
    "a module that was trained whole": (dict(modules_to_save=("embed_tokens",)), None, "modules_to_save: model.emb"),
    "a head": (dict(targets=("lm_head",)), None, "it changes lm_head"),
    "its rank": (dict(rank=33), None, "its rank is 33"),
    "another base": ({}, other_digest, "the adapter of another model"),
    "no adapter": ({}, no_adapter, "no adapter is in this folder"),
    "another kind": ({}, configured(peft_type="IA3"), "IA3"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_loaded(tmp_path: Path, kind: str) -> None:
    settings, edit, message = BAD[kind]
    base = init_weights(Transformer(ModelConfig(**SHAPE)), 0)  # type: ignore[arg-type]
    write(base, tmp_path / "bad", 0, **{"rank": 2, **settings})
    if edit is not None:
        edit(tmp_path / "bad")
    engine = Engine(base, kv_tokens=256, max_adapter_rank=32)
    with pytest.raises(UserError, match=message):
        engine.load_adapter("bad", tmp_path / "bad")
    assert not engine.adapters and hasattr(base, "lm_head") != base.config.tie_word_embeddings


def test_experts(tmp_path: Path) -> None:
    experts = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    base = init_weights(Transformer(ModelConfig(**{**SHAPE, "experts": experts})), 0)  # type: ignore[arg-type]
    write(base, tmp_path / "all", 0, rank=2)
    write(base, tmp_path / "attention", 0, rank=2, targets=("q_proj", "o_proj"))
    engine = Engine(base, kv_tokens=512)
    with pytest.raises(UserError, match=r"it changes model\.layers\.0\.mlp\.experts"):
        engine.load_adapter("all", tmp_path / "all")
    engine.load_adapter("attention", tmp_path / "attention")
    output = engine.generate(make_prompts(1), LONG, adapter="attention")[0]
    wanted = full_logprobs(add_from(base, tmp_path / "attention"), output)
    assert torch.allclose(torch.tensor(output.logprobs), wanted, atol=2e-4)


def test_names(place: Path) -> None:
    engine = engine_at(place, "ab")
    with pytest.raises(UserError, match=r"adapter = 'aa', which is not loaded[\s\S]*a, b"):
        engine.generate([[1]], adapter="aa")
    with pytest.raises(UserError, match="two adapters are called a"):
        engine.load_adapter("a", place / "b")
    for name in ("", "two words", 3):
        with pytest.raises(UserError, match="1 to 200 letters"):
            engine.load_adapter(name, place / "c")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an adapter that was read as c"):
        engine.load_adapter("d", engine.read_adapter("c", place / "c"))
    with pytest.raises(UserError, match="1 adapters"):
        engine.generate([[1], [2]], adapter=["a"])
    with pytest.raises(UserError, match="not loaded"):
        engine.unload_adapter("c")
    with pytest.raises(UserError, match="new weights under the adapter a"):
        engine.update_weights()
    with pytest.raises(UserError, match="has an adapter itself"):
        Engine(load_model(place / "base", adapter=place / "a"), kv_tokens=64).load_adapter("b", place / "b")
