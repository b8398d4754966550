"""From what a caller asks to `Request`s: the arguments of the engine's methods are checked here.

    factory = RequestFactory(model, tok, folder, seed=0)
    params = factory.effective_params(SamplingParams(max_tokens=8))
    request = factory.make_request([1, 2, 3], params, rng_id=0, label="prompt 0")

Every method raises a `UserError` that names the argument, its value and what is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from qwenkit.chat import stop_token_ids, thought_tokens, truncate_history
from qwenkit.errors import UserError, within
from qwenkit.inference.adapters import MAX_ADAPTERS, Adapters, EngineAdapter
from qwenkit.inference.argument_checks import SALT, as_list, integer, optional, same_length, shown, token_ids
from qwenkit.inference.detokenizer import IncrementalDetokenizer, TextTokenizer
from qwenkit.inference.generation_config import read_generation_config
from qwenkit.inference.grammar import Grammars
from qwenkit.inference.sampling_params import GRAMMARS, SamplingParams
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.inference.stopping import check_stop
from qwenkit.inference.thinking import Thought
from qwenkit.inference.token_counts import TokenCounts
from qwenkit.model import Transformer
from qwenkit.prompt import Media, Prompt

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer

AdapterLike = str | Seq[str | None] | None
"""The name of an adapter for all requests, or a list with one (or None) for each."""
PromptLike = str | Seq[int] | Prompt
"""A text, token ids, or ids with media."""
Messages = Seq[Mapping[str, Any]]
Tools = Seq[Mapping[str, Any]]
"""The tools that a conversation is offered, as JSON schemas."""
T = TypeVar("T")

PROMPTS = "a list of strings or of lists of token ids"
RNG_ID = integer(0)
PRIORITY = integer(-(2**31), 2**31 - 1)
MOST_SAMPLES = 128
"""Answers that a request may have which is queued on its own: one client must not fill an engine that many use.
`Engine.generate` takes more."""

_MEDIA = {"image": "an image", "audio": "a sound"}


class PromptTooLong(UserError):
    """A prompt that leaves the model no position for its answer."""


@dataclass(frozen=True)
class Conversation:
    """What `chat` asks, as one value: the messages, the tools that they are offered, whether the answer begins with
    thoughts (None: as the chat style does), and further variables of the folder's chat template."""

    messages: Messages
    tools: Tools | None = None
    thinking: bool | None = None
    template_kwargs: Mapping[str, Any] | None = None


class RequestFactory:
    """Makes requests for one model and its tokenizer, with the settings of the model's folder."""

    def __init__(self, model: Transformer, tok: TextTokenizer | None, folder: Path | None, seed: int) -> None:
        """Read the generation settings of the folder; raises a `UserError` for unusable arguments."""
        self.model, self.tok, self.seed = model, check_tokenizer(tok), RNG_ID.parse(seed, "seed")
        self.adapters = Adapters(MAX_ADAPTERS)
        self.kv_tokens: int | None = None
        """What the engine's cache has room for."""
        self.grammars, self.thought_tokens = Grammars(tok), thought_tokens(tok)
        self.model_name = "this model" if folder is None else f"the model {folder.name}"
        settings = read_generation_config(model, self.tok, folder)
        self.defaults, self.max_window = settings.defaults, settings.max_window
        self.eos_ids, self.eos_id = frozenset(settings.eos_ids), next(iter(settings.eos_ids), None)

    @property
    def max_length(self) -> int:
        """Return how many tokens a prompt and its answer may have together: the model's positions, or the cache."""
        positions = self.model.config.max_length
        return positions if self.kv_tokens is None else min(positions, self.kv_tokens)

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
        token_ids(effective.allowed_token_ids or (), vocab_size, where="allowed_token_ids")
        if effective.stop:
            self.text_tokenizer("stop strings")
        if effective.bad_words:
            self.text_tokenizer("bad words")
        if effective.thinking_budget is not None and self.thought_tokens is None:
            raise UserError(f"thinking_budget = {effective.thinking_budget}, and this tokenizer has no thoughts",
                            expected="one with the tokens <think> and </think>")  # fmt: skip
        if chat and not effective.ignore_eos:
            stops = (*(effective.stop_token_ids or ()), *stop_token_ids(self.tok))
            return replace(effective, stop_token_ids=stops)
        return effective

    def render(self, conversation: Conversation, label: str) -> Prompt:
        """Return a conversation with the beginning of an answer as a prompt, without the oldest turns that do not fit
        into the folder's `max_window_size`."""
        messages = as_list(conversation.messages, label, "a list of messages", hint="chat([messages])")
        tools = None if conversation.tools is None else as_list(conversation.tools, "tools", "a list of tools")
        options: dict[str, Any] = {"template_kwargs": conversation.template_kwargs, "thinking": conversation.thinking}
        options = {name: value for name, value in options.items() if value is not None}
        tok = cast("ChatTokenizer", self.text_tokenizer("chat"))
        with within(label):
            if self.max_window is not None:
                messages = truncate_history(tok, messages, self.max_window, tools=tools, **options)
            return tok.render(messages, tools, add_generation_prompt=True, **options).prompt

    def make_request(
        self,
        prompt: PromptLike,
        params: SamplingParams,
        rng_id: int,
        label: str,
        with_text: bool = False,
        first_sample: int = 0,
        first_draw: int = 0,
    ) -> Request:
        """Return a request with its samples, not yet queued. `params` are those of `effective_params`.

        `with_text` makes the text of its answers grow with their ids, where there is a tokenizer. `first_sample` and
        `first_draw` are where the draws begin, in samples and in positions of an answer."""
        assert params.max_tokens is not None, "effective parameters have no None"
        prompt = self.last_tokens(self.encode(prompt, label), params, label)
        limit = min(params.max_tokens, self.remaining_positions(len(prompt.ids), label, min(1, params.max_tokens)))
        stops = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self.eos_ids)
        eos_id = None if params.ignore_eos else self.eos_id
        request = Request(rng_id, label, prompt, params, limit, stops, eos_id, first_sample, first_draw)
        request.bad_words_ids = self._spelt(params.bad_words or ())
        if params.prompt_logprobs and not limit:
            raise UserError("prompt_logprobs with max_tokens = 0", where=label, expected="max_tokens of 1 or more",
                            hint="Engine.score gives the log-probabilities of texts")  # fmt: skip
        if params.prompt_logprobs:
            request.ask_logprobs(1)
        renew = partial(self._renew, tok=self.tok if with_text or params.stop else None)
        for sample in range(params.n):
            sequence = Sequence(request, sample, None, renew=renew)
            renew(sequence)
            sequence.finish_reason = check_stop(sequence)
            request.sequences.append(sequence)
        return request

    def _renew(self, sequence: Sequence, tok: TextTokenizer | None) -> None:
        """Make what depends on the ids of an answer as it is before the first one."""
        request = sequence.request
        sequence.detokenizer = None if tok is None else IncrementalDetokenizer(tok, request.params)
        sequence.token_counts = _token_counts(request)
        sequence.grammar = sequence.grammar.renewed() if sequence.grammar else self.grammars.start(request.params)
        sequence.thought = self._thought(request)

    def make_requests(
        self,
        prompts: Seq[PromptLike],
        params: Seq[SamplingParams],
        rng_ids: Seq[int] | None,
        first_draws: Seq[int] | None,
        adapter: AdapterLike = None,
    ) -> list[Request]:
        """Return a request for each prompt; by default draws are made from the numbers 0, 1, 2, ..."""
        adapters = self.adapters_for_each(adapter, len(prompts))
        numbers = numbers_or(range(len(prompts)), rng_ids, "rng_ids")
        draws = numbers_or([0] * len(prompts), first_draws, "first_draws")
        requests = [
            self.make_request(prompt, each, rng_id, f"prompt {i}", first_draw=first_draw)
            for i, (prompt, each, rng_id, first_draw) in enumerate(zip(prompts, params, numbers, draws, strict=True))
        ]
        for request, request_adapter in zip(requests, adapters, strict=True):
            request.adapter = request_adapter
        return requests

    def adapters_for_each(self, adapter: AdapterLike, count: int) -> list[EngineAdapter | None]:
        """Return the adapter of each of `count` requests, from one name for all or from a list with one (or None) for
        each."""
        if adapter is None or isinstance(adapter, str):
            return [self.adapters.find(adapter, "adapter")] * count
        names = as_list(adapter, "adapter", "the name of an adapter, or a list of them")
        same_length(names, "adapters", count)
        return [self.adapters.find(name, f"adapter {i}") for i, name in enumerate(names)]

    def prepare(
        self,
        prompt: PromptLike | Conversation,
        params: SamplingParams | None,
        rng_id: int | None,
        *,
        sample: int,
        first_draw: int,
        priority: int,
        cache_salt: str | None,
        adapter: str | None,
        label: str,
    ) -> Request:
        """Return a request whose deltas `Engine.step` will hand out, from a prompt or a conversation.

        `EngineCore.prepare` says what the arguments mean."""
        engine_adapter = self.adapters.find(adapter, label)
        number: int = -1 if rng_id is None else RNG_ID.parse(rng_id, "rng_id")
        start: tuple[int, int] = RNG_ID.parse(sample, "sample"), RNG_ID.parse(first_draw, "first_draw")
        rendered = self.render(prompt, label) if isinstance(prompt, Conversation) else prompt
        params = self.effective_params(params, chat=isinstance(prompt, Conversation))
        if params.n > MOST_SAMPLES:
            raise UserError(f"n = {params.n}", where=label, expected=f"at most {MOST_SAMPLES} answers of a request",
                            hint="ask several times, or use Engine.generate")  # fmt: skip
        request = self.make_request(rendered, params, number, label, True, *start)
        request.submitted = True
        request.priority = PRIORITY.parse(priority, "priority")
        request.cache_salt = optional(SALT).parse(cache_salt, "cache_salt")
        request.adapter = engine_adapter
        return request

    def encode(self, prompt: PromptLike, label: str) -> Prompt:
        """Return a prompt as a value; raises a `UserError` for one that the model cannot read."""
        given = self.text_tokenizer("text").encode(prompt) if isinstance(prompt, str) else prompt
        media = given.images if isinstance(given, Prompt) else ()
        ids = token_ids(given.ids if isinstance(given, Prompt) else given, self.model.config.vocab_size, label)
        if not ids:
            raise UserError("empty", where=label, expected="a token: there is none for the beginning of a text")
        self._check_media(media, len(ids), label)
        return Prompt(tuple(ids), tuple(media))

    def _check_media(self, media: Seq[Media], length: int, label: str) -> None:
        """Raise a `UserError` for media that the model cannot read, or that lie outside of the prompt or overlap."""
        end = 0
        for item in as_list(media, f"{label}, images", "a list of Media"):
            if not isinstance(item, Media):
                raise UserError(f"images: {shown(item)}", where=label, expected="Media(kind, source, start, stop)")
            what = f"{_MEDIA.get(item.kind, shown(item.kind))} ({shown_source(item.source)})"
            if item.kind not in self.model.media_kinds:
                raise UserError(f"{what}, which {self.model_name} cannot read", where=label,
                                expected=", ".join(["text", *sorted(self.model.media_kinds)]))  # fmt: skip
            if not end <= item.start < item.stop <= length:
                raise UserError(f"{what} at tokens {item.start} to {item.stop}", where=label,
                                expected=f"a range inside {end} to {length}")  # fmt: skip
            end = item.stop

    def remaining_positions(self, length: int, label: str, needed: int) -> int:
        """Return how many positions are left after so many tokens; raises `PromptTooLong` where fewer than `needed`
        are."""
        left = self.max_length - length
        if left < needed:
            raise PromptTooLong(f"{length} tokens", where=label, expected=f"at most {self.max_length - needed} tokens",
                            hint="shorten it, or use a model with more positions"
                            if self.max_length == self.model.config.max_length
                            else "shorten it, or give the cache more kv_tokens")  # fmt: skip
        return left

    def scoring_rows(
        self, prompts: Seq[PromptLike], continuations: Seq[PromptLike] | None
    ) -> tuple[list[Prompt], list[int]]:
        """Return each prompt with its continuation, and the index from which on they are scored."""
        hint = "score([prompt], [continuation])"
        prompts = as_prompts(prompts, "prompts", hint)
        rows = [self.encode(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        starts = [1] * len(rows)
        if continuations is not None:
            continuations = as_prompts(continuations, "continuations", hint)
            same_length(continuations, "continuations", len(prompts))
            starts = [len(row.ids) for row in rows]
            more = [self.encode(text, f"continuation {i}") for i, text in enumerate(continuations)]
            rows = [row.followed_by(other) for row, other in zip(rows, more)]
        for i, row in enumerate(rows):
            self.remaining_positions(len(row.ids), f"prompt {i}", needed=0)
        return rows, starts

    def last_tokens(self, prompt: Prompt, params: SamplingParams, label: str) -> Prompt:
        """Return the end of a prompt that `truncate_prompt_tokens` asks for."""
        count = params.truncate_prompt_tokens
        if count == -1:
            answer = params.max_tokens or 0
            count = max(1, self.max_length - (answer if answer < self.max_length else 1))
        cut = len(prompt.ids) - (len(prompt.ids) if count is None else count)
        if cut <= 0:
            return prompt
        images = [media for media in prompt.images if media.stop > cut]
        if images and images[0].start < cut:
            raise UserError(f"truncate_prompt_tokens = {params.truncate_prompt_tokens} cuts {_MEDIA[images[0].kind]}",
                            where=label, expected=f"{len(prompt.ids) - images[0].start} or more")  # fmt: skip
        moved = (media._replace(start=media.start - cut, stop=media.stop - cut) for media in images)
        return Prompt(prompt.ids[cut:], tuple(moved))

    def _spelt(self, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
        """Return words as tokens, each as it is spelt without a space before it, and with one."""
        spellings: dict[tuple[int, ...], None] = {}
        for word in words:
            encode, word = self.text_tokenizer("bad words").encode, word.lstrip()
            plain, spaced = tuple(encode(word)), tuple(encode(f" {word}"))
            spellings[plain] = None
            if spaced[-len(plain) :] != plain:
                spellings[spaced] = None
        return tuple(spellings)

    def _thought(self, request: Request) -> Thought | None:
        """Return where an answer stands with its thoughts, where something depends on it."""
        params, tags = request.params, self.thought_tokens
        bound = any(getattr(params, name) is not None for name in GRAMMARS)
        if tags is None or (params.thinking_budget is None and not bound):
            return None
        return Thought(tags, request.prompt.ids, params.thinking_budget, blank_line=bound)


def _token_counts(request: Request) -> TokenCounts | None:
    """Return the tokens of the prompt, where a penalty asks for them."""
    params = request.params
    penalized = params.repetition_penalty != 1.0 or params.frequency_penalty or params.presence_penalty
    return TokenCounts(request.prompt.ids) if penalized else None


def as_prompts(prompts: object, name: str, hint: str) -> list[Any]:
    """Return the items of a list of prompts; raises a `UserError` for one prompt, and for anything else."""
    if isinstance(prompts, Prompt):
        raise UserError(f"{name} = {shown(prompts)}", expected=PROMPTS, hint=hint)
    return as_list(prompts, name, PROMPTS, hint)


def shown_source(source: str) -> str:
    """Return where a picture or a sound comes from as messages show it: a `data:` URL without its data."""
    return f"{source.partition(',')[0]},..." if source.startswith("data:") else source


def numbers_or(default: Seq[int], given: Seq[int] | None, name: str) -> list[int]:
    """Return numbers from 0 on that a caller gives under this name, one for each request, or else the default ones."""
    if given is None:
        return list(default)
    numbers = as_list(given, name, "a list of integers")
    same_length(numbers, name, len(default))
    return [RNG_ID.parse(number, f"{name}[{i}]") for i, number in enumerate(numbers)]


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
