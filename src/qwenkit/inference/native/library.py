"""The structures and functions of the C++ code, as ctypes sees them.

The fields are those of `products.h`, `step.h` and `low_rank.h`."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_char_p, c_double, c_int64, c_uint64, c_void_p
from pathlib import Path

from qwenkit.inference.native.build import Remembered, Unavailable, shared_library

FLOAT32, BFLOAT16, FLOAT16, INT8, INT4, INT4_MINIMUMS = range(6)


class Matrix(ctypes.Structure):
    """A matrix [rows, columns] of one of the kinds above; `group` columns share a scale (0: a whole row)."""

    _fields_ = (
        *((name, c_int64) for name in ("kind", "rows", "columns", "group")),
        ("data", c_void_p),
        ("bias", c_void_p),
    )


class Layer(ctypes.Structure):
    """The weights and the cache of one layer."""

    _fields_ = (
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, c_void_p) for name in ("input_norm", "mlp_norm", "q_norm", "k_norm", "keys", "values")),
        ("window", c_int64),
    )


class Model(ctypes.Structure):
    """The shape of a model, its layers, and what stands before and behind them."""

    _fields_ = (
        *((name, c_int64) for name in ("layers", "width", "heads", "kv_heads", "head", "wide", "slots", "cache_kind")),
        ("eps", c_double),
        ("layer", POINTER(Layer)),
        ("norm", c_void_p),
        ("embedding", Matrix),
        ("output", Matrix),
    )


class Step(ctypes.Structure):
    """What one step is given, and where its results go."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "threads", "table_count", "table_width", "rotary_by_position")),
        ("wanted_count", c_int64),
        *((name, c_void_p) for name in ("ids", "embeddings", "positions", "sequences", "tables", "cosine", "sine")),
        *((name, c_void_p) for name in ("query_scale", "wanted", "states", "logits")),
        *((name, c_int64) for name in ("group_count", "low_kind")),
        ("groups", c_void_p),
    )


class LowRank(ctypes.Structure):
    """What an adapter adds to one layer: A [rank, K], and B [rank, stride] by columns. No rows: nothing."""

    _fields_ = (("a", Matrix), ("b", c_void_p), ("stride", c_int64), ("scale", c_double))


class Group(ctypes.Structure):
    """Rows of a step that have one adapter, whose layers are seven `LowRank`s each."""

    _fields_ = (("start", c_int64), ("stop", c_int64), ("layers", c_void_p))


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled functions. Raises `Unavailable` where they cannot be compiled or loaded."""
    return _load(shared_library())


@Remembered
def _load(path: Path) -> ctypes.CDLL:
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        path.unlink(missing_ok=True)  # the next start compiles it again
        raise Unavailable(f"the compiled code cannot be loaded: {error}") from error
    signatures = {
        "qk_lanes": (c_int64, []),
        "qk_packed_bytes": (c_int64, [POINTER(Matrix)]),
        "qk_pack": (None, [POINTER(Matrix), c_void_p, c_void_p, c_void_p, c_void_p]),
        "qk_step": (c_char_p, [POINTER(Model), POINTER(Step)]),
        "qk_product": (c_char_p, [POINTER(Matrix), c_void_p, c_int64, c_int64, c_void_p]),
        "qk_read": (c_uint64, [c_void_p, c_int64, c_int64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
    return functions
