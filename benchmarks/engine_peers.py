"""Engines behind one question: answer these prompts of ids, each with so many tokens, greedily and without an end.

    python3 -m venv .peers-engine && .peers-engine/bin/pip install -r benchmarks/peers-engine.txt

    with Process("llama.cpp", PEERS, model=file, threads=2, slots=1, context=1024) as engine:
        seconds, answers = engine.ask("answer", [[prompt_ids, 64]])

An engine runs in a process of its own that loads the model once and then answers on request, so that turns can
alternate. `Process` is the parent's end. The child is this file, run by the Python of the engine's environment: it
imports nothing of ours but for `qwenkit` and `machine`. Times are taken in the child, around the call.

| kind                    | what answers                                                                               |
| ----------------------- | ------------------------------------------------------------------------------------------ |
| qwenkit                 | `Engine.generate`; all prompts of a call at once                                           |
| qwenkit loop            | `EngineLoop`, asked as a server is: by clients, each again when it was answered            |
| transformers            | `generate` on one static batch, padded on the left; it ends with its longest answer        |
| transformers continuous | its continuous batching, pages sized for the prompts that come                             |
| llama.cpp               | its server's completions through `xllamacpp`, a slot and a caller for each prompt          |
| machine                 | no engine: the bandwidth of a plain read, the operations a second of a matrix product      |
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

PEERS = Path(".peers-engine/bin/python")
MAKE_PEERS = "python3 -m venv .peers-engine && .peers-engine/bin/pip install -r benchmarks/peers-engine.txt"
LIMIT = 1800.0
"""Seconds that one call may take; loading counts as one."""
PACKAGES = ("qwenkit", "torch", "transformers", "xllamacpp")
Request = tuple[list[int], int]
"""The ids of a prompt, and how many tokens its answer has."""


# ---- the parent's end ------------------------------------------------------------------------------------------------


class Process:
    """An engine in a process of its own."""

    def __init__(self, kind: str, python: Path | str, **options: Any) -> None:
        """Start it and wait until its model is loaded. Exits with the process's own words where it does not start."""
        self.kind = kind
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- `close` closes it
        command = [str(python), __file__, kind, json.dumps({k: str(v) if isinstance(v, Path) else v
                                                            for k, v in options.items()})]  # fmt: skip
        try:
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                           stderr=self._errors, env=_environment(options.get("device")))  # fmt: skip
        except FileNotFoundError:
            sys.exit(f"{kind}: no {python}. Make the peers' environment:\n    {MAKE_PEERS}")
        self.versions: dict[str, str] = self._reply()

    def ask(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Call a method of the engine; return its seconds and what it returned."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([method, arguments]).encode() + b"\n")
        self._child.stdin.flush()
        seconds, result = self._reply()
        return seconds, result

    def answer(self, requests: list[Request]) -> tuple[float, list[list[int]]]:
        """Return the seconds of answering all requests at once, and the answers."""
        seconds, answers = self.ask("answer", requests)
        if [len(ids) for ids in answers] != [count for _, count in requests]:
            sys.exit(f"{self.kind} gave answers of {[len(ids) for ids in answers]} tokens, "
                     f"not {[count for _, count in requests]}")  # fmt: skip
        return seconds, answers

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._child.pid

    def _reply(self) -> Any:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], LIMIT)
        line = self._child.stdout.readline() if ready else b""
        if not line:
            self._child.kill()
            self._errors.seek(0)
            why = "no reply in time" if not ready else self._errors.read().strip()[-3000:]
            sys.exit(f"{self.kind} did not run:\n{why}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.communicate()
        self._errors.close()

    def __enter__(self) -> Process:
        """Return the started engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()


def _environment(device: str | None) -> dict[str, str]:
    """Return the environment of a child: without what `import qwenkit` has set in this process for its own threads, and
    without GPUs where it is not one that is measured."""
    here = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if device != "cuda":
        here["CUDA_VISIBLE_DEVICES"] = ""
    return {**here, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


# ---- the child: one class for each kind ------------------------------------------------------------------------------


class Engine(Protocol):
    """What answers."""

    def answer(self, requests: list[Request]) -> list[list[int]]:
        """Return the new ids of each request."""
        ...


class Ours:
    """qwenkit's engine."""

    def __init__(self, model: str, threads: int, torch_first: bool = False, **options: Any) -> None:
        """Load a folder. An option that this version's `Engine` does not know is left out. `torch_first` imports torch
        before qwenkit, as many programs do: what qwenkit sets for its threads then comes too late."""
        if torch_first:
            import torch
        from qwenkit.inference import Engine, SamplingParams  # isort: skip
        import torch

        torch.set_num_threads(threads)
        self.base = resident()
        self._params = SamplingParams.plain
        self.engine: Any = Engine(model, **known_options(Engine, {"invariant": False, **options}))

    def answer(self, requests: list[Request]) -> list[list[int]]:
        """Return the new ids of each request."""
        prompts, params = [ids for ids, _ in requests], [self._greedy(count) for _, count in requests]
        return [output.ids for output in self.engine.generate(prompts, params)]

    def stream(self, requests: list[Request], late: Request, after: int) -> tuple[list[list[float]], list[float]]:
        """Answer requests, and `late` from when each of them has `after` tokens; return the times of the tokens of each
        of the first ones, and those of the late one, behind the time at which it was asked."""
        times = {self.engine.submit(ids, self._greedy(count)): list[float]() for ids, count in requests}
        first, asked = list(times), list[float]()
        while self.engine.has_work:
            for delta in self.engine.step():
                times[delta.handle] += [time.perf_counter()] * len(delta.ids)
            if not asked and min(map(len, times.values())) >= after:
                asked.append(time.perf_counter())
                times[self.engine.submit(late[0], self._greedy(late[1]))] = asked
        return [times[handle] for handle in first], asked

    def score(self, prompts: list[list[int]], continuations: list[list[int]]) -> list[float]:
        """Return the log-probability of each continuation."""
        return [sum(logprobs) for logprobs in self.engine.score(prompts, continuations)]

    def rollouts(self, prompts: list[list[int]], samples: int, tokens: int, seed: int) -> int:
        """Sample answers as PPO does, with their log-probabilities; return how many tokens they have."""
        outputs = self.engine.generate(prompts, self._params(n=samples, max_tokens=tokens, seed=seed))
        return sum(len(sample.ids) for output in outputs for sample in output.samples)

    def memory(self) -> dict[str, int]:
        """Return bytes: resident before the engine was made and now, and the largest so far."""
        return {"base": self.base, "now": resident(), "peak": resident("VmHWM")}

    def stats(self) -> dict[str, Any]:
        """Return the engine's counters; none in a version that has no such thing."""
        found: Any = getattr(self.engine, "stats", dict)()
        return found if isinstance(found, dict) else found._asdict()

    def _greedy(self, count: int) -> Any:
        return self._params(temperature=0, max_tokens=count, ignore_eos=True, logprobs=False)


class OurLoop:
    """qwenkit's engine as a server holds it, on a thread of its own, without the server."""

    def __init__(self, model: str, threads: int) -> None:
        """Load a folder with the settings of `qwenkit serve`."""
        from qwenkit.chat import load_tokenizer
        from qwenkit.inference import Engine, EngineLoop
        from qwenkit.platform import torch_threads

        with torch_threads(threads):
            self.loop = EngineLoop(Engine(model, load_tokenizer(model), invariant=False, max_batch=128))

    def load(self, rows: list[Request], clients: int, objectives: list[float]) -> dict[str, Any]:
        """Have so many clients ask these requests; return the figures of a load test."""
        import asyncio
        from dataclasses import asdict

        from qwenkit.inference import SamplingParams
        from qwenkit.serving.load.loops import LoadPlan, LoadRun
        from qwenkit.serving.load.measures import Objectives, summarize
        from qwenkit.serving.load.requests import LoadRequest

        async def send(request: LoadRequest, record: Any) -> None:
            params = SamplingParams.plain(temperature=0, max_tokens=request.max_tokens, ignore_eos=True, logprobs=False)
            record.sent = time.perf_counter()
            handle = await self.loop.asubmit(list(request.prompt or ()), params, timeout=LIMIT)
            count = 0
            async for delta in handle:
                if delta.ids:
                    record.times.append(time.perf_counter())
                    count += len(delta.ids)
            record.prompt_tokens, record.answer_tokens = len(request.prompt or ()), count

        run = LoadRun(LoadPlan(clients=clients, requests=len(rows)),
                      lambda number: LoadRequest(rows[number][0], None, rows[number][1]), send)  # fmt: skip
        return asdict(summarize(asyncio.run(run.run()), Objectives(*objectives), client=run.cost()))


def resident(name: str = "VmRSS") -> int:
    """Return the bytes of this process that lie in memory, or of the kernel's other counts (VmHWM: the peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def known_options(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a function takes: versions of the engine are compared that do not have all of them."""
    return {name: value for name, value in options.items() if name in inspect.signature(function).parameters}


class Static:
    """transformers' `generate` on one static batch."""

    def __init__(self, model: str, threads: int, device: str = "cpu") -> None:
        """Load a folder, with the attention that torch fuses."""
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch = torch
        loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto", attn_implementation="sdpa")
        self.model: Any = loaded.eval().to(device)

    def answer(self, requests: list[Request]) -> list[list[int]]:
        """Return the new ids of each request, which are made until the longest answer is."""
        longest, most = max(len(ids) for ids, _ in requests), max(count for _, count in requests)
        rows = [[0] * (longest - len(ids)) + ids for ids, _ in requests]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in requests]
        with self.torch.inference_mode():
            ids, mask = (self.torch.tensor(table, device=self.model.device) for table in (rows, mask))
            found = self.model.generate(ids, attention_mask=mask, max_new_tokens=most, min_new_tokens=most,
                                        do_sample=False, pad_token_id=0)  # fmt: skip
        return [row[longest : longest + count] for row, (_, count) in zip(found.tolist(), requests)]


class Continuous(Static):
    """transformers' continuous batching."""

    PAGE = 32

    def answer(self, requests: list[Request]) -> list[list[int]]:
        """Return the new ids of each request."""
        import transformers

        pages = sum(-(-(len(ids) + count) // self.PAGE) for ids, count in requests) + len(requests)
        pages_config = transformers.ContinuousBatchingConfig(
            page_size=self.PAGE, num_blocks=pages, max_batch_tokens=max(512, len(requests)), allow_block_sharing=False
        )
        greedy = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
        found: dict[str, list[int]] = {}
        with self.model.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=pages_config, block=True, timeout=60
        ) as manager:
            names = [manager.add_request(ids, max_new_tokens=count) for ids, count in requests]
            started = time.monotonic()
            while len(found) < len(requests) and manager.is_running() and time.monotonic() < started + LIMIT:
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    found[result.request_id] = result.generated_tokens
        return [list(found[name]) for name in names]


class LlamaCpp:
    """llama.cpp's server, in this process."""

    def __init__(self, model: str, threads: int, slots: int, context: int, cached: bool = False) -> None:
        """Load a GGUF file, for `slots` requests at a time of `context` tokens each. `cached` keeps what was read for
        later prompts that begin alike."""
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_parallel, params.n_ctx = slots, slots * context
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = 0
        params.cache_ram_mib = 0
        params.port = _free_port()
        self.cached = cached
        self.server = xllamacpp.Server(params)
        self.facts = {"llama.cpp": xllamacpp.get_system_info().strip()}

    def address(self) -> str:
        """Return where its server listens."""
        return self.server.listening_address

    def answer(self, requests: list[Request]) -> list[list[int]]:
        """Answer all requests at once, each asked by a thread of its own; return placeholders, -1, for the new ids."""
        with ThreadPoolExecutor(len(requests)) as callers:
            return list(callers.map(self._one, requests))

    def _one(self, request: Request) -> list[int]:
        return [-1] * self._reply(request)["usage"]["completion_tokens"]

    def named(self, request: Request) -> list[int]:
        """Return the new ids of a request, which the server names only where it sorts all of them for each token."""
        return [token["id"] for token in self._reply(request, logprobs=1)["choices"][0]["logprobs"]["content"]]

    def _reply(self, request: Request, **more: int) -> dict[str, Any]:
        ids, count = request
        asked = {"prompt": ids, "max_tokens": count, "temperature": 0, "ignore_eos": True, "cache_prompt": self.cached}
        reply = self.server.handle_completions({**asked, **more})
        if "choices" not in reply:
            raise RuntimeError(f"llama.cpp: {reply}")
        return reply


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Machine:
    """The bounds of a machine, by torch."""

    def __init__(self, threads: int, device: str = "cpu") -> None:
        """Take the threads that compute, or the GPU that does."""
        import torch

        torch.set_num_threads(threads)
        self.torch, self.device = torch, device

    def read(self, size: int) -> float:
        """Return the bytes a second of reading a block of so many bytes: the median of reads over half a second."""
        block = self.torch.ones(size // 4, dtype=self.torch.float32, device=self.device)
        return size / _median_seconds(lambda: block.sum().item())

    def product(self, dtype: str) -> float:
        """Return the floating-point operations a second of one square matrix product: the median over half a second."""
        side = 2048
        x, w = (self.torch.randn(side, side).to(getattr(self.torch, dtype)) for _ in range(2))
        return 2 * side**3 / _median_seconds(lambda: self.torch.nn.functional.linear(x, w))


def _median_seconds(job: Callable[[], Any]) -> float:
    job()
    found: list[float] = []
    while sum(found) < 0.5 or len(found) < 3:
        started = time.perf_counter()
        job()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


KINDS: dict[str, Callable[..., Any]] = {
    "qwenkit": Ours,
    "qwenkit loop": OurLoop,
    "transformers": Static,
    "transformers continuous": Continuous,
    "llama.cpp": LlamaCpp,
    "machine": Machine,
}


def serve(kind: str, options: dict[str, Any]) -> None:
    """Answer one line of JSON with another until the input ends. What libraries print goes to the errors."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(value: object) -> None:
        print(json.dumps(value), file=replies, flush=True)

    engine = KINDS[kind](**options)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}
    reply(versions | getattr(engine, "facts", {}))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        started = time.perf_counter()
        result = getattr(engine, method)(*arguments)
        reply([time.perf_counter() - started, result])


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
