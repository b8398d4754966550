"""Tokenizers in GGUF files: the same ids as before they were written, the right cut for each name, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex

from qwenkit.chat import load_tokenizer
from qwenkit.errors import UserError
from qwenkit.tokenizer import Tokenizer, load
from qwenkit.tokenizer.gguf_vocabulary import PRE_TOKENIZERS, read_vocabulary
from qwenkit.tokenizer.patterns import GPT2, SMOLLM
from tests.gguf_files import TEMPLATE, file_bytes, vocabulary

TEXTS = ["ab cab 12", "It's 1,234.5  and\n\n x1's \t", "e\u0301te\u0301 世界 abab", "<|im_end|> <think>ab</think>", ""]


def written(tmp_path: Path, settings: dict[str, Any]) -> Path:
    (tmp_path / "m.gguf").write_bytes(file_bytes(settings, {}))
    return tmp_path / "m.gguf"


def test_a_vocabulary_is_what_it_says(tmp_path: Path) -> None:
    path = written(tmp_path, vocabulary())
    tok, templates, names = read_vocabulary(path)
    assert (tok.n_tokens, tok.vocab_size, tok.pattern, tok.nfc) == (261, 264, "qwen", True)
    assert tok.special == {"<|endoftext|>": 257, "<|im_start|>": 258, "<|im_end|>": 259, "<think>": 260}
    assert tok.visible == {"<think>"} and tok.remarks == ()
    assert templates == {"default": TEMPLATE}
    assert names == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert tok.encode("ab<|im_end|>", "all") == [256, 259]
    assert load(path).digest == tok.digest
    for text in TEXTS:
        assert tok.decode(tok.encode(text)) == tok.normalize(text)


def test_a_chat_is_rendered_by_the_files_template(tmp_path: Path) -> None:
    tok = load_tokenizer(written(tmp_path, vocabulary()))
    prompt = tok.render([{"role": "user", "content": "ab"}], add_generation_prompt=True)
    assert tok.decode(prompt.ids) == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    assert tok.end_ids == [259] and tok.names["eos_token"] == "<|im_end|>"
    settings = vocabulary()
    del settings["tokenizer.chat_template"]
    assert load_tokenizer(written(tmp_path, settings)).style == "chatml"
    with_tools = vocabulary() | {"tokenizer.chat_template.tool_use": "{{ tools }}"}
    assert load_tokenizer(written(tmp_path, with_tools)).tool_template == "{{ tools }}"


def test_the_pattern_of_smollm_is_its_two_steps() -> None:
    """Its files cut every digit off, then the rest by GPT-2's pattern; one expression does the same."""
    for text in [*TEXTS, " 1", "a  1b", "  12 '3's", "x \n 4\t", "\u0663 \u2167 ab", "'s1 'll"]:
        steps = [piece for part in regex.split(r"(\p{N})", text) for piece in regex.findall(GPT2, part)]
        assert regex.findall(SMOLLM, text) == steps


def test_every_name_cuts_by_an_expression_of_its_own(tmp_path: Path) -> None:
    pieces = {name: load(written(tmp_path, vocabulary(name))).pretokenize("It'S 123 x") for name in PRE_TOKENIZERS}
    assert pieces["qwen2"] == ["It", "'S", " ", "1", "2", "3", " x"]
    assert pieces["llama-bpe"] == pieces["smaug-bpe"] == ["It", "'S", " ", "123", " x"]
    assert pieces["gpt-2"] == pieces["olmo"] == ["It", "'", "S", " 123", " x"]
    assert pieces["smollm"] == pieces["starcoder"] == ["It", "'", "S", " ", "1", "2", "3", " x"]


def test_normal_forms_and_patterns_of_our_own_are_kept(tmp_path: Path) -> None:
    tok = load(written(tmp_path, vocabulary() | {"qwenkit.nfc": False}))
    assert not tok.nfc and len(tok.encode("e\u0301")) == 3
    own = vocabulary("own-12") | {"qwenkit.pattern": r"\p{N}|[^\s\p{N}]+|\s+", "qwenkit.nfc": True}
    tok = load(written(tmp_path, own))
    assert tok.nfc and tok.pretokenize("a-b 12") == ["a-b", " ", "1", "2"]


def test_characters_that_cannot_be_spelled_become_the_replacement(tmp_path: Path) -> None:
    lacking = frozenset({0x04, 0xC0, 0xF1})
    tok = load(written(tmp_path, vocabulary("smollm", lacking)))
    assert tok.normalize("a\x04b \U00050000é") == "a\ufffdb \ufffdé"
    assert tok.decode(tok.encode("a\x04b")) == "a\ufffdb"
    assert tok.remarks == (
        "3 bytes are not in the vocabulary (0x04, 0xc0, 0xf1, ...): characters with them become U+FFFD",
    )
    assert Tokenizer(tok.ranks, tok.special, tok.pattern, **tok.flags).encode("\x04") == tok.encode("\ufffd")


def message(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    settings = vocabulary()
    change(settings)
    path = written(tmp_path, settings)
    with pytest.raises(UserError) as caught:
        load_tokenizer(path)
    return str(caught.value).replace(str(path), "FILE")


KEY = "tokenizer.ggml."
KNOWN = ", ".join(PRE_TOKENIZERS)


def put(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda settings: settings.__setitem__(f"{KEY}{name}", value)


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda settings: settings.__delitem__(f"{KEY}{name}")


def token(i: int, text: str, kind: int) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        settings[f"{KEY}tokens"][i], settings[f"{KEY}token_type"][i] = text, kind

    return change


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no merges": (drop("merges"), "FILE: tokenizer.ggml.merges is missing"),
    "no tokens": (drop("tokens"), "FILE: tokenizer.ggml.tokens is missing"),
    "no kinds": (drop("token_type"), "FILE: tokenizer.ggml.token_type is missing"),
    "no model": (drop("model"), "FILE: tokenizer.ggml.model is missing"),
    "no pattern": (drop("pre"), "FILE: tokenizer.ggml.pre is missing"),
    "an unknown pattern": (
        put("pre", "smolm"),
        "FILE, tokenizer.ggml.pre: text is cut by the unknown expression 'smolm'\n"
        f"  expected: {KNOWN}\n  nearest: smollm",
    ),
    "SentencePiece": (
        put("model", "llama"),
        "FILE, tokenizer.ggml.model: a tokenizer of the kind 'llama'\n  expected: gpt2: byte-level BPE",
    ),
    "fewer kinds": (put("token_type", [1, 2]), "FILE, tokenizer.ggml.token_type: 2 kinds of 264 tokens"),
    "an unknown kind": (
        token(3, "x", 6),
        "FILE, tokenizer.ggml.token_type: token 3 is of kind 6\n  expected: 1, 2, 3, 4, 5",
    ),
    "a token twice": (
        token(256, "a", 1),
        "FILE, tokenizer.ggml.tokens: the tokens 97 and 256 are both 'a'\n  expected: each token once",
    ),
    "two special tokens alike": (
        token(260, "<|im_end|>", 3),
        "FILE: the added token '<|im_end|>' has two ids\n  expected: one",
    ),
    "a merge of one": (
        put("merges", ["ab"]),
        "FILE, tokenizer.ggml.merges: the merge 'ab'\n  expected: two tokens and a space",
    ),
    "a merge of nothing known": (put("merges", ["a é"]), "FILE: 'aé' is not a byte-level token"),
    "a token that no merge makes": (
        put("merges", []),
        "FILE: the merges do not make 1 tokens of the vocabulary out of their bytes, the first is 'ab'\n"
        "  expected: merges that give what ranks give",
    ),
    "a token of no bytes": (token(256, "世", 1), "FILE: '世' is not a byte-level token"),
    "an end beyond the vocabulary": (
        put("eos_token_id", 9999),
        "FILE, tokenizer.ggml.eos_token_id: it is 9999\n  expected: one of 264 tokens",
    ),
    "a template that is a number": (
        lambda settings: settings.__setitem__("tokenizer.chat_template", 3),
        "FILE, tokenizer.chat_template: it is 3\n  expected: a string",
    ),
    "a vocabulary without U+FFFD": (
        token(0xEF, "[LACK]", 5),
        "the vocabulary lacks 1 single bytes, the first is 0xef",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_vocabulary_that_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    change, expected = BAD[name]
    assert message(tmp_path, change) == expected


def test_an_extra_vocabulary_does_not_go_with_it(tmp_path: Path) -> None:
    path = written(tmp_path, vocabulary())
    (tmp_path / "extra").write_text("YWI= 300\n")
    with pytest.raises(UserError, match="an extra vocabulary goes with a"):
        load_tokenizer(path, extra_vocab=tmp_path / "extra")


def test_switches_that_are_not_followed_are_told(tmp_path: Path) -> None:
    tok = load_tokenizer(written(tmp_path, vocabulary() | {f"{KEY}add_bos_token": True}))
    assert tok.remarks == ("tokenizer.ggml.add_bos_token = true is not done here",)
