"""RoPE (rotary position embedding; Su et al., 2021) and context extension beyond the trained length (report §2.5).

    rotary = rotary_tables(config, positions_BT, lengths_BT)     # once a forward pass
    q_BHTD, k_BGTD = rotary.rotate_q(q_BHTD), rotary.rotate_k(k_BGTD)    # in every layer

| method        | of          | what it does                                                                          |
| ------------- | ----------- | ------------------------------------------------------------------------------------- |
| dynamic NTK   | first Qwen  | raises the base by alpha(length of the prompt), so that slow channels turn slower     |
| LogN          | first Qwen  | multiplies the query at position p by log(p + 1) / log(seq_length), beyond seq_length |
| YaRN          | Qwen2.5, 3  | interpolates the slow channels, keeps the fast ones, and scales cosine and sine       |
| layer windows | the report  | bound how far a layer attends: `attention.py`                                         |

alpha belongs to a *sequence* and is fixed when its prompt is read, as in the official code: a rotation that is cached
cannot be changed later. So an answer that grows over a power of two keeps its prompt's alpha, and differs from a
forward pass over the whole sequence.

Sources: dynamic NTK and LogN follow the official code of the first Qwen (NTK-aware scaling: bloc97, 2023; LogN: Su,
2021); YaRN is Peng et al., 2023.

Legend: B rows, T tokens, H heads, D head width. Angles are float32, whatever the model is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.model.config import ModelConfig, Yarn


class Rotary(NamedTuple):
    """Cosines and sines [B, 1, T, D/2] in float32, and the factor of the queries, [B, 1, T, 1] or None."""

    cos: Tensor
    sin: Tensor
    query_scale: Tensor | None = None

    def rotate_k(self, x_BHTD: Tensor) -> Tensor:
        """Rotate channel i together with channel i + D/2, in float32; return [B, H, T, D] in the dtype of `x`."""
        low, high = x_BHTD.float().chunk(2, dim=-1)
        rotated = torch.cat((low * self.cos - high * self.sin, high * self.cos + low * self.sin), dim=-1)
        return rotated.to(x_BHTD.dtype)

    def rotate_q(self, x_BHTD: Tensor) -> Tensor:
        """Return the queries rotated in the same way, then scaled by LogN."""
        rotated = self.rotate_k(x_BHTD)
        return rotated if self.query_scale is None else rotated * self.query_scale.to(rotated.dtype)


def rotary_tables(
    config: ModelConfig, positions_BT: Tensor, lengths_BT: Tensor | None = None, extended: bool = True
) -> Rotary:
    """Return the cosines and sines (RoPE; Su et al., 2021) of these positions, [B, T] or [1, T].

    `lengths_BT` is the length in tokens of each token's sequence, for dynamic NTK. `extended=False` leaves out dynamic
    NTK and LogN, which only act outside training.

    The tables are built at use: stored on the module, they would follow `model.bfloat16()` and lose the float32
    precision that the report asks for."""
    extension = config.extension if extended else None
    inverse_D = inverse_frequencies(config, positions_BT.device)
    factor = 1.0 if config.yarn is None else _yarn_attention_factor(config.yarn)
    if extension is not None and extension.dynamic_ntk and lengths_BT is not None:
        alpha_BT = ntk_alpha(lengths_BT, extension.seq_length)
        inverse_D = _ntk_frequencies(config, alpha_BT)
    angles_BTD = positions_BT[..., None].float() * inverse_D
    cos, sin = angles_BTD.cos()[:, None], angles_BTD.sin()[:, None]
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    scale = None
    if extension is not None and extension.logn:
        scale = logn_scale(positions_BT, extension.seq_length)[:, None, :, None]
    return Rotary(cos, sin, scale)


def inverse_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Return [D/2] in float32: the angle in radians by which each pair of channels turns per position."""
    frequencies_D = 1.0 / config.rope_theta ** _exponents(config.head_size, device)
    return frequencies_D if config.yarn is None else _yarn_frequencies(config.yarn, frequencies_D, config)


def ntk_alpha(lengths: Tensor, seq_length: int) -> Tensor:
    """Return the factor alpha of dynamic NTK: max(2^ceil(log2(length / seq_length) + 1) - 1, 1).

    It is 1 up to `seq_length`, then 3, 7, 15 with each doubling of the length. The base of the rotation becomes
    rope_theta * alpha^(D / (D - 2)) (NTK-aware scaling: bloc97, 2023; the steps are the first Qwen's)."""
    doublings = torch.ceil(torch.log2(lengths.double() / seq_length) + 1)
    return (2.0**doublings - 1).clamp(min=1)


def logn_scale(positions: Tensor, seq_length: int) -> Tensor:
    """Return LogN scaling (Su, 2021) at position p: max(1, log(p + 1) / log(seq_length)).

    It keeps the entropy of attention from growing with the number of keys."""
    return (torch.log(positions.double() + 1) / math.log(seq_length)).clamp(min=1).float()


def doubling_windows(num_layers: int, seq_length: int) -> tuple[int, ...]:
    """Return one window in tokens for each layer; it doubles with every eighth of the depth, starting at `seq_length`.

    The values are ours: the report says only that lower layers want shorter windows. A maintainer's illustration for
    the 32 layers of 7B (2048 for the first four, 4096 for the next four, 8192 above ...) is carried on to the top."""
    return tuple(seq_length << (8 * layer // num_layers) for layer in range(num_layers))


def _exponents(head_dim: int, device: torch.device | None) -> Tensor:
    return torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim


def _ntk_frequencies(config: ModelConfig, alpha_BT: Tensor) -> Tensor:
    """Return [B, T, D/2], the frequencies of the base that alpha raises."""
    base_BT = config.rope_theta * alpha_BT ** (config.head_size / (config.head_size - 2))
    return 1.0 / base_BT.float()[..., None] ** _exponents(config.head_size, alpha_BT.device)


def _yarn_attention_factor(yarn: Yarn) -> float:
    """Return the factor of cosine and sine that keeps the softmax as sharp as it was trained: 0.1 ln(factor) + 1."""
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    return 1.0 if yarn.factor <= 1 else 0.1 * math.log(yarn.factor) + 1.0


def _yarn_frequencies(yarn: Yarn, frequencies_D: Tensor, config: ModelConfig) -> Tensor:
    """Return YaRN's frequencies [D/2] (Peng et al., 2023, "NTK-by-parts").

    Channels that turn more than `beta_fast` times over the trained length stay, those that turn less than `beta_slow`
    times are slowed down by `factor`, a linear ramp lies between."""
    low, high = (_channel(turns, yarn, config) for turns in (yarn.beta_fast, yarn.beta_slow))
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_size - 1)
    high = high if high != low else high + 0.001
    channel_D = torch.arange(len(frequencies_D), dtype=torch.float32, device=frequencies_D.device)
    unscaled_D = 1 - ((channel_D - low) / (high - low)).clamp(0, 1)
    return frequencies_D / yarn.factor * (1 - unscaled_D) + frequencies_D * unscaled_D


def _channel(turns: float, yarn: Yarn, config: ModelConfig) -> float:
    """Return the channel (a fraction) that turns that many times over the trained length."""
    length = yarn.original_max_position_embeddings
    return config.head_size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))
