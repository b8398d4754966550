"""What research code does to a model is obeyed: where it has hooks, or parts of its own, torch computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from qwenkit.errors import Notice, UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.forward_pass import NativeForward, SplitForward
from qwenkit.inference.native import NativeDecoder, fitness
from qwenkit.inference.native import decoder as decoder_module
from qwenkit.inference.native.trial import Ways
from qwenkit.model import Transformer
from qwenkit.model.transformer import MLP, RMSNorm

from .conftest import Pages, make, needs_compiler

pytestmark = needs_compiler
PROMPT, PARAMS = [5, 17, 3, 80, 41], SamplingParams.plain(temperature=0, max_tokens=6, ignore_eos=True)


def shift(*arguments: Any) -> Any:
    """A forward hook that adds one to an output."""
    return arguments[-1] + 1


def shift_inputs(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    return (inputs[0] + 1, *inputs[1:])


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class OtherMLP(MLP):
    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return -super().forward(x_BTC)


def exchange(model: Transformer) -> None:
    other = OtherMLP(64, 192)
    other.load_state_dict(model.model.layers[1].mlp.state_dict())
    model.model.layers[1].mlp = other


def center(model: Transformer) -> None:
    model.model.layers[0].input_layernorm = nn.LayerNorm(64)


def own_forward(model: Transformer) -> None:
    layer = model.model.layers[0].mlp
    layer.forward = lambda x_BTC: -MLP.forward(layer, x_BTC)


def own_head(model: Transformer) -> None:
    model.head = lambda h_ND: -Transformer.head(model, h_ND)


INTERVENTIONS: dict[str, Callable[[Transformer], Any]] = {
    "model.layers.1.mlp.up_proj has a hook": lambda m: m.model.layers[1].mlp.up_proj.register_forward_hook(shift),
    "model.layers.0 has a hook": lambda m: m.model.layers[0].register_forward_pre_hook(shift_inputs),
    "model.norm has a hook": lambda m: m.model.norm.register_forward_hook(shift),
    "lm_head has a hook": lambda m: m.lm_head.register_forward_hook(lambda *a: -a[-1]),
    "model.layers.1.self_attn has a hook": lambda m: m.model.layers[1].self_attn.register_full_backward_hook(print),
    "model.embed_tokens has a hook": lambda m: m.model.embed_tokens.register_full_backward_pre_hook(print),
    "model.layers.0.mlp has a forward pass of its own": own_forward,
    "the model has a forward pass of its own": own_head,
    "a layer is of another kind": exchange,
    "a norm is of another kind": center,
    "a layer is a ParametrizedLinear": lambda m: parametrize.register_parametrization(
        m.model.layers[0].mlp.down_proj, "weight", Doubled()
    ),
}


def answer(model: Transformer, native: bool | None) -> tuple[list[int], list[float]]:
    output = Engine(model, None, native=native).generate([PROMPT], PARAMS)[0]
    return output.ids, output.logprobs


@pytest.mark.parametrize("reason", INTERVENTIONS)
def test_what_was_done_before_and_while_an_engine_runs(reason: str) -> None:
    model = make("qwen2", tie_word_embeddings=False)
    plain = answer(model, False)
    engine = Engine(model, None)
    assert engine.generate([PROMPT], PARAMS)[0].ids == plain[0]
    INTERVENTIONS[reason](model)
    wanted = answer(model, False)
    engine.update_weights()  # what was computed without it is forgotten
    text = f"answers are computed by torch, which is slower: {reason}"
    with pytest.warns(Notice) as told:
        found = engine.generate([PROMPT], PARAMS)[0]
        found = engine.generate([PROMPT[::-1]], PARAMS) and found
    assert [str(one.message) for one in told] == [text]
    assert (found.ids, found.logprobs) == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert answer(model, None) == wanted
    with pytest.raises(UserError) as error:
        Engine(model, None, native=True)
    assert str(error.value) == f"native = True: {reason}\n  expected: a model that native code computes"


@pytest.mark.parametrize("reason", [name for name in INTERVENTIONS if "backward" not in name and "self_attn" not in name
                                    and "embed_tokens" not in name])  # fmt: skip
def test_they_change_the_answer(reason: str) -> None:
    """So that the test above tells who computed."""
    model = make("qwen2", tie_word_embeddings=False)
    before = answer(model, False)
    INTERVENTIONS[reason](model)
    assert answer(model, False)[1] != before[1]


def test_a_hook_that_goes_leaves_native_code() -> None:
    model = make("qwen2")
    engine, calls = Engine(model, None), []
    native = engine.generate([PROMPT], PARAMS)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
        engine.generate([PROMPT], PARAMS)
    assert len(calls) == 6
    handle.remove()
    engine.update_weights()
    after = engine.generate([PROMPT], PARAMS)[0]
    assert len(calls) == 6 and (after.ids, after.logprobs) == (native.ids, native.logprobs)


def test_what_torch_writes_in_place_of_native_code_is_not_read_again() -> None:
    """Native code reads a prompt to the bits that it has written; torch does not, and the bits are promised."""
    model = make("qwen2")
    engine, long = Engine(model, None), SamplingParams.plain(temperature=0, max_tokens=40, ignore_eos=True)
    answer_ids = engine.generate([PROMPT], long)[0].ids
    assert engine.generate([[*PROMPT, *answer_ids]], PARAMS)[0].num_cached_tokens == 32
    model.model.layers[0].register_forward_hook(lambda *_: None)
    engine.update_weights()
    with pytest.warns(Notice):
        answer_ids = engine.generate([PROMPT], long)[0].ids
    outputs = [one.generate([[*PROMPT, *answer_ids]], PARAMS)[0] for one in (engine, Engine(model, None, native=False))]
    assert [output.num_cached_tokens for output in outputs] == [0, 0]
    assert outputs[0].logprobs == outputs[1].logprobs


@pytest.mark.parametrize("kind", ["module_forward_hook", "module_forward_pre_hook", "module_full_backward_hook",
                                  "module_full_backward_pre_hook"])  # fmt: skip
def test_hooks_on_all_modules(kind: str) -> None:
    decoder = Pages(make()).decoder
    handle = getattr(torch_module, f"register_{kind}")(lambda *_: None)
    assert decoder.obstacle() == "there is a hook on all modules"
    handle.remove()
    assert decoder.obstacle() is None


def test_a_class_with_another_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Pages(make()).decoder
    assert decoder.obstacle() is None
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: x)
    assert decoder.obstacle() == "a class of layers has another forward pass"


def test_subclasses() -> None:
    class Embedded(Transformer):
        def embed(self, ids_BT: torch.Tensor, prompts: Any = ()) -> torch.Tensor:
            return 2 * super().embed(ids_BT, prompts)

    model = make()
    model.__class__ = Embedded
    assert NativeDecoder.reason_against(model) == "it is a Embedded with a forward pass of its own"


def test_training_with_dropout_begins_and_ends() -> None:
    model = make(dropout=0.1)
    decoder = Pages(model).decoder
    assert decoder.obstacle() is None
    model.train()
    assert decoder.obstacle() == "it is in training, with dropout"
    model.eval()
    assert decoder.obstacle() is None


def test_exchanged_parts_and_tensors_that_fit_are_followed() -> None:
    model, other = make(), make()
    torch.nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
    torch.nn.init.normal_(other.model.norm.weight)
    engine = Engine(model, None)
    engine.generate([PROMPT], PARAMS)
    model.model.layers[0].mlp = copy.deepcopy(other.model.layers[0].mlp)
    model.model.norm.weight = nn.Parameter(other.model.norm.weight.detach().clone())
    found, wanted = engine.generate([PROMPT[1:]], PARAMS)[0], Engine(model, None).generate([PROMPT[1:]], PARAMS)[0]
    assert (found.ids, found.logprobs) == (wanted.ids, wanted.logprobs)
    assert isinstance(engine.runner.forward, NativeForward)


def test_a_part_that_comes_back() -> None:
    """Changed in place while torch computed: what was read before is not read again."""
    model, reversed_prompt = make().bfloat16(), PROMPT[::-1]
    engine, part = Engine(model, None), model.model.layers[0].mlp
    engine.generate([PROMPT], PARAMS)
    model.model.layers[0].mlp = OtherMLP(64, 192).bfloat16()
    with pytest.warns(Notice, match="a layer is of another kind"):
        engine.generate([PROMPT], PARAMS)
    with torch.no_grad():
        model.model.norm.weight.mul_(3)
    model.model.layers[0].mlp = part
    engine.update_weights()
    wanted = Engine(model, None).generate([reversed_prompt], PARAMS)[0]
    assert engine.generate([reversed_prompt], PARAMS)[0].logprobs == wanted.logprobs


def test_both_halves_of_a_split_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenkit.inference.forward_pass.choose_ways", lambda *_: Ways("native", "eager"))
    model = make("qwen2", tie_word_embeddings=False)
    engine = Engine(model, None, invariant=False)
    assert isinstance(engine.runner.forward, SplitForward)
    model.lm_head.register_forward_hook(lambda *a: -a[-1])
    with pytest.warns(Notice, match="lm_head has a hook"):
        assert engine.generate([PROMPT], PARAMS)[0].ids == answer(model, False)[0]


def test_a_model_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its quantized weights are put into tiles once, also where the faster way is tried."""
    counts = {"examined": 0, "read": 0}
    examine, read = fitness.unfit_model, decoder_module.weights

    def examining(model: Transformer) -> str | None:
        counts["examined"] += 1
        return examine(model)

    def reading(layer: nn.Module) -> Any:
        counts["read"] += 1
        return read(layer)

    for module in (fitness, decoder_module):
        monkeypatch.setattr(module, "unfit_model", examining)
    monkeypatch.setattr(decoder_module, "weights", reading)
    Engine(make(), None, invariant=False)
    assert counts == {"examined": 1, "read": 2 * 7 + 2}
