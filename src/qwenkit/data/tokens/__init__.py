"""From documents to the rows of a training step: `shards` and `example_shards` store tokens, `packing` fills rows,
`order` says which row is in which step, `provenance` follows a document through all of it.
"""
