"""From documents and chats to the packed sequences of a training step, in the order of the work.

`tokenize` encodes documents, `row_shards` rows of chats (`chat_shards`) or of comparisons; `shards` store tokens,
`example_shards` tokens with loss weights, and `dataset` is what training reads of either. `replay` draws documents of
an earlier corpus to be mixed in. `packing` fills sequences, `order` says which sequence is in which step, `provenance`
follows a document through all of it.
"""
