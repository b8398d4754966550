"""What may be asked, refused in plain words; and prompts that are cut at their beginning."""

from __future__ import annotations

from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import Transformer
from qwenkit.prompt import Media, Prompt
from qwenkit.tokenizer import Tokenizer

from .conftest import GREEDY, Bytes, full_forward

_MARKS = ("<|im_end|>", "<think>", "</think>", "<a>", "<b>", "<c>", "<d>", "<e>")  # as many as the model has rows
THINKING = Tokenizer({bytes([b]): b for b in range(256)}, {name: 256 + i for i, name in enumerate(_MARKS)})
_LOGPROBS = "True or False, or a number from 0 to 20 (0 and 1 are True); or None"
_CASES: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": 21}, f"logprobs = 21\n  expected: {_LOGPROBS}"),
    ({"logprobs": "all"}, f"logprobs = 'all'\n  expected: {_LOGPROBS}"),
    ({"prompt_logprobs": -1}, f"prompt_logprobs = -1\n  expected: {_LOGPROBS}"),
    ({"allowed_token_ids": []}, "allowed_token_ids = []\n  expected: a list of token ids, at least one; or None"),
    ({"allowed_token_ids": 5}, "allowed_token_ids = 5\n  expected: a list of token ids, at least one; or None"),
    ({"bad_words": ["ok", " "]},
     "bad_words = ['ok', ' ']\n  expected: a word or a list of words, none of them blank; or None"),
    ({"bad_words": [3]}, "bad_words = [3]\n  expected: a word or a list of words, none of them blank; or None"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens = 0\n  expected: -1, or an integer, 1 or more; or None"),
    ({"thinking_budget": -1}, "thinking_budget = -1\n  expected: an integer, 0 or more; or None"),
    ({"thinking_budget": 3, "thinking_token_budget": 4},
     "thinking_budget = 3 and thinking_token_budget = 4\n  expected: one of them"),
    ({"json_schema": 3}, "json_schema = 3\n  expected: a JSON schema as a mapping or as its text, or True for any "
     "object; or None"),
    ({"json_schema": "{"}, "json_schema = '{'\n  expected: a JSON schema as a mapping or as its text, or True for any "
     "object; or None"),
    ({"regex": ""}, "regex = ''\n  expected: a regular expression; or None"),
    ({"regex": "\ud800"}, "regex = '\\ud800'\n  expected: a regular expression; or None"),
    ({"grammar": 7}, 'grammar = 7\n  expected: a grammar with the rule `start`: start: "yes" | "no"; or None'),
    ({"tools": [{}]},
     'tools = [{}]\n  expected: a list of tools, each with a name: {"name": "add", "parameters": {...}}; or None'),
    ({"logit_bias": {id: 1.0 for id in range(1025)}}, "logit_bias of 1,025 items\n  expected: at most 1,024"),
    ({"stop": ["a"] * 65}, "stop of 65 items\n  expected: at most 64"),
    ({"stop": ["a", "b" * 1001]}, "stop with one of 1,001 characters\n  expected: at most 1,000"),
    ({"stop_token_ids": range(1025)}, "stop_token_ids of 1,025 items\n  expected: at most 1,024"),
    ({"stop_words_ids": [[1]] * 65}, "stop_words_ids of 65 items\n  expected: at most 64"),
    ({"stop_words_ids": [[1] * 257]}, "stop_words_ids with one of 257 tokens\n  expected: at most 256"),
    ({"allowed_token_ids": range(2**18 + 1)}, "allowed_token_ids of 262,145 items\n  expected: at most 262,144"),
    ({"bad_words": ["a"] * 1025}, "bad_words of 1,025 items\n  expected: at most 1,024"),
    ({"bad_words": "b" * 201}, "bad_words with one of 201 characters\n  expected: at most 200"),
    ({"regex": "a", "json_schema": True},
     "json_schema and regex together\n  expected: one of json_schema, regex, grammar, tools"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), _CASES, ids=[next(iter(given)) for given, _ in _CASES])
def test_what_means_nothing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SamplingParams(**given)
    assert str(caught.value) == f"sampling parameters: {message}"


def test_vllms_name_of_the_budget() -> None:
    params = SamplingParams(thinking_token_budget=3)
    assert params == SamplingParams(thinking_budget=3) and params.thinking_token_budget is None


def test_settings_stay_values() -> None:
    params = SamplingParams(json_schema={"type": "object", "properties": {"b": {}, "a": {}}}, bad_words="no")
    assert params.json_schema == '{"type": "object", "properties": {"b": {}, "a": {}}}' and params.bad_words == ("no",)
    assert hash(params.with_defaults({})) and SamplingParams(json_schema=params.json_schema, bad_words=["no"]) == params


@pytest.mark.parametrize(
    ("given", "message"),
    [({"allowed_token_ids": [264]}, "allowed_token_ids: token id 264 is not in the model\n  expected: token ids from 0 "
      "to 263"),
     ({"thinking_budget": 5}, "thinking_budget = 5, and this tokenizer has no thoughts\n  expected: one with the "
      "tokens <think> and </think>")],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused(model: Transformer, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Engine(model, Bytes()).generate([[1]], SamplingParams(**given))
    assert str(caught.value) == message


@pytest.mark.parametrize(("count", "length"), [(5, 5), (1, 1), (30, 30), (31, 30)])
def test_the_end_of_a_prompt_is_read(model: Transformer, count: int, length: int) -> None:
    prompt = list(range(100, 130))
    params = SamplingParams.plain(temperature=0, max_tokens=4, ignore_eos=True, truncate_prompt_tokens=count)
    (output,) = Engine(model).generate([prompt], params)
    assert output.prompt_ids == prompt[-length:] and output.ids == full_forward(model, prompt[-length:], 4)


@pytest.mark.parametrize(("max_tokens", "length"), [(None, 199), (50, 150), (199, 1), (1000, 199)])
def test_as_much_of_a_prompt_as_there_is_room_for(model: Transformer, max_tokens: int | None, length: int) -> None:
    """The model has 200 positions."""
    prompt = [i % 250 for i in range(700)]
    params = SamplingParams.plain(max_tokens=max_tokens, truncate_prompt_tokens=-1)
    request = Engine(model).request_factory.make_request(prompt, params, 0, "prompt 0")
    assert list(request.prompt.ids) == prompt[-length:]
    with pytest.raises(UserError, match="700 tokens"):
        Engine(model).generate([prompt], SamplingParams.plain(max_tokens=max_tokens))


def test_what_the_cache_has_room_for_counts_too(model: Transformer) -> None:
    """Of the model's 200 positions the cache holds 64: a prompt is cut to those, and the answer is given."""
    engine, prompt = Engine(model, kv_tokens=64), [i % 250 for i in range(700)]
    assert engine.max_length == 64
    params = SamplingParams.plain(temperature=0, max_tokens=4, ignore_eos=True, truncate_prompt_tokens=-1)
    (output,) = engine.generate([prompt], params)
    assert output.prompt_ids == prompt[-60:] and len(output.ids) == 4


def test_a_picture_is_not_cut(model: Transformer) -> None:
    engine = Engine(model)
    engine.model.media_kinds, before = frozenset({"image"}), engine.model.media_kinds  # type: ignore[misc]
    try:
        prompt = Prompt(tuple(range(20)), (Media("image", "a.png", 2, 5), Media("image", "b.png", 10, 14)))
        make = engine.request_factory.make_request
        request = make(prompt, SamplingParams.plain(max_tokens=1, truncate_prompt_tokens=12), 0, "prompt 0")
        assert request.prompt == Prompt(tuple(range(8, 20)), (Media("image", "b.png", 2, 6),))
        with pytest.raises(UserError) as caught:
            make(prompt, SamplingParams.plain(max_tokens=1, truncate_prompt_tokens=8), 0, "prompt 0")
        assert str(caught.value) == "prompt 0: truncate_prompt_tokens = 8 cuts an image\n  expected: 10 or more"
    finally:
        engine.model.media_kinds = before  # type: ignore[misc]


@pytest.mark.parametrize("budget", [0, 3])
def test_an_answers_thoughts_end_at_their_budget(model: Transformer, budget: int) -> None:
    """By force: without the budget the thought would go on, as the model never says its end."""
    prompt = [1, 2, 257]
    free = full_forward(model, prompt, 20)
    assert 258 not in free
    params = SamplingParams.plain(temperature=0, max_tokens=20, ignore_eos=True, thinking_budget=budget)
    (output,) = Engine(model, THINKING).generate([prompt], params)
    closed = [*free[:budget], 10, 258, 10, 10]
    assert output.ids == [*closed, *full_forward(model, [*prompt, *closed], 20 - len(closed))]
    assert GREEDY.thinking_budget is None
