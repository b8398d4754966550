"""The document at `/openapi.json`: every path with what it takes, what it answers, how it refuses, and an example.

    app.openapi = lambda: document(codecs, has_keys=True)

It is made from the tables that check the bodies (`fields.py`) and from the shapes of responses (`response_schemas.py`),
so that it says what the server does. Two answers come from below and are plain text: to what is not HTTP (400), and
beyond the most connections (503).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenkit import __version__
from qwenkit.serving.faces import chat_completions, completions, embeddings, generation, messages, responses, tokenize
from qwenkit.serving.faces import conversation as turns
from qwenkit.serving.fields import Table
from qwenkit.serving.metrics import CONTENT_TYPE
from qwenkit.serving.refusals import STATUS
from qwenkit.serving.response_schemas import ANSWERS, COUNT, ERRORS, IDS, SCHEMAS, Schema, array, ref

_REFUSALS = {
    400: "The request cannot be understood; the error names the field, and what was expected.",
    401: "A key is missing, or is nobody's.",
    403: "The Host or the Origin is not one that the server was told.",
    404: "There is no such model, or not for this key.",
    408: "The body did not come within its time.",
    409: "A request with this X-Request-Id is open.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The key has asked too much for now, or too many requests wait.",
    500: "Something went wrong inside; the log has it under the request's id.",
    503: "The server ends, or the model has no room or cannot be loaded.",
    504: "The answer took too long.",
}
assert set(_REFUSALS) | {405} == set(STATUS.values())
_OF_GET = (400, 401, 403, 409, 500, 503)
_OF_POST = tuple(_REFUSALS)
_REQUEST_ID = {
    "description": "The client's own id of the request, or one that the server made.",
    "required": True,
    "schema": {"type": "string"},
}
_IGNORED = {"description": "Known fields that were given and have no effect.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}
_AUTHENTICATE = {"description": "How a key is sent.", "required": True, "schema": {"type": "string"}}
_HEADERS = {401: {"WWW-Authenticate": _AUTHENTICATE}, 429: {"Retry-After": _RETRY_AFTER}}
_ASKED = {"role": "user", "content": "What is 27+58?"}
_TEXT_OR_BLOCKS = {"anyOf": [{"type": "string"}, array({"type": "object"})]}
_STRINGS: Schema = {"anyOf": [{"type": "string"}, array({"type": "string"})]}
RANGES: dict[str, Schema] = {
    "temperature": {"minimum": 0, "maximum": 1e6}, "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1, "maximum": 2**31 - 1}, "min_p": {"minimum": 0, "maximum": 1},
    "repetition_penalty": {"minimum": 0.01, "maximum": 100}, "n": {"minimum": 1, "maximum": 128},
    **{name: {"minimum": -2, "maximum": 2} for name in ("frequency_penalty", "presence_penalty")},
    **{name: {"minimum": 0} for name in (
        "max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "seed", "priority", "thinking_budget",
        "thinking_token_budget",
    )},
    "dimensions": {"minimum": 1}, "top_logprobs": {"minimum": 0, "maximum": 20},
    "logit_bias": {"additionalProperties": {"type": "number"}, "propertyNames": {"pattern": "^[0-9]{1,18}$"}},
    "stop_token_ids": {"items": COUNT}, "allowed_token_ids": {"items": COUNT, "minItems": 1},
    "stop": _STRINGS, "bad_words": _STRINGS, "stop_sequences": {"items": {"type": "string"}},
    "modalities": {"items": {"const": "text"}, "minItems": 1, "maxItems": 1},
}  # fmt: skip
"""What values fields have, beyond their types, wherever they are taken."""
_PROMPTS: Schema = {
    "anyOf": [{"type": "string"}, {**IDS, "minItems": 1}, array({"type": "string"}, minItems=1, maxItems=1024),
              array({**IDS, "minItems": 1}, minItems=1, maxItems=1024)],
}  # fmt: skip
_RECEIVES_ID = {
    "name": "X-Request-Id", "in": "header", "required": False,
    "description": "A name of the request, which the response and the log repeat.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}$"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What one path answers to one method."""

    path: str
    id: str
    summary: str
    answer: Schema
    method: str = "post"
    body: Schema | None = None
    example: Mapping[str, Any] | None = None
    streams: bool = False
    content: str = "application/json"
    open: bool = False
    """It is answered without a key."""
    refusals: Sequence[int] = _OF_POST
    error: str = "OpenAIError"
    parameters: Sequence[Schema] = ()
    more: Mapping[int, Schema] = field(default_factory=dict[int, Schema])
    """Further responses, by their status."""

    def shown(self) -> Schema:
        """Return the operation as OpenAPI has it."""
        content: Schema = {self.content: {"schema": self.answer}}
        if self.streams:
            content["text/event-stream"] = {"schema": ref("StreamEvent")}  # of each event, as OpenAPI 3.1 has it
        headers = {"X-Request-Id": _REQUEST_ID, **({"X-Ignored-Fields": _IGNORED} if self.body else {})}
        shown: Schema = {
            "operationId": self.id,
            "summary": self.summary,
            "parameters": [_RECEIVES_ID, *self.parameters],
            "responses": {
                "200": {"description": "The answer.", "headers": headers, "content": content},
                **{str(status): self._refusal(status) for status in self.refusals if not (self.open and status == 401)},
                **{str(status): response for status, response in self.more.items()},
            },
        }
        if self.body is not None:
            given = {"schema": self.body, "example": self.example}
            shown["requestBody"] = {"required": True, "content": {"application/json": given}}
        return {**shown, "security": []} if self.open else shown

    def _refusal(self, status: int) -> Schema:
        content: Schema = {"application/json": {"schema": ref(self.error)}}
        if status in (400, 503):
            content["text/plain"] = {"schema": {"type": "string"}}
        headers = {"X-Request-Id": {**_REQUEST_ID, "required": status not in (400, 503)}, **_HEADERS.get(status, {})}
        return {"description": _REFUSALS[status], "headers": headers, "content": content}


def document(codecs: Mapping[str, Any], has_keys: bool) -> Schema:
    """Return the OpenAPI document of a server; `codecs` are those of the paths that generate."""
    paths: dict[str, Schema] = {}
    for operation in [*(_generating(path, codec) for path, codec in codecs.items()), *_others()]:
        paths.setdefault(operation.path, {})[operation.method] = operation.shown()
    keys: list[Schema] = [{"bearer": []}, {"x_api_key": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qwenkit",
            "version": __version__,
            "description": "The APIs of OpenAI's and Anthropic's clients, before models of this machine.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "security": keys if has_keys else [{}, *keys],
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


# ---- bodies ---------------------------------------------------------------------------------------------------------


def _body(table: Table, nested: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of a body; `nested` are the schemas of fields that hold more than their type says."""
    return table.schema({**RANGES, **(nested or {})})


def _tables() -> dict[str, tuple[str, Schema, Mapping[str, Any]]]:
    """Return what the codecs take: a summary, the body, an example."""
    form = generation.RESPONSE_FORMAT.schema({"json_schema": generation.JSON_SCHEMA.schema()})
    common = {
        "stream_options": generation.STREAM_OPTIONS.schema(), "response_format": form,
        "structured_outputs": generation.STRUCTURED.schema(),
    }  # fmt: skip
    texts = {**common, "prompt": _PROMPTS, "logprobs": RANGES["top_logprobs"]}
    chat = {
        **common, "messages": _turns(),
        "tools": array(chat_completions.TOOL.schema({"function": chat_completions.FUNCTION.schema()})),
    }  # fmt: skip
    return {
        "chat_completions": ("Answer a conversation.", _body(chat_completions.FIELDS, chat),
                             {"messages": [_ASKED], "max_tokens": 64}),
        "completions": ("Go on with a text.", _body(completions.FIELDS, texts),
                        {"prompt": "The river runs", "max_tokens": 16}),
        "responses": ("Answer a conversation, as items.",
                      _body(responses.FIELDS, {"tools": array(responses.TOOL.schema()),
                                               "reasoning": responses.REASONING.schema()}),
                      {"input": "What is 27+58?", "max_output_tokens": 64}),
        "messages": ("Answer a conversation, in Anthropic's form.", _body(messages.FIELDS, _anthropics()),
                     {"messages": [_ASKED], "max_tokens": 64}),
    }  # fmt: skip


def _turns() -> Schema:
    """Return the messages of OpenAI's form."""
    content = {"anyOf": [{"type": "string"}, array({"type": "object"}), {"type": "null"}]}
    roles = {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool", "function"]}
    turn = turns.FIELDS.schema({"role": roles, "content": content})
    return array({**turn, "properties": {**turn["properties"], "role": roles}, "required": ["role"]}, minItems=1)


def _anthropics() -> dict[str, Schema]:
    turn = {
        "type": "object", "properties": {"role": {"enum": ["user", "assistant", "system"]}, "content": _TEXT_OR_BLOCKS},
        "required": ["role", "content"], "additionalProperties": False,
    }  # fmt: skip
    return {
        "messages": array(turn, minItems=1), "tools": array(messages.TOOL.schema()),
        "tool_choice": messages.CHOICE.schema(), "thinking": messages.THINKING.schema(),
        "metadata": messages.METADATA.schema(),
    }  # fmt: skip


def _generating(path: str, codec: Any) -> Operation:
    """Return the operation of a codec."""
    name = getattr(codec, "__name__", type(codec).__name__).rpartition(".")[2]
    summary, body, example = _tables().get(name, ("Answer.", {"type": "object"}, {}))
    return Operation(
        path=path, id=f"{name}{path.replace('/', '_')}", summary=summary, body=body, example=example, streams=True,
        answer=ref(ANSWERS[name]) if name in ANSWERS else {}, error=ERRORS.get(name, "OpenAIError"),
    )  # fmt: skip


# ---- the other paths ------------------------------------------------------------------------------------------------


def _takes(path: str, id: str, summary: str, table: Table, answer: str, example: Mapping[str, Any],
           nested: Mapping[str, Schema] | None = None, error: str = "OpenAIError") -> Operation:  # fmt: skip
    return Operation(path=path, id=id, summary=summary, body=_body(table, nested), answer=ref(answer), example=example,
                     error=error)  # fmt: skip


def _gives(path: str, id: str, summary: str, answer: Schema, **more: Any) -> Operation:
    return Operation(path=path, id=id, summary=summary, answer=answer, method="get",
                     **{"refusals": _OF_GET, **more})  # fmt: skip


def _others() -> list[Operation]:
    """Return the operations of the paths that generate nothing."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1},
            "description": "A model's name; it may have slashes."}  # fmt: skip
    chat = {"messages": _turns(), "tools": array(chat_completions.TOOL.schema())}
    waiting = {
        "description": "It does not answer yet, or not any more.",
        "headers": {"Retry-After": {**_RETRY_AFTER, "required": False}},
        "content": {"application/json": {"schema": {"anyOf": [ref("Readiness"), ref("OpenAIError")]}},
                    "text/plain": {"schema": {"type": "string"}}},
    }  # fmt: skip
    return [
        _takes("/v1/messages/count_tokens", "count_tokens", "Count the tokens of a conversation.",
               messages.COUNT_FIELDS, "TokenCount", {"messages": [_ASKED]},
               {key: schema for key, schema in _anthropics().items() if key != "metadata"}, "AnthropicError"),
        _takes("/v1/embeddings", "embeddings", "Return a vector for each text.", embeddings.FIELDS, "Embeddings",
               {"input": "The river runs"}, {"input": _PROMPTS}),
        _takes("/tokenize", "tokenize", "Return the token ids of a text or a conversation.", tokenize.FIELDS, "Tokens",
               {"prompt": "The river runs"}, chat),
        _takes("/detokenize", "detokenize", "Return the text of token ids.", tokenize.DETOKENIZE, "Text",
               {"tokens": [1, 2, 3]}),
        _gives("/v1/models", "list_models", "List the models that may be asked.", ref("Models")),
        _gives("/v1/models/{name}", "show_model", "Show one model.", ref("Model"), parameters=(name,),
               refusals=(*_OF_GET, 404)),
        _gives("/health", "health", "Tell that the process lives.", ref("Health"), open=True),
        _gives("/ready", "ready", "Tell whether the first model answers.", ref("Readiness"), open=True,
               more={503: waiting}),
        _gives("/metrics", "metrics", "Return figures for Prometheus.", {"type": "string"}, content=CONTENT_TYPE),
        _gives("/openapi.json", "openapi", "Return this document.", {"type": "object"}),
    ]  # fmt: skip
