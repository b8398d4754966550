"""qwenkit: the Qwen Technical Report (arXiv 2309.16609) as running software.

    from qwenkit import load_model, load_tokenizer, Engine, SamplingParams

Raw text goes in; a family of models comes out: base, chat, reward model, chat-RLHF. The command line is `qwenkit`; a
recipe (`qwenkit run nano`) trains the whole family. Nothing here sends data anywhere: telemetry of every library is off
before it is imported; names are loaded when they are first used, so `import qwenkit` does not load torch.
"""

from __future__ import annotations

import os

from qwenkit.lazy import lazy

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

__version__ = "0.2.0"

_HOME = {"load_model": "model", "load_tokenizer": "chat", "Engine": "inference", "SamplingParams": "inference"}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
