"""Pretraining data, section 2.1 of the report: from raw bytes to sequences of token ids.

Folders in the order of the work: `readers` (files to documents), `extract` (pages to text) and `language`, `dedup`
(exact and MinHash), `filters` (Gopher, C4, FineWeb and default rules, learned filters, personal data),
`decontamination`; `pipeline` runs them (`corpus.build_corpus`), `review` shows people the result. Then `tokens`:
shards, packing and the order of training. `chats` reads conversations. All of them count in `text_units` and `ngrams`
and write through `parquet_io`. Names load on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from qwenkit.lazy import lazy

_HOME = {
    "extract_text": "extract.text",
    "detect_language": "language",
    "near_duplicates": "dedup.minhash",
    "build_corpus": "pipeline.corpus",
    "CorpusConfig": "pipeline.config",
    "CorpusResult": "pipeline.corpus",
    "Drop": "pipeline.custom_steps",
    "Source": "readers.documents",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
