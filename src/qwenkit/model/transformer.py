"""The Transformer of the Qwen report (§1.3) and of the generations after it.

A LLaMA-style decoder with Qwen's choices: rotary positions from float32 inverse frequencies, biases on Q, K and V and
nowhere else, RMSNorm before every branch, SwiGLU, untied (or, for small models, tied) output embeddings. Later Qwen's
are grouped queries, norms of queries and keys in place of biases, windows in some layers, experts. The MLPs are in
`moe.py`, attention and what a token may see in `attention.py`, RoPE and context extension in `rotary.py`. Parameter
names are Hugging Face's `Qwen2ForCausalLM`, `Qwen3MoeForCausalLM` and so on, so a state dict needs no mapping.

    model = init_weights(Transformer(config), seed=0)
    logits_BTV = model(ids_BT)
    h_BTD = model.hidden(ids_BT, documents_BT=documents_BT)      # packed rows: attention stays in a document
    h_BTD = model.hidden(ids_BT, cache)                          # the next tokens of rows that a cache holds
    logits_NV = model.head(h_BTD[wanted_BT])                     # only the rows that a loss needs

Legend: B rows, T tokens, N chosen tokens, V vocabulary, C hidden width (`hidden_size`), H query heads, G key/value
heads, D head width. Where callers name an argument, D is the hidden width, as everywhere outside: `embeds_BTD`, `h_ND`.

Caveats: dropout draws from torch's generator, the one exception to counter-based draws; the training loop seeds it anew
at every step. `hidden` compiles as one graph for fixed shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qwenkit.model.attention import Cache, NoCache
from qwenkit.model.config import ModelConfig
from qwenkit.model.init import init_weights
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.moe import MLP, SparseMLP
from qwenkit.model.own_pages import giving_back
from qwenkit.model.rotary import Rotary, rotary_tables
from qwenkit.prompt import MediaKind, Prompt


class RMSNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019): scale to unit root mean square in float32, cast back, then multiply by the
    weight. The order of the last two shows in the bits of bf16."""

    def __init__(self, width: int, eps: float) -> None:
        """Create a weight of `width` ones; `eps` is added to the mean square."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the normalised input, [..., C], in its dtype."""
        x = x_BTC.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(x_BTC.dtype)


class Attention(nn.Module):
    """Self-attention with rotary positions. Q, K and V have biases, or (Qwen3) each head of Q and K has a norm; the
    output projection has no bias."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the projections of this layer, and the norms of the heads where the configuration asks for them."""
        super().__init__()
        self.layer, self.head_dim, self.qk_norm = layer, config.head_size, config.qk_norm
        query, key = config.num_attention_heads * config.head_size, config.kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, query, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, key, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, key, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query, config.hidden_size, bias=False)
        if self.qk_norm:
            self.q_norm = RMSNorm(config.head_size, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_size, config.rms_norm_eps)

    def forward(self, x_BTC: Tensor, rotary: Rotary, cache: Cache, window: int | None) -> Tensor:
        """Return the output of the layer, [B, T, C]. The cache decides what each token sees, inside the layer's window
        in tokens."""
        B, T, _ = x_BTC.shape
        q_BHTD, k_BGTD, v_BGTD = (
            part_BTC.view(B, T, -1, self.head_dim).transpose(1, 2) for part_BTC in self.project(x_BTC)
        )
        if self.qk_norm:
            q_BHTD, k_BGTD = self.q_norm(q_BHTD), self.k_norm(k_BGTD)
        q_BHTD, k_BGTD = rotary.rotate_q(q_BHTD), rotary.rotate_k(k_BGTD)
        o_BHTD = cache.attend(self.layer, q_BHTD, k_BGTD, v_BGTD, window)
        return self.o_proj(o_BHTD.transpose(1, 2).reshape(B, T, -1))

    def project(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [B, T, heads * D], heads side by side."""
        return self.q_proj(x_BTC), self.k_proj(x_BTC), self.v_proj(x_BTC)


class Block(nn.Module):
    """One layer of the Transformer: attention and MLP, each a residual branch with a norm at its input (pre-norm)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the layer; its MLP is a mixture of experts where the configuration says so."""
        super().__init__()
        self.self_attn = Attention(config, layer)
        if config.experts is not None and config.sparse(layer):
            self.mlp: nn.Module = SparseMLP(config.hidden_size, config.experts)
        else:
            self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BTC: Tensor, rotary: Rotary, cache: Cache, window: int | None, rate: float) -> Tensor:
        """Return the hidden states after the layer, [B, T, C]; `rate` is the dropout of both branches."""
        x_BTC = x_BTC + F.dropout(self.self_attn(self.input_layernorm(x_BTC), rotary, cache, window), rate)
        return x_BTC + F.dropout(self.mlp(self.post_attention_layernorm(x_BTC)), rate)


class Decoder(nn.Module):
    """Embedding, blocks, final norm: Hugging Face's `Qwen2Model`.

    With `activation_checkpointing` (Chen et al., 2016) a training keeps only the input of each block and computes the
    block again in the backward pass: the same bits, less memory, about a third more time."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the embedding, the layers and the final norm."""
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BTC: Tensor, cache: Cache) -> Tensor:
        """Return the hidden states after the final norm, [B, T, C], of tokens with these vectors."""
        rotary = self.rotary(x_BTC, cache)
        rate = self.config.dropout if self.training else 0.0
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        for layer, block in enumerate(self.layers):
            inputs = (x_BTC, rotary, cache, self.config.window(layer), rate)
            x_BTC = giving_back(checkpoint(block, *inputs, use_reentrant=False)) if recompute else block(*inputs)
        return self.norm(x_BTC)

    def no_cache(self, documents_BT: Tensor | None) -> NoCache:
        """Return the cache of whole rows, with the masks of all layers."""
        return NoCache(documents_BT, windows=map(self.config.window, range(len(self.layers))))

    def rotary(self, x_BTC: Tensor, cache: Cache) -> Rotary:
        """Return the rotary tables of these tokens, which all blocks share."""
        extension = self.config.extension
        dynamic = not self.training and extension is not None and extension.dynamic_ntk
        lengths_BT = cache.lengths_BT(x_BTC) if dynamic else None
        return rotary_tables(self.config, cache.positions_BT(x_BTC), lengths_BT, extended=not self.training)


class Transformer(nn.Module):
    """A language model: `model(ids_BT)` returns the logits [B, T, V] of every next token."""

    media_kinds: ClassVar[frozenset[MediaKind]] = frozenset()
    """What a prompt may hold besides text. A model that names kinds here overrides `embed`."""
    adapter: LoRAConfig | None = None
    """The settings of the adapter that is on the model (`lora.py`), which then alone is trained."""

    def __init__(self, config: ModelConfig) -> None:
        """Create the decoder, and a head unless the embeddings are tied. The weights are torch's defaults."""
        super().__init__()
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def config(self) -> ModelConfig:
        """Return the configuration of the decoder. Setting it changes what the next forward pass does (its dropout)."""
        return self.model.config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        """Replace the configuration of the decoder."""
        self.model.config = config

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the logits [B, T, V] of the next token after each position."""
        return self.head(self.hidden(ids_BT))

    def embed(self, ids_BT: Tensor, prompts: Sequence[Prompt] = ()) -> Tensor:
        """Return the vectors [B, T, D] of tokens.

        Row b of `ids_BT` begins with the whole prompt `prompts[b]`, where prompts are given. A model that reads media
        puts its vectors at the ids that stand for them (`Media.start` to `Media.stop`); this one reads text only, and
        looks the ids up."""
        return self.model.embed_tokens(ids_BT)

    def hidden(
        self,
        ids_BT: Tensor | None,
        cache: Cache | None = None,
        *,
        documents_BT: Tensor | None = None,
        embeds_BTD: Tensor | None = None,
    ) -> Tensor:
        """Return the states after the final norm, [B, T, D].

        The `cache` says where the tokens stand and what they see. Without one, `documents_BT` numbers the document of
        each token: attention stays inside a document, and positions start again with it. `embeds_BTD`, from `embed`,
        replaces the ids."""
        if embeds_BTD is None:
            assert ids_BT is not None, "either ids or their embeddings"
            embeds_BTD = self.embed(ids_BT)
        return self.model(embeds_BTD, self.model.no_cache(documents_BT) if cache is None else cache)

    def head(self, h_ND: Tensor) -> Tensor:
        """Return the logits [..., V] of hidden states [..., D]; with tied embeddings, the input table is the head."""
        return self.lm_head(h_ND) if hasattr(self, "lm_head") else F.linear(h_ND, self.model.embed_tokens.weight)

    @property
    def head_weight(self) -> Tensor | None:
        """Return the matrix [V, D] of the head, or None where the head is more than a product with a matrix."""
        head = getattr(self, "lm_head", self.model.embed_tokens)
        return head.weight if type(head) in (nn.Linear, nn.Embedding) else None


class ScalarModel(nn.Module):
    """A decoder with one number per token in place of logits, for reward and value models (report §3).

    It takes over the decoder of `backbone`, without copying it. The new head holds small random numbers drawn from
    `seed`."""

    adapter: LoRAConfig | None = None
    """The settings of the adapter that is on the model, which then alone is trained, with the head."""

    def __init__(self, backbone: Transformer, seed: int = 0) -> None:
        """Take over the decoder of `backbone` and initialise the head, [1, D], from `seed`."""
        super().__init__()
        self.model = backbone.model
        weight = self.model.embed_tokens.weight
        self.score_head = nn.Linear(self.config.hidden_size, 1, bias=False, device=weight.device, dtype=weight.dtype)
        init_weights(self.score_head, seed, std=self.config.initializer_range)

    @property
    def config(self) -> ModelConfig:
        """Return the configuration of the decoder."""
        return self.model.config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        """Replace the configuration of the decoder."""
        self.model.config = config

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Return the value at every token, [B, T], in float32."""
        return self.score(ids_BT, documents_BT)

    def score(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Return the value at every token, [B, T], in float32; attention stays inside a document."""
        h_BTC = self.model(self.model.embed_tokens(ids_BT), self.model.no_cache(documents_BT))
        return self.score_head(h_BTC.to(self.score_head.weight.dtype)).squeeze(-1).float()
