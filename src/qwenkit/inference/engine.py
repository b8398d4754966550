"""The one engine that writes: for rollouts, evaluation, chat and the server.

    engine = Engine(model_or_path, tok)                      # Engine(model, None): ids in, ids out
    outputs = engine.generate(["The capital of", "北京是"], SamplingParams(max_tokens=16, temperature=0))
    outputs[0].text, outputs[0].ids, outputs[0].logprobs, outputs[0].finish_reason
    engine.chat([[{"role": "user", "content": "Hi"}]], SamplingParams(max_tokens=64))
    for piece in engine.stream("Once", SamplingParams(max_tokens=64)): print(piece, end="")
    engine.score(["2 + 2 ="], [" 4"])                        # the model's log-probability of every token

Prompts are read in one pass, then all running answers grow by one token per step; a finished row is refilled from the
queue at once. What a request gets does not depend on what else is in the batch: every draw is a function of (seed,
request, sample, position), and batches are padded to shapes whose sums do not change in their bits. The same call
gives the same answers again; ask with another seed for others.

Caveats: an empty prompt is refused (begin with the end-of-text token instead); a prompt that leaves no position for a
new token is refused, and `max_tokens=0` gives an empty answer with finish_reason "length".
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwenkit.draws import uniform
from qwenkit.errors import UserError
from qwenkit.inference.cache import KVCache
from qwenkit.inference.params import SamplingParams, folder_defaults
from qwenkit.inference.sampling import draw, own_logprobs, penalise, truncate
from qwenkit.inference.scheduler import Scheduler
from qwenkit.inference.scoring import score
from qwenkit.inference.sequence import Output, Sample, Sequence, Writer
from qwenkit.model import Transformer, load_model

_ROWS = 8  # rows come in multiples of this: below 4 torch's linear kernels, else the tail of SiLU, change in their bits
_BUCKET = 32  # prompts are read together with those of the same length, rounded up to this

Prompt = str | Seq[int]


class Engine:
    """A model, its tokenizer and the requests under way. `seed` is for requests that name none. Ids from `vocabulary`
    on (by default the tokenizer's size) only pad the embedding and are never drawn."""

    def __init__(
        self,
        model: Transformer | str | Path,
        tok: Any = None,
        *,
        max_batch: int = 128,
        prefill_tokens: int = 8192,
        seed: int = 0,
        vocabulary: int | None = None,
    ) -> None:
        folder = None if isinstance(model, Transformer) else Path(model)
        self.model = model if isinstance(model, Transformer) else load_model(model)
        self.tok, self.seed, self.prefill_tokens = tok, seed, prefill_tokens
        self.vocabulary = vocabulary or getattr(tok, "n_tokens", self.model.config.vocab_size)
        self.version = 0
        settings = _generation_config(folder)
        self.defaults = folder_defaults(settings)
        self.eos = _eos_ids(self.model, tok, settings)
        weight = self.model.model.embed_tokens.weight
        self.cache = KVCache(self.model.config, _ROWS, 1, weight.dtype, weight.device)
        self.scheduler = Scheduler(max_batch, self.cache.copy)
        self._handles = itertools.count()
        self._open: dict[int, list[Sequence]] = {}
        self._unclaimed: list[Output] = []

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.model.config.max_position_embeddings

    # ---- whole batches ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Seq[Prompt],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        requests: Seq[int] | None = None,
    ) -> list[Output]:
        """Answers in the order of the prompts. Draws use `requests[i]`, or i when none are given."""
        each = _one_each(params, len(prompts))
        numbers = list(requests) if requests is not None else list(range(len(prompts)))
        sequences = [
            self._sequences(prompt, params, number, where=f"prompt {i}")
            for i, (prompt, params, number) in enumerate(zip(prompts, each, numbers, strict=True))
        ]
        handles = [self._enqueue(group) for group in sequences]
        return self._collect(handles)

    def chat(
        self,
        conversations: Seq[Seq[Mapping[str, Any]]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        requests: Seq[int] | None = None,
    ) -> list[Output]:
        """Answers to conversations; an answer ends with its turn or with the text."""
        tok = self._tokenizer("chat")
        prompts = [tok.render(messages, add_generation_prompt=True).ids for messages in conversations]
        return self.generate(prompts, [self._turn(each) for each in _one_each(params, len(prompts))], requests)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """The pieces of one answer's text as they are written; their sum is the answer's text."""
        tok = self._tokenizer("stream")
        (sequence,) = self._sequences(prompt, params or SamplingParams(), 0, where="prompt")[:1]
        sequence.writer = sequence.writer or Writer(tok, sequence.params.stop)
        handle = self._enqueue([sequence])
        try:
            while handle in self._open:
                self._unclaimed += [output for output in self._step() if output.request != handle]
                if piece := sequence.writer.piece():
                    yield piece
        finally:
            self.abort(handle)

    def score(self, prompts: Seq[Prompt], continuations: Seq[Prompt] | None = None) -> list[list[float]]:
        """The model's log-probability of each token: of the continuations given the prompts, or, without any, of the
        prompts' own tokens after the first. A prompt and its continuation are encoded each by itself."""
        ids = [self._encode(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        if continuations is None:
            starts, rows = [1] * len(ids), ids
        else:
            more = [self._encode(text, f"continuation {i}") for i, text in enumerate(continuations)]
            rows = [[*head, *tail] for head, tail in zip(ids, more, strict=True)]
            starts = [len(head) for head in ids]
        for i, row in enumerate(rows):
            self._check_length(row, f"prompt {i}", room=0)
        return self._quietly(lambda: score(self.model, rows, starts, self.prefill_tokens))

    # ---- one request at a time --------------------------------------------------------------------------------------

    def submit(self, prompt: Prompt, params: SamplingParams | None = None, request: int | None = None) -> int:
        """Queue a request and return its handle, which is its output's `request`."""
        handle = next(self._handles)
        number = handle if request is None else request
        return self._enqueue(self._sequences(prompt, params or SamplingParams(), number, "prompt"), handle)

    def step(self) -> list[Output]:
        """One step of the model; the outputs that are now complete."""
        done, self._unclaimed = self._unclaimed, []
        return done + self._step()

    def abort(self, handle: int) -> None:
        """Forget a request; its rows are free at once. Unknown and finished ones are left alone."""
        for sequence in self._open.pop(handle, []):
            sequence.finish_reason = sequence.finish_reason or "abort"
        self.scheduler.waiting = type(self.scheduler.waiting)(
            sequence for sequence in self.scheduler.waiting if sequence.finish_reason is None
        )
        self._quietly(self.scheduler.retire)

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Take over new weights (None: the model was changed in place); later outputs carry a new `version`."""
        if self.scheduler:
            raise UserError("new weights while requests are under way", mend="finish or abort them first")
        if state is not None:
            self.model.load_state_dict(state)
        self.version += 1

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _sequences(self, prompt: Prompt, params: SamplingParams, request: int, where: str) -> list[Sequence]:
        """The n samples of one request, not yet queued."""
        params = params.resolved(self.defaults)
        ids = self._encode(prompt, where)
        room = self._check_length(ids, where, room=0 if params.max_tokens == 0 else 1)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        stops = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos)
        if params.stop:
            self._tokenizer("stop texts")
        return [
            Sequence(0, request, sample, tuple(ids), params, limit, stops, seen_V=self._seen(ids, params),
                     writer=Writer(self.tok, params.stop) if params.stop else None)
            for sample in range(params.n)
        ]  # fmt: skip

    def _seen(self, ids: list[int], params: SamplingParams) -> Tensor | None:
        if params.repetition_penalty == 1.0:
            return None
        seen_V = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device=self.cache.device)
        seen_V[ids] = True
        return seen_V

    def _enqueue(self, sequences: list[Sequence], handle: int | None = None) -> int:
        handle = next(self._handles) if handle is None else handle
        for sequence in sequences:
            sequence.handle = handle
        self._open[handle] = sequences
        if sequences[0].limit == 0:
            for sequence in sequences:
                sequence.finish_reason = "length"
        else:
            self.scheduler.waiting.extend(sequences)
        return handle

    def _collect(self, handles: list[int]) -> list[Output]:
        """Step until these are complete; what else completes is kept for `step`."""
        done: dict[int, Output] = {}
        mine = set(handles)
        while len(done) < len(mine):
            for output in self._step():
                if output.request in mine:
                    done[output.request] = output
                else:
                    self._unclaimed.append(output)
        return [done[handle] for handle in handles]

    def _encode(self, prompt: Prompt, where: str) -> list[int]:
        ids = self._tokenizer("text").encode(prompt) if isinstance(prompt, str) else [int(id) for id in prompt]
        if not ids:
            raise UserError("empty", where=where, mend="begin with the end-of-text token to write from nothing")
        size = self.model.config.vocab_size
        if bad := [id for id in ids if not 0 <= id < size]:
            raise UserError(f"token id {bad[0]} is not in the model", where=where, expected=f"0 to {size - 1}")
        return ids

    def _check_length(self, ids: list[int], where: str, room: int) -> int:
        """Positions left after these tokens; at least `room` are needed."""
        left = self.max_length - len(ids)
        if left < room:
            raise UserError(f"{len(ids)} tokens", where=where, expected=f"at most {self.max_length - room} tokens",
                            mend="shorten it, or use a model with more positions")  # fmt: skip
        return left

    def _tokenizer(self, what: str) -> Any:
        if self.tok is None:
            raise UserError(f"{what} needs a tokenizer", expected="Engine(model, tok)", mend="or hand in token ids")
        return self.tok

    def _turn(self, params: SamplingParams) -> SamplingParams:
        """The same settings, ending at the end of a chat turn."""
        if params.ignore_eos:
            return params
        return replace(params, stop_token_ids=(*params.stop_token_ids, self.tok.im_end_id, self.tok.eot_id))

    # ---- one step ---------------------------------------------------------------------------------------------------

    def _step(self) -> list[Output]:
        if fresh := self.scheduler.admit():
            self._quietly(lambda: self._prefill(fresh))
        elif self.scheduler.running:
            self._quietly(lambda: self._decode(self.scheduler.running))
        self._quietly(self.scheduler.retire)
        return self._complete()

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

    def _prefill(self, sequences: list[Sequence]) -> None:
        """Read the prompts of the rows just admitted and write each one's first token. Equal prompts are read once."""
        first = len(self.scheduler.running) - len(sequences)
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, sequence in enumerate(sequences, start=first):
            rows.setdefault(sequence.prompt, []).append(row)
        self._reserve()
        rows_N = len(sequences) + _idle(len(sequences))
        h_ND = self.model.model.embed_tokens.weight.new_zeros(rows_N, self.model.config.hidden_size)
        for prompts in _batches(list(rows), self.prefill_tokens):
            own = [rows[prompt][0] for prompt in prompts]
            ids_BT = self._padded(prompts)
            h_BTD = self.model.hidden(ids_BT, cache=self.cache.fresh(own))
            for i, prompt in enumerate(prompts):
                h_ND[[row - first for row in rows[prompt]]] = h_BTD[i, len(prompt) - 1]
                for row in rows[prompt][1:]:
                    self.cache.copy(own[i], row, len(prompt))
        self._write(sequences, h_ND)

    def _padded(self, prompts: list[tuple[int, ...]]) -> Tensor:
        width = -(-max(map(len, prompts)) // _BUCKET) * _BUCKET
        return torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.cache.device)

    def _reserve(self) -> None:
        """Room in the cache for all that the running rows may still write."""
        needed = max(-(-len(s.prompt) // _BUCKET) * _BUCKET + s.limit for s in self.scheduler.running)
        self.cache.reserve(len(self.scheduler.running) + _idle(len(self.scheduler.running)), needed)

    def _decode(self, sequences: list[Sequence]) -> None:
        """One token more for every running row."""
        idle = _idle(len(sequences))
        ids_B1 = torch.tensor([[s.ids[-1]] for s in sequences] + [[0]] * idle, device=self.cache.device)
        lengths = [s.stored for s in sequences] + [0] * idle
        h_BD = self.model.hidden(ids_B1, cache=self.cache.next(lengths))[:, 0]
        self._write(sequences, h_BD)

    def _write(self, sequences: list[Sequence], h_ND: Tensor) -> None:
        """Draw each row's next token from its last state; states behind the sequences are padding."""
        logits_BV = self.model.head(h_ND).float()[: len(sequences)]
        ids_B = self._choose(sequences, logits_BV)
        logprobs = itertools.repeat(0.0)
        if any(s.params.logprobs for s in sequences):
            logprobs = own_logprobs(logits_BV, ids_B).tolist()
        for sequence, id, logprob in zip(sequences, ids_B.tolist(), logprobs):
            sequence.append(id, logprob)

    def _choose(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """The likeliest token where the temperature is 0, a draw elsewhere."""
        logits_BV = self._adjusted(sequences, logits_BV)
        warm = [row for row, s in enumerate(sequences) if s.params.temperature]
        if len(warm) == len(sequences):
            return self._sample(sequences, logits_BV)
        ids_B = logits_BV.argmax(-1)
        if warm:
            ids_B[warm] = self._sample([sequences[row] for row in warm], logits_BV[warm])
        return ids_B

    def _adjusted(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """Without the rows of the vocabulary that only pad it, and with the repetition penalty."""
        if self.vocabulary < logits_BV.shape[1]:
            logits_BV = logits_BV.clone()
            logits_BV[:, self.vocabulary :] = float("-inf")
        if all(s.seen_V is None for s in sequences):
            return logits_BV
        nothing_V = torch.zeros(logits_BV.shape[1], dtype=torch.bool, device=logits_BV.device)
        seen_BV = torch.stack([nothing_V if s.seen_V is None else s.seen_V for s in sequences])
        penalty_B = torch.tensor([s.params.repetition_penalty for s in sequences], device=logits_BV.device)
        return penalise(logits_BV, seen_BV, penalty_B)

    def _sample(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        device, params = logits_BV.device, [s.params for s in sequences]
        temperature_B = torch.tensor([p.temperature for p in params], device=device)
        top_k_B = torch.tensor([p.top_k for p in params], device=device)
        top_p_B = torch.tensor([p.top_p for p in params], device=device)
        probs_BV = truncate((logits_BV / temperature_B[:, None]).softmax(-1), top_k_B, top_p_B)
        seeds = [self.seed if p.seed is None else p.seed for p in params]
        counters = np.array([(seed, s.request, s.sample, len(s.ids)) for seed, s in zip(seeds, sequences)]).T
        return draw(probs_BV, torch.from_numpy(uniform(0, *counters)).to(device))

    def _complete(self) -> list[Output]:
        """Outputs of the requests whose samples are all finished."""
        ready = [h for h, group in self._open.items() if all(s.finish_reason is not None for s in group)]
        return [self._output(self._open.pop(handle)) for handle in ready]

    def _output(self, sequences: list[Sequence]) -> Output:
        samples = [
            Sample(s.ids, self._text(s), s.logprobs if s.params.logprobs else None, s.finish_reason or "abort")
            for s in sequences
        ]
        return Output(sequences[0].handle, list(sequences[0].prompt), samples, self.version)

    def _text(self, sequence: Sequence) -> str | None:
        if self.tok is None:
            return None
        if sequence.writer is not None:
            return sequence.writer.finish()
        ids = sequence.ids
        stopped = sequence.finish_reason == "stop" and ids[-1] in sequence.stops
        return self.tok.decode(ids[:-1] if stopped else ids, skip_special_tokens=True)


def _one_each(params: SamplingParams | Seq[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise UserError(
            f"{len(params)} sampling parameters for {count} prompts", expected="one, or one for each prompt"
        )
    return list(params)


def _idle(rows: int) -> int:
    """Rows to add for a multiple of `_ROWS`."""
    return -rows % _ROWS


def _batches(prompts: list[tuple[int, ...]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Prompts of the same rounded length, at most `tokens` together (but at least one)."""
    width = lambda prompt: -(-len(prompt) // _BUCKET)  # noqa: E731
    for bucket, group in itertools.groupby(sorted(prompts, key=width), key=width):
        members, size = list(group), max(1, tokens // (bucket * _BUCKET))
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _generation_config(folder: Path | None) -> dict[str, Any]:
    file = None if folder is None else folder / "generation_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}


def _eos_ids(model: Transformer, tok: Any, settings: Mapping[str, Any]) -> frozenset[int]:
    """Tokens that end an answer: the folder's, the configuration's, the tokenizer's end of text."""
    named = settings.get("eos_token_id")
    found = [*(named if isinstance(named, list) else [named]), model.config.eos_token_id]
    return frozenset(id for id in [*found, getattr(tok, "eot_id", None)] if id is not None)
