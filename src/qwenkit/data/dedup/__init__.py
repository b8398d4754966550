"""Deduplication (section 2.1, steps 3 and 4): `minhash` in memory, `minhash_dedup` over files."""
