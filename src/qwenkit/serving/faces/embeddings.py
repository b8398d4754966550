"""`/v1/embeddings`: a vector for each text, in OpenAI's form. Where the vectors come from is the server's affair.

    request = parse(body)                    # an `EmbeddingRequest`
    response(request, reply, vectors, prompt_tokens)

Texts and lists of token ids are taken, one or several.
"""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from qwenkit.serving.faces.completions import read_prompts
from qwenkit.serving.faces.frames import openai_error
from qwenkit.serving.fields import ANY, INTEGER, TEXT, Table, one_of, refused, wrong
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Refusal
from qwenkit.serving.request import EmbeddingRequest, Reply

FIELDS = Table(
    {"input": ANY, "model": TEXT, "encoding_format": one_of("float", "base64"), "dimensions": INTEGER, "user": TEXT},
    required=("input",),
    ignored=("request_id",),
)


def parse(body: bytes | str | Mapping[str, Any]) -> EmbeddingRequest:
    """Return what a body asks; raises `Refused` for what cannot be asked."""
    values = FIELDS.read(read_body(body))
    inputs = read_prompts(values["input"], "input", "a string, a list of token ids, or a list of either")
    if not all(inputs):
        raise refused("input", "has an empty text", "texts of at least one token")
    dimensions = values.get("dimensions")
    if dimensions is not None and dimensions < 1:
        raise wrong("dimensions", dimensions, "1 or more")
    return EmbeddingRequest(
        model=values.get("model"), inputs=inputs, encoding=values.get("encoding_format", "float"),
        dimensions=dimensions, user=values.get("user"), ignored=values.ignored,
    )  # fmt: skip


def response(
    request: EmbeddingRequest, reply: Reply, vectors: Sequence[Sequence[float]], prompt_tokens: int
) -> dict[str, Any]:
    """Return the vectors, one for each input; with `dimensions` their first numbers, at length 1."""
    data = [
        {"object": "embedding", "index": index, "embedding": _written(_shortened(vector, request.dimensions), request)}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data, "model": reply.model, "usage": used}


def _shortened(vector: Sequence[float], dimensions: int | None) -> Sequence[float]:
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise refused("dimensions", f"is {dimensions}", f"at most {len(vector)}")
    length = math.hypot(*vector[:dimensions]) or 1.0
    return [number / length for number in vector[:dimensions]]


def _written(vector: Sequence[float], request: EmbeddingRequest) -> list[float] | str:
    if request.encoding == "float":
        return list(vector)
    return base64.b64encode(array("f", vector).tobytes()).decode()


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal."""
    return openai_error(refusal)
