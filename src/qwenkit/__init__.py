"""qwenkit: the Qwen Technical Report (arXiv 2309.16609) as running software.

    from qwenkit import load_model, load_tokenizer, Engine, SamplingParams

Raw text goes in; a family of models comes out: base, chat, reward model, chat-RLHF. The command line is `qwenkit`;
a recipe (`qwenkit run nano`) raises the whole family. Nothing here reports home: telemetry of every library is off
before it is imported; names are loaded when they are first used, so `import qwenkit` does not load torch.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Waiting threads sleep and do not spin: two programs on the same cores are then twice as slow, not ten times.
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(_name, _value)

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "qwenkit.model",
    "load_tokenizer": "qwenkit.chat",
    "Engine": "qwenkit.inference",
    "SamplingParams": "qwenkit.inference",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qwenkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
