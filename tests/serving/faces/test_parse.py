"""From bodies to requests: what the fields mean, and what is refused, in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenkit.inference import Conversation, SamplingParams
from qwenkit.serving.faces import chat_completions, completions, embeddings, messages, responses, tokenize
from qwenkit.serving.refusals import Refused
from qwenkit.serving.request import FillIn, Reply

HELLO = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "sub"}}


def chat(**fields: Any) -> Any:
    return chat_completions.parse({"messages": HELLO, **fields})


def message(**fields: Any) -> Any:
    return messages.parse({"messages": HELLO, "max_tokens": 5, **fields})


def response(**fields: Any) -> Any:
    return responses.parse({"input": "Hi", **fields})


def completion(**fields: Any) -> Any:
    return completions.parse({"prompt": "Hi", **fields})


def tokens(**fields: Any) -> Any:
    return tokenize.parse({"prompt": "Hi", **fields})


def embedding(**fields: Any) -> Any:
    return embeddings.parse({"input": "Hi", **fields})


# ---- what is refused ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, dict[str, Any], str | None, str]] = [
    (chat, {"max_token": 5}, "max_token",
     "max_token: unknown field; hint: did you mean max_tokens?"),
    (chat, {"temperature": "hot"}, "temperature", "temperature: is 'hot'; expected: a number"),
    (chat, {"temperature": -1}, "temperature", "temperature = -1; expected: 0, or 1e-06 to 1e+06; or null"),
    (chat, {"max_completion_tokens": -1}, "max_completion_tokens",
     "max_completion_tokens = -1; expected: an integer, 0 or more; or null"),
    (chat, {"max_completion_tokens": 1, "max_tokens": 2}, "max_completion_tokens",
     "max_completion_tokens: differs from max_tokens; expected: one of the two"),
    (chat, {"messages": None}, "messages", "messages: is null; expected: a list"),
    (chat, {"messages": []}, "messages",
     "messages: the conversation has no messages; expected: at least a user message"),
    (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0]",
     "messages[0]: unknown role 'robot'; expected: system, user, assistant, tool"),
    (chat, {"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages[1]",
     "messages[1]: nothing to answer: the last turn is assistant; expected: user or tool"),
    (chat, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
     "messages[0].content[0]",
     "messages[0].content[0]: the image is not a URL; expected: a data: URL, or one of http or https"),
    (chat, {"logit_bias": {"x": 1}}, "logit_bias",
     "logit_bias: the key 'x' is not a token id; expected: token ids as keys, numbers as values"),
    (chat, {"logit_bias": {"5": 101}}, "logit_bias",
     "logit_bias = {5: 101}; expected: a dict of token ids and numbers from -100 to 100; or null"),
    (chat, {"top_logprobs": 2}, "top_logprobs",
     "top_logprobs: is given without logprobs; expected: logprobs = true"),
    (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "top_logprobs: is 21; expected: 0 to 20"),
    (chat, {"stop": ["a", 5]}, "stop", "stop: is a list; expected: a string or a list of strings"),
    (chat, {"stop": ["a", ""]}, "stop", "stop: has an empty string; expected: strings of at least one character"),
    (chat, {"stop": ["a"] * 65}, "stop",
     "stop: too many stop strings, or too long ones; expected: at most 64, of at most 1,000 characters"),
    (chat, {"stream_options": {"include_usage": True}}, "stream_options",
     "stream_options: is given without stream; expected: stream = true"),
    (chat, {"tool_choice": "required"}, "tool_choice",
     "tool_choice: a call is required, and there are no tools; expected: tools"),
    (chat, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "ad"}}}, "tool_choice",
     "tool_choice: no tool is called 'ad'; expected: add; hint: did you mean add?"),
    (chat, {"tools": [TOOL, TOOL]}, "tools[1].function.name",
     "tools[1].function.name: the second tool that is called 'add'; expected: a name for each tool"),
    (chat, {"tools": [{"type": "custom", "function": {}}]}, "tools[0].type",
     "tools[0].type: is 'custom'; expected: function"),
    (chat, {"tools": [TOOL], "structured_outputs": {"regex": "a"}}, "structured_outputs",
     "structured_outputs: binds the answer, so that no tool could be called; "
     'expected: a JSON schema, tool_choice of "none" or "required", or no tools'),
    (chat, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "a\r\nb": 1}]}]},
     "messages[0].content[0].a\r\nb",
     "messages[0].content[0].a\r\nb: unknown field; hint: known fields: text, type"),
    (chat, {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight",
     "messages[0].weight: unknown field; hint: known fields: content, function_call, reasoning, reasoning_content, "
     "role, thinking, tool_call_id, tool_calls"),
    (chat, {"response_format": {"type": "json_schema"}}, "response_format.json_schema",
     'response_format.json_schema: is missing; expected: {"name": ..., "schema": {...}}'),
    (chat, {"response_format": {"type": "xml"}}, "response_format.type",
     "response_format.type: is 'xml'; expected: text, json_object, json_schema"),
    (chat, {"structured_outputs": {"regex": "a", "json": "{}"}}, "structured_outputs",
     "structured_outputs: has regex and json; expected: one of them"),
    (chat, {"reasoning_effort": "huge"}, "reasoning_effort",
     "reasoning_effort: is 'huge'; expected: none, minimal, low, medium, high, xhigh, max"),
    (chat, {"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking",
     "enable_thinking = true contradicts another field; expected: one of them"),
    (chat, {"functions": [{}]}, "functions", "functions: is not supported; hint: use tools"),
    (chat, {"audio": {"voice": "x"}}, "audio", "audio: is not supported; hint: answers are text"),
    (chat, {"n": 0}, "n", "n = 0; expected: an integer, 1 to 65536"),
    (completion, {"best_of": 3}, "best_of", "best_of: is 3; expected: n answers, without a choice among more"),
    (completion, {"prompt": [["a"]]}, "prompt[0]", "prompt[0]: is a list; expected: a list of token ids"),
    (completion, {"prompt": []}, "prompt",
     "prompt: is a list; expected: a string, a list of token ids, or a list of either"),
    (completion, {"suffix": "x", "prompt": [1, 2]}, "prompt",
     "prompt: is token ids beside a suffix; expected: a string"),
    (completion, {"echo": True, "stream": True, "logprobs": 0}, "logprobs",
     "logprobs: is given beside echo and stream; expected: two of the three"),
    (response, {"previous_response_id": "resp_1"}, "previous_response_id",
     "previous_response_id: is not supported; hint: nothing is stored: send the whole conversation as input"),
    (response, {"max_output_tokens": -5}, "max_output_tokens",
     "max_output_tokens = -5; expected: an integer, 0 or more; or null"),
    (response, {"tools": [{"type": "web_search"}]}, "tools[0].type",
     "tools[0].type: is 'web_search'; expected: function: other tools are not run here"),
    (response, {"input": [{"type": "function_call_output", "call_id": "c", "output": "3"}]}, "input[0].call_id",
     "input[0].call_id: no function call before has the call_id 'c'; expected: the call_id of a function_call item"),
    (response, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type",
     "input[0].type: is 'item_reference'; expected: message, function_call, function_call_output, reasoning"),
    (response, {"input": [{"role": "user", "content": "x", "zzz": 1}]}, "input[0].zzz",
     "input[0].zzz: unknown field; hint: known fields: content, id, role, status, type"),
    (response, {"truncation": "auto"}, "truncation",
     "truncation: is 'auto'; expected: disabled: an input that does not fit is refused"),
    (response, {"include": ["file_search_call.results"]}, "include[0]",
     "include[0]: is 'file_search_call.results'; "
     "expected: message.output_text.logprobs, reasoning.encrypted_content"),
    (message, {"max_tokens": None}, "max_tokens", "max_tokens: is null; expected: an integer"),
    (message, {"stop": ["a"]}, "stop", "stop: is not supported; hint: use stop_sequences"),
    (message, {"thinking": {"type": "enabled"}}, "thinking.budget_tokens",
     "thinking.budget_tokens: is null; expected: 1 or more"),
    (message, {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
     "messages[0].content[0].tool_use_id",
     "messages[0].content[0].tool_use_id: no tool_use before has the id 'x'; expected: the id of a tool_use"),
    (message, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type",
     "messages[0].content[0].type: is 'document'; expected: text, image, tool_result"),
    (message, {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name",
     "messages[0].name: unknown field; expected: role, content"),
    (message, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type",
     "tools[0].type: is 'bash_20250124'; expected: custom: other tools are not run here"),
    (tokens, {"messages": HELLO}, "prompt", "prompt: is given beside messages; expected: prompt or messages"),
    (embedding, {"encoding_format": "hex"}, "encoding_format", "encoding_format: is 'hex'; expected: float, base64"),
    (embedding, {"input": ["a", ""]}, "input", "input: has an empty text; expected: texts of at least one token"),
]  # fmt: skip


@pytest.mark.parametrize("ask, fields, param, text", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_asked_is_refused_by_its_field(ask, fields, param, text):
    with pytest.raises(Refused) as caught:
        ask(**fields)
    refusal = caught.value.refusal
    assert (refusal.status, refusal.param, refusal.message) == (400, param, text)


@pytest.mark.parametrize("body, text", [
    (b"", "the body is empty; expected: a JSON object"),
    (b"[1]", "the body is a list; expected: a JSON object"),
    (b'{"a": \xff}', "the body is not UTF-8, at byte 6; expected: JSON in UTF-8"),
    (b'{"a": 1,}', "the body is not JSON: Illegal trailing comma before end of object at line 1, column 8; "
                   "expected: a JSON object"),
    (b'{"a": NaN}', "NaN is not JSON; expected: numbers"),
    (b'{"a": -1e999}', "the number -1e999 is too large; expected: one that a float holds"),
    (b'{"a": 1' + b"0" * 40 + b"}", "a number of 41 digits; expected: at most 30"),
    (b'{"model": "a", "model": "b"}', "the key 'model' comes twice in one object; expected: each key once"),
    (b'{"a": ' * 101 + b"1" + b"}" * 101, "the body is nested more than 100 deep; expected: a flatter one"),
])  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(body, text):
    with pytest.raises(Refused) as caught:
        chat_completions.parse(body)
    message = caught.value.refusal.message
    assert message == text or (b",}" in body and message.startswith("the body is not JSON: "))  # words of Python's own


def test_half_a_surrogate_pair_becomes_u_fffd():
    request = chat_completions.parse(
        b'{"messages": [{"role": "user", "content": "a\\ud83d"}], "user": "\\ud83d\\ude00"}'
    )
    assert request.prompts[0].messages[0]["content"] == "a\ufffd" and request.user == "😀"


# ---- what fields mean -----------------------------------------------------------------------------------------------


def test_fields_without_effect_are_listed():
    assert chat(store=True, metadata={}, stream=True, stream_options={"include_obfuscation": False}).ignored == (
        "store", "metadata", "stream_options.include_obfuscation",
    )  # fmt: skip
    part = {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}, "cache_control": {}}
    assert chat(messages=[{"role": "user", "name": "n", "content": [part]}]).ignored == (
        "messages[].name", "messages[].content[].cache_control", "messages[].content[].image_url.detail",
    )  # fmt: skip
    blocks = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    assert message(messages=[{"role": "user", "content": blocks}]).ignored == ("messages[].content[].cache_control",)
    assert message(output_config={"effort": "low"}).ignored == ("output_config.effort",)
    assert message(output_config={"effort": "low"}, thinking={"type": "adaptive"}).ignored == ()
    strict = {"type": "function", "function": {"name": "add", "strict": True}}
    assert chat(tools=[strict]).ignored == ("tools[].function.strict",)
    assert chat(tools=[strict], tool_choice="required").ignored == ()
    picture = {"type": "input_image", "image_url": "data:,", "detail": "low"}
    assert response(input=[{"role": "user", "content": [picture], "phase": "x", "id": "i"}]).ignored == (
        "input[].content[].detail", "input[].phase",
    )  # fmt: skip
    assert response(text={"verbosity": "low"}).ignored == ("text.verbosity",)


def test_sampling_fields_are_the_engines():
    params = chat(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=3, stop="a", n=2, max_tokens=7,
                  logit_bias={"5": -100}, presence_penalty=1, min_tokens=1).params  # fmt: skip
    assert params == SamplingParams(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=3, stop=("a",), n=2,
                                    max_tokens=7, logit_bias={5: -100}, presence_penalty=1, min_tokens=1,
                                    logprobs=False)  # fmt: skip


@pytest.mark.parametrize("fields, top, engine", [
    ({}, None, False), ({"logprobs": True}, 0, True), ({"logprobs": True, "top_logprobs": 1}, 1, 2),
    ({"logprobs": True, "top_logprobs": 5}, 5, 5), ({"logprobs": False}, None, False),
])  # fmt: skip
def test_logprobs_of_chats(fields, top, engine):
    request = chat(**fields)
    assert (request.top_logprobs, request.params.logprobs) == (top, engine)


@pytest.mark.parametrize("choice, tools, forced", [
    ("auto", ["add", "sub"], None), ("none", [], None), ("required", ["add", "sub"], ["add", "sub"]),
    ({"type": "function", "function": {"name": "sub"}}, ["add", "sub"], ["sub"]),
])  # fmt: skip
def test_tool_choice(choice, tools, forced):
    request = chat(tools=[TOOL, OTHER], tool_choice=choice)
    assert [tool["function"]["name"] for tool in request.tools] == tools
    bound = request.params.tools
    assert (bound and [tool["name"] for tool in json.loads(bound)]) == forced
    assert (request.prompts[0].tools or []) == [tool for tool in (TOOL, OTHER) if tool["function"]["name"] in tools]


def test_the_same_tools_in_every_api():
    schema = {"type": "object"}
    named = {"name": "add", "description": "d"}
    by_chat = chat(tools=[{"type": "function", "function": {**named, "parameters": schema}}], tool_choice="required")
    by_response = response(tools=[{"type": "function", **named, "parameters": schema}], tool_choice="required")
    by_message = message(tools=[{**named, "input_schema": schema}], tool_choice={"type": "any"})
    assert by_chat.tools == by_response.tools == by_message.tools
    assert by_chat.params.tools == by_response.params.tools == by_message.params.tools
    single = message(tools=[{**named, "input_schema": schema}],
                     tool_choice={"type": "auto", "disable_parallel_tool_use": True})  # fmt: skip
    assert not single.parallel_tool_calls and by_message.parallel_tool_calls


@pytest.mark.parametrize("request_of", [
    lambda schema: chat(response_format={"type": "json_schema", "json_schema": {"schema": schema, "strict": True}}),
    lambda schema: chat(structured_outputs={"json": schema}),
    lambda schema: response(text={"format": {"type": "json_schema", "name": "n", "schema": schema}}),
    lambda schema: message(output_config={"format": {"type": "json_schema", "schema": schema}}),
    lambda schema: completion(response_format={"type": "json_schema", "json_schema": {"schema": schema}}),
])  # fmt: skip
def test_an_answer_may_be_bound_to_a_schema(request_of):
    assert request_of({"type": "integer"}).params.json_schema == '{"type": "integer"}'


def test_an_answer_may_be_one_of_some_strings():
    assert chat(structured_outputs={"choice": ["a.b", "c"]}).params.regex == r"(a\.b)|(c)"


@pytest.mark.parametrize("ask, thinking, budget", [
    (lambda: chat(), None, None),
    (lambda: chat(reasoning_effort="none"), False, None),
    (lambda: chat(reasoning_effort="low"), True, 1024),
    (lambda: chat(reasoning_effort="low", thinking_budget=5), True, 5),
    (lambda: chat(reasoning_effort="max"), True, None),
    (lambda: chat(chat_template_kwargs={"enable_thinking": False}), False, None),
    (lambda: chat(enable_thinking=True), True, None),
    (lambda: response(reasoning={"effort": "medium"}), True, 8192),
    (lambda: message(thinking={"type": "enabled", "budget_tokens": 7}), True, 7),
    (lambda: message(thinking={"type": "disabled"}), False, None),
    (lambda: message(thinking={"type": "adaptive"}, output_config={"effort": "low"}), None, 1024),
    (lambda: message(output_config={"effort": "low"}), None, None),
])  # fmt: skip
def test_thoughts(ask, thinking, budget):
    asked = ask()
    assert (asked.prompts[0].thinking, asked.params.thinking_budget) == (thinking, budget)


def test_variables_go_to_the_chat_template():
    request = chat(chat_template_kwargs={"enable_thinking": True, "tone": "dry"})
    assert request.prompts[0].template_kwargs == {"tone": "dry"}


def test_thoughts_may_be_left_out():
    assert not message(thinking={"type": "enabled", "budget_tokens": 7, "display": "omitted"}).show_reasoning
    assert not chat(include_reasoning=False).show_reasoning and chat().show_reasoning


# ---- conversations --------------------------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def test_reasoning_is_read_under_either_name():
    for name in ("reasoning", "reasoning_content"):
        answer = {"role": "assistant", "content": "a", name: "hm"}
        request = chat(messages=[*HELLO, answer, *HELLO])
        assert request.prompts[0].messages[1][name] == "hm"


def test_neighbouring_turns_of_one_role_become_one():
    request = chat(messages=[
        {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, {"role": "user", "content": "c"},
        {"role": "user", "content": [{"type": "text", "text": "d"}]},
        {"role": "assistant", "content": "e", "reasoning": "f"}, {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"}, {"role": "user", "content": "now?"},
    ])  # fmt: skip
    assert request.prompts[0].messages == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": [{"type": "text", "text": part} for part in ("c", "\n\n", "d")]},
        {"role": "assistant", "content": "e", "reasoning": "f", "tool_calls": [CALL]},
        {"role": "tool", "content": "3\n\nnow?", "tool_call_id": "c1"},
    ]


def test_a_refused_message_has_its_own_place_behind_merged_ones():
    with pytest.raises(Refused) as caught:
        chat(messages=[*HELLO, *HELLO, *HELLO, {"role": "tool", "content": "x"}])
    assert caught.value.refusal.param == "messages[3]"


def test_items_of_a_response_are_turns():
    request = response(instructions="be brief", input=[
        {"role": "user", "content": [{"type": "input_text", "text": "add"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I add."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}', "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "3"}]},
    ])  # fmt: skip
    assert request.prompts[0].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "add"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I add."}], "reasoning_content": "hm",
         "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "3"}]},
    ]  # fmt: skip


def test_blocks_of_a_message_are_turns():
    request = message(system=[{"type": "text", "text": "be brief"}], messages=[
        {"role": "user", "content": [{"type": "text", "text": "add"}, {
            "type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                          {"type": "text", "text": "I add."},
                                          {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "3", "is_error": True},
                                     {"type": "text", "text": "now?"}]},
    ])  # fmt: skip
    assert request.prompts[0].messages == [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "text", "text": "add"}, {
            "type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
        {"role": "assistant", "content": "I add.", "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [
            {"type": "text", "text": part} for part in ("3", "\n\n", "now?")]},
    ]  # fmt: skip
    assert request.ignored == ("messages[].content[].is_error",)


# ---- completions, tokenize, embeddings ------------------------------------------------------------------------------


def test_prompts_of_completions():
    assert completion(prompt="a").prompts == ("a",)
    assert completion(prompt=[1, 2]).prompts == ((1, 2),)
    assert completion(prompt=["a", [1]]).prompts == ("a", (1,))
    assert completion(prompt="a", suffix="b").prompts == (FillIn("a", "b"),)
    assert completion().params.max_tokens == 16 and completion(n=2, prompt=["a", "b"]).number_of_choices == 4


def test_echo_and_logprobs_read_the_prompt_also_without_an_answer():
    request = completion(echo=True, logprobs=1, max_tokens=0)
    assert (request.params.prompt_logprobs, request.params.max_tokens, request.top_logprobs) == (2, 1, 1)


def test_tokenize_takes_a_text_or_a_conversation():
    assert tokens().prompt == "Hi" and tokens(add_special_tokens=True).ignored == ("add_special_tokens",)
    request = tokenize.parse({"messages": HELLO, "tools": [TOOL]})
    assert request.prompt == Conversation(HELLO, [TOOL])
    assert messages.parse_count({"messages": HELLO}).prompt == Conversation(HELLO)


def test_detokenize_takes_ids():
    assert tokenize.parse_detokenize({"tokens": [1, 2]}) == (None, (1, 2))
    with pytest.raises(Refused, match="tokens: is a list; expected: a list of token ids"):
        tokenize.parse_detokenize({"tokens": [-1]})


def test_embeddings_are_numbers_or_their_bytes():
    reply = Reply(id="x", created=0, model="m")
    vectors = [[3.0, 4.0, 12.0]]
    shown = embeddings.response(embeddings.parse({"input": "a", "dimensions": 2}), reply, vectors, 5)
    assert shown["data"] == [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}]
    shown = embeddings.response(embeddings.parse({"input": "a", "encoding_format": "base64"}), reply, vectors, 5)
    assert shown["data"][0]["embedding"] == "AABAQAAAgEAAAEBB" and shown["usage"]["total_tokens"] == 5
