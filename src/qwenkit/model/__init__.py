"""The Transformer of the report (§1.3), its first weights, and its folder format.

    from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
    model = init_weights(Transformer(ModelConfig(vocab_size=1536, hidden_size=128, ...)), seed=0)

`transformer.py` shows a whole model in one file, `attention.py` holds the one rule of who sees whom, `init.py` the
first weights, `pretrained.py` reads and writes Hugging Face folders. Names load on first use: a recipe checks
the shape of a model without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenkit.lazy import lazy

if TYPE_CHECKING:
    from qwenkit.model.config import ModelConfig
    from qwenkit.model.init import init_weights
    from qwenkit.model.pretrained import load_model, load_scalar, save_model, save_scalar, stored_dtype
    from qwenkit.model.transformer import ScalarModel, Transformer

_HOME = {
    "ModelConfig": "config",
    "ScalarModel": "transformer",
    "Transformer": "transformer",
    "init_weights": "init",
    "load_model": "pretrained",
    "load_scalar": "pretrained",
    "save_model": "pretrained",
    "save_scalar": "pretrained",
    "stored_dtype": "pretrained",
}

__all__ = [
    "ModelConfig",
    "ScalarModel",
    "Transformer",
    "init_weights",
    "load_model",
    "load_scalar",
    "save_model",
    "save_scalar",
    "stored_dtype",
]
__getattr__, __dir__ = lazy(__name__, _HOME)
