"""The inference engine: continuous batching over a KV cache, sampling, scoring.

    from qwenkit.inference import Engine, SamplingParams

| file                 | what it holds                                                              |
| -------------------- | -------------------------------------------------------------------------- |
| `engine.py`          | the engine: requests in, outputs out                                       |
| `sampling_params.py` | what a request may ask for, and the defaults of a model folder             |
| `argument_checks.py` | arguments of callers as plain values, or an error that names them          |
| `sequence.py`        | a request, and one answer while it is generated                            |
| `stopping.py`        | whether an answer ends, and why                                            |
| `scheduler.py`       | which sequences run                                                        |
| `model_runner.py`    | one forward pass over the batch: prefill or decode                         |
| `kv_cache.py`        | keys and values of earlier tokens                                          |
| `kv_quantization.py` | the dtype in which they are stored: as computed, or in 8 bits              |
| `sampling.py`        | from logits to a token: penalties, temperature, top-k, top-p, min-p        |
| `scoring.py`         | log-probabilities of given tokens                                          |
"""

from qwenkit.inference.engine import Engine
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.sequence import Output, Sample

__all__ = ["Engine", "Output", "Sample", "SamplingParams"]
