"""Whether the bytes of token shards are those of their digest: everything is read again, a document at a time."""

from __future__ import annotations

import hashlib

from qwenkit.data.tokens.example_shards import ExampleShards
from qwenkit.data.tokens.shards import Shards


def is_intact(dataset: Shards) -> bool:
    """Return whether tokens (and weights, where there are any) give the digest that the index names."""
    documents = [(number, 0, int(length)) for number, length in enumerate(dataset.lengths)]
    lengths = dataset.lengths.tobytes()
    tokens = b"".join(dataset.tokens(*document).tobytes() for document in documents)
    if isinstance(dataset, ExampleShards):
        weights = b"".join(dataset.weights(*document).tobytes() for document in documents)
        return hashlib.sha256(lengths + tokens + weights).hexdigest() == dataset.digest
    return hashlib.sha256(tokens + lengths).hexdigest() == dataset.digest
