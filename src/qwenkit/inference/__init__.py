"""The inference engine: continuous batching over a cache of blocks, sampling, scoring.

    from qwenkit.inference import Engine, SamplingParams

In the order of a request:

| file                   | what it holds                                                      |
| ---------------------- | ------------------------------------------------------------------ |
| `engine.py`            | the engine for whole lists: prompts in, outputs out                |
| `engine_core.py`       | its core: requests in, steps, deltas out; new weights              |
| `one_thread.py`        | a second thread inside an engine gets an error                     |
| `requests.py`          | from what a caller asks to requests, all checked                   |
| `adapters.py`          | adapters by name: read, checked, loaded, unloaded                  |
| `adapted_view.py`      | rows with adapters of their own, by torch                          |
| `sampling_params.py`   | what a request may ask for                                         |
| `generation_config.py` | what a model folder says of generation                             |
| `argument_checks.py`   | arguments of callers as plain values, or an error that names them  |
| `grammar_checks.py`    | grammars as plain text, and how large they may be                  |
| `sequence.py`          | a request, and an answer while it is generated                     |
| `outputs.py`           | what a caller gets: deltas, samples, the output                    |
| `pending.py`           | the requests that are not complete, and the deltas that nobody has |
| `stepper.py`           | one step: scheduled, computed, guessed, measured                   |
| `scheduler.py`         | what the next step computes: pieces of prompts, next tokens        |
| `pacing.py`            | how much of the prompts a step reads beside answers                |
| `speculation.py`       | guesses at the next tokens, which the model checks in one step     |
| `model_runner.py`      | the forward passes of a step                                       |
| `forward_pass.py`      | who computes a forward pass: torch, CUDA graphs or native code     |
| `eager_forward.py`     | what is asked of them, and how torch does it                       |
| `graphed_forward.py`   | steps of answers on a GPU, recorded and replayed                   |
| `native/`              | the decoder as one C++ function, for the processor                 |
| `transfer.py`          | numbers from the host to a device, in one copy                     |
| `model_changes.py`     | whether new weights or a new configuration fit                     |
| `stats.py`             | what the engine does and has done, in numbers                      |
| `block_pool.py`        | the blocks of the cache: free, in use, or to be found again        |
| `paged_cache.py`       | keys and values in blocks, and the attention over them             |
| `answer_attention.py`  | the attention of the newest tokens of answers                      |
| `kv_quantization.py`   | the dtype in which they are stored: as computed, or in 8 bits      |
| `kv_memory.py`         | how many tokens the cache holds, and what its contents depend on   |
| `sampler.py`           | from a step's logits to the next token of each sequence            |
| `sampling.py`          | its arithmetic: penalties, top-k, top-p, min-p, the draw           |
| `token_counts.py`      | the tokens that came so far: what penalties need                   |
| `grammar.py`           | answers that are bound to a schema, an expression, a grammar       |
| `thinking.py`          | where an answer stands with its thoughts, and their budget         |
| `detokenizer.py`       | the text of an answer as it grows, and its stop strings            |
| `stopping.py`          | whether an answer ends, and why                                    |
| `scoring.py`           | log-probabilities of given tokens                                  |
| `engine_loop.py`       | an engine on a thread of its own, for requests from any other      |
| `loop_thread.py`       | that thread: what it is asked, when it steps, how it ends          |
| `loop_calls.py`        | functions that run on it between two steps                         |
| `turns.py`             | which of them wait for an idle engine, and what came after those   |
| `stepping_engine.py`   | what the thread asks of an engine                                  |
| `request_handle.py`    | a request on the loop, for threads and for coroutines              |
| `delta_queue.py`       | the deltas of a request that nobody has taken yet                  |
| `loop_stats.py`        | figures of the loop                                                |
| `loop_errors.py`       | too busy, stopped, too late, aborted                               |
| `bench.py`             | how fast a machine reads and writes with a model, and its bounds   |
"""

from qwenkit.inference.engine import Engine
from qwenkit.inference.engine_loop import EngineLoop
from qwenkit.inference.loop_errors import EngineBusy, EngineStopped, EngineTimeout, RequestAborted
from qwenkit.inference.loop_stats import LoopStats
from qwenkit.inference.outputs import Delta, Output, Sample
from qwenkit.inference.request_handle import RequestHandle
from qwenkit.inference.requests import Conversation
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.speculation import DraftModel, PromptLookup
from qwenkit.inference.stats import EngineStats

__all__ = [
    "Conversation", "Delta", "DraftModel", "Engine", "EngineBusy", "EngineLoop", "EngineStats", "EngineStopped",
    "EngineTimeout", "LoopStats", "Output", "PromptLookup", "RequestAborted", "RequestHandle", "Sample",
    "SamplingParams",
]  # fmt: skip
