"""Exact duplicates (section 2.1, step 3): texts that are equal after normalisation, by a digest of it."""

from __future__ import annotations

import hashlib

from qwenkit.data.text_units import normal_hashes


def exact_key(text: str) -> bytes:
    """Return the digest of a normalised text: Unicode form, case, spacing and punctuation do not count."""
    return exact_digest(normal_hashes([text])[0].tobytes())


def exact_digest(data: bytes) -> bytes:
    """Return the BLAKE2 digest of some bytes, 16 bytes long."""
    return hashlib.blake2b(data, digest_size=16).digest()


def name_key(name: str) -> int:
    """Return a 64-bit number for a document's id."""
    return int.from_bytes(exact_digest(name.encode("utf-8", "replace"))[:8], "little", signed=True)
