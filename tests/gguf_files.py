"""GGUF files byte by byte, and a tokenizer's settings in them; `tiny_gguf.py` puts models into them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from qwenkit.gguf_file import KINDS
from qwenkit.tokenizer.bytelevel import to_printable

KIND_IDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13,
            "Q6_K": 14, "BF16": 30}  # fmt: skip
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
