"""The core of the engine: requests in, steps of the model, deltas and outputs out; and another model on the way.

    handle = engine.submit(Conversation(messages, tools), SamplingParams(max_tokens=64))     # or a prompt
    handle = engine.enqueue(engine.prepare(prompt))         # the same in two: `prepare` on any thread
    while engine.has_work:
        for delta in engine.step():
            delta.handle, delta.ids, delta.text, delta.finish_reason, delta.output, delta.error

This is what a server, an agent's loop and `EngineLoop` drive, one request at a time; `engine.py` answers whole lists by
the same steps.

A step computes the next token of every running answer and pieces of prompts, `step_tokens` at most. Keys and values lie
in blocks of the cache, `kv_tokens` in all; what a prompt begins with and another one had before it is found there and
not read again, until its place is needed (`Output.num_cached_tokens`, `Engine.stats`). Where the blocks do not suffice
for all, the request that came last is put back and computed again later.

What was submitted is kept until a step hands it out, or until it is aborted. New weights, another configuration and the
release of the cache wait for nothing: they are refused while requests are pending.

Caveats: a core belongs to one thread, except for `prepare` and `stats`: a second one that comes while it works gets a
`UserError` (`engine_loop.py` gives it to many). Its cache is freed with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.hub import resolve
from qwenkit.inference.adapters import MAX_ADAPTERS, MAX_RANK, Adapters, EngineAdapter, read_engine_adapter
from qwenkit.inference.argument_checks import integer, shown
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.kv_memory import cache_salt, default_kv_tokens, parse_kv_tokens
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES
from qwenkit.inference.model_changes import check_config, check_state, without_tied_head
from qwenkit.inference.model_runner import ModelRunner
from qwenkit.inference.native.decoder import NativeDecoder
from qwenkit.inference.one_thread import OneThread
from qwenkit.inference.outputs import Delta
from qwenkit.inference.pending import PendingRequests
from qwenkit.inference.requests import RNG_ID, Conversation, PromptLike, RequestFactory, check_tokenizer
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.sequence import Request
from qwenkit.inference.speculation import Speculation
from qwenkit.inference.stats import EngineStats
from qwenkit.inference.stepper import Stepper, make_scheduler
from qwenkit.model import ModelConfig, Transformer, load_model
from qwenkit.model.modes import evaluating
from qwenkit.model.prepacked import can_prepack

_COUNT = integer(1)


class EngineCore:
    """A model, its tokenizer and the pending requests, which grow a step at a time."""

    def __init__(
        self,
        model: Transformer | str | Path,
        tok: TextTokenizer | None = None,
        *,
        adapter: str | Path | None = None,
        max_batch: int = 128,
        step_tokens: int = 1024,
        kv_tokens: int | None = None,
        invariant: bool = True,
        seed: int = 0,
        vocabulary: int | None = None,
        kv_cache: str | None = None,
        packed: bool | None = None,
        native: bool | None = None,
        cuda_graphs: bool = True,
        speculation: Speculation | None = None,
        max_adapters: int = MAX_ADAPTERS,
        max_adapter_rank: int = MAX_RANK,
    ) -> None:
        """Make an engine for a model, or for a model folder, with the `adapter` of a folder on it.

        `max_batch` sequences run at a time, and a step computes `step_tokens` tokens. The cache holds `kv_tokens`
        (None: room for `max_batch` texts, or as many as memory allows). `invariant`: bits depend on the request alone,
        as far as the model's width allows. `seed` is for requests that name none. Ids from `vocabulary` on (by default
        the tokenizer's size) only pad the embedding and are never sampled. `kv_cache` keeps keys and values in 8 bits:
        "int8" as a first Qwen's folder may ask (`use_cache_quantization`), "int8_per_token_head" faster and for any
        model; None: as the model says. `native` computes by compiled code (None: where there is a compiler and the
        model fits; it then reads prompts and writes answers to the same bits). `packed` copies bf16 weights into the
        layout that oneDNN reads (`model/prepacked.py`); None: where the engine loads the folder itself, native code
        does not fit, the CPU has such products and the copy has room. `cuda_graphs`: where the model is on a GPU, steps
        of answers are recorded and replayed (`graphed_forward.py`); False: each kernel is launched. `speculation`
        guesses tokens ahead (`speculation.py`), as long as it pays; the ids stay the same. `max_adapters` and
        `max_adapter_rank` are limits of `load_adapter`.

        Raises a `UserError` for arguments and settings of the folder that mean nothing."""
        check_tokenizer(tok)  # before a model is loaded
        model, folder = (model, None) if isinstance(model, Transformer) else _from_folder(model, adapter)
        self.request_factory = RequestFactory(model, tok, folder, seed)
        sampled, kv_cache_dtype = _num_sampled(vocabulary, model, tok), _kv_cache_dtype(kv_cache, model)
        packed = _is_packed(packed, model, folder)
        step_tokens, max_batch = _COUNT.parse(step_tokens, "step_tokens"), _COUNT.parse(max_batch, "max_batch")
        if kv_tokens is None:
            self.kv_tokens = default_kv_tokens(model, kv_cache_dtype, max_batch)
        else:
            self.kv_tokens = parse_kv_tokens(kv_tokens, model, kv_cache_dtype)
        self.request_factory.kv_tokens = self.kv_tokens
        self.request_factory.adapters = Adapters(_COUNT.parse(max_adapters, "max_adapters"))
        self._max_adapter_rank = _COUNT.parse(max_adapter_rank, "max_adapter_rank")
        self.runner = ModelRunner(
            model, sampled, self.kv_tokens, kv_cache_dtype, packed=packed, native=native, trial=not invariant,
            graphs=cuda_graphs,
        )  # fmt: skip
        self.scheduler = make_scheduler(self.runner, max_batch, invariant)
        self.version, self._one_thread = 0, OneThread()
        self._requests = PendingRequests(tok)
        self._stepper = Stepper(self.runner, self.scheduler, self._requests, step_tokens, invariant, speculation)

    @property
    def model(self) -> Transformer:
        """Return the model, which owns the weights."""
        return self.runner.model

    @property
    def tok(self) -> TextTokenizer | None:
        """Return the tokenizer, or None."""
        return self.request_factory.tok

    @property
    def eos_ids(self) -> frozenset[int]:
        """Return the tokens that end every answer, unless a request says `ignore_eos`."""
        return self.request_factory.eos_ids

    @property
    def max_window(self) -> int | None:
        """Return the bound on a chat's history in tokens, or None where the folder has none."""
        return self.request_factory.max_window

    @property
    def max_length(self) -> int:
        """Return how many tokens a prompt and its answer may have together: the model's positions, or the cache."""
        return self.request_factory.max_length

    # ---- one request at a time --------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: PromptLike | Conversation,
        params: SamplingParams | None = None,
        rng_id: int | None = None,
        *,
        sample: int = 0,
        first_draw: int = 0,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
    ) -> int:
        """Queue a request and return its handle, which is in all its deltas and in its output: `prepare` and `enqueue`
        in one. Its random draws are made from the number `rng_id`, or from the handle where none is given."""
        label = f"request {self._requests.next_handle}"
        return self.enqueue(self.prepare(prompt, params, rng_id, sample=sample, first_draw=first_draw,
                                         priority=priority, cache_salt=cache_salt, adapter=adapter,
                                         label=label))  # fmt: skip

    def prepare(
        self,
        prompt: PromptLike | Conversation,
        params: SamplingParams | None = None,
        rng_id: int | None = None,
        *,
        sample: int = 0,
        first_draw: int = 0,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
        label: str = "request",
    ) -> Request:
        """Check, render and encode a request for `enqueue`. It changes nothing of the engine, so any thread may call
        it while another one steps. A conversation's answer ends as in `chat`.

        The draw of a token is a function of the seed, `rng_id`, the sample and the position in the answer. The last two
        are counted from `sample` and `first_draw`: a later turn goes on with the draws of one sample where it names
        that and the number of tokens that were sampled before. Lower numbers of `priority` come first, and are put back
        last. Beginnings are shared in the cache only among requests of the same `cache_salt`: without that, how soon a
        first token comes tells a user what others have asked. `adapter` is the
        name of one that was loaded (`load_adapter`). `label` is what errors call the request."""
        return self.request_factory.prepare(prompt, params, rng_id, sample=sample, first_draw=first_draw,
                                            priority=priority, cache_salt=cache_salt, adapter=adapter,
                                            label=label)  # fmt: skip

    def enqueue(self, request: Request) -> int:
        """Queue a request that `prepare` made and return its handle.

        Raises a `UserError` for one that was queued before, for one that the model has no positions for any more, since
        its configuration changed, and where its adapter was unloaded meanwhile."""
        if request.handle >= 0:
            raise UserError(f"{request.label} was queued already", expected="a new one, made by `prepare`")
        if request.adapter is not None and self.adapters.get(request.adapter.name) is not request.adapter:
            raise UserError(f"its adapter {request.adapter.name} was unloaded", where=request.label)
        if len(request.prompt.ids) + request.max_new_tokens > self.max_length:
            raise UserError("prepared under another configuration", where=request.label, hint="prepare it again")
        try:
            self._enqueue([request])
            return request.handle
        except BaseException:  # an interrupt must not leave a request that is pending and never computed
            if request.handle >= 0:  # one that was refused may be queued again
                self._requests.remove(request)
            raise

    @property
    def has_work(self) -> bool:
        """Return whether a step has something to compute or to hand out."""
        return self.scheduler.has_work or self._requests.have_deltas

    def step(self) -> list[Delta]:
        """Run one step of the model; return what the submitted requests have got since their last deltas, in the order
        of their handles.

        The last delta of a request holds its output, or its error; the engine then forgets the request."""
        self._step()
        return self._requests.take_deltas(self.scheduler.running)

    def abort(self, handle: int) -> None:
        """Drop a request: no delta of it comes any more, and its place is free at the next step. Unknown and finished
        handles are ignored."""
        with self._one_thread:
            request = self._requests.get(RNG_ID.parse(handle, "handle"))
            if request is not None and request.submitted:
                self._requests.remove(request)

    def stats(self) -> EngineStats:
        """Return what the engine does and has done; any thread may ask."""
        return self._stepper.stats()

    # ---- adapters ---------------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> dict[str, EngineAdapter]:
        """Return the adapters that a request may name."""
        return self.request_factory.adapters.loaded

    def read_adapter(self, name: str, folder: str | Path) -> EngineAdapter:
        """Read the adapter of a folder for `load_adapter`, under a name. It changes nothing of the engine, so any
        thread may call it while another one steps.

        Raises a `UserError` for another model's adapter, a rank above the engine's limit, and for one that cannot be
        computed beside others (`adapters.py`)."""
        return read_engine_adapter(name, folder, self.model, self._max_adapter_rank)

    def load_adapter(self, name: str, folder: str | Path | EngineAdapter) -> EngineAdapter:
        """Let requests name an adapter from now on: that of a folder, or one that `read_adapter` has read. Requests may
        be pending.

        Raises a `UserError` where one of this name is loaded, where there are too many, and as `read_adapter` does."""
        adapter = folder if isinstance(folder, EngineAdapter) else self.read_adapter(name, folder)
        if adapter.name != name:
            raise UserError(f"an adapter that was read as {adapter.name}", where=f"adapter {name}",
                            expected="the name that it was read under")  # fmt: skip
        with self._one_thread:
            self.request_factory.adapters.add(adapter, self._requests.adapters())
        return adapter

    def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter. Those that have it are computed with it to their ends, and its memory
        is free then. Raises a `UserError` for a name that is not loaded."""
        with self._one_thread:
            self.request_factory.adapters.remove(name)

    # ---- another model ----------------------------------------------------------------------------------------------

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Load new weights (None: the model was changed in place); later outputs carry a new `version`. A state holds
        all tensors of the model, or those that are trained in it (`model.trainable.trainable_state`).

        Raises a `UserError` while requests are pending or adapters are loaded, and for a state that does not fit the
        model."""
        with self._one_thread:
            self._check_idle("new weights")
            if names := list(self.adapters):
                raise UserError(f"new weights under the adapter {names[0]}", expected="no adapter loaded",
                                hint="unload it first: it was trained on the old ones")  # fmt: skip
            self.scheduler.pool.forget_all()  # before anything changes: a failure in the middle leaves nothing old
            if state is not None:
                state = without_tied_head(state) if self.model.config.tie_word_embeddings else state
                check_state(state, self.model)
                self.model.load_state_dict(state, strict=False)
            with self._inference():
                self.runner.refresh_weights()
            self.version += 1

    def reconfigure(self, config: ModelConfig) -> None:
        """Compute under another configuration from now on, such as another context extension; nothing that was
        computed under the old one is kept.

        Raises a `UserError` while requests are pending, and for a change of what the weights or the engine were made
        with."""
        with self._one_thread:
            self._check_idle("a new configuration")
            check_config(config, self.model.config)
            self.model.config = config
            self._follow_model()

    def release_cache(self) -> None:
        """Give the memory of keys, values and packed weights back until the next request, which makes them anew: for a
        policy that learns between its rollouts (vLLM's `sleep`). No answer changes, but nothing is found any more.

        Raises a `UserError` while requests are pending."""
        with self._one_thread:
            self._check_idle("the cache released")
            self.scheduler.pool.forget_all()
            self.runner.sleep()

    def _check_idle(self, what: str) -> None:
        if self._requests.are_unfinished:
            raise UserError(f"{what} while requests are pending", hint="finish or abort them first")

    def _follow_model(self) -> None:
        """Take over a configuration that was set on the model itself, and make the cache anew where it was released."""
        changed = self.runner.config is not self.model.config and self.runner.config != self.model.config
        if changed:
            self._check_idle("a new configuration")
            self.scheduler.pool.forget_all()
        if changed or self.runner.asleep:
            with self._inference():
                (self.runner.wake_up if self.runner.asleep else self.runner.reset)()

    # ---- pending requests -------------------------------------------------------------------------------------------

    @contextmanager
    def _pending(self, requests: list[Request]) -> Iterator[None]:
        """Queue the requests of one call: however it ends, nothing of them is left behind."""
        try:
            self._enqueue(requests)
            yield
        finally:
            self._requests.remove_all(requests)

    def _enqueue(self, requests: list[Request]) -> None:
        with self._one_thread:
            self._follow_model()
            for request in requests:
                salt = cache_salt(request, self.model.config)
                for sequence in request.sequences:
                    sequence.table.salt = salt
                self._requests.add(request, self.version)
            self.scheduler.add(s for request in requests if request.is_pending for s in request.sequences)

    def _step(self) -> None:
        """Run one step of the model for all requests, and finalize those that it completes."""
        with self._one_thread:
            self._follow_model()
            with self._inference():
                self._stepper.step(self.version)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Disable gradients and dropout inside the `with` block; restore the mode of the model afterwards."""
        with evaluating(self.model) if self.model.training else nullcontext(), torch.inference_mode():
            yield


def _from_folder(folder: str | Path, adapter: str | Path | None) -> tuple[Transformer, Path]:
    """Load the model; return it with the folder that says how it generates: that of an adapter which says so, or its
    own."""
    if not isinstance(folder, (str, os.PathLike)):
        raise UserError(f"model = {shown(folder)}", expected="a language model, or the folder of one")
    folder = resolve(folder)
    if adapter is None:
        return load_model(folder), folder
    adapter = resolve(adapter)
    model = load_model(folder, adapter=adapter)
    return model, adapter if (adapter / "generation_config.json").exists() else folder


def _num_sampled(vocabulary: int | None, model: Transformer, tok: TextTokenizer | None) -> int:
    """Return how many ids, from 0 on, may be sampled: the tokenizer's size, unless a caller says less."""
    vocab_size = model.config.vocab_size
    known = getattr(tok, "n_tokens", vocab_size)
    asked = known if vocabulary is None else vocabulary
    return integer(1, min(vocab_size, known)).parse(asked, "tokens to sample from")


def _kv_cache_dtype(kv_cache: str | None, model: Transformer) -> str:
    """Return the name of the dtype in which keys and values are stored: a caller's, or the model's."""
    dtype = kv_cache or ("int8" if model.config.int8_cache else "auto")
    if dtype not in KV_CACHE_DTYPES:
        raise UserError(f"kv_cache = {shown(kv_cache)}", expected=" or ".join(KV_CACHE_DTYPES))
    return dtype


def _is_packed(packed: bool | None, model: Transformer, folder: Path | None) -> bool:
    """Return whether the model computes with a prepacked copy of its weights. Left open, it does where the engine has
    loaded the folder itself and native code, which needs none, does not fit."""
    if packed and not can_prepack(model):
        raise UserError("this model cannot be packed", expected="bf16 weights, a CPU with bf16 products, and room")
    if packed is None:
        return folder is not None and can_prepack(model) and NativeDecoder.reason_against(model) is not None
    return packed
