"""What responses look like, as JSON schemas for OpenAPI: the shapes of `faces/`, which golden files hold against them.

    SCHEMAS["ChatCompletion"], ANSWERS["chat_completions"]
    ERRORS["messages"]                                       # the name of an error's schema; OpenAI's for all others

Every field that a response always has is required, so that one which is lost or renamed is not a response any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
IDS: Schema = {"type": "array", "items": COUNT}


def maybe(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Schema, **more: Any) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **more}


def words(*names: str) -> Schema:
    """Return the schema of a string that is one of some."""
    return {"type": "string", "enum": list(names)}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(fields: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an object with these fields, those that it always has first."""
    properties = {**fields, **(optional or {})}
    return {"type": "object", "properties": properties, "required": sorted(fields)}


def _token(**more: Schema) -> Schema:
    return record({"token": TEXT, "logprob": maybe(NUMBER), "bytes": IDS, **more})


_LOGPROBS = record({"content": array(_token(top_logprobs=array(_token()))), "refusal": {"type": "null"}})
_CALL = record(
    {"id": TEXT, "type": words("function"), "function": record({"name": TEXT, "arguments": TEXT})}
)  # fmt: skip
_MESSAGE = record(
    {"role": words("assistant"), "content": maybe(TEXT), "refusal": {"type": "null"}},
    {"reasoning": TEXT, "reasoning_content": TEXT, "tool_calls": array(_CALL)},
)
_OLD_LOGPROBS = record(
    {
        "tokens": array(TEXT),
        "token_logprobs": array(maybe(NUMBER)),
        "top_logprobs": array(maybe({"type": "object", "additionalProperties": maybe(NUMBER)})),
        "text_offset": IDS,
    }
)
_HEAD = {"id": TEXT, "created": COUNT, "model": TEXT}
_PART = {
    "anyOf": [
        record({"type": words("output_text"), "text": TEXT, "annotations": array({}), "logprobs": array({})}),
        record({"type": words("reasoning_text"), "text": TEXT}),
    ]
}
_ITEM = {"id": TEXT, "status": words("in_progress", "completed", "incomplete")}
_OUTPUT = {
    "anyOf": [
        record({**_ITEM, "type": words("message"), "role": words("assistant"), "content": array(_PART)}),
        record({**_ITEM, "type": words("reasoning"), "summary": array({}), "content": array(_PART)}),
        record({**_ITEM, "type": words("function_call"), "call_id": TEXT, "name": TEXT, "arguments": TEXT}),
    ]
}
_BLOCK = {
    "anyOf": [
        record({"type": words("text"), "text": TEXT}),
        record({"type": words("thinking"), "thinking": TEXT, "signature": TEXT}),
        record({"type": words("tool_use"), "id": TEXT, "name": TEXT, "input": {"type": "object"}}),
    ]
}

SCHEMAS: dict[str, Schema] = {
    "OpenAIError": record(
        {"error": record({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": maybe(TEXT)})}
    ),
    "AnthropicError": record(
        {"type": words("error"), "error": record({"type": TEXT, "message": TEXT}, {"details": {"type": "object"}})}
    ),
    "Usage": record(
        {
            "prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT,
            "prompt_tokens_details": record({"cached_tokens": COUNT}),
            "completion_tokens_details": record({"reasoning_tokens": COUNT}),
        }
    ),
    "ChatCompletion": record(
        {
            **_HEAD, "object": words("chat.completion"), "usage": ref("Usage"),
            "choices": array(record(
                {"index": COUNT, "message": _MESSAGE, "finish_reason": words("stop", "length", "tool_calls"),
                 "logprobs": maybe(_LOGPROBS)},
                {"token_ids": IDS},
            )),
        },
        {"prompt_token_ids": IDS},
    ),
    "Completion": record(
        {
            **_HEAD, "object": words("text_completion"), "usage": ref("Usage"),
            "choices": array(record(
                {"index": COUNT, "text": TEXT, "finish_reason": words("stop", "length"),
                 "logprobs": maybe(_OLD_LOGPROBS)},
                {"token_ids": IDS, "prompt_token_ids": IDS},
            )),
        }
    ),
    "Response": record(
        {
            "id": TEXT, "object": words("response"), "created_at": COUNT, "model": TEXT, "output": array(_OUTPUT),
            "status": words("completed", "incomplete"), "error": {"type": "null"},
            "incomplete_details": maybe(record({"reason": words("max_output_tokens")})), "store": BOOLEAN,
            "usage": record(
                {
                    "input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT,
                    "input_tokens_details": record({"cached_tokens": COUNT}),
                    "output_tokens_details": record({"reasoning_tokens": COUNT}),
                }
            ),
            "instructions": maybe(TEXT), "metadata": {"type": "object"}, "parallel_tool_calls": BOOLEAN,
            "temperature": maybe(NUMBER), "text": {"type": "object"}, "tool_choice": {}, "tools": array({}),
            "top_p": maybe(NUMBER),
        }
    ),
    "Message": record(
        {
            "id": TEXT, "type": words("message"), "role": words("assistant"), "model": TEXT, "content": array(_BLOCK),
            "stop_reason": words("end_turn", "max_tokens", "stop_sequence", "tool_use"), "stop_sequence": maybe(TEXT),
            "usage": record(
                {"input_tokens": COUNT, "output_tokens": COUNT, "cache_read_input_tokens": COUNT,
                 "cache_creation_input_tokens": COUNT}
            ),
        }
    ),
    "StreamEvent": {
        **record({"data": TEXT}, {"event": TEXT}),
        "description": "The data of an event is JSON, except at the end of OpenAI's older APIs: [DONE].",
    },
    "TokenCount": record({"input_tokens": COUNT}),
    "Embeddings": record(
        {
            "object": words("list"), "model": TEXT,
            "data": array(record({"object": words("embedding"), "index": COUNT,
                                  "embedding": {"anyOf": [array(NUMBER), TEXT]}})),
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        }
    ),
    "Tokens": record(
        {"count": COUNT, "max_model_len": COUNT, "tokens": IDS, "token_strs": maybe(array(TEXT))}
    ),
    "Text": record({"prompt": TEXT}),
    "Model": record(
        {"id": TEXT, "object": words("model"), "created": COUNT, "owned_by": TEXT, "root": TEXT,
         "parent": {"type": "null"}, "max_model_len": maybe(COUNT)}
    ),
    "Models": record({"object": words("list"), "data": array(ref("Model"))}),
    "Health": record({"status": words("ok")}),
    "Readiness": record({"status": words("ready", "loading", "stalled", "failed", "draining")}),
}  # fmt: skip
ANSWERS = {
    "chat_completions": "ChatCompletion", "completions": "Completion", "responses": "Response", "messages": "Message",
}  # fmt: skip
"""The schema of a complete response, by the name of its codec."""
ERRORS = {"messages": "AnthropicError"}
