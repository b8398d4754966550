"""One model in memory: its engine on a thread of its own, its tokenizer, and how prompts become token ids.

    load = loader(kv_tokens=None, max_batch=128, threads=2, max_waiting=256, stall_seconds=600)
    model = load("nano", "runs/nano/chat-rlhf")
    prompt, params = model.encode(form, params)          # on any thread
    model.loop.submit(prompt, params)

Encoding needs no turn on the engine; all that touches the model goes through its loop.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwenkit.chat import ChatTokenizer, load_tokenizer, stop_token_ids
from qwenkit.hub import resolve
from qwenkit.inference import Conversation, Engine, EngineBusy, EngineLoop, SamplingParams
from qwenkit.inference.adapters import MAX_ADAPTERS, MAX_RANK
from qwenkit.inference.requests import PromptTooLong
from qwenkit.model.formats.keys import accepted, accepting
from qwenkit.platform import torch_threads
from qwenkit.prompt import Prompt
from qwenkit.serving.certificates import check_certificate
from qwenkit.serving.prompts import engine_prompt
from qwenkit.serving.request import FillIn, PromptForm, TextRequest

Loader = Callable[[str, str], "ServedModel"]
"""Loads a model of a name from a folder, a GGUF file or the Hub; runs on a thread."""


@dataclass(eq=False)
class ServedModel:
    """A model that answers."""

    name: str
    engine: Engine
    tok: ChatTokenizer
    loop: EngineLoop
    folder: Path
    adapter: str | None = None
    """The adapter that its requests name; the model is then called like it."""
    created: int = field(default_factory=lambda: int(time.time()))
    longest_token: int = 0
    """Bytes of the longest token: a text with more bytes than the model's tokens could have need not be encoded."""

    def __post_init__(self) -> None:
        """Look at the vocabulary."""
        self.longest_token = max(map(len, [*self.tok.ranks, *(name.encode() for name in self.tok.special)]))

    def with_adapter(self, name: str) -> ServedModel:
        """Return the same model in memory, asked by the name of one of its adapters."""
        other = copy.copy(self)
        other.name = other.adapter = name
        return other

    @property
    def works(self) -> bool:
        """Return whether its engine takes requests, or will again."""
        return self.loop.stats().state in ("running", "stalled")

    @property
    def max_length(self) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        return self.engine.max_length

    def check_queue(self, most: int) -> None:
        """Raise `EngineBusy` where so many requests wait already: no work is done for one more."""
        stats = self.loop.stats()
        if stats.waiting >= most:
            raise EngineBusy(f"{most} requests wait already", hint="ask again later", seconds=stats.waiting_seconds)

    def count(self, asked: TextRequest) -> tuple[int, ...]:
        """Return the token ids of a text or a conversation, however many they are. Any thread may call it."""
        factory, prompt = self.engine.request_factory, engine_prompt(asked.prompt, self.tok, asked.parse_special)
        if isinstance(prompt, Conversation):
            return factory.render(prompt, "messages").ids
        return tuple(self.tok.encode(prompt)) if isinstance(prompt, str) else prompt

    def encode(
        self, form: PromptForm, params: SamplingParams, parse_special: bool = False
    ) -> tuple[Prompt, SamplingParams]:
        """Return a prompt as token ids, and the parameters of its answer, which for a conversation also ends with its
        turn. Any thread may call it. Raises a `UserError` for a prompt that leaves no position for an answer."""
        factory, label = self.engine.request_factory, "messages" if isinstance(form, Conversation) else "prompt"
        if params.truncate_prompt_tokens is None:
            self._check_size(form, label)
        asked = engine_prompt(form, self.tok, parse_special)
        if isinstance(asked, Conversation):
            prompt = factory.render(asked, label)
            stops = () if params.ignore_eos else stop_token_ids(self.tok)
            params = replace(params, stop_token_ids=(*(params.stop_token_ids or ()), *stops))
        else:
            prompt = factory.encode(asked, label)
        prompt = factory.last_tokens(prompt, params, label)
        factory.remaining_positions(len(prompt.ids), label, 0 if params.max_tokens == 0 else 1)
        return prompt, params

    def _check_size(self, form: PromptForm, label: str) -> None:
        """Raise a `UserError` for texts that no tokens could hold: to encode them would be for nothing."""
        if isinstance(form, Conversation) and self.engine.max_window is not None:
            return  # its oldest turns are dropped
        characters, most = sum(map(len, _texts(form))), self.max_length * self.longest_token
        if characters > most:
            raise PromptTooLong(f"{characters} characters", where=label, expected=f"at most {self.max_length} tokens",
                            hint="shorten it, or use a model with more positions")  # fmt: skip


def _texts(form: PromptForm) -> Iterator[str]:
    """Yield the texts of a prompt."""
    if isinstance(form, Conversation):
        contents = (message.get("content") for message in form.messages if isinstance(message, Mapping))
        yield from (text for content in contents for text in _strings(content))
    elif isinstance(form, FillIn):
        yield from (form.prefix, form.suffix)
    elif isinstance(form, str):
        yield form


def _strings(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content: itself, or its parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def loader(
    *, kv_tokens: int | None, max_batch: int, threads: int, max_waiting: int, stall_seconds: float,
    check_certificates: bool = True, max_adapters: int = MAX_ADAPTERS, max_adapter_rank: int = MAX_RANK,
) -> Loader:  # fmt: skip
    """Return what loads a model with these settings of its engine, and refuses one that its certificate contradicts."""
    names = accepted()  # a load runs in the context of whoever asks first

    def load(name: str, reference: str) -> ServedModel:
        folder = resolve(reference)
        tok = load_tokenizer(folder)
        with accepting(names), torch_threads(threads):  # those of the thread that makes a loop are the loop's
            engine = Engine(folder, tok, invariant=False, kv_tokens=kv_tokens, max_batch=max_batch,
                            max_adapters=max_adapters, max_adapter_rank=max_adapter_rank)  # fmt: skip
            if check_certificates:
                check_certificate(folder, engine.model)
            loop = EngineLoop(engine, max_waiting=max_waiting, stall_timeout=stall_seconds)
        return ServedModel(name, engine, tok, loop, folder)

    return load
