"""Random draws as a pure function of counters: no generator state anywhere, so resume cannot lose any.

`uniform(seed, a, b, ...)` hashes its integer arguments (arrays broadcast) with splitmix64 rounds and returns
float64 in [0, 1). The same arguments give the same numbers on every machine, in any order, in any process.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return one splitmix64 finaliser: every input bit affects every output bit."""
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))


def random_bits(seed: int, *counters: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return 64 random bits for each combination of counters (integers or integer arrays, broadcast together)."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed % 2**64, dtype=np.uint64) + _GOLDEN)
        for counter in counters:
            word = np.asarray(counter).astype(np.int64).astype(np.uint64)
            state = _mix((state ^ _mix(word + _GOLDEN)) + _GOLDEN)
    return state


def uniform(seed: int, *counters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return uniform float64 numbers in [0, 1), one for each combination of counters."""
    return (random_bits(seed, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, count: int, *counters: int) -> npt.NDArray[np.int64]:
    """Return a permutation of range(count), a pure function of the arguments."""
    return np.argsort(random_bits(seed, *counters, np.arange(count)), kind="stable")


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for a named purpose, so that two purposes never share a stream."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
