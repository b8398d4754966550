"""GGUF files of every sort: byte by byte, for what is to be refused, and of tiny random models, quantized or not."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from qwenkit.gguf_file import KINDS
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.tokenizer.bytelevel import to_printable

Array = tuple[int, list[Any]]
KIND_IDS = {kind: int(getattr(gguf.GGMLQuantizationType, kind)) for kind in KINDS}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(of: Any) -> bytes:
    """A value with its type: strings, booleans, uint32, float32, arrays of strings or of int32."""
    if isinstance(of, bool):
        return struct.pack("<IB", 7, of)
    if isinstance(of, int):
        return struct.pack("<II", 4, of)
    if isinstance(of, float):
        return struct.pack("<If", 6, of)
    if isinstance(of, str):
        return struct.pack("<I", 8) + string(of)
    if of and isinstance(of[0], int):
        return struct.pack(f"<IIQ{len(of)}i", 9, 5, len(of), *of)
    return struct.pack("<IIQ", 9, 8, len(of)) + b"".join(map(string, of))


def entry(key: str, raw: bytes) -> bytes:
    """A setting; `raw` is its type and value."""
    return string(key) + raw


def info(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """The entry of a tensor in the header; its shape has the rows first."""
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)


def header(settings: list[bytes], tensors: list[bytes], version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(settings)) + b"".join((*settings, *tensors))


def file_bytes(settings: Mapping[str, Any], tensors: Mapping[str, tuple[str, np.ndarray]]) -> bytes:
    """A whole file; a tensor is its type and its bytes by rows (uint8), or floats."""
    infos, data, values = [], b"", [entry(key, value(of)) for key, of in settings.items()]
    for name, (kind, rows) in tensors.items():
        block = KINDS[kind]
        columns = rows.nbytes // (rows.size // rows.shape[-1]) // block.size * block.values
        infos.append(info(name, (*rows.shape[:-1], columns), KIND_IDS[kind], len(data)))
        data += rows.tobytes()
        data += bytes(-len(data) % 32)
    head = header(values, infos)
    return head + bytes(-len(head) % 32) + data


# ---- tiny models ----------------------------------------------------------------------------------------------------

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


def vocabulary(pre: str = "qwen2", lacking: frozenset[int] = frozenset(), rows: int = 264) -> dict[str, Any]:
    """A tokenizer of single bytes, one merge, the special tokens, a word, and unused ones."""
    single = [to_printable(bytes([b])) for b in range(256)]
    tokens = [f"[LACK{b}]" if b in lacking else sign for b, sign in enumerate(single)]
    kinds = [5 if b in lacking else 1 for b in range(256)]
    tokens += ["ab", *SPECIAL, "<think>"]
    kinds += [1, 3, 3, 3, 4]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), rows)]
    kinds += [5] * (rows - len(kinds))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.padding_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def write_tiny(path: Path, family: str = "qwen2", kind: str = "F32", **changes: Any) -> Transformer:
    """Write the file of a tiny model with its tokenizer; return the model."""
    model = tiny_model(family, **changes)
    settings = settings_of(model.config, family) | vocabulary(rows=model.config.vocab_size)
    path.write_bytes(file_bytes(settings, tensors_of(model, family, kind)))
    return model
