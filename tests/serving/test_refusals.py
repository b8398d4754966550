"""What a client is told of an error: of those that are meant for people all, of others nothing."""

from __future__ import annotations

import pytest

from qwenkit.chat.messages import ToolsNotShown
from qwenkit.errors import Stopped, UserError, within
from qwenkit.inference import EngineBusy, EngineStopped, EngineTimeout, SamplingParams
from qwenkit.inference.requests import PromptTooLong
from qwenkit.serving.faces import chat_completions, messages
from qwenkit.serving.refusals import STATUS, Refusal, Refused, refusal_of


def sampling_error() -> UserError:
    with pytest.raises(UserError) as caught:
        SamplingParams(top_p=2)
    return caught.value


@pytest.mark.parametrize("error, status, param, text", [
    (EngineBusy("x"), 429, None, "too many requests wait; hint: try again later"),
    (EngineTimeout("x"), 504, None, "the answer took too long"),
    (EngineStopped("x"), 503, None, "the model does not run any more"),
    (UserError("empty", where="prompt", expected="a token"), 400, "prompt", "prompt: empty; expected: a token"),
    (PromptTooLong("9 tokens", where="prompt"), 400, "prompt", "prompt: 9 tokens"),
    (UserError("a picture", where="messages, message 0, part 1"), 400, "messages",
     "messages: message 0, part 1: a picture"),
    (ToolsNotShown("not the tools", hint='style = "chatml"'), 400, None, "not the tools; hint: ask without tools, or a "
     "model whose chat template knows of them; whoever runs the server can add one"),
    (UserError("no x", nearest="y"), 400, None, "no x; hint: did you mean y?"),
    (Stopped("the logits are not finite"), 500, None, "the logits are not finite"),
    (ValueError("/home/me/secret"), 500, None, "an error of the server, which its log names"),
    (Refused(Refusal("conflict", "two of them")), 409, None, "two of them"),
])  # fmt: skip
def test_what_a_client_is_told(error, status, param, text):
    refusal = refusal_of(error)
    assert (refusal.status, refusal.param, refusal.message) == (status, param, text)


def test_the_kind_of_a_mistake_survives_its_place():
    for error, code in (
        (PromptTooLong("9 tokens"), "context_length_exceeded"),
        (ToolsNotShown("x"), "tools_not_shown"),
    ):
        with pytest.raises(UserError) as caught, within("messages"):
            raise error
        assert (refusal_of(caught.value).code, refusal_of(caught.value).param) == (code, "messages")


def test_an_error_of_sampling_names_its_field():
    refusal = refusal_of(sampling_error())
    assert refusal.param == "top_p" and refusal.message.startswith("top_p = 2; expected: more than 0")
    other = refusal_of(UserError("regex and tools together", where="sampling parameters"))
    assert (other.param, other.message) == ("regex", "regex and tools together")


@pytest.mark.parametrize("seconds, wait", [(0.0, 1), (0.2, 1), (3.1, 4), (1e9, 60)])
def test_how_long_a_full_queue_is_to_be_left_alone(seconds, wait):
    assert refusal_of(EngineBusy("x", seconds=seconds)).retry_after == wait
    assert refusal_of(EngineStopped("x")).retry_after == 1  # each 503 says when to come again


def test_every_kind_has_a_status_and_a_name_in_every_api():
    for kind in STATUS:
        for codec in (chat_completions, messages):
            status, body = codec.error(Refusal(kind, "x"))
            assert status == STATUS[kind] and body["error"]["type"] and body["error"]["message"] == "x"
