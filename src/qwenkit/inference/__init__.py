"""The engine: continuous batching over a key/value cache, sampling, scoring.

    from qwenkit.inference import Engine, SamplingParams

`engine.py` is the whole of it in words: requests in, outputs out. `sampling_params.py` what may be asked, `validation.py`
how it is read, `sequence.py` one answer in the making, `scheduler.py` who runs, `model_runner.py` the model at work on
a batch, `kv_cache.py` keys and values, `sampling.py` from logits to a token, `scoring.py` the log-probabilities of given tokens.
"""

from qwenkit.inference.engine import Engine
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.sequence import Output, Sample

__all__ = ["Engine", "Output", "Sample", "SamplingParams"]
