"""The shape of a model (report §1.3, Table 1; the later generations'), checked when it is made.

    config = ModelConfig(vocab_size=1536, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
                         num_attention_heads=4)

Names are Hugging Face's. `intermediate_size` is the true width of the SwiGLU network (the first Qwen's `config.json`
writes twice that number). What only some families have has a class of its own: `MoEConfig`, `Yarn`,
`ContextExtension`.

`dropout` acts on the output of every residual branch while training; it belongs to a training run, so it is never
written into a model folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qwenkit.errors import UserError
from qwenkit.settings import setting

LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**18,
    "intermediate_size": 2**22,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 4096,
    "max_position_embeddings": 2**31,
    "num_experts": 1024,
    "moe_intermediate_size": 2**22,
    "seq_length": 2**31,
    "original_max_position_embeddings": 2**31,
}
"""Larger numbers are a mistake or an attack, not a model: they are refused before anything is built."""
MOST_EXPERTS = 2**16
"""In all layers together; the largest models that were released have under 2^14."""


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """A mixture of experts in place of the feed-forward layer (Qwen1.5-MoE, Qwen3-MoE)."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int | None = None
    """Width of the expert that every token passes, behind a gate of its own; None: there is none."""
    norm_topk_prob: bool = False
    """Whether the weights of the chosen experts are scaled to sum to one."""
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001
    """Kept for the folder; the loss is not part of the forward pass."""

    def sparse(self, layer: int) -> bool:
        """Return whether a layer has experts."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN (Peng et al., 2023), the context extension of Qwen2.5 and Qwen3: slow channels are interpolated, fast ones
    kept."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """The factor of cosines and sines; None: 0.1 ln(factor) + 1."""
    truncate: bool = True


@dataclass(frozen=True, kw_only=True)
class ContextExtension:
    """The training-free context extension of the first Qwen (report §2.5). Both parts act beyond `seq_length` tokens,
    and only outside training. Its third part, windows by layer, is `ModelConfig.windows`."""

    seq_length: int
    """Tokens that the model was trained at."""
    dynamic_ntk: bool = False
    logn: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the tensors of a `Transformer` and what it computes with them.

    What a `setting` gives is also a key of pretraining, with the 7B model of Table 1 as its default there."""

    vocab_size: int
    hidden_size: int = setting(doc="width of the hidden states", recipe=4096, ge=8)
    num_hidden_layers: int = setting(doc="Transformer blocks", recipe=32, ge=1)
    num_attention_heads: int = setting(doc="attention heads", recipe=32, ge=1)
    num_key_value_heads: int | None = setting(
        None, doc="key/value heads; 0: as many as heads, as in the report", empty=0, ge=0
    )
    """None: as many as query heads (the report's multi-head attention)."""
    head_dim: int | None = None
    """Width of one head; None: hidden_size / num_attention_heads."""
    intermediate_size: int = setting(
        doc="width of the feed-forward layer, about 8/3 of hidden_size", recipe=11008, ge=8
    )
    tie_word_embeddings: bool = setting(False, doc="share input and output embeddings (the report: no)")
    rope_theta: float = setting(10000.0, doc="base of the rotary frequencies", gt=0)
    rms_norm_eps: float = setting(1e-6, doc="epsilon of RMSNorm", gt=0)
    qkv_bias: bool = True
    qk_norm: bool = False
    """RMSNorm of every query and key over its head, before the rotation (Qwen3)."""
    experts: MoEConfig | None = None
    yarn: Yarn | None = None
    extension: ContextExtension | None = None
    windows: tuple[int | None, ...] | None = None
    """For each layer how many tokens a query sees, itself included; None: all before it."""
    int8_cache: bool = False
    """Keys and values are kept in 8 bits when it writes (the first Qwen's `use_cache_quantization`)."""
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    """The end of a text; several where the folder says so."""
    model_type: str | None = None
    """The folder format that the model came from and is saved in; None: the simplest that can express it."""

    def __post_init__(self) -> None:
        """Fill in the defaults that depend on other fields, and raise a `UserError` that names every problem."""
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None and _count(self.num_attention_heads) and _count(self.hidden_size):
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if problems := list(self._problems()):
            raise UserError("; ".join(problems), where="model configuration", expected="a shape that can be built")

    @property
    def kv_heads(self) -> int:
        """Return the number of key/value heads: `num_key_value_heads`, or that of the query heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Return the width of a head in channels: `head_dim`, or hidden_size / num_attention_heads."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def parameters(self) -> int:
        """Return the number of parameters, counted without building the model."""
        width, heads, kv = self.hidden_size, self.num_attention_heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * width * heads + 2 * width * kv
        attention += (heads + 2 * kv if self.qkv_bias else 0) + (2 * self.head_size if self.qk_norm else 0)
        sparse = sum(map(self.sparse, range(self.num_hidden_layers)))
        wide = (self.num_hidden_layers - sparse) * 3 * width * self.intermediate_size
        if self.experts is not None:
            inner = self.experts.num_experts * self.experts.moe_intermediate_size
            shared = self.experts.shared_expert_intermediate_size
            gates = width * self.experts.num_experts + (0 if shared is None else width + 3 * width * shared)
            wide += sparse * (3 * width * inner + gates)
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * width
        return tables + width + self.num_hidden_layers * (attention + 2 * width) + wide

    @property
    def tensors(self) -> int:
        """Return about how many tensors the model has, every expert's counted separately."""
        experts = 0 if self.experts is None else 3 * self.experts.num_experts
        return self.num_hidden_layers * (12 + experts)

    @property
    def max_length(self) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        stretched = 0 if self.yarn is None else int(self.yarn.factor * self.yarn.original_max_position_embeddings)
        return max(self.max_position_embeddings, stretched)

    def window(self, layer: int) -> int | None:
        """Return how many tokens a query of this layer sees, itself included; None means all before it."""
        return None if self.windows is None else self.windows[layer]

    def sparse(self, layer: int) -> bool:
        """Return whether a layer has experts."""
        return self.experts is not None and self.experts.sparse(layer)

    def _problems(self) -> Iterator[str]:
        """Yield every problem of the values, so that one message names all of them."""
        problems = [*_counts(self, SIZES), *_measures(self, MEASURES), *self._parts()]
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float):
            problems.append(f"dropout = {self.dropout!r} is not a number")
        yield from problems
        if not problems:
            yield from self._shape()

    def _parts(self) -> Iterator[str]:
        """Yield the problems inside the parts that only some families have."""
        if self.experts is not None:
            yield from _counts(self.experts, ("num_experts", "num_experts_per_tok", "moe_intermediate_size"))
            yield from _counts(self.experts, ("decoder_sparse_step",))
            many = (self.experts.num_experts, self.num_hidden_layers)
            if all(map(_count, many)) and many[0] * many[1] > MOST_EXPERTS:
                yield f"num_experts = {many[0]} in each of {many[1]} layers are more than {MOST_EXPERTS}"
            if self.experts.shared_expert_intermediate_size is not None:
                yield from _counts(self.experts, ("shared_expert_intermediate_size",))
        if self.yarn is not None:
            yield from _counts(self.yarn, ("original_max_position_embeddings",))
            weighed = () if self.yarn.attention_factor is None else ("attention_factor",)
            yield from _measures(self.yarn, ("factor", "beta_fast", "beta_slow", *weighed))
        if self.extension is not None:
            yield from _counts(self.extension, ("seq_length",))
        if self.windows is not None:
            sizes = [size for size in self.windows if size is not None]
            yield from (f"windows: {size!r} is not a number of tokens" for size in sizes
                        if not _count(size) or size > LARGEST["max_position_embeddings"])  # fmt: skip

    def _shape(self) -> Iterator[str]:
        """Yield the values that do not fit together."""
        heads, width = self.num_attention_heads, self.hidden_size
        if self.head_size == width // heads and width % heads:
            yield f"hidden_size = {width} does not divide into {heads} heads"
        if heads % self.kv_heads:
            yield f"num_attention_heads = {heads} is not a multiple of num_key_value_heads = {self.kv_heads}"
        if self.head_size % 2:
            yield f"head_dim = {self.head_size} is odd, but rotary positions turn pairs of channels"
        if self.head_size == 2 and self.extension is not None and self.extension.dynamic_ntk:
            yield "head_dim = 2 has no base that dynamic NTK could raise"
        if self.yarn is not None and self.rope_theta == 1:
            yield "rope_theta = 1 turns all channels alike, so YaRN has none to tell apart"
        if not 0.0 <= self.dropout < 1.0:
            yield f"dropout = {self.dropout} is not in [0, 1)"
        if self.windows is not None and len(self.windows) != self.num_hidden_layers:
            yield f"{len(self.windows)} windows for {self.num_hidden_layers} layers"
        if self.experts is not None and self.experts.num_experts_per_tok > self.experts.num_experts:
            yield f"{self.experts.num_experts_per_tok} experts a token of {self.experts.num_experts}"
        if self.extension is not None and self.extension.logn and self.extension.seq_length < 2:
            yield "seq_length = 1 has no logarithm to scale by"


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "max_position_embeddings")  # fmt: skip
MEASURES = ("rope_theta", "rms_norm_eps", "initializer_range")


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _counts(part: object, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the fields that are not a possible count."""
    for name in names:
        value, most = getattr(part, name), LARGEST.get(name)
        if not _count(value):
            yield f"{name} = {value!r} is not a positive integer"
        elif most is not None and value > most:
            yield f"{name} = {value} is beyond {most}"


def _measures(part: object, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = getattr(part, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{name} = {value!r} is not a number"
        elif not 0 < value <= 1e18:
            yield f"{name} = {value!r:.60} is not a positive number up to 1e18"
