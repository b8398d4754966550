"""Where an answer ends: what folders of all generations say, stop sequences, and the official greedy answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.generation_config import sampling_defaults
from qwenkit.model import Transformer, save_model
from qwenkit.tokenizer import Tokenizer

from .conftest import GREEDY, Bytes, full_forward


def test_a_folder_of_the_first_qwen_brings_its_ends(model: Transformer, tmp_path: Path) -> None:
    """The base model's file, and the chat model's, whose turn marks only `chat_format` tells."""
    save_model(model, tmp_path)
    file, tok = tmp_path / "generation_config.json", Bytes()
    shared = {"eos_token_id": 256, "pad_token_id": 256, "max_new_tokens": 512, "do_sample": True, "top_k": 0}
    file.write_text(json.dumps({"chat_format": "raw", **shared, "stop_words_ids": [[256]], "top_p": 0.8}))
    base = Engine(tmp_path, tok)
    assert (base.eos_ids, base.request_factory.eos_id, base.max_window) == ({256}, 256, None)
    assert base.request_factory.defaults == {"max_tokens": 512, "top_k": 0, "top_p": 0.8, "stop_words_ids": [[256]]}
    file.write_text(json.dumps({"chat_format": "chatml", **shared, "max_window_size": 40, "repetition_penalty": 1.1}))
    chat = Engine(tmp_path, tok)
    assert (chat.eos_ids, chat.request_factory.eos_id, chat.max_window) == ({256, 257}, 256, 40)
    told = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} is long"} for i in range(9)]
    assert chat.chat([told], GREEDY)[0].prompt_ids == tok.render(told[-3:], add_generation_prompt=True).ids


def test_ends_of_later_folders(model: Transformer, tmp_path: Path) -> None:
    """Several ids, the first the end of a turn; without the file the configuration's own."""
    save_model(model, tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text('{"eos_token_id": [257, 256], "pad_token_id": 256, "temperature": 0.7, "top_k": 20, "min_p": 0.1}')
    later = Engine(tmp_path, None)
    assert (later.eos_ids, later.request_factory.eos_id) == ({256, 257}, 257)
    assert later.request_factory.defaults == {"temperature": 0.7, "top_k": 20, "min_p": 0.1}
    file.unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": [257, 255]}))
    assert (Engine(tmp_path, None).eos_ids, Engine(tmp_path, Bytes()).eos_ids) == ({257, 255}, {257, 255, 256})
    assert Engine(tmp_path, Bytes()).request_factory.eos_id == 257


def test_a_stop_sequence_is_followed_by_the_end_of_the_text(model: Transformer) -> None:
    """The prompt counts: a sequence may begin or even end in it. Where no token ends a text, the sequence does."""
    prompt = [5, 6, 7]
    free, engine = full_forward(model, prompt, 12), Engine(model, None)
    ended = Engine(Transformer(replace(model.config, eos_token_id=9)), None)
    ended.update_weights(model.state_dict())
    params = SamplingParams.plain(temperature=0.0, max_tokens=12, logprobs=True)
    for stop in (free[4:5], free[4:6], free[2:7], [7, free[0]], [*prompt, *free[:2]]):
        count = next(n for n in range(13) if [*prompt, *free[:n]][-len(stop) :] == stop)
        out = ended.generate([prompt], replace(params, stop_words_ids=[stop]))[0]
        assert (out.ids, out.finish_reason) == ([*free[:count], 9], "stop")
        with torch.no_grad():
            own = model(torch.tensor([[*prompt, *out.ids]]))[0, 2:-1].log_softmax(-1)
        assert torch.allclose(torch.tensor(out.logprobs), own[range(len(out.ids)), out.ids], atol=1e-4)
        for each, more in ((engine, params), (ended, replace(params, ignore_eos=True))):
            out = each.generate([prompt], replace(more, stop_words_ids=[stop]))[0]
            assert (out.ids, out.finish_reason) == (free[:count], "stop")


def test_a_prompt_may_end_with_a_stop_sequence(model: Transformer) -> None:
    ended = Engine(Transformer(replace(model.config, eos_token_id=9)), None)
    params = SamplingParams.plain(max_tokens=5, n=2, top_p=0.9, top_k=5, stop_words_ids=[[1, 2], [8] * 9])
    assert [sample.ids for sample in ended.generate([[5, 1, 2]], params)[0].samples] == [[9], [9]]
    assert [sample.ids for sample in Engine(model, None).generate([[5, 1, 2]], params)[0].samples] == [[], []]


def test_the_official_answers(tmp_path: Path) -> None:
    """Greedy, with repetition penalties, and with a stop word of two tokens: all of it said by the folder."""
    folder = Path(__file__).parents[1] / "model" / "golden" / "qwen1_base"
    given, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    stop = given["greedy_stop.stop_word"].tolist()
    cases = {"greedy": {}, "greedy_rep1.1": {"repetition_penalty": 1.1}, "greedy_stop": {"stop_words_ids": [stop]},
             "greedy_rep1.5_longprompt": {"repetition_penalty": 1.5}}  # fmt: skip
    for name, said in cases.items():
        settings = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": 255, "pad_token_id": 255, **said}
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
        prompt = given.get(f"{name}.prompt_ids", given["greedy.prompt_ids"])[0].tolist()
        out = Engine(tmp_path, None).generate([prompt])[0]
        assert [*prompt, *out.ids] == expected[f"{name}.ids"][0].tolist(), name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_beams": 4}, "num_beams = 4 is not supported\n  expected: 1 or null"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size = 3 is not supported\n  expected: 0 or null"),
        ({"bad_words_ids": [[1]]}, "bad_words_ids = [[1]] is not supported\n  expected: [] or null"),
        ({"stop_strings": ["a"]}, "stop_strings = ['a'] is not supported"),
        ({"typical_p": 0.9}, "typical_p = 0.9 is not supported"),
        ({"max_length": 20}, "max_length = 20 is not supported\n  expected: null"),
        ({"temprature": 0.7}, "unknown setting temprature\n  nearest: temperature"),
        ({"eos_token_ids": [3]}, "unknown setting eos_token_ids\n  nearest: eos_token_id"),
        ({"stop_words_ids": [3]}, "sampling parameters: stop_words_ids = [3]"),
        ({"min_p": 2}, "sampling parameters: min_p = 2"),
    ],
)  # fmt: skip
def test_what_we_would_draw_otherwise_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        sampling_defaults(setting)
    assert str(caught.value).startswith(message)


def test_neutral_values_and_what_changes_no_answer_pass() -> None:
    harmless = {"num_beams": 1, "typical_p": 1.0, "min_length": 0, "bad_words_ids": None, "suppress_tokens": [],
                "max_length": 20, "max_new_tokens": 5, "bos_token_id": 1, "pad_token_id": 1, "use_cache": True,
                "transformers_version": "4.31.0", "_from_model_config": True, "cache_implementation": None}  # fmt: skip
    assert sampling_defaults(harmless) == {"max_tokens": 5}


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"chat_format": "chatlm"}, "chat_format = 'chatlm'"), ({"max_window_size": 0}, "max_window_size = 0"),
     ({"stop_words_ids": [[300]]}, "stop_words_ids: token id 300")],
)  # fmt: skip
def test_the_first_qwens_own_settings_are_checked(
    model: Transformer, tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    save_model(model, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(setting))
    with pytest.raises(UserError) as caught:
        Engine(tmp_path, None).generate([[1]])
    assert message in str(caught.value)


SPOKEN = Tokenizer({bytes([b]): b for b in range(256)}, {"<|endoftext|>": 256, "<|im_end|>": 257, "<|gap|>": 262})
"""Ids 258 to 261 mean nothing, 263 is padding."""


class Dictated:
    """An engine's model that says what it is told: the logits of the next of these ids are the largest."""

    def __init__(self, model: Transformer, ids: list[int]) -> None:
        self.engine, self.ids = Engine(model, SPOKEN), ids

    def __call__(self, **settings: Any) -> Any:
        """One output; every step's token is dictated by a bias that holds for it alone."""
        params = SamplingParams.plain(temperature=0.0, ignore_eos=True, max_tokens=len(self.ids), **settings)
        (settled,) = self.engine.request_factory.effective_params_for_each(params, 1)
        request = self.engine.request_factory.make_request([65], settled, 0, label="prompt")
        (sequence,) = request.sequences
        for id in self.ids:
            if sequence.finish_reason is None:
                sequence.append(id, 0.0)
        return sequence.to_sample(SPOKEN)


@pytest.mark.parametrize(
    ("written", "stop", "shown", "kept", "count"),
    [
        ([104, 105, 257, 120], ["<|im_end|>"], "hi", "hi<|im_end|>", 3),
        ([104, 257, 105, 120], ["i"], "h", "hi", 3),
        ([104, 257, 105, 120], ["h<|im_end|>i"], "", "h<|im_end|>i", 3),
        ([104, 257, 105, 120], ["hi"], "", "hi", 3),
        ([104, 257, 257, 120], ["end|><|im", "x"], "h", "hx", 4),
        ([104, 257, 257, 120], ["<|im_end|><|im_end|>"], "h", "h<|im_end|><|im_end|>", 3),
        ([*"一二".encode(), 257], ["二"], "一", "一二", 6),
        ([*"一".encode()[:2], 257, 65], ["<|im_end|>"], "\ufffd", "\ufffd<|im_end|>", 3),
        ([97, 97, 98, 97, 97, 98, 99], ["aabc", "abaabc"], "a", "aabaabc", 7),
        ([*b"<|im_end|>", 65], ["<|im_end|>"], "", "<|im_end|>", 10),
        ([97, 256, 98], ["c"], "ab", "ab", 3),
        ([97, 115, 0xE4, 0xB8], ["s"], "a", "as", 2),
        ([97, *"一".encode()[:2], 98], ["b"], "a\ufffd", "a\ufffdb", 4),
    ],
)
def test_stop_texts_are_found_in_what_was_written(
    model: Transformer, written: list[int], stop: list[str], shown: str, kept: str, count: int
) -> None:
    said = Dictated(model, written)
    out = said(stop=stop)
    assert (out.text, len(out.ids)) == (shown, count)
    assert said(stop=stop, include_stop_str_in_output=True).text == kept


def test_a_stop_text_that_is_shown_is_found_once(model: Transformer) -> None:
    said = Dictated(model, [104, 257, 105])
    assert said(stop=["<|im_end|>"], skip_special_tokens=False).text == "h"
    assert said(stop=["i"], skip_special_tokens=False, include_stop_str_in_output=True).text == "h<|i"


def test_an_id_that_means_nothing_ends_nobodys_answer(model: Transformer) -> None:
    """It shows as U+FFFD, as a stray byte does; others in the batch are not touched."""
    for settings in ({}, {"stop": ["zz"]}, {"skip_special_tokens": False}):
        plain = SamplingParams.plain(temperature=0.0, max_tokens=3, ignore_eos=True, **settings)
        odd = replace(plain, logit_bias={259: 100.0})
        alone = Engine(model, SPOKEN).generate([[65]], plain)[0]
        both = Engine(model, SPOKEN).generate([[65], [65]], [plain, odd])
        assert (both[0].ids, both[0].text) == (alone.ids, alone.text)
        assert (both[1].ids, both[1].text) == ([259] * 3, "\ufffd" * 3)
        assert "".join(Engine(model, SPOKEN).stream([65], odd)) == "\ufffd" * 3


def test_a_folder_that_knows_another_end(model: Transformer, tmp_path: Path) -> None:
    """No `<|endoftext|>`, no ChatML: the tokenizer's own `eos_token` ends an answer."""
    from qwenkit.chat import ChatTokenizer

    save_model(model, tmp_path)
    plain = Tokenizer(SPOKEN.ranks, {"<eos>": 256})
    tok = ChatTokenizer(plain, None, "{{ messages[0].content }}", names={"eos_token": "<eos>"})
    assert 256 in Engine(tmp_path, tok).eos_ids
    asked = SamplingParams.plain(temperature=0.0, max_tokens=5, logit_bias={256: 100.0})
    assert Engine(tmp_path, tok).chat([[{"role": "user", "content": "a"}]], asked)[0].ids == [256]


def test_variables_reach_the_chat_template(model: Transformer) -> None:
    from qwenkit.chat import ChatTokenizer

    tok = ChatTokenizer(SPOKEN, None, "{{ messages[0].content }}{{ '!' if loud }}")
    engine, chat = Engine(model, tok), [{"role": "user", "content": "a"}]
    params = SamplingParams.plain(max_tokens=1)
    assert engine.chat([chat], params, template_kwargs={"loud": True})[0].prompt_ids == [97, 33]
    assert engine.chat([chat], params)[0].prompt_ids == [97]
    assert isinstance("".join(engine.stream_chat(chat, params, template_kwargs={"loud": True})), str)
    with pytest.raises(UserError, match="conversation 0: the chat template does not read a variable 'lod'"):
        engine.chat([chat], params, template_kwargs={"lod": True})
