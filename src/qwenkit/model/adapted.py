"""Models that are trained, whole or by an adapter: how they are loaded, and how what was trained is written.

    model = load_trained(folder, Trunks(device), lora, seed, bf16=True)     # lora None: all weights, in float32
    save_trained(model, folder, out, base)                                  # the adapter alone, or the whole model

Weights that do not change stay in the 16 bits of their folder where products are in bf16 and no module is trained
whole; else they are float32. `Trunks` holds them once, however many models stand on them: in PPO the policy, its
reference, the value model and the reward model. An adapter's folder is trained further: its A and B go on.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from qwenkit.adapter_files import BASE, BaseName, base_of, is_adapter
from qwenkit.errors import UserError, listed, notice
from qwenkit.gguf_file import is_gguf
from qwenkit.model.adapter_config import read_config as read_adapter_settings
from qwenkit.model.adapter_folder import put_on, read_adapter, save_adapter, tensors_digest
from qwenkit.model.lora import adapted_layers, adapter_parameters, add_adapter, drop_adapter, shared_copy, target_names
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.pretrained import (
    load_model,
    load_scalar,
    model_config,
    save_model,
    save_scalar,
    scores,
    stored_dtype,
)
from qwenkit.model.quantized_linear import QuantizedLinear
from qwenkit.model.transformer import ScalarModel, Transformer
from qwenkit.platform import available_memory
from qwenkit.records import read_object
from qwenkit.rng import derive_seed

Model = TypeVar("Model", Transformer, ScalarModel)
_MERGE = "merge it first: qwenkit merge MODEL ADAPTER --out FOLDER"


# ---- loading --------------------------------------------------------------------------------------------------------


class Trunks:
    """Plain models on a device, each folder's weights in memory once."""

    def __init__(self, device: str) -> None:
        """Begin with none."""
        self.device = device
        self._known: dict[tuple[Path, torch.dtype], Transformer | ScalarModel] = {}

    def model(self, folder: Path, dtype: torch.dtype) -> Transformer:
        """Return a language model whose weights all models of this folder share, with the adapter of the folder on it
        where it is one."""
        base = _base(folder)
        plain = self._plain(base, dtype)
        if not isinstance(plain, Transformer):
            raise UserError("this folder holds a model that scores, not one that writes", where=str(base),
                            expected="a language model")  # fmt: skip
        model = shared_copy(plain)
        return put_on(model, read_adapter(folder, model)) if is_adapter(folder) else model

    def scorer(self, folder: Path, dtype: torch.dtype, seed: int = 0) -> ScalarModel:
        """Return a model that scores; where the folder's writes, it gets a head drawn from `seed`."""
        plain = self._plain(_base(folder), dtype)
        if isinstance(plain, ScalarModel):
            scalar = shared_copy(plain)
        else:
            scalar = ScalarModel(shared_copy(plain), seed=derive_seed(seed, "head"))
        return put_on(scalar, read_adapter(folder, scalar)) if is_adapter(folder) else scalar

    def _plain(self, base: Path, dtype: torch.dtype) -> Transformer | ScalarModel:
        if (base, dtype) not in self._known:
            load = load_scalar if scores(base) else load_model
            self._known[base, dtype] = load(base, dtype, self.device).requires_grad_(False)
        return self._known[base, dtype]


def _base(folder: Path) -> Path:
    return base_of(folder) if is_adapter(folder) else folder


def load_trained(
    folder: Path, trunks: Trunks, lora: LoRAConfig | None, seed: int, *, bf16: bool = False
) -> Transformer:
    """Return a language model to train: all of it in float32, or an adapter on frozen weights; `bf16` says that
    products will be in bf16. Without `lora` an adapter that the folder has is added to the weights.

    Raises a `UserError` where the folder is an adapter that these settings do not fit."""
    if lora is None:
        return load_model(folder, "float32", trunks.device, merged=True)
    return _with_adapter(trunks.model(folder, frozen_dtype(folder, lora, bf16)), folder, lora, seed)


def load_trained_scorer(
    folder: Path, trunks: Trunks, lora: LoRAConfig | None, seed: int, *, bf16: bool = False
) -> ScalarModel:
    """Return a model that scores, to train: that of the folder, or its language model with a new head drawn from
    `seed`."""
    if lora is not None:
        if is_adapter(folder) and not scores(folder):
            raise UserError("the adapter of a model that writes cannot go on as one that scores", where=str(folder),
                            expected="a plain model, or the adapter of a model that scores", hint=_MERGE)  # fmt: skip
        return _with_adapter(trunks.scorer(folder, frozen_dtype(folder, lora, bf16), seed), folder, lora, seed)
    if scores(folder):
        return load_scalar(folder, "float32", trunks.device, merged=True)
    return ScalarModel(load_model(folder, "float32", trunks.device, merged=True), seed=derive_seed(seed, "head"))


def frozen_dtype(folder: Path, lora: LoRAConfig, bf16: bool) -> torch.dtype:
    """Return the dtype of the weights that an adapter's training leaves as they are."""
    saved = lora.modules_to_save or (is_adapter(folder) and read_adapter_settings(folder).modules_to_save)
    sixteen = bf16 and not saved and stored_dtype(folder) == torch.bfloat16
    return torch.bfloat16 if sixteen else torch.float32


def frozen_copy(model: Model, with_adapter: bool) -> Model:
    """Return the model as it is now, which no training changes: frozen tensors are shared, those of the adapter copied,
    or left out."""
    shared = [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()]
    frozen = copy.deepcopy(model, {id(tensor): tensor for tensor in shared}).requires_grad_(False)
    return frozen if with_adapter else drop_adapter(frozen)


def _with_adapter(model: Model, folder: Path, lora: LoRAConfig, seed: int) -> Model:
    """Return the model with a new adapter, or with its own, which goes on under the present settings."""
    own = model.adapter
    if own is None:
        return add_adapter(model, lora, seed)
    layers = dict(adapted_layers(model))
    targets = target_names(model, lora.targets, model.config.model_type == "qwen")
    ends = {name.rpartition(".")[2] for name in own.modules_to_save or ()}
    differences = {
        "targets": set(targets) != set(layers),
        "rank": any(layer.lora.A.shape[0] != lora.rank_of(name) for name, layer in layers.items()),
        "alpha": any(abs(layer.lora.scale / lora.scale_of(name) - 1) > 1e-6 for name, layer in layers.items()),
        "dora": own.dora is not lora.dora,
        "modules_to_save": lora.modules_to_save is not None and set(lora.modules_to_save) != ends,
    }
    if names := [name for name, differs in differences.items() if differs]:
        raise UserError(f"the model is an adapter, which goes on, and `adapter` has another {listed(names)}",
                        where=str(folder), expected="the settings that it was begun with", hint=_MERGE)  # fmt: skip
    for layer in layers.values():
        layer.lora.dropout = lora.dropout
    for name in _saved(model):
        model.get_submodule(name).float()
    model.adapter = replace(own, dropout=lora.dropout, lr_scale=lora.lr_scale)
    return model


def _saved(model: Transformer | ScalarModel) -> list[str]:
    """Return the modules of a model with an adapter that are trained whole."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad and ".lora." not in name]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in trained))


def for_chats(lora: LoRAConfig | None, folder: Path, im_end_id: int) -> LoRAConfig | None:
    """Return the settings of an adapter that learns to chat. Where a recipe does not say which modules to save, a base
    model's embeddings and head are trained too: it never read the tokens of a chat.

    A folder is that of a base model where nothing in its generation settings ends an answer with the turn."""
    if lora is None or lora.modules_to_save is not None or is_adapter(folder) or is_gguf(folder):
        return lora
    file = folder / "generation_config.json"
    settings = read_object(file) if file.exists() else {}
    ends = settings.get("eos_token_id")
    if settings.get("chat_format") == "chatml" or im_end_id in (ends if isinstance(ends, list) else [ends]):
        return replace(lora, modules_to_save=())
    saved = ("embed_tokens",) if model_config(folder).tie_word_embeddings else ("embed_tokens", "lm_head")
    notice(f"a base model, which never read the tokens of a chat: {listed(saved)} are trained too; "
           "modules_to_save = [] leaves them as they are", str(folder))  # fmt: skip
    return replace(lora, modules_to_save=saved)


def trained_part(model: Transformer | ScalarModel) -> dict[str, dict[str, int]]:
    """Return, by `adapter`, how many parameters of a model with an adapter are trained and how many there are without
    it; nothing for a model that is trained whole. A quantized layer counts the weights that it stands for."""
    if model.adapter is None:
        return {}
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    extra = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    quantized = [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]
    stored = sum(each.out_features * (each.in_features + (each.bias is not None)) for each in quantized)
    return {"adapter": {"trained": trained, "model": sum(p.numel() for p in model.parameters()) - extra + stored}}


def tell_plan(model: Transformer | ScalarModel, where: Path, moment_bytes: int = 8) -> None:
    """Show what an adapter's training trains and what it needs besides activations, before it begins; `moment_bytes`
    are those of AdamW's moments for each parameter."""
    part = trained_part(model).get("adapter")
    if part is None:
        return
    tensors = [*model.parameters(), *model.buffers()]
    weights, state = sum(t.nbytes for t in tensors), (4 + moment_bytes) * part["trained"]
    free = available_memory()
    room = "" if free is None else f", of {free / 1e9:.3g} GB free"
    needs = f"weights {weights / 1e6:,.0f} MB, gradients and moments {state / 1e6:,.0f} MB, and activations{room}"
    what = f"{part['trained']:,} parameters are trained beside {part['model']:,}"
    notice(f"an adapter: {what}; {needs}", str(where))


# ---- writing --------------------------------------------------------------------------------------------------------


def save_trained(model: Transformer | ScalarModel, source: Path, out: Path, base: BaseName | None) -> None:
    """Write what was trained: the adapter of a model, whose weights `base` names, or the whole model, in the dtype of
    its source. Afterwards the model has the values that were written."""
    if model.adapter is not None:
        plain = _base(source)
        dtype = stored_dtype(plain)
        for name in _saved(model):
            module = model.get_submodule(name)
            module.to(dtype).float()
        named = base or BaseName(str(plain.resolve()))
        save_adapter(model, out, named.name, named.revision, _digest(source))
        return
    with as_stored(model, source):
        save_model(model, out) if isinstance(model, Transformer) else save_scalar(model, out)


def _digest(source: Path) -> str:
    """Return the digest of the model that an adapter stands on; the weights are mapped, and few of them are read."""
    base = _base(source)
    if is_adapter(source) and (source / BASE).exists():
        return str(read_object(source / BASE).get("tensors"))
    return tensors_digest((load_scalar if scores(base) else load_model)(base, device="cpu"))


@contextlib.contextmanager
def as_stored(model: torch.nn.Module, source: Path) -> Iterator[None]:
    """Cast the model to the dtype in which its source is stored, inside the `with` block.

    Afterwards it is float32 again, with the values rounded to that dtype."""
    model.to(stored_dtype(source))
    yield
    model.to(torch.float32)
