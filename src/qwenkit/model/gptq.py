"""Quantize weights to 4 or 8 bits: GPTQ, and round-to-nearest (the released Int4 and Int8 models).

    quantize(model, QuantConfig(bits=4, group_size=128), batches)        # in place; batches of ids to calibrate on
    quantize(model, QuantConfig(bits=8, group_size=-1), None)            # round to nearest: no text needed

GPTQ (Frantar et al., 2022) goes through the columns of a weight; the error of a rounded column is compensated in the
columns after it, by the inputs seen in calibration. Blocks are quantized one after another on the inputs
that the quantized blocks before them give, and inside a block in the order in which they act.

The embedding, the head, norms, routers and gates stay as they are. Caveat: an expert that no calibration token reached
is rounded to nearest.

Legend: N outputs, K inputs, G groups, T tokens of calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError
from qwenkit.model.attention import NoCache
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear, from_qvalues
from qwenkit.model.rotary import Rotary
from qwenkit.model.transformer import Transformer

DAMP = 0.01
"""Share of the mean of the Hessian's diagonal that is added to it, so that the inverse exists (the paper's)."""
_COLUMNS = 128  # columns whose errors are passed on together
_ORDER = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@torch.no_grad()
def quantize(
    model: Transformer,
    quant_config: QuantConfig,
    batches: Sequence[Tensor] | None,
    symmetric: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Transformer:
    """Replace every linear layer of the blocks by a quantized one, in place; return the model.

    `batches` are ids [B, T] to calibrate on (GPTQ); None rounds to nearest. `progress(block, blocks)` is called before
    each block. The model can no longer be trained. Raises a `UserError` for shapes or settings that have no kernel."""
    _check(model, quant_config)
    model.eval()
    states = [model.embed(ids_BT) for ids_BT in batches or ()]
    rotaries = [model.model.rotary(x_BTC, NoCache()) for x_BTC in states]
    for number, block in enumerate(model.model.layers):
        if progress is not None:
            progress(number, len(model.model.layers))
        run = partial(_run, block, states, rotaries, model.config.window(number))
        for names in _ORDER:
            layers = {name: layer for name, layer in block.named_modules()
                      if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in names}  # fmt: skip
            hessians = _hessians(layers, run) if batches is not None else {}
            for name, layer in layers.items():
                _replace(block, name, _quantized(layer, quant_config, hessians.get(name), symmetric))
        states = run()
    return model


def _run(block: nn.Module, states: list[Tensor], rotaries: list[Rotary], window: int | None) -> list[Tensor]:
    """Return what a block computes from the states of each calibration batch."""
    return [block(x_BTC, rotary, NoCache(), window, 0.0) for x_BTC, rotary in zip(states, rotaries)]


def _check(model: Transformer, quant_config: QuantConfig) -> None:
    if quant_config.bits not in (4, 8) or not (quant_config.group_size == -1 or quant_config.group_size >= 8):
        raise UserError(
            f"{quant_config.bits} bits in groups of {quant_config.group_size}",
            expected="4 or 8 bits; groups of 8 or more, or -1",
        )
    for name, layer in model.model.layers.named_modules():
        if isinstance(layer, QuantizedLinear):
            raise UserError("the model is quantized already", hint="quantize the one that it was made of")
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in sum(_ORDER, ()):
            size = layer.in_features if quant_config.group_size == -1 else quant_config.group_size
            if layer.in_features % size or layer.in_features % 8 or layer.out_features % 8:
                raise UserError(f"{name} is {layer.out_features} x {layer.in_features}",
                                expected=f"sizes of a multiple of 8, columns of a multiple of {size}",
                                hint="another group_size")  # fmt: skip


def _hessians(layers: dict[str, nn.Linear], run: Callable[[], list[Tensor]]) -> dict[str, Tensor]:
    """Return for each layer the Hessian [K, K] of its squared error: the sum of outer products of its inputs."""
    hessians = {name: torch.zeros(layer.in_features, layer.in_features) for name, layer in layers.items()}
    with _accumulating(layers, hessians):
        run()
    return hessians


@contextmanager
def _accumulating(layers: dict[str, nn.Linear], hessians: dict[str, Tensor]) -> Iterator[None]:
    """Add every forward pass inside the `with` block to the Hessians."""

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x_TK = inputs[0].flatten(0, -2).float()
            hessians[name].addmm_(x_TK.t().cpu(), x_TK.cpu())

        return hook

    handles = [layer.register_forward_pre_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _quantized(
    layer: nn.Linear, quant_config: QuantConfig, hessian_KK: Tensor | None, symmetric: bool
) -> QuantizedLinear:
    weight_NK = layer.weight.detach().float().cpu()
    if hessian_KK is None or not hessian_KK.any():
        qvalues, scales, zeros = round_to_nearest(weight_NK, quant_config, symmetric)
    else:
        qvalues, scales, zeros = gptq(weight_NK, hessian_KK, quant_config, symmetric)
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return from_qvalues(qvalues, scales, zeros, quant_config, bias).to(layer.weight.device)


def round_to_nearest(
    weight_NK: Tensor, quant_config: QuantConfig, symmetric: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return quantized values [N, K], scales and zeros [N, G], each weight rounded to the nearest level (RTN)."""
    size = weight_NK.shape[1] if quant_config.group_size == -1 else quant_config.group_size
    grouped_NGK = weight_NK.unflatten(1, (-1, size))
    scales_NG, zeros_NG = _range(grouped_NGK, quant_config.bits, symmetric)
    qvalues = _qvalues(grouped_NGK, scales_NG[..., None], zeros_NG[..., None], quant_config.bits)
    return qvalues.flatten(1), scales_NG, zeros_NG


def gptq(
    weight_NK: Tensor, hessian_KK: Tensor, quant_config: QuantConfig, symmetric: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return quantized values [N, K], scales and zeros [N, G] by GPTQ (Frantar et al., 2022).

    The rounding error of each column is compensated in the columns after it. `hessian_KK` is the sum of the outer
    products of the layer's inputs."""
    rest_NK, K = weight_NK.clone(), weight_NK.shape[1]
    size = K if quant_config.group_size == -1 else quant_config.group_size
    factor_KK = _error_factor(hessian_KK, rest_NK)
    qvalues_NK = torch.zeros_like(rest_NK, dtype=torch.int64)
    scales, zeros = [], []
    for start in range(0, K, _COLUMNS):
        end = min(start + _COLUMNS, K)
        errors_NK = torch.zeros(len(rest_NK), end - start)
        for k in range(start, end):
            if k % size == 0:
                scale_N, zero_N = _range(rest_NK[:, k : k + size], quant_config.bits, symmetric)
                scales.append(scale_N)
                zeros.append(zero_N)
            qvalues_NK[:, k] = _qvalues(rest_NK[:, k], scales[-1], zeros[-1], quant_config.bits)
            rounded_N = (qvalues_NK[:, k] - zeros[-1]) * scales[-1]
            error_N = (rest_NK[:, k] - rounded_N) / factor_KK[k, k]
            rest_NK[:, k:end] -= error_N[:, None] * factor_KK[k, k:end]
            errors_NK[:, k - start] = error_N
        rest_NK[:, end:] -= errors_NK @ factor_KK[start:end, end:]
    return qvalues_NK, torch.stack(scales, 1), torch.stack(zeros, 1)


def _error_factor(hessian_KK: Tensor, rest_NK: Tensor) -> Tensor:
    """Return how a column's error is shared among later ones: the upper Cholesky factor [K, K] of the inverse Hessian.

    A column whose input was always 0 does not matter: its weights `rest_NK` become 0, in place."""
    hessian_KK = hessian_KK.clone().double()
    unused_K = hessian_KK.diagonal() == 0
    hessian_KK[unused_K, unused_K] = 1
    rest_NK[:, unused_K] = 0
    damp = DAMP
    while True:  # more damping where rounding in the sums has left it indefinite
        damped_KK = hessian_KK + damp * hessian_KK.diagonal().mean() * torch.eye(len(hessian_KK))
        lower_KK, failed = torch.linalg.cholesky_ex(damped_KK)
        if not failed:
            return torch.linalg.cholesky(torch.cholesky_inverse(lower_KK), upper=True).float()
        damp *= 10


def _range(values: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Return scale (as float16 will keep it) and zero of the last axis."""
    most = 2**bits - 1
    low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        scale = (2 * high / most).half().float().clamp(min=2.0**-14)
        return scale, torch.full_like(scale, 2.0 ** (bits - 1)).long()
    scale = ((high - low) / most).half().float().clamp(min=2.0**-14)
    return scale, (-low / scale).round().clamp(0, most).long()


def _qvalues(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return ((values / scale).round() + zero).clamp(0, 2**bits - 1).long()


def _replace(block: nn.Module, name: str, layer: QuantizedLinear) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(block.get_submodule(parent), attribute, layer)
