"""A model from a GGUF file: llama.cpp's names and row orders, quantized matrices in their bits where code fits.

    model = load_gguf(read_gguf("model.gguf"), torch.bfloat16, torch.device("cpu"))

Matrices in Q8_0, Q4_0 and Q4_1 become a `QuantizedLinear` over the file's bytes where the model computes in bf16 on a
CPU: all of them where there is a compiler, for the engine's native code, and elsewhere those for whose type and size
torch has a kernel. Everything else becomes numbers of the model's dtype, and a notice says so. Tables of embeddings and
the head always do. Tensors are mapped and taken over one by one, and the pages that were read are given back. A llama's
file holds the rows of Q and K in another order, which is undone here: channel pairs (i, i + D/2) lie beside each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from qwenkit import platform
from qwenkit.errors import UserError, listed, notice
from qwenkit.gguf_file import GGUFFile
from qwenkit.model.config import ModelConfig
from qwenkit.model.gguf_blocks import FLOATS, IN_BITS, as_floats, as_layer
from qwenkit.model.gguf_config import EMBEDDINGS, HEAD, gguf_config
from qwenkit.model.init import without_weights
from qwenkit.model.quantized_linear import QuantizedLinear, kernel_fits
from qwenkit.model.transformer import Transformer

_TRUNK = {EMBEDDINGS: "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_BIASES = {f"attn_{part}.bias": f"self_attn.{part}_proj.bias" for part in "qkv"}
_INPUT_SHARED = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))
_NORMS = {f"attn_{part}_norm.weight": f"self_attn.{part}_norm.weight" for part in "qk"}


def load_gguf(
    file: GGUFFile,
    dtype: torch.dtype,
    device: torch.device,
    *,
    dropout: float = 0.0,
    accept_unknown: Iterable[str] = (),
) -> Transformer:
    """Return the language model of a file, in eval mode; raises a `UserError` for one that does not hold exactly such a
    model."""
    config = gguf_config(file, accept_unknown, dropout)
    names = dict(_names(config))
    _check_names(file, names)
    with without_weights():
        model = Transformer(config)
    _check_shapes(file, names, model)
    in_bits = set(_fitting(file, names, model)) if dtype == torch.bfloat16 and device.type == "cpu" else set()
    rows = _RowOrders(file, config)
    state: dict[str, Tensor] = {}
    for name, param_name in names.items():
        kind = file.tensors[name].kind
        if name in in_bits:
            _replace(model, param_name, as_layer(rows.stored(name), kind, order_N=rows.order(name)), state)
            continue
        bytes_NX = rows.read(name)
        state[param_name] = as_floats(bytes_NX, kind, dtype).to(device).view(file.tensors[name].shape)
        if state[param_name].data_ptr() != bytes_NX.data_ptr():
            file.release(name)
    model.load_state_dict(state, assign=True, strict=False)  # quantized layers are in already
    _tell(file, in_bits, dtype)
    return model.requires_grad_(True).eval()


def stored_dtype(file: GGUFFile) -> torch.dtype:
    """Return the dtype in which most of a file's parameters are stored; bfloat16 where most are quantized."""
    count: Counter[torch.dtype] = Counter()
    for stored in file.tensors.values():
        count[FLOATS.get(stored.kind, torch.bfloat16)] += stored.size
    return max(count, key=count.__getitem__, default=torch.bfloat16)


def _names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield the names of the file's tensors and of the parameters that they are; a bias comes before its matrix."""
    yield from _TRUNK.items()
    if not config.tie_word_embeddings:
        yield HEAD, "lm_head.weight"
    layer = {**(_BIASES if config.qkv_bias else {}), **(_NORMS if config.qk_norm else {}), **_LAYER}
    for number in range(config.num_hidden_layers):
        for name, param_name in layer.items():
            yield f"blk.{number}.{name}", f"model.layers.{number}.{param_name}"


def _check_names(file: GGUFFile, names: dict[str, str]) -> None:
    """Raise a `UserError` for tensors that are missing, and for others than those of the model."""
    groups = {"missing": [name for name in names if name not in file.tensors],
              "unexpected": [name for name in file.tensors if name not in names]}  # fmt: skip
    if problems := [f"{kind}: {listed(names)}" for kind, names in groups.items() if names]:
        hint = "rope_freqs scales the rotation by channel, which is not supported here"
        raise UserError(f"the tensors do not fit the architecture: {'; '.join(problems)}", where=str(file.path),
                        hint=hint if "rope_freqs.weight" in file.tensors else None)  # fmt: skip


def _check_shapes(file: GGUFFile, names: dict[str, str], model: Transformer) -> None:
    """Raise a `UserError` for the tensors of another shape than the settings say."""
    wanted = model.state_dict()
    shapes = {name: tuple(wanted[param_name].shape) for name, param_name in names.items()}
    wrong = [f"{name} is {list(file.tensors[name].shape)}, not {list(shape)}"
             for name, shape in shapes.items() if file.tensors[name].shape != shape]  # fmt: skip
    if wrong:
        raise UserError(f"the tensors do not fit the settings: {listed(wrong)}", where=str(file.path))
    if odd := [name for name, shape in shapes.items() if len(shape) == 1 and file.tensors[name].kind not in FLOATS]:
        raise UserError(f"stored as {file.tensors[odd[0]].kind}", where=file.where(odd[0]), expected=", ".join(FLOATS))


def _fitting(file: GGUFFile, names: dict[str, str], model: Transformer) -> Iterator[str]:
    """Yield the matrices of layers with whose type and size native code, or a kernel of torch, computes."""
    native = platform.compiler_path() is not None
    for name, param_name in names.items():
        kind, shape = file.tensors[name].kind, file.tensors[name].shape
        linear = name.startswith("blk.") and isinstance(model.get_submodule(param_name.rpartition(".")[0]), nn.Linear)
        if not linear or kind not in IN_BITS:
            continue
        if _alike(file, name) if native else kernel_fits(IN_BITS[kind], shape[1], shape[0]):
            yield name


def _alike(file: GGUFFile, name: str) -> bool:
    """Return whether the matrices with the same input have the same type: native code reads them together."""
    layer, part = name.rpartition(".")[0].rsplit(".", 1)
    several = next((parts for parts in _INPUT_SHARED if part in parts), (part,))
    return len({file.tensors[f"{layer}.{other}.weight"].kind for other in several}) == 1


class _RowOrders:
    """The bytes of a file's tensors with their rows in the order of the model's."""

    def __init__(self, file: GGUFFile, config: ModelConfig) -> None:
        self._file = file
        permuted = file.text("general.architecture") == "llama"
        self._heads = {"attn_q": config.num_attention_heads, "attn_k": config.kv_heads} if permuted else {}

    def read(self, name: str) -> Tensor:
        """Return the rows of a tensor [N, X] in the model's order as bytes, mapped where it is the file's; a vector is
        one row."""
        bytes_NX, order_N = self.stored(name), self.order(name)
        if order_N is None:
            return bytes_NX
        return bytes_NX.view(len(order_N), -1)[order_N].view(bytes_NX.shape)

    def stored(self, name: str) -> Tensor:
        """Return the rows of a tensor [N, X] as bytes in the file's order, mapped; a vector is one row."""
        shape = self._file.tensors[name].shape
        flat = torch.frombuffer(self._file.view(name), dtype=torch.uint8)
        return flat.view(1 if len(shape) == 1 else shape[0], -1)

    def order(self, name: str) -> Tensor | None:
        """Return which row of the file each row of the model is, [N]; None where they are in the same order."""
        heads, rows = self._heads.get(name.split(".")[-2]), self._file.tensors[name].shape[0]
        if heads is None:
            return None
        return torch.arange(rows).view(heads, rows // heads // 2, 2).transpose(1, 2).flatten()


def _replace(model: Transformer, param_name: str, layer: QuantizedLinear, state: dict[str, Tensor]) -> None:
    """Put a quantized layer in the place of a linear one, with the bias that was read before it."""
    module_name = param_name.removesuffix(".weight")
    layer.bias = state.pop(f"{module_name}.bias", None)
    parent, _, attribute = module_name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def _tell(file: GGUFFile, in_bits: set[str], dtype: torch.dtype) -> None:
    """Say in one line which types are dequantized, where any are."""
    kinds = {name: stored.kind for name, stored in file.tensors.items() if stored.kind not in FLOATS}
    dequantized = Counter(kind for name, kind in kinds.items() if name not in in_bits)
    kept = Counter(kind for name, kind in kinds.items() if name in in_bits)
    if dequantized:
        shown, name = _counted(dequantized), str(dtype).removeprefix("torch.")
        notice(f"{shown} become {name}" + (f"; {_counted(kept)} stay in their bits" if kept else ""), file.path.name)


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} tensors in {kind}" for kind, count in sorted(kinds.items()))
