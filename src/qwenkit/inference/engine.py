"""The one engine that generates: for rollouts, evaluation and chat.

    engine = Engine(model_or_path, tok)                      # Engine(model, None): ids in, ids out
    outputs = engine.generate(["The capital of", "北京是"], SamplingParams(max_tokens=16, temperature=0))
    outputs[0].text, outputs[0].ids, outputs[0].logprobs, outputs[0].finish_reason
    engine.chat([[{"role": "user", "content": "Hi"}]], SamplingParams(max_tokens=64))
    for delta in engine.stream("Once", SamplingParams(max_tokens=64)): print(delta, end="")
    engine.stream_chat([{"role": "user", "content": "Hi"}])  # the same for a chat's answer
    engine.score(["2 + 2 ="], [" 4"])                        # the log-probability of every token, in nats

    handle = engine.submit(Conversation(messages, tools), SamplingParams(max_tokens=64))     # or a prompt
    handle = engine.enqueue(engine.prepare(prompt))         # the same in two: `prepare` on any thread
    while engine.has_work:
        for delta in engine.step():
            delta.handle, delta.ids, delta.text, delta.finish_reason, delta.output, delta.error

A step computes the next token of every running answer and pieces of prompts, `step_tokens` at most. Keys and values lie
in blocks of the cache, `kv_tokens` in all; what a prompt begins with and another one had before it is found there and
not read again, until its place is needed (`Output.num_cached_tokens`, `Engine.stats`). Where the blocks do not suffice
for all, the request that came last is put back and computed again later.

What a request gets does not depend on what else is in the batch: every random draw is a function of (seed, rng_id,
sample, position in the answer), and so are the bits of the logits, except for wide models in bf16 or with several
threads, and for experts, which are given the tokens of all rows together (`model_runner.py` has the limits). Nor do
they depend on where prompts were cut, what of them was found, or what was put back. `invariant=False` gives the last
part up, for speed: answers may be found too and are read again in pieces, and a prompt is cut so that the others do
not wait. The same call gives the same answers again; ask with another seed for others.

Calls may interleave: each step advances all requests, and each result waits for the call that asked for it. A call that
fails or is interrupted takes its requests with it and leaves the others as they were. Logits that are NaN or infinite
end their own request, with an error that names it, and so do media that cannot be read: `generate` and `stream` raise
it, `step` puts it into the request's last delta. What was submitted is kept until a step hands it out, or until it is
aborted.

Caveats: an empty prompt is refused, since Qwen has no token for the beginning of a text. `[tok.eot_id]` is one, but
means "a new text begins" only to models that were trained across the ends of documents; those trained here were not. A
prompt that leaves no position for a new token is refused, and `max_tokens=0` gives an empty answer with finish_reason
"length". An engine belongs to one thread, except for `prepare` and `stats`: a second one that comes while it works gets
a `UserError` (`engine_loop.py` gives it to many). Its cache is freed with the engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.hub import resolve
from qwenkit.inference.argument_checks import as_list, integer, shown
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.kv_memory import cache_salt, default_kv_tokens, parse_kv_tokens
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES
from qwenkit.inference.model_changes import check_config, check_state, without_tied_head
from qwenkit.inference.model_runner import ModelRunner
from qwenkit.inference.native.decoder import NativeDecoder
from qwenkit.inference.one_thread import OneThread
from qwenkit.inference.outputs import Delta, Output
from qwenkit.inference.pending import PendingRequests
from qwenkit.inference.requests import (
    RNG_ID,
    Conversation,
    Messages,
    PromptLike,
    RequestFactory,
    Tools,
    as_prompts,
    check_tokenizer,
    tools_for_each,
)
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.scoring import reading_order, scores, scoring_requests
from qwenkit.inference.sequence import Delivered, Request
from qwenkit.inference.speculation import Speculation
from qwenkit.inference.stats import EngineStats
from qwenkit.inference.stepper import Stepper, make_scheduler
from qwenkit.model import ModelConfig, Transformer, load_model
from qwenkit.model.modes import evaluating
from qwenkit.model.prepacked import can_prepack

_COUNT = integer(1)


class Engine:
    """A model, its tokenizer and the pending requests."""

    def __init__(
        self,
        model: Transformer | str | Path,
        tok: TextTokenizer | None = None,
        *,
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
    ) -> None:
        """Make an engine for a model, or for a model folder.

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
        guesses tokens ahead (`speculation.py`), as long as it pays; the ids stay the same.

        Raises a `UserError` for arguments and settings of the folder that mean nothing."""
        check_tokenizer(tok)  # before a model is loaded
        model, folder = (model, None) if isinstance(model, Transformer) else _from_folder(model)
        self.request_factory = RequestFactory(model, tok, folder, seed)
        vocab_size = model.config.vocab_size
        known = getattr(tok, "n_tokens", vocab_size)
        sampled = known if vocabulary is None else vocabulary
        sampled = integer(1, min(vocab_size, known)).parse(sampled, "tokens to sample from")
        kv_cache_dtype = kv_cache or ("int8" if model.config.int8_cache else "auto")
        if kv_cache_dtype not in KV_CACHE_DTYPES:
            raise UserError(f"kv_cache = {shown(kv_cache)}", expected=" or ".join(KV_CACHE_DTYPES))
        if packed and not can_prepack(model):
            raise UserError("this model cannot be packed", expected="bf16 weights, a CPU with bf16 products, and room")
        if packed is None:
            packed = folder is not None and can_prepack(model) and NativeDecoder.reason_against(model) is not None
        step_tokens, max_batch = _COUNT.parse(step_tokens, "step_tokens"), _COUNT.parse(max_batch, "max_batch")
        if kv_tokens is None:
            self.kv_tokens = default_kv_tokens(model, kv_cache_dtype, max_batch)
        else:
            self.kv_tokens = parse_kv_tokens(kv_tokens, model, kv_cache_dtype)
        self.request_factory.kv_tokens = self.kv_tokens
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
        return min(self.model.config.max_length, self.kv_tokens)

    # ---- whole batches ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Seq[PromptLike],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        rng_ids: Seq[int] | None = None,
        first_draws: Seq[int] | None = None,
    ) -> list[Output]:
        """Return the answers in the order of the prompts. The random draws of prompt i are made from the number
        `rng_ids[i]` (or i) and from the position in the answer, which is counted from `first_draws[i]` (or 0)."""
        prompts = as_prompts(prompts, "prompts", hint="generate([prompt])")
        params = self.request_factory.effective_params_for_each(params, len(prompts))
        return self._generate(prompts, params, rng_ids, first_draws)

    def chat(
        self,
        conversations: Seq[Messages],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        tools: Tools | Seq[Tools | None] | None = None,
        *,
        rng_ids: Seq[int] | None = None,
        thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Output]:
        """Return the answers to conversations; an answer ends at a stop token of the chat (`chat.stop_token_ids`).

        `tools` is one list for all conversations, or one list (or None) for each. `rng_ids` are as in `generate`.
        `thinking` says whether an answer begins with thoughts (None: as the chat style does), `template_kwargs` are
        further variables of the folder's chat template. Where the folder names a `max_window_size`, the oldest turns
        are dropped until the rest fits; `prompt_ids` are what was read."""
        self.request_factory.text_tokenizer("chat")
        hint = "chat([messages])"
        conversations = as_list(conversations, "conversations", "a list of lists of messages", hint)
        prompts = [
            self.request_factory.render(Conversation(messages, offered, thinking, template_kwargs), f"conversation {i}")
            for i, (messages, offered) in enumerate(zip(conversations, tools_for_each(tools, len(conversations))))
        ]
        params = self.request_factory.effective_params_for_each(params, len(prompts), chat=True)
        return self._generate(prompts, params, rng_ids)

    def stream(self, prompt: PromptLike, params: SamplingParams | None = None) -> Iterator[str]:
        """Yield the text of one answer in deltas as it is generated; their sum is the answer's text."""
        self.request_factory.text_tokenizer("stream")
        return self._stream(prompt, self.request_factory.effective_params(params))

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        tools: Tools | None = None,
        *,
        thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """Yield the deltas of the answer that `chat([messages], params, tools)` returns."""
        self.request_factory.text_tokenizer("chat")
        prompt = self.request_factory.render(Conversation(messages, tools, thinking, template_kwargs), "conversation")
        return self._stream(prompt, self.request_factory.effective_params(params, chat=True))

    def score(self, prompts: Seq[PromptLike], continuations: Seq[PromptLike] | None = None) -> list[list[float]]:
        """Return the model's log-probability of each token in nats: of the continuations given the prompts, or, without
        continuations, of the prompts' own tokens after the first.

        A prompt and its continuation are encoded separately. Raises `Stopped` where a number is not finite."""
        rows, starts = self.request_factory.scoring_rows(prompts, continuations)
        requests = scoring_requests(rows, starts)
        with self._pending(reading_order(requests)):
            for request in requests:
                self._finish(request)
        return [scores(request, start) for request, start in zip(requests, starts)]

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
    ) -> int:
        """Queue a request and return its handle, which is in all its deltas and in its output: `prepare` and `enqueue`
        in one. Its random draws are made from the number `rng_id`, or from the handle where none is given."""
        label = f"request {self._requests.next_handle}"
        return self.enqueue(self.prepare(prompt, params, rng_id, sample=sample, first_draw=first_draw,
                                         priority=priority, cache_salt=cache_salt, label=label))  # fmt: skip

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
        label: str = "request",
    ) -> Request:
        """Check, render and encode a request for `enqueue`. It changes nothing of the engine, so any thread may call
        it while another one steps. A conversation's answer ends as in `chat`.

        The draw of a token is a function of the seed, `rng_id`, the sample and the position in the answer. The last two
        are counted from `sample` and `first_draw`: a later turn goes on with the draws of one sample where it names
        that and the number of tokens that were sampled before. Lower numbers of `priority` come first, and are put back
        last. Beginnings are shared in the cache only among requests of the same `cache_salt`: without that, how soon a
        first token comes tells a user what others have asked. `label` is what errors call the request."""
        return self.request_factory.prepare(prompt, params, rng_id, sample, first_draw, label, priority, cache_salt)

    def enqueue(self, request: Request) -> int:
        """Queue a request that `prepare` made and return its handle.

        Raises a `UserError` for one that was queued before, and for one that the model has no positions for any more,
        since its configuration changed."""
        if request.handle >= 0:
            raise UserError(f"{request.label} was queued already", expected="a new one, made by `prepare`")
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

    # ---- another model ----------------------------------------------------------------------------------------------

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Load new weights (None: the model was changed in place); later outputs carry a new `version`. A state holds
        all tensors of the model, or those that are trained in it (`model.trainable.trainable_state`).

        Raises a `UserError` while requests are pending, and for a state that does not fit the model."""
        with self._one_thread:
            self._check_idle("new weights")
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

    def _generate(
        self,
        prompts: Seq[PromptLike],
        params: Seq[SamplingParams],
        rng_ids: Seq[int] | None,
        first_draws: Seq[int] | None = None,
    ) -> list[Output]:
        """Step until every prompt is answered; `params` are the effective ones."""
        requests = self.request_factory.make_requests(prompts, params, rng_ids, first_draws)
        with self._pending(requests):
            return [self._finish(request) for request in requests]

    def _finish(self, request: Request) -> Output:
        """Step until a request is complete; return its output, or raise its error."""
        while request.is_pending:
            self._step()
        return request.result()

    def _stream(self, prompt: PromptLike, params: SamplingParams) -> Iterator[str]:
        params = replace(params, n=1)
        request = self.request_factory.make_request(prompt, params, 0, label="prompt", with_text=True)
        return self._texts(request)

    def _texts(self, request: Request) -> Iterator[str]:
        """Yield the text as it grows until the request is complete, by whichever call steps."""
        (sequence,), delivered = request.sequences, Delivered()
        with self._pending([request]):
            while request.is_pending:
                self._step()
                delta, delivered = sequence.delta(delivered)
                if delta.text:
                    yield delta.text
            request.result()
        if rest := sequence.delta(delivered)[0].text:
            yield rest

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


def _from_folder(folder: str | Path) -> tuple[Transformer, Path]:
    """Load the model; return it with its folder."""
    if not isinstance(folder, (str, os.PathLike)):
        raise UserError(f"model = {shown(folder)}", expected="a language model, or the folder of one")
    folder = resolve(folder)
    return load_model(folder), folder
