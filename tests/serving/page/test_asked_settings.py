"""From the fields of the page to the fields of a request; files that go with a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.serving.faces import chat_completions
from qwenkit.serving.page.asked_settings import read_settings
from qwenkit.serving.page.attached import MOST_CHARACTERS, MOST_FILES, read_files

GIVEN: dict[str, Any] = {"models": ["a", "b"], "system": " Be kind. ", "own": False, "temperature": 0.5, "top_p": 0.9,
                         "top_k": 0, "repetition_penalty": 1, "max_tokens": "64", "seed": " 7 ", "thinking": "off",
                         "tools": '[{"name": "add", "parameters": {"type": "object"}}]'}  # fmt: skip


def test_a_request_that_the_server_understands() -> None:
    settings = read_settings(GIVEN, "en")
    assert (settings.models, settings.system) == (("a", "b"), "Be kind.")
    asked = chat_completions.parse(settings.body("a", [{"role": "user", "content": "x"}]))
    params = asked.params
    assert (asked.model, params.temperature, params.top_p, params.max_tokens, params.seed) == ("a", 0.5, 0.9, 64, 7)
    assert asked.tools[0]["function"]["name"] == "add" and asked.user == "page"
    own = read_settings({**GIVEN, "own": True, "thinking": "auto", "tools": "", "max_tokens": "", "seed": None}, "en")
    assert own.fields == {}


@pytest.mark.parametrize(
    "name, value, message",
    [("seed", "x", "Seed (empty: another one each time): x is not a number"),
     ("max_tokens", "1.5", "Tokens of an answer, at most: 1.5 is not a number"),
     ("temperature", "nan", "Temperature: nan is not a number"),
     ("temperature", True, "Temperature: True is not a number"),
     ("temperature", {}, "Temperature: {} is not a number"),
     ("tools", "{", "Tools: not a JSON list"), ("tools", '{"a": 1}', "Tools: not a JSON list"),
     ("models", [], "No model is chosen."), ("models", "a", "No model is chosen.")],
)  # fmt: skip
def test_what_is_not_a_setting(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_settings({**GIVEN, name: value}, "en")
    assert caught.value.what == message


def test_files() -> None:
    rows = [{"name": "a\nb.txt", "text": "hello"}]
    assert [tuple(file) for file in read_files(json.dumps(rows), "en")] == [("a b.txt", "hello")]
    assert read_files("", "en") == read_files(None, "en") == ()


@pytest.mark.parametrize(
    "rows, message",
    [([{"name": "a", "text": "x" * (MOST_CHARACTERS + 1)}], "a: 200001 characters; at most 200000"),
     ([{"name": "a", "text": "\0"}], "a: not a text file in UTF-8"),
     ([{"name": "a", "text": "\ufffd"}], "a: not a text file in UTF-8"),
     ([{"name": "a", "text": 1}], "a: not a text file in UTF-8"), (["a"], "None: not a text file in UTF-8"),
     ({"a": 1}, "?: not a text file in UTF-8"),
     ([{"name": "a", "text": ""}] * (MOST_FILES + 1), "at most 8 files with one message")],
)  # fmt: skip
def test_what_is_not_a_file(rows: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_files(json.dumps(rows), "en")
    assert caught.value.what == message
    with pytest.raises(UserError, match=r"\?: not a text file in UTF-8"):
        read_files("[", "en")
