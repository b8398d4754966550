"""From documents to the packed sequences of a training step: `shards` and `example_shards` store tokens, `packing`
fills sequences, `order` says which sequence is in which step, `provenance` follows a document through all of it."""
