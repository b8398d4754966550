"""The inference engine: continuous batching over a KV cache, sampling, scoring.

    from qwenkit.inference import Engine, SamplingParams

| file                   | what it holds                                                       |
| ---------------------- | ------------------------------------------------------------------- |
| `engine.py`            | the engine: requests in, deltas and outputs out                     |
| `pending.py`           | the requests that are still owed something, their deltas            |
| `requests.py`          | from what a caller asks to requests, all checked                    |
| `generation_config.py` | what a model folder says of generation                              |
| `sampling_params.py`   | what a request may ask for                                          |
| `argument_checks.py`   | arguments of callers as plain values, or an error that names them   |
| `grammar_checks.py`    | grammars as plain text, and how large they may be                   |
| `sequence.py`          | a request, one answer while it is generated, its deltas             |
| `detokenizer.py`       | the text of an answer as it grows, and its stop strings             |
| `stopping.py`          | whether an answer ends, and why                                     |
| `scheduler.py`         | what the next step computes: pieces of prompts, next tokens         |
| `model_runner.py`      | the forward passes of a step                                        |
| `sampler.py`           | from a step's logits to the next token of each sequence             |
| `model_changes.py`     | whether new weights or a new configuration fit                      |
| `kv_cache.py`          | keys and values of earlier tokens, and the attention over them      |
| `kv_quantization.py`   | the dtype in which they are stored: as computed, or in 8 bits       |
| `grammar.py`           | answers that are bound to a schema, an expression, a grammar        |
| `thinking.py`          | where an answer stands with its thoughts, and their budget          |
| `token_counts.py`      | the tokens that came so far: what penalties need                    |
| `sampling.py`          | its arithmetic: penalties, top-k, top-p, min-p, the draw            |
| `scoring.py`           | log-probabilities of given tokens                                   |
"""

from qwenkit.inference.engine import Engine
from qwenkit.inference.requests import Conversation
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.sequence import Delta, Output, Sample

__all__ = ["Conversation", "Delta", "Engine", "Output", "Sample", "SamplingParams"]
