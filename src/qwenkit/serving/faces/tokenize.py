"""`/tokenize` and `/detokenize`, as vLLM has them.

    request = parse(body)                    # a prompt, or messages
    tokenized(request, ids, tok, max_model_len)
    ids = parse_detokenize(body);  detokenized(ids, tok)

A text is encoded as it is: names of special tokens in it are text, unless `parse_special` is true. Qwen's vocabularies
have no token that begins a text, so that `add_special_tokens` has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwenkit.inference import Conversation
from qwenkit.serving.faces.chat_completions import read_tools
from qwenkit.serving.faces.conversation import conversation, fields_without_effect
from qwenkit.serving.faces.frames import openai_error
from qwenkit.serving.fields import BOOLEAN, LIST, OBJECT, TEXT, Table, refused, token_ids
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Refusal
from qwenkit.serving.request import TextRequest
from qwenkit.tokenizer.core import UNKNOWN

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer

FIELDS = Table(
    {
        "model": TEXT, "prompt": TEXT, "messages": LIST, "tools": LIST, "return_token_strs": BOOLEAN,
        "parse_special": BOOLEAN, "chat_template_kwargs": OBJECT, "add_generation_prompt": BOOLEAN,
    },
    ignored=("add_special_tokens",),
    unsupported={"continue_final_message": "", "chat_template": "use the model's own"},
)  # fmt: skip
DETOKENIZE = Table({"model": TEXT, "tokens": LIST}, required=("tokens",))


def parse(body: bytes | str | Mapping[str, Any]) -> TextRequest:
    """Return what a body of `/tokenize` asks; raises `Refused` for what cannot be asked."""
    values = FIELDS.read(read_body(body))
    if ("prompt" in values) == ("messages" in values):
        raise refused("prompt", "is given beside messages" if "prompt" in values else "is missing",
                      "prompt or messages", "missing_field")  # fmt: skip
    if values.get("add_generation_prompt") is False:
        raise refused("add_generation_prompt", "is false", "true", "unsupported_field")
    unread: tuple[str, ...] = ()
    if "prompt" in values:
        prompt = values["prompt"]
    else:
        kwargs = dict(values.get("chat_template_kwargs", {}))
        thinking = kwargs.pop("enable_thinking", None)
        unread = fields_without_effect(values["messages"])
        places = [f"messages[{i}]" for i in range(len(values["messages"]))]
        messages, tools = conversation(values["messages"], places), read_tools(values)[0].tools
        prompt = Conversation(messages, [*tools] or None, thinking, kwargs or None)
    return TextRequest(
        model=values.get("model"), prompt=prompt, return_token_strs=values.get("return_token_strs", False),
        parse_special=values.get("parse_special", False), ignored=(*values.ignored, *unread),
    )  # fmt: skip


def tokenized(request: TextRequest, ids: Sequence[int], tok: ChatTokenizer, max_model_len: int) -> dict[str, Any]:
    """Return the response of `/tokenize`."""
    strings = [token_text(tok, id) for id in ids] if request.return_token_strs else None
    return {"count": len(ids), "max_model_len": max_model_len, "tokens": list(ids), "token_strs": strings}


def token_text(tok: ChatTokenizer, id: int) -> str:
    """Return a token as text, with U+FFFD for bytes that are no whole character."""
    return tok.decode_bytes([id], unknown=UNKNOWN).decode("utf-8", "replace")


def parse_detokenize(body: bytes | str | Mapping[str, Any]) -> tuple[str | None, tuple[int, ...]]:
    """Return the model and the ids of a body of `/detokenize`; raises `Refused` for anything else."""
    values = DETOKENIZE.read(read_body(body))
    return values.get("model"), token_ids(values["tokens"], "tokens")


def detokenized(ids: Sequence[int], tok: ChatTokenizer) -> dict[str, Any]:
    """Return the response of `/detokenize`; raises `Refused` for ids that are not in the vocabulary."""
    bad = next((id for id in ids if id >= tok.vocab_size), None)
    if bad is not None:
        raise refused("tokens", f"{bad} is not a token", f"token ids from 0 to {tok.vocab_size - 1}")
    return {"prompt": tok.decode_bytes(ids, unknown=UNKNOWN).decode("utf-8", "replace")}


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal."""
    return openai_error(refusal)
