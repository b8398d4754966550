"""The MLP (SwiGLU; Shazeer, 2020), and a mixture of experts (Qwen1.5-MoE, Qwen3-MoE).

In a mixture a router picks a few MLPs for each token. Its softmax runs over *all* experts in float32; the weights of
the chosen ones are then scaled to sum to one only where the model was trained like that. Experts are computed one after
another, each over its own tokens: right everywhere, and as fast as the matrix products on a CPU.

Legend: N tokens, C hidden width, E experts, K experts of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenkit.model.config import MoEConfig


class MLP(nn.Module):
    """The feed-forward layer, SwiGLU (Shazeer, 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        """Create the three matrices without biases."""
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the output of the layer, [B, T, C]."""
        gate_BTC, up_BTC = self.project(x_BTC)
        return self.down_proj(F.silu(gate_BTC) * up_BTC)

    def project(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the gate and up projections, both [B, T, intermediate_size]."""
        return self.gate_proj(x_BTC), self.up_proj(x_BTC)


class SparseMLP(nn.Module):
    """A mixture of experts (Shazeer et al., 2017): a router, the experts, and (Qwen1.5-MoE) one shared expert that
    every token passes."""

    def __init__(self, hidden_size: int, config: MoEConfig) -> None:
        """Create the router and the experts, and the shared expert where the configuration has one."""
        super().__init__()
        self.chosen, self.normalised = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(hidden_size, config.num_experts, bias=False)
        width = config.moe_intermediate_size
        self.experts = nn.ModuleList(MLP(hidden_size, width) for _ in range(config.num_experts))
        if config.shared_expert_intermediate_size is not None:
            self.shared_expert = MLP(hidden_size, config.shared_expert_intermediate_size)
            self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the outputs of the chosen experts, weighted by the router and summed, [B, T, C]."""
        x_NC = x_BTC.flatten(0, -2)
        weights_NK, picks_NK = self._route(x_NC)
        out_NC = torch.zeros_like(x_NC)
        for expert in picks_NK.unique().tolist():
            tokens, rank = (picks_NK == expert).nonzero(as_tuple=True)
            out_KC = self.experts[expert](x_NC[tokens]) * weights_NK[tokens, rank, None]
            out_NC = out_NC.index_add(0, tokens, out_KC.to(out_NC.dtype))
        if hasattr(self, "shared_expert"):
            out_NC = out_NC + torch.sigmoid(self.shared_expert_gate(x_NC)) * self.shared_expert(x_NC)
        return out_NC.view_as(x_BTC)

    def _route(self, x_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights and the numbers of each token's experts, both [N, K]."""
        logits_NE = self.gate(x_NC)
        weights_NK, picks_NK = logits_NE.softmax(-1, dtype=torch.float32).topk(self.chosen, dim=-1)
        if self.normalised:
            weights_NK = weights_NK / weights_NK.sum(-1, keepdim=True)
        return weights_NK.to(logits_NE.dtype), picks_NK
