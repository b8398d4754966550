"""The shape of a model (report §1.3, Table 1), checked when it is made.

    config = ModelConfig(vocab_size=1536, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
                         num_attention_heads=4)

Names are Hugging Face's `Qwen2Config`. `intermediate_size` is the true width of the SwiGLU network (the first Qwen's
`config.json` wrote twice that number). `dropout` acts on the output of every residual branch while training; it belongs
to a training run, so it is never written into a model folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the tensors of a `Transformer` and what it computes with them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    """Heads of keys and values; None: as many as query heads (the report's multi-head attention)."""
    head_dim: int | None = None
    """Width of one head; None: hidden_size / num_attention_heads."""
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    qkv_bias: bool = True
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.hidden_size // max(self.num_attention_heads, 1))
        if problems := self._problems():
            raise UserError("; ".join(problems), where="model configuration", expected="a shape that can be built")

    @property
    def kv_heads(self) -> int:
        """`num_key_value_heads`, always a number."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """`head_dim`, always a number."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def _problems(self) -> list[str]:
        """Everything wrong with the values, so that one message names it all."""
        counts = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        )
        found = [
            f"{name} = {getattr(self, name)!r} is not a positive integer"
            for name in counts
            if not _is_positive_int(getattr(self, name))
        ]
        measures = ("rope_theta", "rms_norm_eps", "initializer_range", "dropout")
        found += [
            f"{name} = {getattr(self, name)!r} is not a number"
            for name in measures
            if not isinstance(getattr(self, name), int | float)
        ]
        if found:
            return found
        heads, width = self.num_attention_heads, self.hidden_size
        if self.head_size == width // heads and width % heads:
            found.append(f"hidden_size = {self.hidden_size} does not divide into {self.num_attention_heads} heads")
        if self.num_attention_heads % self.kv_heads:
            found.append(
                f"num_attention_heads = {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads = {self.kv_heads}"
            )
        if self.head_size % 2:
            found.append(f"head_dim = {self.head_size} is odd, but rotary positions turn pairs of channels")
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"dropout = {self.dropout} is not in [0, 1)")
        found += [
            f"{name} = {getattr(self, name)} is not positive" for name in measures[:-1] if not getattr(self, name) > 0
        ]
        return found


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
