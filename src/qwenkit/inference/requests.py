"""From what a caller asks to `Request`s: the arguments of the engine's methods are checked here.

    factory = RequestFactory(model, tok, folder, seed=0)
    params = factory.effective_params(SamplingParams(max_tokens=8))
    request = factory.make_request([1, 2, 3], params, rng_id=0, label="prompt 0")

Every method raises a `UserError` that names the argument, its value and what is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from qwenkit.chat import stop_token_ids, truncate_history
from qwenkit.errors import UserError, within
from qwenkit.inference.argument_checks import as_list, integer, same_length, shown, token_ids
from qwenkit.inference.detokenizer import IncrementalDetokenizer, TextTokenizer
from qwenkit.inference.generation_config import read_generation_config
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.inference.stopping import check_stop
from qwenkit.model import Transformer

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer

Prompt = str | Seq[int]
Messages = Seq[Mapping[str, Any]]
Tools = Seq[Mapping[str, Any]]
"""The tools that a conversation is offered, as JSON schemas."""
T = TypeVar("T")

PROMPTS = "a list of strings or of lists of token ids"
RNG_ID = integer(0)


class RequestFactory:
    """Makes requests for one model and its tokenizer, with the settings of the model's folder."""

    def __init__(self, model: Transformer, tok: TextTokenizer | None, folder: Path | None, seed: int) -> None:
        """Read the generation settings of the folder; raises a `UserError` for unusable arguments."""
        self.model, self.tok, self.seed = model, check_tokenizer(tok), RNG_ID.parse(seed, "seed")
        settings = read_generation_config(model, self.tok, folder)
        self.defaults, self.max_window = settings.defaults, settings.max_window
        self.eos_ids, self.eos_id = frozenset(settings.eos_ids), next(iter(settings.eos_ids), None)

    def text_tokenizer(self, what: str) -> TextTokenizer:
        """Return the tokenizer; raises a `UserError` where there is none."""
        if self.tok is None:
            raise UserError(f"{what} needs a tokenizer", expected="Engine(model, tok)", hint="or hand in token ids")
        return self.tok

    def effective_params_for_each(
        self, params: SamplingParams | Seq[SamplingParams] | None, count: int, chat: bool = False
    ) -> list[SamplingParams]:
        """Return the effective parameters of each of `count` requests, from one for all or from a list with one for
        each."""
        if params is None or isinstance(params, SamplingParams):
            return [self.effective_params(params, chat)] * count
        each = as_list(params, "params", "SamplingParams(...), or a list of them")
        same_length(each, "sampling parameters", count)
        return [self.effective_params(item, chat) for item in each]

    def effective_params(self, params: SamplingParams | None, chat: bool = False) -> SamplingParams:
        """Return the parameters that one request runs with: every None is filled in from the folder's defaults.

        With `chat`, its answers also end at the stop tokens of a chat, unless `ignore_eos`. Raises a `UserError` for
        token ids that the model does not have."""
        if not isinstance(params, SamplingParams | None):
            raise UserError(f"params = {shown(params)}", expected="SamplingParams(...)")
        effective = (params or SamplingParams()).with_defaults({**self.defaults, "seed": self.seed})
        vocab_size = self.model.config.vocab_size
        token_ids(effective.stop_token_ids, vocab_size, where="stop_token_ids")
        token_ids(list(dict(effective.logit_bias or ())), vocab_size, where="logit_bias")
        for ids in effective.stop_words_ids or ():
            token_ids(ids, vocab_size, where="stop_words_ids")
        if effective.stop:
            self.text_tokenizer("stop strings")
        if chat and not effective.ignore_eos:
            stops = (*(effective.stop_token_ids or ()), *stop_token_ids(self.tok))
            return replace(effective, stop_token_ids=stops)
        return effective

    def render(
        self, messages: Messages, tools: Tools | None, label: str, variables: Mapping[str, Any] | None
    ) -> list[int]:
        """Return the ids of a conversation with the beginning of an answer, without the oldest turns that do not fit
        into the folder's `max_window_size`."""
        messages = as_list(messages, label, "a list of messages", hint="chat([messages])")
        tools = None if tools is None else as_list(tools, "tools", "a list of tools")
        options: dict[str, Any] = {"template_kwargs": variables} if variables else {}
        tok = cast("ChatTokenizer", self.text_tokenizer("chat"))
        with within(label):
            if self.max_window is not None:
                messages = truncate_history(tok, messages, self.max_window, tools=tools, **options)
            return tok.render(messages, tools, add_generation_prompt=True, **options).ids

    def make_request(self, prompt: Prompt, params: SamplingParams, rng_id: int, label: str) -> Request:
        """Return a request with its samples, not yet queued. `params` are those of `effective_params`."""
        assert params.max_tokens is not None, "effective parameters have no None"
        ids = self.encode(prompt, label)
        limit = min(params.max_tokens, self.remaining_positions(ids, label, needed=min(1, params.max_tokens)))
        stops = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self.eos_ids)
        eos_id = None if params.ignore_eos else self.eos_id
        request = Request(rng_id, label, tuple(ids), params, limit, stops, eos_id)
        for sample in range(params.n):
            detokenizer = IncrementalDetokenizer(self.text_tokenizer("stop strings"), params) if params.stop else None
            request.sequences.append(Sequence(request, sample, self._penalized(request), detokenizer))
        for sequence in request.sequences:
            sequence.finish_reason = check_stop(sequence)
        return request

    def make_streaming_request(self, prompt: Prompt, params: SamplingParams) -> tuple[Request, IncrementalDetokenizer]:
        """Return a request for one sample, and the detokenizer that its text comes from."""
        tok, params = self.text_tokenizer("stream"), replace(params, n=1)
        request = self.make_request(prompt, params, 0, label="prompt")
        (sequence,) = request.sequences
        sequence.detokenizer = detokenizer = sequence.detokenizer or IncrementalDetokenizer(tok, params)
        return request, detokenizer

    def encode(self, prompt: Prompt, label: str) -> list[int]:
        """Return the ids of a prompt: a string, or ids as they are."""
        ids = self.text_tokenizer("text").encode(prompt) if isinstance(prompt, str) else prompt
        ids = token_ids(ids, self.model.config.vocab_size, label)
        if not ids:
            raise UserError("empty", where=label, expected="a token: there is none for the beginning of a text")
        return ids

    def remaining_positions(self, ids: list[int], label: str, needed: int) -> int:
        """Return how many positions are left after these ids; raises a `UserError` where fewer than `needed` are."""
        max_length = self.model.config.max_length
        left = max_length - len(ids)
        if left < needed:
            raise UserError(f"{len(ids)} tokens", where=label, expected=f"at most {max_length - needed} tokens",
                            hint="shorten it, or use a model with more positions")  # fmt: skip
        return left

    def scoring_rows(
        self, prompts: Seq[Prompt], continuations: Seq[Prompt] | None
    ) -> tuple[list[list[int]], list[int]]:
        """Return the ids of each prompt with its continuation, and the index from which on they are scored."""
        hint = "score([prompt], [continuation])"
        prompts = as_list(prompts, "prompts", PROMPTS, hint)
        rows = [self.encode(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        starts = [1] * len(rows)
        if continuations is not None:
            continuations = as_list(continuations, "continuations", PROMPTS, hint)
            same_length(continuations, "continuations", len(prompts))
            starts = [len(row) for row in rows]
            for i, text in enumerate(continuations):
                rows[i] = [*rows[i], *self.encode(text, f"continuation {i}")]
        for i, row in enumerate(rows):
            self.remaining_positions(row, f"prompt {i}", needed=0)
        return rows, starts

    def _penalized(self, request: Request) -> Tensor | None:
        """Return [V], true at the prompt's tokens, where there is a repetition penalty."""
        if request.params.repetition_penalty == 1.0:
            return None
        device = self.model.model.embed_tokens.weight.device
        penalized_V = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device=device)
        penalized_V[list(request.prompt)] = True
        return penalized_V


def rng_ids_or_indices(rng_ids: Seq[int] | None, count: int) -> list[int]:
    """Return the numbers that the random draws of `count` requests are made from; by default 0, 1, 2, ..."""
    if rng_ids is None:
        return list(range(count))
    numbers = as_list(rng_ids, "rng_ids", "a list of integers")
    same_length(numbers, "rng_ids", count)
    return [RNG_ID.parse(number, f"rng_ids[{i}]") for i, number in enumerate(numbers)]


def tools_for_each(tools: Tools | Seq[Tools | None] | None, count: int) -> list[Tools | None]:
    """Return the tools of each of `count` conversations, from one list for all or from one list (or None) for each.

    The items decide which is meant: a tool is a mapping, a list of tools is a list."""
    if tools is None:
        return [None] * count
    items = as_list(tools, "tools", "a list of tools")
    if not any(item is None or isinstance(item, (list, tuple)) for item in items):
        return [items] * count
    same_length(items, "lists of tools", count)
    return items


def check_tokenizer(tok: TextTokenizer | None) -> TextTokenizer | None:
    """Return `tok`; raises a `UserError` for something else than a tokenizer or None."""
    if tok is None or all(hasattr(tok, name) for name in ("encode", "decode", "stream")):
        return tok
    raise UserError(f"tok = {shown(tok)}", expected="a tokenizer, or None where only token ids go in and out",
                    hint="Engine(path, load_tokenizer(path))")  # fmt: skip
