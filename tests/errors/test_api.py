"""Mistakes in Python: every wrong value of the public names is answered by a message, never by a raw error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwenkit import Engine, SamplingParams, load_model, load_tokenizer
from qwenkit.chat import ChatTokenizer
from qwenkit.data import near_duplicates
from qwenkit.errors import UserError
from qwenkit.model import ModelConfig, Transformer, init_weights, save_model
from qwenkit.tokenizer import train_bpe
from tests.errors.desk import sentence

SHAPE = ModelConfig(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                    max_position_embeddings=64)  # fmt: skip
ONE = SamplingParams.plain(max_tokens=1)
HI = {"role": "user", "content": "Hi"}
LIST = "a list of strings or of lists of token ids"
IDS = "token ids from 0 to 299"
TOKENS = 294  # of 300 rows in the model
PATH = "Engine(path, load_tokenizer(path))"


@pytest.fixture(scope="module")
def model() -> Transformer:
    return init_weights(Transformer(SHAPE), seed=0)


@pytest.fixture(scope="module")
def tok() -> ChatTokenizer:
    return ChatTokenizer(train_bpe(map(sentence, range(40)), vocab_size=290, extras=1))


@pytest.fixture(scope="module")
def engine(model: Transformer, tok: ChatTokenizer) -> Engine:
    return Engine(model, tok)


@pytest.fixture(scope="module")
def folder(model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return folder


def _refused(work: Callable[[], Any]) -> list[str]:
    """The lines of the message, without their indentation."""
    with pytest.raises(UserError) as caught:
        work()
    return [line.strip() for line in str(caught.value).splitlines()]


def _message(what: str, expected: str | None, hint: str | None = None) -> list[str]:
    return [what, *([f"expected: {expected}"] if expected else []), *([f"hint: {hint}"] if hint else [])]


CALLS: list[tuple[Callable[[Engine], Any], str, str | None, str | None]] = [
    (lambda e: e.generate("hi", ONE), "prompts = 'hi'", LIST, "generate([prompt])"),
    (lambda e: e.generate(b"hi", ONE), "prompts = b'hi'", LIST, "generate([prompt])"),
    (lambda e: e.generate(7, ONE), "prompts = 7", LIST, "generate([prompt])"),
    (lambda e: e.generate([1, 2], ONE), "prompt 0: 1 is not a list of token ids", IDS, None),
    (lambda e: e.generate(["a", None], ONE), "prompt 1: None is not a list of token ids", IDS, None),
    (lambda e: e.generate([[1.5]], ONE), "prompt 0: [1.5] is not a list of token ids", IDS, None),
    (lambda e: e.generate([[True]], ONE), "prompt 0: [True] is not a list of token ids", IDS, None),
    (lambda e: e.generate([{1: 2}], ONE), "prompt 0: {1: 2} is not a list of token ids", IDS, None),
    (lambda e: e.generate([["a"]], ONE), "prompt 0: ['a'] is not a list of token ids", IDS, None),
    (lambda e: e.generate([[1, -1]], ONE), "prompt 0: token id -1 is not in the model", IDS, None),
    (lambda e: e.generate([[300]], ONE), "prompt 0: token id 300 is not in the model", IDS, None),
    (lambda e: e.generate(["a", ""], ONE), "prompt 1: empty",
     "a token: there is none for the beginning of a text", None),
    (lambda e: e.generate(["a"], 64), "params = 64", "SamplingParams(...), or a list of them", None),
    (lambda e: e.generate(["a"], [64]), "params = 64", "SamplingParams(...)", None),
    (lambda e: e.generate(["a"], [ONE, ONE]), "2 sampling parameters for 1 prompts", "one for each prompt", None),
    (lambda e: e.generate(["a"], ONE, rng_ids=[1, 2]), "2 rng_ids for 1 prompts", "one for each prompt", None),
    (lambda e: e.generate(["a"], ONE, rng_ids=3), "rng_ids = 3", "a list of integers", None),
    (lambda e: e.generate(["a"], ONE, rng_ids=[-1]), "rng_ids[0] = -1", "an integer, 0 or more", None),
    (lambda e: e.generate(["a"], SamplingParams(stop_token_ids=[300])),
     "stop_token_ids: token id 300 is not in the model", IDS, None),
    (lambda e: e.chat(HI, ONE), "conversations = {'content': 'Hi', 'role': 'user'}", "a list of lists of messages",
     "chat([messages])"),
    (lambda e: e.chat([HI], ONE), "conversation 0 = {'content': 'Hi', 'role': 'user'}", "a list of messages",
     "chat([messages])"),
    (lambda e: e.chat([["Hi"]], ONE), "conversation 0, message 0: not a message",
     '{"role": ..., "content": ...}', None),
    (lambda e: e.chat([[HI]], ONE, "add"), "tools = 'add'", "a list of tools", None),
    (lambda e: e.stream_chat(HI, ONE), "conversation = {'content': 'Hi', 'role': 'user'}", "a list of messages",
     "chat([messages])"),
    (lambda e: e.stream_chat([{**HI, "role": "assistant"}], ONE), "conversation, message 0: assistant at the start",
     "system or user", None),
    (lambda e: e.generate(["a"], SamplingParams(logit_bias={300: 1})), "logit_bias: token id 300 is not in the model",
     IDS, None),
    (lambda e: e.chat("Hi", ONE), "conversations = 'Hi'", "a list of lists of messages", "chat([messages])"),
    (lambda e: e.stream(["Hi"], ONE), "prompt: ['Hi'] is not a list of token ids", IDS, None),
    (lambda e: e.stream("Hi", {"n": 1}), "params = {'n': 1}", "SamplingParams(...)", None),
    (lambda e: e.submit("Hi", ONE, rng_id="x"), "rng_id = 'x'", "an integer, 0 or more", None),
    (lambda e: e.score("hello", ["a"]), "prompts = 'hello'", LIST, "score([prompt], [continuation])"),
    (lambda e: e.score(["hello"], "a"), "continuations = 'a'", LIST, "score([prompt], [continuation])"),
    (lambda e: e.score(["a", "b"], ["c"]), "1 continuations for 2 prompts", "one for each prompt", None),
    (lambda e: Engine("path", "path"), "tok = 'path'", "a tokenizer, or None where only token ids go in and out", PATH),
    (lambda e: Engine(3, e.tok), "model = 3", "a language model, or the folder of one", None),
    (lambda e: Engine(e.model, e.tok, max_batch=0), "max_batch = 0", "an integer, 1 or more", None),
    (lambda e: Engine(e.model, e.tok, seed="x"), "seed = 'x'", "an integer, 0 or more", None),
    (lambda e: Engine(e.model, e.tok, vocabulary=300), "tokens to sample from = 300",
     f"an integer, 1 to {TOKENS}", None),
    (lambda e: load_model(3), "3 is not a path", "a model's folder", None),
    (lambda e: load_tokenizer(None), "None is not a path", "a tokenizer's folder or file", None),
    (lambda e: load_tokenizer("nothing"), "nothing: no such file or folder",
     "a tokenizer folder, .tiktoken or .json", None),
]  # fmt: skip


@pytest.mark.parametrize(("call", "what", "expected", "hint"), CALLS, ids=[case[1] for case in CALLS])
def test_a_wrong_call(
    engine: Engine, call: Callable[[Engine], Any], what: str, expected: str | None, hint: str | None
) -> None:
    assert _refused(lambda: call(engine)) == _message(what, expected, hint)
    assert len(engine.generate(["still here"], ONE)) == 1


RANGES: dict[str, tuple[str, list[Any]]] = {
    "n": ("an integer, 1 to 65536", [0, -1, 65537, 1.0, True, None, "1", [1]]),
    "max_tokens": ("an integer, 0 or more; or None", [-1, 2**63, 1.5, True, "1"]),
    "temperature": ("0, or 1e-06 to 1e+06; or None",
                    [-1.0, 1e-300, 1e300, float("nan"), float("inf"), True, np.True_, "hot", [1.0], 10**400]),
    "top_p": ("more than 0 and at most 1; or None", [0, 1.5, -0.1, float("nan"), False, "all"]),
    "top_k": ("an integer, -1 to 2147483647; or None", [-2, 2**31, 0.5, True, "5"]),
    "min_p": ("0 to 1; or None", [-0.1, 1.5, float("nan"), True, "x"]),
    "repetition_penalty": ("0.01 to 100; or None", [0, -1, 1e-300, 101, float("nan"), True, "1"]),
    "frequency_penalty": ("-2 to 2; or None", [3, -2.1, float("nan"), True, "1"]),
    "presence_penalty": ("-2 to 2; or None", [3, -2.1, float("nan"), True, "1"]),
    "logit_bias": ("a dict of token ids and numbers from -100 to 100; or None",
                   [3, "x", [1], {-1: 1}, {1: 101}, {1: float("nan")}, {"1": 1}, {1: None}, {1.5: 1}]),
    "min_tokens": ("an integer, 0 or more; or None", [-1, 1.5, True, "1"]),
    "stop": ("a string or a list of strings, none of them empty; or None", ["", [""], 3, [1], b"x", {"a": 1}]),
    "stop_token_ids": ("a list of token ids; or None", [3, [-1], [1.0], [True], "12", ["1"]]),
    "include_stop_str_in_output": ("True or False", [1, None, "yes"]),
    "skip_special_tokens": ("True or False", [1, None, "yes"]),
    "stop_words_ids": ("a list of lists of token ids, none of them empty; or None",
                       [3, [3], [[]], [[-1]], "12", [["1"]]]),
    "ignore_eos": ("True or False", [1, 0, None, "yes"]),
    "seed": ("an integer, 0 or more; or None", [-1, 2**63, 2**70, 1.0, True, "x"]),
    "logprobs": ("True or False, or a number from 0 to 20 (0 and 1 are True); or None", [21, -1, 1.0, "yes"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, bad) in RANGES.items() for value in bad])
def test_a_wrong_setting(name: str, value: Any) -> None:
    lines = _refused(lambda: SamplingParams(**{name: value}))
    assert lines[0].startswith(f"sampling parameters: {name} = ")
    assert lines[1:] == [f"expected: {RANGES[name][0]}"]


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({"logits_processors": []}, ["logits_processors is not supported"]),
        ({"best_of": 2, "max_tokens": 4}, ["best_of is not supported"]),
        ({"temprature": 1.0}, ["unknown name temprature", "nearest: temperature"]),
        ({"max_new_tokens": 8}, ["unknown name max_new_tokens", "nearest: max_tokens"]),
        ({"min_tokens": 5, "max_tokens": 4}, ["min_tokens = 5", "expected: at most max_tokens = 4"]),
    ],
)
def test_a_setting_that_is_none_of_ours(given: dict[str, Any], lines: list[str]) -> None:
    for found in (_refused(lambda: SamplingParams(**given)), _refused(lambda: SamplingParams.plain(**given))):
        assert found[0] == f"sampling parameters: {lines[0]}" and set(lines[1:]) <= set(found)


def test_settings_have_names() -> None:
    assert _refused(lambda: SamplingParams(64)) == [  # type: ignore[call-arg]
        "sampling parameters: 64", "expected: every value by its name, max_tokens=64"
    ]  # fmt: skip


def test_numbers_of_other_libraries_are_welcome(engine: Engine) -> None:
    numbers: dict[str, Any] = {
        "n": np.int32(2), "max_tokens": np.uint8(3), "temperature": np.float32(0.5), "top_p": np.float64(0.5),
        "top_k": torch.tensor(4), "min_p": np.float32(0), "repetition_penalty": 1, "stop_words_ids": np.array([[7, 8]]),
        "stop_token_ids": np.array([7]), "ignore_eos": np.True_,
        "seed": np.uint64(2**62), "logprobs": np.False_,
    }  # fmt: skip
    given = SamplingParams(stop="end", **numbers)
    assert given == SamplingParams(
        n=2, max_tokens=3, temperature=0.5, top_p=0.5, top_k=4, min_p=0.0, repetition_penalty=1.0, stop=("end",),
        stop_token_ids=(7,), stop_words_ids=((7, 8),), ignore_eos=True, seed=2**62, logprobs=False,
    )  # fmt: skip
    assert {type(getattr(given, name)) for name in RANGES} == {int, float, tuple, bool}
    wanted = engine.generate([[1, 2], [3, 4]], given)
    for prompts in (np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]]), ((1, 2), range(3, 5))):
        found = engine.generate(prompts, given, rng_ids=np.arange(2))
        assert [output.samples for output in found] == [output.samples for output in wanted]


@pytest.mark.parametrize("bound", [{"temperature": 1e-6}, {"temperature": 1e6}, {"repetition_penalty": 0.01},
                                   {"repetition_penalty": 100.0}, {"top_p": 1e-300}, {"top_k": 2**31 - 1}, {"min_p": 1},
                                   {"seed": 2**63 - 1}])  # fmt: skip
def test_what_is_just_allowed_can_be_drawn_from(engine: Engine, bound: dict[str, Any]) -> None:
    params = SamplingParams.plain(max_tokens=4, ignore_eos=True, logprobs=True, **bound)
    assert all(len(output.ids) == 4 for output in engine.generate(["one", "two"], params))


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ('{"temperature": "hot"}', "sampling parameters: temperature = 'hot'"),
        ('{"eos_token_id": [3, 300]}', "eos_token_id: token id 300 is not in the model"),
        ('{"eos_token_id": "<|im_end|>"}', "eos_token_id: ['<|im_end|>'] is not a list of token ids"),
    ],
)
def test_a_wrong_setting_of_the_folder_names_its_file(folder: Path, setting: str, what: str) -> None:
    file = folder / "generation_config.json"
    file.write_text(setting)
    assert _refused(lambda: Engine(folder))[0] == f"{file}, {what}"
    file.write_text('{"eos_token_id": null, "temperature": null}')
    assert Engine(folder).eos_ids == frozenset()
    file.write_text("{")
    assert _refused(lambda: Engine(folder))[0].startswith(f"{file}, line 1: broken JSON")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"dtype": 3}, "unknown dtype 3"),
        ({"dtype": []}, "unknown dtype []"),
        ({"device": "gpu"}, "no device `gpu` on this machine"),
        ({"device": 3.5}, "no device `3.5` on this machine"),
        ({"adapter": "lora"}, "lora: no adapter is here"),
        ({"dropout": "x"}, "model configuration: dropout = 'x' is not a number"),
    ],
)
def test_a_wrong_option_of_a_model(folder: Path, given: dict[str, Any], what: str) -> None:
    assert _refused(lambda: load_model(folder, **given))[0] == what


@pytest.mark.parametrize(
    ("texts", "threshold", "what"),
    [(["a"], 0, "threshold = 0"), (["a"], 1.1, "threshold = 1.1"), (["a"], "x", "threshold = 'x'"),
     (["a"], True, "threshold = True"), ("a text", 0.8, "texts = 'a text'"), (3, 0.8, "texts = 3"),
     (["a", None], 0.8, "text 1 is None")],
)  # fmt: skip
def test_near_duplicates_of_nothing_that_can_be_compared(texts: Any, threshold: Any, what: str) -> None:
    assert _refused(lambda: near_duplicates(texts, threshold))[0] == what


def test_near_duplicates_of_texts_that_come_one_by_one() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    assert near_duplicates(text for text in (long, "something else", long)) == [[0, 2]]


def test_a_file_is_no_model_folder(folder: Path) -> None:
    file = folder / "config.json"
    assert _refused(lambda: load_model(file))[0] == f"{file}: no model here: config.json is missing"
