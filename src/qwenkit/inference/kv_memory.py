"""How many tokens a cache holds, and which prompts may share one.

    kv_tokens = default_kv_tokens(model, "auto", max_batch=128)
    kv_tokens = parse_kv_tokens(4096, model, "auto")     # what a caller asks for

Sizes are in whole blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from pathlib import Path

import torch

from qwenkit.errors import UserError
from qwenkit.inference.argument_checks import integer
from qwenkit.inference.block_pool import BLOCK, blocks_for
from qwenkit.inference.kv_quantization import token_bytes
from qwenkit.inference.sequence import Request
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.rotary import ntk_alpha
from qwenkit.platform import available_memory
from qwenkit.prompt import Prompt

_SHARE = 0.5  # of the memory that is free, which the default takes at most; the rest is for activations


def default_kv_tokens(model: Transformer, kv_cache: str, max_batch: int) -> int:
    """Return room for `max_batch` texts of the model's length, or as many tokens as half of the free memory holds: at
    least one block."""
    wanted = max_batch * blocks_for(model.config.max_length)
    free = _free_bytes(model)
    if free is None:
        return wanted * BLOCK
    return max(1, min(wanted, int(free * _SHARE) // (kv_bytes(model, kv_cache) * BLOCK))) * BLOCK


def parse_kv_tokens(given: int, model: Transformer, kv_cache: str) -> int:
    """Return a number of tokens that a caller asks for, rounded up to whole blocks.

    Raises a `UserError` for one that memory does not hold."""
    tokens: int = blocks_for(integer(1).parse(given, "kv_tokens")) * BLOCK
    size, free = tokens * kv_bytes(model, kv_cache), _free_bytes(model)
    if free is not None and size > free:
        most = free // (kv_bytes(model, kv_cache) * BLOCK) * BLOCK
        raise UserError(f"kv_tokens = {given}, which takes {size / 1e9:.1f} GB", expected=f"at most {most} tokens: "
                        f"{free / 1e9:.1f} GB are free", hint='kv_cache="int8_per_token_head" takes half')  # fmt: skip
    return tokens


def kv_bytes(model: Transformer, kv_cache: str) -> int:
    """Return how many bytes of the cache a token takes."""
    config, dtype = model.config, model.model.embed_tokens.weight.dtype
    return token_bytes(kv_cache, config.kv_heads, config.head_size, config.num_hidden_layers, dtype)


def cache_salt(request: Request, config: ModelConfig) -> Hashable | None:
    """Return what a request's keys and values depend on besides tokens and weights; None: they are not to be found."""
    digest = media_digest(request.prompt)
    if request.prompt.images and digest is None:
        return None
    extension, length = config.extension, len(request.prompt.ids)
    dynamic = extension is not None and extension.dynamic_ntk
    alpha = float(ntk_alpha(torch.tensor(length), extension.seq_length)) if dynamic and extension else 1.0
    return request.cache_salt, alpha, digest, None if request.adapter is None else request.adapter.identity


def media_digest(prompt: Prompt) -> Hashable | None:
    """Return what the media of a prompt are, or None where that is not known: keys and values depend on it.

    A `data:` URL is its own content; a file is known by its place, size and time of its last change."""
    parts: list[Hashable] = []
    for media in prompt.images:
        if media.source.startswith("data:"):
            content: Hashable = hashlib.blake2b(media.source.encode(), digest_size=16).digest()
        else:
            try:
                status = Path(media.source).stat()
            except (OSError, ValueError):
                return None
            content = (media.source, status.st_size, status.st_mtime_ns)
        parts.append((media.kind, content, media.start, media.stop))
    return tuple(parts)


def _free_bytes(model: Transformer) -> int | None:
    device = model.model.embed_tokens.weight.device
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
