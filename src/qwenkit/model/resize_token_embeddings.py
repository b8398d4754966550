"""A model for a longer vocabulary: new rows in its embedding and its head (report §2.2, what follows from it).

    resized = resize_token_embeddings(model, first=151851, parts=[[264, 1879], ...], rows=162048)

The row of a new token is the mean of the rows of the tokens that its text was encoded as before, in the embedding and
in the head. Unused rows stay unchanged; further ones are the mean of the unused rows (of all rows, where there were
none). Everything else of the model is the same tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.model.gptq_checkpoint import quantized_layers
from qwenkit.model.init import without_weights
from qwenkit.model.transformer import Transformer

TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def resize_token_embeddings(model: Transformer, first: int, parts: Sequence[Sequence[int]], rows: int) -> Transformer:
    """Return the model with `rows` embedding rows; the row of token `first + i` is made from those of the tokens
    `parts[i]`.

    Raises a `UserError` for a quantized model."""
    if quantized_layers(model):
        raise UserError("a quantized model cannot be resized", hint="extend the model that it was made of")
    with without_weights():
        resized = Transformer(replace(model.config, vocab_size=rows))
    state = {
        name: _longer(tensor, first, parts, rows) if name in TABLES else tensor
        for name, tensor in model.state_dict().items()
    }
    resized.load_state_dict(state, assign=True)
    return resized


def _longer(table_VD: Tensor, first: int, parts: Sequence[Sequence[int]], rows: int) -> Tensor:
    out_VD = table_VD.new_empty(rows, table_VD.shape[1])
    unused_PD = table_VD[first:] if first < len(table_VD) else table_VD
    out_VD[: len(table_VD)] = table_VD
    out_VD[len(table_VD) :] = unused_PD.float().mean(0).to(table_VD.dtype)
    for token, ids in enumerate(parts, first):
        out_VD[token] = table_VD[list(ids)].float().mean(0)
    return out_VD
