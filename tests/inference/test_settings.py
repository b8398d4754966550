"""What may be asked beyond temperature and truncation, each against a plain definition."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.detokenizer import IncrementalDetokenizer
from qwenkit.model import Transformer, save_model
from qwenkit.tokenizer import Tokenizer

from .conftest import GREEDY, Bytes, full_forward

PROMPT = [9, 8, 7]
HI = [{"role": "user", "content": "hi"}]


def _greedy(model: Transformer, adjust: Callable[[Tensor, list[int]], Tensor], count: int = 20) -> list[int]:
    """The likeliest tokens of logits that are adjusted by a rule over the answer so far."""
    ids: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(adjust(model(torch.tensor([[*PROMPT, *ids]]))[0, -1], ids).argmax()))
    return ids


def test_the_contracts_own_example_has_logprobs(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    for given in ({}, {"logprobs": None}, {"logprobs": 1}, {"logprobs": 0}):
        (output,) = engine.generate(["Once"], SamplingParams(max_tokens=8, temperature=0, **given))  # type: ignore[arg-type]
        assert output.logprobs == pytest.approx(engine.score(["Once"], [output.ids])[0], abs=1e-4)
    assert engine.generate(["Once"], SamplingParams(max_tokens=8, logprobs=False))[0].logprobs is None


@pytest.mark.parametrize(
    ("frequency", "presence", "repetition"), [(1.5, 0.0, 1.0), (0.0, 2.0, 1.0), (-2.0, 0.5, 1.0), (0.7, 0.3, 1.3)]
)
def test_penalties_count_the_answer(model: Transformer, frequency: float, presence: float, repetition: float) -> None:
    """Repetition first, over prompt and answer; then frequency and presence, over the answer alone."""

    def adjust(logits_V: Tensor, ids: list[int]) -> Tensor:
        for id in {*PROMPT, *ids}:
            logits_V[id] = logits_V[id] * repetition if logits_V[id] < 0 else logits_V[id] / repetition
        for id in set(ids):
            logits_V[id] -= frequency * ids.count(id) + presence
        return logits_V

    free, engine = full_forward(model, PROMPT, 20), Engine(model)
    given = replace(GREEDY, frequency_penalty=frequency, presence_penalty=presence, repetition_penalty=repetition)
    outputs = engine.generate([PROMPT, PROMPT], [given, GREEDY])
    assert [output.ids for output in outputs] == [_greedy(model, adjust), free]
    assert outputs[0].ids != free
    assert outputs[0].logprobs == pytest.approx(engine.score([PROMPT], [outputs[0].ids])[0], abs=1e-4)


def test_a_bias_is_added_to_the_logits(model: Transformer) -> None:
    free = full_forward(model, PROMPT, 20)
    bias = {free[0]: -100, 5: 2.5, 200: -1.0}

    def adjust(logits_V: Tensor, ids: list[int]) -> Tensor:
        return logits_V.index_add(0, torch.tensor(list(bias)), torch.tensor([float(value) for value in bias.values()]))

    outputs = Engine(model).generate([PROMPT, PROMPT], [replace(GREEDY, logit_bias=bias), GREEDY])
    assert [output.ids for output in outputs] == [_greedy(model, adjust), free] and free[0] not in outputs[0].ids


def test_no_token_ends_an_answer_too_early(model: Transformer) -> None:
    free = full_forward(model, PROMPT, 20)
    params = SamplingParams.plain(temperature=0, max_tokens=20, stop_token_ids=[free[2]])
    engine = Engine(model, None)
    assert engine.generate([PROMPT], params)[0].ids == free[: free.index(free[2]) + 1]

    def adjust(logits_V: Tensor, ids: list[int]) -> Tensor:
        if len(ids) < 6:
            logits_V[free[2]] = float("-inf")
        return logits_V

    wanted = _greedy(model, adjust)
    ends = [place for place, id in enumerate(wanted) if id == free[2]]
    (output,) = engine.generate([PROMPT], replace(params, min_tokens=6))
    assert output.ids == wanted[: ends[0] + 1 if ends else 20] and len(output.ids) > 6


@pytest.mark.parametrize("least", [1, 4, 11])
def test_no_text_ends_an_answer_too_early(model: Transformer, least: int) -> None:
    engine = Engine(model, Bytes())
    text = engine.generate([PROMPT], GREEDY)[0].text or ""
    every = replace(GREEDY, min_tokens=least, stop=list(set(text)))
    assert len(engine.generate([PROMPT], every)[0].ids) > least
    free = full_forward(model, PROMPT, 20)
    (output,) = Engine(model).generate([PROMPT], replace(GREEDY, min_tokens=least, stop_words_ids=[[i] for i in free]))
    assert output.ids == free[:least]


def test_text_with_what_ended_it(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    warm = SamplingParams.plain(max_tokens=60, ignore_eos=True, temperature=1.5)
    whole = engine.generate(["hello"], warm)[0].text or ""
    stop = whole[10:12]
    kept = replace(warm, stop=[stop, whole[10:13] + "never"], include_stop_str_in_output=True)
    (output,) = engine.generate(["hello"], kept)
    assert output.text == whole[: whole.index(stop) + 2] and output.finish_reason == "stop"
    assert "".join(engine.stream("hello", kept)) == output.text


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_special_tokens_in_the_text(model: Transformer, skip: bool, include: bool) -> None:
    """Token 257 is all that comes, by force; where it is a stop token it ends the answer."""
    engine = Engine(model, Bytes())
    params = SamplingParams.plain(temperature=0, max_tokens=3, logit_bias={257: 100}, skip_special_tokens=skip,
                                  include_stop_str_in_output=include)  # fmt: skip
    assert engine.generate([PROMPT], params)[0].text == ("" if skip else "<|im_end|>" * 3)
    assert "".join(engine.stream(PROMPT, params)) == ("" if skip else "<|im_end|>" * 3)
    ended = replace(params, stop_token_ids=[257])
    wanted = "" if skip or not include else "<|im_end|>"
    (output,) = engine.generate([PROMPT], ended)
    assert (output.text, output.ids, output.finish_reason) == (wanted, [257], "stop")
    assert "".join(engine.stream(PROMPT, ended)) == wanted


def test_settings_are_values() -> None:
    """Copied, pickled, hashed and compared as such."""
    given = SamplingParams(logit_bias={3: 1, 4: -2.0}, stop=None, stop_token_ids=None, min_tokens=None)
    assert (given.logit_bias, given.stop, given.stop_token_ids, given.min_tokens) == (((3, 1.0), (4, -2.0)), (), (), 0)
    for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), replace(given)):
        assert other == given and hash(other) == hash(given)


def test_tools_are_the_third_argument_of_a_chat(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    (output,) = engine.chat([HI], GREEDY, ["add"])
    assert output.prompt_ids == Bytes().render(HI, ["add"], add_generation_prompt=True).ids
    assert "".join(engine.stream_chat(HI, GREEDY, ["add"])) == output.text != engine.chat([HI], GREEDY)[0].text


def test_a_streamed_chat_ends_with_its_turn(model: Transformer, tmp_path: Path) -> None:
    """Also where the folder's settings do not name the end of a turn; a plain prompt runs on."""
    save_model(model, tmp_path)
    engine = Engine(tmp_path, Bytes())
    assert engine.eos_ids == {256}
    turn = SamplingParams.plain(temperature=0, max_tokens=9, logit_bias={257: 100}, skip_special_tokens=False)
    (output,) = engine.chat([HI], turn)
    assert output.ids == [257] and "".join(engine.stream_chat(HI, turn)) == output.text == ""
    rendered = Bytes().render(HI, add_generation_prompt=True).ids
    assert "".join(engine.stream(rendered, turn)) == "<|im_end|>" * 9


def test_a_tied_models_state_may_name_its_head(model: Transformer) -> None:
    """As Hugging Face's do; the head of an untied model is still needed."""
    tied = Transformer(replace(model.config, tie_word_embeddings=True))
    state: dict[str, Any] = {name: tensor for name, tensor in model.state_dict().items() if name in tied.state_dict()}
    engine = Engine(tied, None)
    engine.update_weights({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    assert engine.version == 1 and torch.equal(tied.model.embed_tokens.weight, model.model.embed_tokens.weight)
    with pytest.raises(UserError, match=r"lm_head\.weight"):
        engine.update_weights({**state, "lm_head.weight": state["model.embed_tokens.weight"] + 1})
    with pytest.raises(UserError, match="other"):
        engine.update_weights({**state, "other": state["model.norm.weight"]})
    with pytest.raises(UserError, match=r"lm_head\.weight"):
        Engine(copy.deepcopy(model)).update_weights(state)


def test_added_tokens_that_are_not_called_special_stay_in_an_answer_that_is_written_bit_by_bit() -> None:
    """With a stop text or as a stream, text is what `decode` gives of the whole: `<tool_call>` is part of it."""
    names = {"<|endoftext|>": 256, "<|im_end|>": 257, "<tool_call>": 258}
    tok = Tokenizer({bytes([b]): b for b in range(256)}, names, visible={"<tool_call>"})
    ids = tok.encode("a<tool_call>{}<|im_end|>", "all")
    for skip in (True, False):
        detokenizer = IncrementalDetokenizer(tok, SamplingParams(stop=["never"], skip_special_tokens=skip))
        assert not any([detokenizer.push(id) for id in ids])
        assert detokenizer.finish() == tok.decode(ids, skip_special_tokens=skip)
