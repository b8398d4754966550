"""Where a token stands: rotary positions, and how a context is stretched beyond the trained length (report §2.5).

    rotary = rotary_tables(config, positions_BT, lengths_BT)     # once a forward pass
    q_BHTD, k_BGTD = rotary.query(q_BHTD), rotary.key(k_BGTD)    # in every layer

| trick         | of          | what it does                                                                          |
| ------------- | ----------- | ------------------------------------------------------------------------------------- |
| dynamic NTK   | first Qwen  | raises the base by alpha(length of the prompt), so that slow channels turn slower     |
| LogN          | first Qwen  | multiplies the query at position p by log(p + 1) / log(seq_length), beyond seq_length |
| YaRN          | Qwen2.5, 3  | interpolates the slow channels, keeps the fast ones, and weighs cosine and sine       |
| layer windows | the report  | is a matter of who sees whom: `attention.py`                                          |

alpha belongs to a *sequence* and is fixed when its prompt is read, as in the official code: a rotation that is cached
cannot be taken back. So an answer that grows over a power of two keeps its prompt's alpha, and differs from a forward
pass over the whole.

Legend: B rows, T tokens, H heads, D head width. Angles are float32, whatever the model is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.model.config import ModelConfig, Yarn


class Rotary(NamedTuple):
    """Cosines and sines [B, 1, T, D/2] in float32, and what queries are multiplied by ([B, 1, T, 1] or None)."""

    cos: Tensor
    sin: Tensor
    query_scale: Tensor | None = None

    def key(self, x_BHTD: Tensor) -> Tensor:
        """Turn channel i together with channel i + D/2, in float32; the result has the type of `x`."""
        low, high = x_BHTD.float().chunk(2, dim=-1)
        turned = torch.cat((low * self.cos - high * self.sin, high * self.cos + low * self.sin), dim=-1)
        return turned.to(x_BHTD.dtype)

    def query(self, x_BHTD: Tensor) -> Tensor:
        """The same turn, then LogN."""
        turned = self.key(x_BHTD)
        return turned if self.query_scale is None else turned * self.query_scale.to(turned.dtype)


def rotary_tables(
    config: ModelConfig, positions_BT: Tensor, lengths_BT: Tensor | None = None, extended: bool = True
) -> Rotary:
    """The tables of these positions. `lengths_BT` says how long each token's sequence is (dynamic NTK asks).

    Built at use: a table kept on the module would follow `model.bfloat16()` and lose the precision that the report
    asks for. `extended=False` leaves out what only acts outside training.
    """
    extension = config.extension if extended else None
    inverse_D = inverse_frequencies(config, positions_BT.device)
    weight = 1.0 if config.yarn is None else _yarn_weight(config.yarn)
    if extension is not None and extension.dynamic_ntk and lengths_BT is not None:
        alpha_BT = ntk_alpha(lengths_BT, extension.seq_length)
        inverse_D = _ntk_frequencies(config, alpha_BT)
    angles_BTD = positions_BT[..., None].float() * inverse_D
    cos, sin = angles_BTD.cos()[:, None], angles_BTD.sin()[:, None]
    if weight != 1.0:
        cos, sin = cos * weight, sin * weight
    scale = None
    if extension is not None and extension.logn:
        scale = logn_scale(positions_BT, extension.seq_length)[:, None, :, None]
    return Rotary(cos, sin, scale)


def inverse_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """[D/2] in float32: how far each pair of channels turns from one position to the next."""
    turns_D = 1.0 / config.rope_theta ** _exponents(config.head_size, device)
    return turns_D if config.yarn is None else _yarn_frequencies(config.yarn, turns_D, config)


def ntk_alpha(lengths: Tensor, seq_length: int) -> Tensor:
    """max(2^ceil(log2(length / seq_length) + 1) - 1, 1): 1 up to `seq_length`, then 3, 7, 15 with each doubling."""
    doublings = torch.ceil(torch.log2(lengths.double() / seq_length) + 1)
    return (2.0**doublings - 1).clamp(min=1)


def logn_scale(positions: Tensor, seq_length: int) -> Tensor:
    """log_seq_length(p + 1) where that is above 1: the entropy of attention stays as it was over `seq_length` keys."""
    return (torch.log(positions.double() + 1) / math.log(seq_length)).clamp(min=1).float()


def doubling_windows(num_layers: int, seq_length: int) -> tuple[int, ...]:
    """Windows that double with every eighth of the depth, beginning at `seq_length`.

    Ours: the report says only that lower layers want shorter windows. A maintainer's illustration for the 32 layers of
    7B (2048 for the first four, 4096 for the next four, 8192 above ...) is carried on to the top.
    """
    return tuple(seq_length << (8 * layer // num_layers) for layer in range(num_layers))


def _exponents(head_dim: int, device: torch.device | None) -> Tensor:
    return torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim


def _ntk_frequencies(config: ModelConfig, alpha_BT: Tensor) -> Tensor:
    """[B, T, D/2]: the frequencies of a base that alpha has raised."""
    base_BT = config.rope_theta * alpha_BT ** (config.head_size / (config.head_size - 2))
    return 1.0 / base_BT.float()[..., None] ** _exponents(config.head_size, alpha_BT.device)


def _yarn_weight(yarn: Yarn) -> float:
    """What keeps the softmax as sharp as it was trained."""
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    return 1.0 if yarn.factor <= 1 else 0.1 * math.log(yarn.factor) + 1.0


def _yarn_frequencies(yarn: Yarn, turns_D: Tensor, config: ModelConfig) -> Tensor:
    """Channels that turn more than `beta_fast` times over the trained length stay, those under `beta_slow` times are
    slowed down by `factor`, a ramp lies between."""
    low, high = (_channel(turns, yarn, config) for turns in (yarn.beta_fast, yarn.beta_slow))
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_size - 1)
    high = high if high != low else high + 0.001
    channel_D = torch.arange(len(turns_D), dtype=torch.float32, device=turns_D.device)
    kept_D = 1 - ((channel_D - low) / (high - low)).clamp(0, 1)
    return turns_D / yarn.factor * (1 - kept_D) + turns_D * kept_D


def _channel(turns: float, yarn: Yarn, config: ModelConfig) -> float:
    """The channel (a fraction) that turns that many times over the trained length."""
    length = yarn.original_max_position_embeddings
    return config.head_size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))
