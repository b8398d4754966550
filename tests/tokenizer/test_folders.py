"""Folders of other people: added tokens of every rule, older forms, sources that disagree, settings not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat import load_tokenizer
from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, load, save_tokenizer

from .folders import LATER, MARKS, added, config, content, publish, theirs, write

RULES = [
    {"id": 259, "content": "<col>", "special": False, "normalized": True},
    {"id": 260, "content": "北京市", "special": False, "normalized": False},
    {"id": 261, "content": "e\u0301t", "special": False, "normalized": True},
    {"id": 262, "content": "<mask>", "special": False, "normalized": False, "lstrip": True},
    {"id": 263, "content": "<sep>", "special": False, "normalized": True, "rstrip": True},
    {"id": 264, "content": "sol", "special": False, "normalized": False, "single_word": True},
    {"id": 265, "content": "北京", "special": False, "normalized": False},
]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ruled")
    tokens = [*added(MARKS), *({**FLAGS, **rule} for rule in RULES)]
    write(folder / "tokenizer.json", content(tokens))
    write(folder / "tokenizer_config.json", config(tokens))
    return folder


parts = st.sampled_from(["<col>", "北京市", "北京", "e\u0301t", "ét", "<mask>", "<sep>", "sol", "<|im_end|>", " ", "\n",
                         "a", "_", "\u0338", "市", "1"])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(text=st.lists(parts, max_size=10).map("".join))
def test_added_tokens_of_every_rule_are_found_as_tokenizers_finds_them(ruled: Path, text: str) -> None:
    ours, reference = load(ruled), tokenizers.Tokenizer.from_file(str(ruled / "tokenizer.json"))
    assert ours.encode(text, "all") == reference.encode(text).ids
    if "<|" not in text:
        assert ours.encode(text) == reference.encode(text).ids


def test_every_rule_survives_publishing(ruled: Path, tmp_path: Path) -> None:
    tok = load(ruled)
    for form in ("json", "tiktoken"):
        save_tokenizer(tok, tmp_path / form, form=form)
        again = load(tmp_path / form)
        assert (again.digest, again.flags) == (tok.digest, tok.flags)


def test_words_are_tokens_in_any_text_and_marks_are_not(tmp_path: Path) -> None:
    names = {**LATER, "<|fim_prefix|>": False, "<col>": False, "<answer>": False, "helper": False}
    tok = load_tokenizer(publish(tmp_path, names, "{{ messages[0].content }}<answer>I, your helper"))
    assert tok.words == {"<col>", "helper"}
    for name in names:
        assert (tok.encode(name) == [tok.special[name]]) == (name in tok.words)
        assert tok.encode_batch([name]) == [tok.encode(name)]
    assert tok.encode("<col>", allowed_special={"<|im_end|>"}) == [tok.special["<col>"]]


def test_a_word_that_somebody_added_in_transformers(tmp_path: Path) -> None:
    other = theirs(publish(tmp_path, LATER))
    other.add_tokens(["<col>", "étage"])
    other.save_pretrained(tmp_path)
    for text in ("a<col>b", "e\u0301tage", "x<col> <col>"):
        assert load(tmp_path).encode(text) == theirs(tmp_path).encode(text)


# ---- vocab.json and merges.txt --------------------------------------------------------------------------------------


def older(folder: Path, tok: Tokenizer, **more: Any) -> None:
    """The form that slow tokenizers are saved in."""
    from qwenkit.tokenizer.publish import tokenizer_json

    model = tokenizer_json(tok)["model"]
    write(folder / "vocab.json", {name: i for name, i in model["vocab"].items() if name not in tok.special})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    write(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", **more})


def test_the_older_form_is_the_same_tokenizer(tiny: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tiny, tmp_path / "json")
    told = json.loads((tmp_path / "json" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    older(tmp_path / "decoder", tiny, added_tokens_decoder=told)
    assert load(tmp_path / "decoder").digest == tiny.digest
    older(tmp_path / "names", tiny)
    write(tmp_path / "names" / "added_tokens.json", tiny.special)
    names = list(tiny.special)
    write(tmp_path / "names" / "special_tokens_map.json",
          {"eos_token": {"content": names[0]}, "additional_special_tokens": names[1:]})  # fmt: skip
    tok = load_tokenizer(tmp_path / "names")
    assert (tok.ranks, tok.special, tok.visible) == (tiny.ranks, tiny.special, frozenset())
    assert tok.names["eos_token"] == names[0]
    text = "The quick 语言模型 <|im_end|> 2023"
    assert tok.encode(text) == tiny.encode(text)


def test_the_older_form_without_half_of_it_is_refused(tiny: Tokenizer, tmp_path: Path) -> None:
    older(tmp_path, tiny)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"merges\.txt: no such file"):
        load(tmp_path)
    older(tmp_path, tiny, tokenizer_class="BertTokenizer")
    with pytest.raises(UserError, match="tokenizer_class = 'BertTokenizer'"):
        load(tmp_path)
    older(tmp_path, tiny)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        load(tmp_path)


# ---- two sources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": "<|other|>"}, "the added token 258 is '<|im_end|>' in one file and '<|other|>' in another"),
        ({"lstrip": True}, r"the added token '<|im_end|>' has lstrip = true here and the other in tokenizer.json"),
        ({"special": False}, "has special = false here"),
        ({"content": 3}, "an added token that is not one"),
    ],
)
def test_added_tokens_that_disagree_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    publish(tmp_path)
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    told["added_tokens_decoder"]["258"] |= change
    write(tmp_path / "tokenizer_config.json", told)
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert message in str(refused.value)


def test_an_id_that_two_added_tokens_have_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    twice = content([*added(MARKS), {**FLAGS, "id": 258, "content": "<col>", "special": False, "normalized": False}])
    write(tmp_path / "tokenizer.json", twice)
    with pytest.raises(UserError, match="token id 258 is used twice"):
        load(tmp_path)


def test_an_added_token_that_only_the_settings_name_is_added(tmp_path: Path) -> None:
    publish(tmp_path)
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    told["added_tokens_decoder"]["259"] = {**FLAGS, "content": "<col>", "special": False, "normalized": True}
    write(tmp_path / "tokenizer_config.json", told)
    assert load(tmp_path).encode("a<col>") == [97, 259] == theirs(tmp_path).encode("a<col>")


def test_templates_that_disagree_are_refused(tmp_path: Path) -> None:
    publish(tmp_path, template="{{ messages[0].content }}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    assert load_tokenizer(tmp_path).chat_template == "{{ messages[0].content }}\n"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[1].content }}")
    with pytest.raises(UserError, match="two chat templates called default, and they differ"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ([1], "an entry of chat_template is not a template with its name"),
        ([{"name": "default"}], "an entry of chat_template is not"),
        (3, "chat_template is a number"),
        ([{"name": "tool_use", "template": "x"}], "chat templates tool_use, and none for a plain chat"),
        ([{"name": "default", "template": "x"}, {"name": "default", "template": "y"}], "two chat templates called"),
    ],
)
def test_odd_templates_are_refused(tmp_path: Path, template: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load_tokenizer(publish(tmp_path, template=template))
    assert message in str(refused.value)


def test_named_templates_in_files(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    write(tmp_path / "additional_chat_templates" / "tool_use.jinja", 0)
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].name }}")
    tok = load_tokenizer(tmp_path)
    chat = [{"role": "user", "content": "hi"}]
    assert tok.decode(tok.render(chat, add_generation_prompt=True).ids) == "hi"
    assert tok.decode(tok.render(chat, [{"name": "f"}], add_generation_prompt=True).ids) == "f"
    tok.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").tool_template == "{{ tools[0].name }}"


# ---- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_known_harmless_or_named_once(tmp_path: Path) -> None:
    harmless = {"model_max_length": 32768, "padding_side": "left", "_commit": "1", "unsloth_version": "1",
                "errors": "replace", "add_bos_token": False, "image_token": "<|im_start|>", "auto_map": {}}  # fmt: skip
    assert load(publish(tmp_path, **harmless)).remarks == ()
    tok = load_tokenizer(publish(tmp_path, **{**harmless, "add_bos_token": True, "novelty": 3}))
    assert tok.remarks == (
        "tokenizer_config.json: add_bos_token = True is not done here",
        "tokenizer_config.json: novelty is not known here, and passed over",
    )
    changed = json.loads((tmp_path / "tokenizer.json").read_text())
    changed |= {"novelty": 1, "_stamp": 2, "post_processor": {"type": "TemplateProcessing"}}
    write(tmp_path / "tokenizer.json", changed)
    assert len(load(tmp_path).remarks) == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("decoder", {"type": "Metaspace"}, "tokens become text in another way"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "Digits"}]}, "not cut by one pattern"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}, "not a regular expr"),
    ],
)
def test_rules_that_would_change_ids_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    publish(tmp_path)
    changed = json.loads((tmp_path / "tokenizer.json").read_text())
    changed[key] = value
    write(tmp_path / "tokenizer.json", changed)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_files_of_brackets_and_of_digits_are_refused(tmp_path: Path, name: str) -> None:
    publish(tmp_path)
    for text in ("[" * 100_000, '{"x": ' + "9" * 6000 + "}"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="broken JSON"):
            load(tmp_path)
