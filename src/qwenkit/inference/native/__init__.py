"""The decoder as one C++ function: new tokens in, states or logits out, with the paged KV cache.

    if (reason := NativeDecoder.reason_against(model)) is None:
        decoder = NativeDecoder(model, keys, values)             # of each layer [G, slots, D]
        logits_BV = decoder.step(ids_B, positions_B, tables_Bn)  # one token of each of B sequences

| file          | what it holds                                                                     |
| ------------- | --------------------------------------------------------------------------------- |
| `decoder.py`  | the decoder of a model: what it fits, its steps                                   |
| `fitness.py`  | what of a model does not fit, and what was done to it since                       |
| `matrices.py` | weights as the C++ code reads them: in place, or quantized ones in tiles          |
| `low_rank.py` | adapters as the C++ code reads them                                               |
| `library.py`  | the structures and functions of the C++ code                                      |
| `build.py`    | compile it, once per machine                                                      |
| `trial.py`    | which way is faster on this machine                                               |
| `decoder.cpp` | the program of a step; `step.h` what it shares, `attention.h` attention           |
| `low_rank.h`  | what adapters add to the products                                                 |
| `products.h`  | matrix products of a few rows, in float32, bf16, float16, 8 and 4 bits            |
| `vectors.h`   | vectors of 8 or 16 floats                                                         |
| `team.h`      | the threads                                                                       |
"""

from qwenkit.inference.native.decoder import NativeDecoder
from qwenkit.inference.native.trial import Ways, choose_ways

__all__ = ["NativeDecoder", "Ways", "choose_ways"]
