"""Pretraining data, section 2.1 of the report: from raw bytes to rows of token ids.

Reading order: `readers` -> `extract`, `language` -> `dedup`, `copies` -> `gauge` (`quality`, `published`, `classifier`)
-> `pii`, `decontaminate`, `mixture`, as the `phases` of `corpus.build_corpus`; `review` for people; then `shards`,
`packer` and `order` hand tokens to training. Names load on first use, so that importing this room costs nothing.
"""

from __future__ import annotations

from qwenkit.lazy import lazy

_HOME = {
    "extract_text": "extract",
    "detect_language": "language",
    "near_duplicates": "dedup",
    "build_corpus": "corpus",
    "CorpusConfig": "settings",
    "CorpusResult": "corpus",
    "Source": "readers",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
