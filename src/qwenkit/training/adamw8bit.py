"""AdamW whose two moments are kept in 8 bits: 2 bytes for each parameter in place of 8.

    optimizer = AdamW8bit(model.parameters(), lr=1e-4)          # a recipe says moments = "int8"

Block-wise dynamic quantization (Dettmers et al., 2022, "8-bit Optimizers via Block-wise Quantization"): 256 values that
stand together are divided by the largest among them, and each is the nearest of 256 levels. A step brings the moments
of one parameter back to float32, makes the step of AdamW there, and rounds them again, so that float32 moments exist
for one parameter at a time. Moments of parameters below 4,096 values (norms, biases) stay in float32, as in
bitsandbytes. State is found by name and continued to the bit, as that of any optimizer here.

Levels are not those of equal distance: moments span many powers of ten. `dynamic_levels` has as many for each power of
ten as fit: 64 between 0.1 and 1, 32 between 0.01 and 0.1, and so on for the first moment, which has a sign; twice as
many for the second. A second moment above zero is never rounded to zero (ours): it is what a step is divided by.

Legend: V levels, M values of a parameter, C blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK, SMALLEST = 256, 4096
_POWERS = 7  # of ten: 1e-7 is the lowest


@functools.cache
def dynamic_levels(signed: bool) -> Tensor:
    """Return the 256 levels [V] of the dynamic map, ascending, the largest 1: both signs, or none below zero.

    In the k-th power of ten below 1 stand 2^(6 - k) middles of equal parts (signed), or twice as many."""
    halves: list[float] = []
    for power in range(_POWERS):
        count = 2 ** (_POWERS - 1 - power) * (1 if signed else 2)
        edges = torch.linspace(0.1, 1, count + 1, dtype=torch.float64)
        halves += (((edges[:-1] + edges[1:]) / 2) * 10.0**-power).tolist()
    negative = [-value for value in halves] if signed else []
    return torch.tensor(sorted([*negative, 0.0, *halves, 1.0]), dtype=torch.float32)


def quantize_blocks(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Return (level [M] in uint8, the largest magnitude of each block [C]) of a float32 tensor of any shape."""
    flat = values.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest_C = padded.abs().amax(dim=1)
    levels = dynamic_levels(signed).to(values.device)
    between = (levels[:-1] + levels[1:]) / 2
    scaled = padded / torch.where(largest_C > 0, largest_C, 1)[:, None]
    codes = torch.bucketize(scaled, between, out_int32=True).to(torch.uint8)
    if not signed:  # a second moment of zero would make a step of the first over epsilon
        codes = torch.where(padded > 0, codes.clamp(min=1), codes)
    return codes.view(-1)[: len(flat)].clone(), largest_C


def dequantize_blocks(codes_M: Tensor, largest_C: Tensor, shape: torch.Size, signed: bool) -> Tensor:
    """Return what `quantize_blocks` rounded, in float32 and in a shape."""
    levels = dynamic_levels(signed).to(codes_M.device)
    scales_M = largest_C.repeat_interleave(BLOCK)[: len(codes_M)]
    return (levels[codes_M.int()] * scales_M).view(shape)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) with block-wise quantized moments; `lr` is the learning rate per step."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Create the optimizer, with the settings of torch's AdamW."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, one after another."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step_one(param, param.grad.float(), group)

    def _step_one(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), state = group["betas"], self.state[param]
        state["step"] = state.get("step", torch.zeros((), dtype=torch.float32)) + 1
        first, second = _moment(state, "exp_avg", grad, True), _moment(state, "exp_avg_sq", grad, False)
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        count = float(state["step"])
        spread = second.sqrt().div_((1 - beta2**count) ** 0.5).add_(group["eps"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_((first / spread).mul_(group["lr"] / (1 - beta1**count)).to(param.dtype))
        _keep(state, "exp_avg", first, True)
        _keep(state, "exp_avg_sq", second, False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state in its own dtypes: torch's way would cast all of it to that of the parameter."""
        super().load_state_dict(state_dict)
        params = [param for group in self.param_groups for param in group["params"]]
        for position, tensors in state_dict["state"].items():
            device = {key: "cpu" if key == "step" else params[position].device for key in tensors}
            self.state[params[position]] = {key: tensors[key].to(device[key], copy=True) for key in tensors}


def _moment(state: dict[str, Any], name: str, grad: Tensor, signed: bool) -> Tensor:
    """Return a moment in float32: zeros at the first step."""
    if name in state:
        return state[name]
    if f"{name}_codes" not in state:
        return torch.zeros_like(grad)
    return dequantize_blocks(state[f"{name}_codes"], state[f"{name}_scales"], grad.shape, signed)


def _keep(state: dict[str, Any], name: str, moment: Tensor, signed: bool) -> None:
    """Keep a moment: rounded, or as it is where the parameter is small."""
    if moment.numel() < SMALLEST:
        state[name] = moment
    else:
        state[f"{name}_codes"], state[f"{name}_scales"] = quantize_blocks(moment, signed)
