"""Which models native code computes, and what has happened to one since its weights were read.

    check_fits(model)                      # raises `Unfit`
    watch = Watch(model)
    watch.intervention()                   # "model.layers.0.mlp has a hook", or None
    watch.is_same()                        # whether every part and every tensor is still the one that was read

Research code hooks layers, replaces a `forward`, exchanges a layer. Native code would pass by all of it, so where an
answer begins it is looked for, in a millisecond or two, and where there is any of it torch computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from qwenkit.errors import UserError
from qwenkit.inference.native.matrices import form, unfit
from qwenkit.model.config import ModelConfig
from qwenkit.model.moe import MLP, SparseMLP
from qwenkit.model.quantized_linear import QuantizedLinear
from qwenkit.model.transformer import Attention, Block, Decoder, RMSNorm, Transformer

_INPUT_SHARED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
PROJECTIONS = dict(q="q_proj", k="k_proj", v="v_proj", o="o_proj", gate="gate_proj", up="up_proj", down="down_proj")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_METHODS = [(kind, name) for kind in (Block, Attention, MLP, RMSNorm, Decoder, nn.Linear, nn.Embedding, QuantizedLinear)
            for name in ("forward", "project", "rotary") if hasattr(kind, name)]  # fmt: skip
_METHODS += [(Transformer, name) for name in ("embed", "hidden", "head")]
_OWN = [getattr(kind, name) for kind, name in _METHODS]


class Unfit(UserError):
    """A model that native code does not compute."""

    def __init__(self, reason: str) -> None:
        """Say why."""
        super().__init__(f"the model cannot be computed by native code: {reason}")
        self.reason = reason


def check_fits(model: Transformer) -> None:
    """Raise `Unfit` for a model that is not what the code computes."""
    if (reason := unfit_model(model)) is not None:
        raise Unfit(reason)


def unfit_model(model: Transformer) -> str | None:
    """Return what sets the model apart from what the code computes, or None."""
    if (reason := _unlike_transformer(model)) is not None:
        return reason
    shapes = _shapes(model.config)
    return next(filter(None, (_unfit_block(block, shapes) for block in model.model.layers)), None)


class Watch:
    """A model as it was when its weights were read."""

    def __init__(self, model: Transformer) -> None:
        """Note the parts and the addresses of the tensors of this model."""
        self._model, modules = model, list(model.modules())
        self._vars = [vars(module) for module in modules]
        self._hooks = [own[name] for own in self._vars for name in _HOOKS]
        self._children = [module._modules for module in modules]
        self._tensors = [own[name] for own in self._vars for name in ("_parameters", "_buffers") if own[name]]
        self._root = {"forward", "embed", "hidden", "head"}
        self._seen = self._now()

    def _now(self) -> tuple[list[nn.Module | None], list[int]]:
        tensors: Iterator[Tensor | None] = chain.from_iterable(map(dict.values, self._tensors))
        addresses = [tensor.data_ptr() for tensor in tensors if tensor is not None]
        return list(chain.from_iterable(map(dict.values, self._children))), addresses

    def is_same(self) -> bool:
        """Return whether every part and every tensor is still the one that was read."""
        return self._now() == self._seen

    def intervention(self) -> str | None:
        """Return what only the model's own modules obey, or None."""
        if any(self._hooks):
            return f"{self._first(lambda own: any(own[name] for name in _HOOKS))} has a hook"
        if any("forward" in own for own in self._vars) or not self._root.isdisjoint(vars(self._model)):
            own = self._first(lambda own: not self._root.isdisjoint(own))
            return f"{own} has a forward pass of its own"
        if [getattr(kind, name) for kind, name in _METHODS] != _OWN:
            return "a class of layers has another forward pass"
        if any(getattr(torch_module, f"_global{name}") for name in _HOOKS):
            return "there is a hook on all modules"
        return _dropout(self._model)

    def _first(self, has: Callable[[dict[str, Any]], bool]) -> str:
        """Return the name of the first part that has something."""
        names = (name for name, module in self._model.named_modules() if has(vars(module)))
        return next(names, "") or "the model"


def _dropout(model: Transformer) -> str | None:
    return "it is in training, with dropout" if model.training and model.config.dropout else None


def _shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return the rows and columns that each projection must have: buffers are as large as the configuration says."""
    width, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_size, config.kv_heads * config.head_size
    return {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, queries),
            "gate_proj": (wide, width), "up_proj": (wide, width), "down_proj": (width, wide)}  # fmt: skip


def _unlike_transformer(model: Transformer) -> str | None:
    """Return what stands before or behind the layers that the code does not compute, or None."""
    own = all(getattr(type(model), name) is getattr(Transformer, name) for name in ("hidden", "head"))
    own &= type(model).embed is Transformer.embed or bool(model.media_kinds)  # which changes where media stand only
    if not own or type(model.model) is not Decoder or type(model.model.norm) is not RMSNorm:
        return f"it is a {type(model).__name__} with a forward pass of its own"
    table = model.model.embed_tokens
    head = getattr(model, "lm_head", table)
    if type(table) is not nn.Embedding or type(head) not in (nn.Embedding, nn.Linear):
        return f"its head is a {type(head).__name__}"
    if (reason := _dropout(model)) is not None:
        return reason
    shape = [model.config.vocab_size, model.config.hidden_size]
    if list(table.weight.shape) != shape or list(head.weight.shape) != shape:
        return f"its embedding or head is not {shape}"
    return unfit(table) or unfit(head)


def _unfit_block(block: nn.Module, shapes: dict[str, tuple[int, int]]) -> str | None:
    """Return why a layer of the Transformer cannot be computed, or None."""
    if type(block) is not Block or type(block.self_attn) is not Attention:
        return "a layer is of another kind"
    if type(block.mlp) is not MLP:
        return "it has experts" if type(block.mlp) is SparseMLP else "a layer is of another kind"
    norms = [block.input_layernorm, block.post_attention_layernorm]
    norms += [block.self_attn.q_norm, block.self_attn.k_norm] if block.self_attn.qk_norm else []
    if any(type(norm) is not RMSNorm for norm in norms):
        return "a norm is of another kind"
    parts = {**dict(block.self_attn.named_children()), **dict(block.mlp.named_children())}
    for name in PROJECTIONS.values():
        layer = parts[name]
        if (reason := unfit(layer)) is not None:
            return reason
        if (layer.out_features, layer.in_features) != shapes[name]:
            return f"{name} is [{layer.out_features}, {layer.in_features}], not {list(shapes[name])}"
    for names in _INPUT_SHARED:
        if len({form(parts[name]) for name in names}) > 1:
            return f"{', '.join(names)} are not quantized alike"
    return None
