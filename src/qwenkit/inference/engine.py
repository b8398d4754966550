"""The one engine that writes: for rollouts, evaluation, chat and the server.

    engine = Engine(model_or_path, tok)                      # Engine(model, None): ids in, ids out
    outputs = engine.generate(["The capital of", "北京是"], SamplingParams(max_tokens=16, temperature=0))
    outputs[0].text, outputs[0].ids, outputs[0].logprobs, outputs[0].finish_reason
    engine.chat([[{"role": "user", "content": "Hi"}]], SamplingParams(max_tokens=64))
    for piece in engine.stream("Once", SamplingParams(max_tokens=64)): print(piece, end="")
    engine.stream_chat([{"role": "user", "content": "Hi"}])  # the same for a chat's answer
    engine.score(["2 + 2 ="], [" 4"])                        # the model's log-probability of every token

Prompts are read in one pass, then all running answers grow by one token per step; a finished row is refilled from the
queue at once. What a request gets does not depend on what else is in the batch: every draw is a function of (seed,
request, sample, position), and so are the bits of the logits, except for wide models in bf16 or with several threads,
and for experts, which are given the tokens of all rows together (`model_runner.py` has the limits). The same call gives
the same answers again; ask with another seed for others.

Calls may be interleaved: whoever steps moves every request on, and each result waits for the call that asked for it.
A call that fails or is interrupted takes its requests with it and leaves the others as they were. Logits that are NaN
or infinite end their own request, with an error that names it.

Caveats: an empty prompt is refused, since Qwen has no token for the beginning of a text. `[tok.eot_id]` is one, but
means "a new text begins" only to models that were trained across the ends of documents; those raised here were not. A
prompt that leaves no position for a new token is refused, and `max_tokens=0` gives an empty answer with finish_reason
"length". An engine belongs to one thread. Its cache grows with what is written and is freed with the engine; prompts
that are equal are read once, prompts that only begin alike are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenkit.chat import stop_token_ids, truncate_history
from qwenkit.errors import UserError, within
from qwenkit.hub import resolve
from qwenkit.inference.kv_quantization import KINDS
from qwenkit.inference.model_runner import ModelRunner
from qwenkit.inference.sampling import not_finite
from qwenkit.inference.sampling_params import SamplingParams, folder_defaults
from qwenkit.inference.scheduler import Scheduler
from qwenkit.inference.scoring import score
from qwenkit.inference.sequence import IncrementalDetokenizer, Output, Request, Sequence
from qwenkit.inference.validation import integer, items, same_length, shown, token_ids
from qwenkit.model import Transformer, load_model
from qwenkit.model.prepacked import can_pack
from qwenkit.records import read_object
from qwenkit.tokenizer import ENDOFTEXT

Prompt = str | Seq[int]

_COUNT, _NUMBER = integer(1), integer(0)


class Engine:
    """A model, its tokenizer and the requests under way. `seed` is for requests that name none. Ids from `vocabulary`
    on (by default the tokenizer's size) only pad the embedding and are never drawn. `kv_cache="int8"` keeps keys and
    values in 8 bits, as a first Qwen's folder may ask (`use_cache_quantization`); None: as the model says. `packed`
    copies bf16 weights into the layout that oneDNN reads (`model/prepacked.py`); None: where the engine loads the
    folder itself, the CPU has such products and the copy has room."""

    def __init__(
        self,
        model: Transformer | str | Path,
        tok: Any = None,
        *,
        max_batch: int = 128,
        prefill_tokens: int = 8192,
        seed: int = 0,
        vocabulary: int | None = None,
        kv_cache: str | None = None,
        packed: bool | None = None,
    ) -> None:
        self.tok, self.seed = _checked_tokenizer(tok), _NUMBER.read(seed, "seed")
        model, file = (model, None) if isinstance(model, Transformer) else _from_folder(model)
        settings = read_object(file) if file is not None and file.exists() else {}
        config = {} if file is None else read_object(file.with_name("config.json"))
        with within(str(file)):
            self.defaults = folder_defaults(settings)
            ends = _eos_ids(model, tok, settings, config)
            self.max_window = _window(settings)
        self.eos, self.eos_id = frozenset(ends), next(iter(ends), None)
        rows = model.config.vocab_size
        known = getattr(tok, "n_tokens", rows)
        drawn = integer(1, min(rows, known)).read(known if vocabulary is None else vocabulary, "tokens to draw from")
        kind = kv_cache or ("int8" if model.config.int8_cache else "auto")
        if kind not in KINDS:
            raise UserError(f"kv_cache = {shown(kv_cache)}", expected=" or ".join(KINDS))
        if packed and not can_pack(model):
            raise UserError("this model cannot be packed", expected="bf16 weights, a CPU with bf16 products, and room")
        packed = can_pack(model) if packed is None and file is not None else bool(packed)
        self.runner = ModelRunner(model, drawn, _COUNT.read(prefill_tokens, "prefill_tokens"), kind, packed)
        self.scheduler = Scheduler(_COUNT.read(max_batch, "max_batch"), self.runner.cache.copy)
        self.version = 0
        self._requests: dict[int, Request] = {}
        self._next_handle = 0

    @property
    def model(self) -> Transformer:
        return self.runner.model

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.model.config.max_length

    # ---- whole batches ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Seq[Prompt],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        requests: Seq[int] | None = None,
    ) -> list[Output]:
        """Answers in the order of the prompts. Draws use `requests[i]`, or i when none are given."""
        prompts = items(prompts, "prompts", "a list of strings or of lists of token ids", hint="generate([prompt])")
        each = self._settled(params, len(prompts))
        numbers = _numbers(requests, len(prompts))
        asked = [
            self._request(prompt, params, number, where=f"prompt {i}")
            for i, (prompt, params, number) in enumerate(zip(prompts, each, numbers, strict=True))
        ]
        with self._under_way(asked):
            return [self._completed(request) for request in asked]

    def chat(
        self,
        conversations: Seq[Seq[Mapping[str, Any]]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        tools: Seq[Any] | None = None,
        *,
        requests: Seq[int] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[Output]:
        """Answers to conversations, all of which are offered the same tools; an answer ends with its turn or with the
        text. `variables` are for the folder's chat template, such as `{"enable_thinking": False}`. Where the folder
        names a `max_window_size`, the oldest turns are dropped until the rest fits; `prompt_ids` are what was read."""
        self._tokenizer("chat")
        conversations = items(conversations, "conversations", "a list of lists of messages", hint="chat([messages])")
        prompts = [
            self._rendered(messages, tools, f"conversation {i}", variables) for i, messages in enumerate(conversations)
        ]
        each = [self._turn(settled) for settled in self._settled(params, len(prompts))]
        return self.generate(prompts, each, requests=requests)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """The pieces of one answer's text as they are written; their sum is the answer's text."""
        tok, settled = self._tokenizer("stream"), replace(self._settle(params), n=1)
        request = self._request(prompt, settled, 0, where="prompt")
        (sequence,) = request.sequences
        sequence.detokenizer = detokenizer = sequence.detokenizer or IncrementalDetokenizer(tok, settled)
        return self._pieces(request, detokenizer)

    def stream_chat(
        self,
        messages: Seq[Mapping[str, Any]],
        params: SamplingParams | None = None,
        tools: Seq[Any] | None = None,
        *,
        variables: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """The pieces of the answer that `chat([messages], params, tools)` gives, as they are written."""
        self._tokenizer("chat")
        return self.stream(self._rendered(messages, tools, "conversation", variables), self._turn(self._settle(params)))

    def score(self, prompts: Seq[Prompt], continuations: Seq[Prompt] | None = None) -> list[list[float]]:
        """The model's log-probability of each token: of the continuations given the prompts, or, without any, of the
        prompts' own tokens after the first. A prompt and its continuation are encoded each by itself."""
        expected = "a list of strings or of lists of token ids"
        prompts = items(prompts, "prompts", expected, hint="score([prompt], [continuation])")
        rows = [self._encode(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        starts = [1] * len(rows)
        if continuations is not None:
            continuations = items(continuations, "continuations", expected, hint="score([prompt], [continuation])")
            same_length(continuations, "continuations", len(prompts))
            starts = [len(row) for row in rows]
            for i, text in enumerate(continuations):
                rows[i] = [*rows[i], *self._encode(text, f"continuation {i}")]
        for i, row in enumerate(rows):
            self._room(row, f"prompt {i}", needed=0)
        return self._quietly(lambda: score(self.runner.compute_model, rows, starts, self.runner.prefill_tokens))

    # ---- one request at a time --------------------------------------------------------------------------------------

    def submit(self, prompt: Prompt, params: SamplingParams | None = None, request: int | None = None) -> int:
        """Queue a request and return its handle, which is its output's `request`."""
        handle = self._next_handle
        number = handle if request is None else _NUMBER.read(request, "request")
        asked = self._request(prompt, self._settle(params), number, where=f"request {handle}")
        asked.submitted = True
        self._enqueue([asked])
        return handle

    def step(self) -> list[Output]:
        """One step of the model; the submitted requests that are now complete. The fault of one is raised, once."""
        self._advance()
        done = [request for request in self._requests.values() if request.submitted and not request.under_way]
        done = [request for request in done if request.fault][:1] or done
        self._forget(done)
        return [request.result() for request in done]

    def abort(self, handle: int) -> None:
        """Forget a request; its rows are free at once. Unknown and finished ones are left alone."""
        if _NUMBER.read(handle, "handle") in self._requests:
            self._forget([self._requests[handle]])

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Take over new weights (None: the model was changed in place); later outputs carry a new `version`."""
        if any(request.under_way for request in self._requests.values()):
            raise UserError("new weights while requests are under way", hint="finish or abort them first")
        if state is not None:
            state = _without_copy(state) if self.model.config.tie_word_embeddings else state
            _check_state(state, self.model.state_dict())
            self.model.load_state_dict(state)
        self.runner.refresh_weights()
        self.version += 1

    # ---- what is asked ----------------------------------------------------------------------------------------------

    def _settled(self, params: SamplingParams | Seq[SamplingParams] | None, count: int) -> list[SamplingParams]:
        """One for each prompt, with every value settled."""
        if params is None or isinstance(params, SamplingParams):
            return [self._settle(params)] * count
        each = items(params, "params", "SamplingParams(...), or a list of them")
        same_length(each, "sampling parameters", count)
        return [self._settle(params) for params in each]

    def _settle(self, params: SamplingParams | None) -> SamplingParams:
        if not isinstance(params, SamplingParams | None):
            raise UserError(f"params = {shown(params)}", expected="SamplingParams(...)")
        settled = (params or SamplingParams()).resolved({**self.defaults, "seed": self.seed})
        token_ids(settled.stop_token_ids, self.model.config.vocab_size, where="stop_token_ids")
        token_ids(list(dict(settled.logit_bias or ())), self.model.config.vocab_size, where="logit_bias")
        for ids in settled.stop_words_ids or ():
            token_ids(ids, self.model.config.vocab_size, where="stop_words_ids")
        if settled.stop:
            self._tokenizer("stop texts")
        return settled

    def _turn(self, params: SamplingParams) -> SamplingParams:
        """The same settings, ending at the end of a chat turn."""
        if params.ignore_eos:
            return params
        return replace(params, stop_token_ids=(*(params.stop_token_ids or ()), *stop_token_ids(self.tok)))

    def _rendered(
        self, messages: Seq[Mapping[str, Any]], tools: Seq[Any] | None, where: str, variables: Mapping[str, Any] | None
    ) -> list[int]:
        """The prompt that a conversation makes, without what the folder's window leaves no place for."""
        messages = items(messages, where, "a list of messages", hint="chat([messages])")
        tools = None if tools is None else items(tools, "tools", "a list of tools")
        more: dict[str, Any] = {"variables": variables} if variables else {}
        with within(where):
            if self.max_window is not None:
                messages = truncate_history(self.tok, messages, self.max_window, tools=tools, **more)
            return self.tok.render(messages, tools, add_generation_prompt=True, **more).ids

    def _request(self, prompt: Prompt, params: SamplingParams, number: int, where: str) -> Request:
        """A request with its samples, not yet queued."""
        assert params.max_tokens is not None, "settled"
        ids = self._encode(prompt, where)
        limit = min(params.max_tokens, self._room(ids, where, needed=min(1, params.max_tokens)))
        stops = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self.eos)
        eos_id = None if params.ignore_eos else self.eos_id
        request = Request(number, where, tuple(ids), params, limit, stops, eos_id)
        request.sequences = [
            Sequence(
                request, sample, self._seen(request), IncrementalDetokenizer(self.tok, params) if params.stop else None
            )
            for sample in range(params.n)
        ]
        for sequence in request.sequences:
            sequence.settle()
        return request

    def _seen(self, request: Request) -> Tensor | None:
        """The tokens that a repetition penalty is for."""
        if request.params.repetition_penalty == 1.0:
            return None
        seen_V = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device=self.runner.cache.device)
        seen_V[list(request.prompt)] = True
        return seen_V

    def _encode(self, prompt: Prompt, where: str) -> list[int]:
        ids = self._tokenizer("text").encode(prompt) if isinstance(prompt, str) else prompt
        ids = token_ids(ids, self.model.config.vocab_size, where)
        if not ids:
            raise UserError("empty", where=where, expected="a token: there is none for the beginning of a text")
        return ids

    def _room(self, ids: list[int], where: str, needed: int) -> int:
        """Positions left after these tokens."""
        left = self.max_length - len(ids)
        if left < needed:
            raise UserError(f"{len(ids)} tokens", where=where, expected=f"at most {self.max_length - needed} tokens",
                            hint="shorten it, or use a model with more positions")  # fmt: skip
        return left

    def _tokenizer(self, what: str) -> Any:
        if self.tok is None:
            raise UserError(f"{what} needs a tokenizer", expected="Engine(model, tok)", hint="or hand in token ids")
        return self.tok

    # ---- requests under way -----------------------------------------------------------------------------------------

    @contextmanager
    def _under_way(self, requests: list[Request]) -> Iterator[None]:
        """Requests of one call: however it ends, nothing of them is left behind."""
        try:
            self._enqueue(requests)
            yield
        finally:
            self._forget(requests)

    def _enqueue(self, requests: list[Request]) -> None:
        for request in requests:
            request.handle, self._next_handle = self._next_handle, self._next_handle + 1
            self._requests[request.handle] = request
            self._conclude(request)  # there may be nothing to write
        self.scheduler.add(s for request in requests if request.under_way for s in request.sequences)

    def _forget(self, requests: list[Request]) -> None:
        for request in requests:
            self._requests.pop(request.handle, None)
        self.scheduler.cancel(s for request in requests for s in request.sequences)

    def _completed(self, request: Request) -> Output:
        """Step until this request is complete."""
        while request.under_way:
            self._advance()
        return request.result()

    def _pieces(self, request: Request, detokenizer: IncrementalDetokenizer) -> Iterator[str]:
        """What a writer has to say until its request is complete, by whichever call."""
        with self._under_way([request]):
            while request.under_way:
                self._advance()
                if piece := detokenizer.piece():
                    yield piece
            request.result()
        if rest := detokenizer.piece():
            yield rest

    def _advance(self) -> None:
        """One step of the model, for all requests; those that it completes have their results."""
        self._sweep()
        self.scheduler.schedule()
        self._quietly(lambda: self.runner.step(self.scheduler.running))
        self._sweep()

    def _sweep(self) -> None:
        """Give complete requests their results and free the rows that are done, also where a step was interrupted."""
        for request in dict.fromkeys(s.request for s in self.scheduler.running if s.finish_reason is not None):
            if request.under_way and request.handle in self._requests:
                self._conclude(request)
        self.scheduler.remove_finished()

    def _conclude(self, request: Request) -> None:
        """The output, when all samples are finished; the fault, as soon as one has no next token."""
        if lost := next((s for s in request.sequences if s.finish_reason == "not finite"), None):
            request.fault = not_finite(f"{request.where}, sample {lost.sample}", lost.length)
            self.scheduler.cancel(request.sequences)
        elif all(s.finish_reason is not None for s in request.sequences):
            samples = [sequence.finished(self.tok) for sequence in request.sequences]
            request.output = Output(request.handle, list(request.prompt), samples, self.version)

    def _quietly(self, work: Callable[[], Any]) -> Any:
        """Without gradients and dropout; a model in training is put back."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.inference_mode():
                return work()
        finally:
            if training:
                self.model.train()


def _numbers(requests: Seq[int] | None, count: int) -> list[int]:
    """The numbers that draws are made from."""
    if requests is None:
        return list(range(count))
    numbers = items(requests, "requests", "a list of integers")
    same_length(numbers, "request numbers", count)
    return [_NUMBER.read(number, f"requests[{i}]") for i, number in enumerate(numbers)]


def _checked_tokenizer(tok: Any) -> Any:
    if tok is None or all(hasattr(tok, name) for name in ("encode", "decode", "stream")):
        return tok
    raise UserError(f"tok = {shown(tok)}", expected="a tokenizer, or None where only token ids go in and out",
                    hint="Engine(path, load_tokenizer(path))")  # fmt: skip


def _from_folder(folder: str | Path) -> tuple[Transformer, Path]:
    """The model, and where its sampling settings would be."""
    if not isinstance(folder, (str, os.PathLike)):
        raise UserError(f"model = {shown(folder)}", expected="a language model, or the folder of one")
    folder = resolve(folder)
    return load_model(folder), folder / "generation_config.json"


def _eos_ids(model: Transformer, tok: Any, settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """Tokens that end an answer, the folder's own first: of generation_config.json, of config.json (of several a model
    keeps the first), the tokenizer's end of text. The first Qwen names no end of a turn there but says that the folder
    is for ChatML."""
    rows, chat = model.config.vocab_size, _is_chat(settings)
    named = token_ids(_as_ids(settings.get("eos_token_id")), rows, where="eos_token_id")
    own = [*_as_ids(model.config.eos_token_id), *_as_ids(config.get("eos_token_id"))]
    own += _as_ids(tok.special.get(ENDOFTEXT)) if hasattr(tok, "special") else []
    own += getattr(tok, "end_ids", ())
    own += stop_token_ids(tok) if chat and tok is not None else ()
    return list(dict.fromkeys([*named, *(id for id in own if id < rows)]))


def _as_ids(value: Any) -> list[Any]:
    """One id, several or none."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _is_chat(settings: Mapping[str, Any]) -> bool:
    """Whether the first Qwen's `chat_format` says ChatML."""
    found = settings.get("chat_format")
    if found not in (None, "raw", "chatml"):
        raise UserError(f"chat_format = {shown(found)}", expected="raw or chatml")
    return found == "chatml"


def _window(settings: Mapping[str, Any]) -> int | None:
    """The folder's bound on the history of a chat."""
    found = settings.get("max_window_size")
    return None if found is None else _COUNT.read(found, "max_window_size")


def _without_copy(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Hugging Face's state of a model with tied embeddings names them twice."""
    rest, head = {**state}, state.get("lm_head.weight")
    table = rest.get("model.embed_tokens.weight")
    if head is None or table is None or not torch.equal(head, table):
        return state
    del rest["lm_head.weight"]
    return rest


def _check_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit before the first one is taken over."""
    shapes, wanted = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (state, own))
    if wrong := sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name)):
        raise UserError(f"tensors that do not fit the model: {', '.join(wrong[:3])}",
                        expected="every tensor of the model, in its shape")  # fmt: skip
