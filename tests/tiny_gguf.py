"""Tiny random models in GGUF files, quantized or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from qwenkit.model import ModelConfig, Transformer, init_weights
from tests.gguf_files import file_bytes, vocabulary

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"qkv_bias": False, "qk_norm": True, "head_dim": 32},
    "llama": {"qkv_bias": False, "num_key_value_heads": 2},
    "llama with biases": {"num_key_value_heads": 1},
}
_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
          "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
          "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_proj": "attn_q",
          "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "model.embed_tokens": "token_embd",
          "model.norm": "output_norm", "lm_head": "output"}  # fmt: skip


def tiny_model(family: str = "qwen2", **changes: Any) -> Transformer:
    """Two layers of width 64, with random biases and norms."""
    shape = dict(vocab_size=264, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 max_position_embeddings=128)  # fmt: skip
    model = init_weights(Transformer(ModelConfig(**{**shape, **FAMILIES[family], **changes})), seed=3, std=0.2).eval()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() == 1:
                drawn = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.copy_(drawn + (0.5 if "norm" in name else -0.5))
    return model


def gguf_name(name: str) -> str:
    """The file's name of a parameter."""
    stem, _, part = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        return f"blk.{layer}.{_NAMES[stem]}.{part}"
    return f"{_NAMES[stem]}.{part}"


def permuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in llama.cpp's order: channels i and i + D/2 of a head beside each other."""
    return rows.view(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def settings_of(config: ModelConfig, family: str) -> dict[str, Any]:
    name = family.split(" ")[0]
    return {
        "general.architecture": name,
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.kv_heads,
        f"{name}.attention.key_length": config.head_size,
        f"{name}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{name}.rope.freq_base": config.rope_theta,
    }


def tensors_of(model: Transformer, family: str, kind: str = "F32") -> dict[str, tuple[str, np.ndarray]]:
    """The tensors of a model's file; its matrices are of one type, where they divide into its blocks."""
    config, tensors = model.config, {}
    for name, tensor in model.state_dict().items():
        written = gguf_name(name)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.kv_heads}.get(written.split(".")[-2])
        rows = permuted(tensor, heads) if heads and family.startswith("llama") else tensor
        own = kind if tensor.dim() > 1 else "F32"
        floats = np.ascontiguousarray(rows.float().numpy())
        if own == "BF16":
            bits = rows.bfloat16().contiguous().view(torch.uint8).numpy()
            tensors[written] = (own, bits)
        else:
            tensors[written] = (own, gguf.quants.quantize(floats, getattr(gguf.GGMLQuantizationType, own)))
    return tensors


def write_tiny(path: Path, family: str = "qwen2", kind: str = "F32", **changes: Any) -> Transformer:
    """Write the file of a tiny model with its tokenizer; return the model."""
    model = tiny_model(family, **changes)
    settings = settings_of(model.config, family) | vocabulary(rows=model.config.vocab_size)
    path.write_bytes(file_bytes(settings, tensors_of(model, family, kind)))
    return model
