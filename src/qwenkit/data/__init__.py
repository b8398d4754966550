"""Pretraining data, section 2.1 of the report: from raw bytes to rows of token ids.

Reading order: `readers` -> `extract` -> `language` -> `dedup` -> `quality` -> `mixture` -> `decontaminate`, joined by
`corpus.build_corpus`; then `shards`, `packer` and `order` hand tokens to training. Names load on first use, so that
importing this room costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "extract_text": "extract",
    "detect_language": "language",
    "near_duplicates": "dedup",
    "build_corpus": "corpus",
    "CorpusConfig": "corpus",
    "CorpusResult": "corpus",
    "Source": "readers",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
