"""Quality filters (section 2.1, step 5) and personal data: what is measured of a text, and what it must be.

Rules: `default` (the value `own` in recipes), `gopher`, `c4`, `fineweb`. Learned: `classifier`, `perplexity`. Lists:
`word_list`. Scrubbing: `pii`, `telephones`. `quality_signals` computes all of them for a batch of documents.
"""
