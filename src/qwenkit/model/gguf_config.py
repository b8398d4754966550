"""The shape of a model in a GGUF file: its settings under llama.cpp's names as a `ModelConfig`.

    config = gguf_config(read_gguf("model.gguf"))

Architectures: qwen2, qwen3 and llama. Every setting of the architecture that would change what is computed is read, has
the one value that is assumed here, or is refused by its key; so is one that is not known, until `accept_unknown` names
it. A llama with biases on queries, keys and values computes as a qwen2 does, and becomes one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qwenkit.errors import UserError, nearest, within
from qwenkit.gguf_file import GGUFFile
from qwenkit.model.config import ModelConfig, Yarn
from qwenkit.model.formats.keys import accepted

ARCHITECTURES = ("qwen2", "qwen3", "llama")
EMBEDDINGS, HEAD, QUERY_BIAS = "token_embd.weight", "output.weight", "blk.0.attn_q.bias"
_SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}
"""The sizes that every file gives."""
_READ = frozenset(
    "attention.head_count_kv attention.key_length attention.layer_norm_rms_epsilon rope.dimension_count rope.freq_base "
    "rope.scaling.factor rope.scaling.original_context_length rope.scaling.type vocab_size".split()
)
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (True, False),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
    "use_parallel_residual": (False,),
}
"""Settings with the values that are assumed here."""


def gguf_config(file: GGUFFile, accept_unknown: Iterable[str] = (), dropout: float = 0.0) -> ModelConfig:
    """Return the configuration that a file describes; raises a `UserError` for what is missing or not supported."""
    architecture = file.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(f"the architecture {architecture!r:.80} is not supported",
                        where=file.where("general.architecture"), expected=", ".join(ARCHITECTURES))  # fmt: skip
    _refuse_unknown(file, architecture, accept_unknown)
    sizes: dict[str, Any] = {name: file.integer(f"{architecture}.{key}") for name, key in _SIZES.items()}
    heads = sizes["num_attention_heads"]
    biased = architecture == "qwen2" or (architecture == "llama" and QUERY_BIAS in file.tensors)
    head_dim = file.integer(f"{architecture}.attention.key_length", sizes["hidden_size"] // max(1, heads))
    values = file.integer(f"{architecture}.attention.value_length", head_dim)
    turned = file.integer(f"{architecture}.rope.dimension_count", head_dim)
    if values != head_dim or turned != head_dim:
        raise UserError(f"heads of {head_dim} channels with values of {values}, of which {turned} are turned",
                        where=str(file.path), expected="three times the same number")  # fmt: skip
    ends = _ids(file, "eos", "eot")
    fields: dict[str, Any] = {
        **sizes,
        "vocab_size": _rows(file, architecture),
        "num_key_value_heads": file.integer(f"{architecture}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "tie_word_embeddings": HEAD not in file.tensors,
        "rope_theta": file.number(f"{architecture}.rope.freq_base", 10000.0),
        "rms_norm_eps": file.number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        "qkv_bias": biased,
        "qk_norm": architecture == "qwen3",
        "yarn": _yarn(file, architecture, sizes["max_position_embeddings"]),
        "bos_token_id": next(iter(_ids(file, "bos")), None),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "model_type": "qwen2" if biased else architecture,
        "dropout": dropout,
    }
    with within(str(file.path)):
        return ModelConfig(**fields)


def _ids(file: GGUFFile, *names: str) -> tuple[int, ...]:
    """Return the special tokens that a file names, each once."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in names]
    return tuple(dict.fromkeys(file.integer(key) for key in keys if key in file))


def _rows(file: GGUFFile, architecture: str) -> int:
    """Return the number of embedding rows; the tokenizer, where there is one, must have as many tokens."""
    if EMBEDDINGS not in file.tensors:
        raise UserError(f"missing: {EMBEDDINGS}", where=str(file.path))
    rows = file.tensors[EMBEDDINGS].shape[0]
    if (vocab_size := file.integer(f"{architecture}.vocab_size", rows)) != rows:
        raise UserError(f"it is {vocab_size}, and {EMBEDDINGS} has {rows} rows",
                        where=file.where(f"{architecture}.vocab_size"))  # fmt: skip
    return rows


def _yarn(file: GGUFFile, architecture: str, positions: int) -> Yarn | None:
    """Return YaRN where the file asks for it; raises a `UserError` for other ways to stretch the rotation."""
    stem = f"{architecture}.rope.scaling"
    kind, factor = file.text(f"{stem}.type", "none"), file.number(f"{stem}.factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind != "yarn":
        raise UserError(f"it is {kind!r:.80} with a factor of {factor:g}", where=file.where(f"{stem}.type"),
                        expected="none or yarn")  # fmt: skip
    original = file.integer(f"{stem}.original_context_length", positions)
    return Yarn(factor=factor, original_max_position_embeddings=original)


def _refuse_unknown(file: GGUFFile, architecture: str, accept_unknown: Iterable[str]) -> None:
    """Raise a `UserError` for a setting of the architecture that is not known here, or has a value that is not."""
    known, stem = {*_SIZES.values(), *_READ, "attention.value_length"}, f"{architecture}."
    names = accepted(accept_unknown)
    for key in file:
        name = key.removeprefix(stem)
        if not key.startswith(stem) or name in known or key in names:
            continue
        if name not in _NEUTRAL:
            raise UserError("a setting that is not known here", where=file.where(key), nearest=nearest(name, known),
                            hint=f"if it changes nothing: accept_unknown = [\"{key}\"]")  # fmt: skip
        if (value := file.scalar(key)) not in _NEUTRAL[name]:
            raise UserError(f"it is {value!r:.80}, which is not supported", where=file.where(key),
                            expected=" or ".join(map(repr, _NEUTRAL[name])))  # fmt: skip
