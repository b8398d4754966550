"""Deduplication (section 2.1, steps 3 and 4): `exact`, `minhash` in memory, `minhash_dedup` over files, and `lines`."""
