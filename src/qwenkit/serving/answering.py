"""From a request of the internal form to the events of its answer, on the engine of a served model.

    answer = await begin(request, visit, services)           # refused here, or the engine has it
    async for events in answer.events(): ...                 # until `Ended` or `Failed`

`begin` holds the model, encodes the prompts on another thread, compares them with what the client may take, and submits
them. What it holds is given back with the visit's stack, which ends what still runs: so a client that leaves frees its
place at the engine's next step, wherever the server was with its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from qwenkit.errors import QwenkitError
from qwenkit.inference import Delta, EngineStopped, EngineTimeout, RequestHandle, SamplingParams
from qwenkit.prompt import Prompt
from qwenkit.serving.answer_events import AnswerEvents
from qwenkit.serving.keys import Allowance, Client
from qwenkit.serving.limits import Usage
from qwenkit.serving.metrics import ServerMetrics
from qwenkit.serving.models import ModelCatalog
from qwenkit.serving.prompts import engine_params
from qwenkit.serving.refusals import ENDING, Refusal, Refused, refusal_of
from qwenkit.serving.request import Ended, Event, Failed, GenerationRequest
from qwenkit.serving.request import Usage as TokenUsage
from qwenkit.serving.served_model import ServedModel
from qwenkit.serving.settings import ServerSettings
from qwenkit.serving.visit import Visit

QUIET_SECONDS = 15.0
"""After this time without a token a stream says that it is alive, so that no proxy closes it."""


NUMBERS_AT_ONCE = 512
"""How many tokens and log-probabilities of one request are made into events before other requests have a turn."""


@dataclass(frozen=True)
class Services:
    """What all requests share."""

    catalog: ModelCatalog
    settings: ServerSettings
    usage: Usage
    metrics: ServerMetrics


@dataclass(eq=False)
class _Part:
    """One prompt of a request, on the engine."""

    handle: RequestHandle
    answer: AnswerEvents


async def begin(request: GenerationRequest, visit: Visit, services: Services) -> Answer:
    """Give a request to the engine of its model; raises `Refused`, or an error that `refusal_of` knows."""
    client = client_of(visit)
    visit.user = request.user
    _check_answers(request, services.settings.limits.answers)
    model = await hold_model(request.model, visit, services)
    model.check_queue(services.settings.limits.max_queue)  # before the work of encoding
    params = allowed_params(engine_params(request, model.tok), client.allowance)
    prompts = [
        await asyncio.to_thread(model.encode, prompt, params, request.parse_special) for prompt in request.prompts
    ]
    visit.prompt_tokens = sum(len(prompt.ids) for prompt, _ in prompts)
    check_length(max(len(prompt.ids) for prompt, _ in prompts), client.allowance)
    services.usage.charge(client, visit.prompt_tokens)
    if services.settings.log_texts:
        visit.texts["prompts"] = [model.tok.decode(prompt.ids) for prompt, _ in prompts]
    parts = []
    for number, (prompt, own_params) in enumerate(prompts):
        handle = await _submit(model, prompt, own_params, number, request, visit, services)
        await visit.stack.enter_async_context(handle)  # leaving aborts what is left of it
        parts.append(_Part(handle, AnswerEvents(request, model.tok, prompt.ids, number)))
    return Answer(request, visit, services, model, parts)


async def _submit(
    model: ServedModel, prompt: Prompt, params: SamplingParams, number: int, request: GenerationRequest, visit: Visit,
    services: Services,
) -> RequestHandle:  # fmt: skip
    """Queue one prompt. With a seed the draws depend on it and the place in the request alone."""
    client = client_of(visit)
    left = max(1.0, services.settings.limits.request_seconds - visit.seconds)
    return await model.loop.asubmit(
        prompt, params, None if params.seed is None else number, timeout=left,
        priority=client.priority + _lowered(request.priority), cache_salt=services.settings.keyring.salt(client, ""),
        adapter=model.adapter,
    )  # fmt: skip


async def hold_model(name: str | None, visit: Visit, services: Services) -> ServedModel:
    """Return the model of a name, or of an adapter's, loaded, and in memory until the request ends."""
    if services.catalog.draining:
        raise Refused(ENDING)
    name = services.catalog.known_name(name, client_of(visit).models)
    entry = services.catalog.find(name)
    adapted = name in entry.adapters
    visit.model = name if adapted else entry.name
    using = services.catalog.use(entry, services.settings.limits.load_seconds)
    model = await visit.stack.enter_async_context(using)
    return model.with_adapter(name) if adapted else model


def client_of(visit: Visit) -> Client:
    """Return who asks; the front has let nobody pass without."""
    assert visit.client is not None, "this path is answered to clients alone"
    return visit.client


def _check_answers(request: GenerationRequest, most: int) -> None:
    if request.number_of_choices > most:
        many = len(request.prompts) > 1
        raise Refused(Refusal("invalid", f"{request.number_of_choices} answers are asked", "prompt" if many else "n",
                              f"at most {most} together", code="too_many_answers"))  # fmt: skip


def allowed_params(params: SamplingParams, allowance: Allowance) -> SamplingParams:
    """Return parameters whose answers are as long as the client may have; raises `Refused` where more is asked."""
    most = allowance.max_tokens
    if most is None:
        return params
    if params.max_tokens is not None and params.max_tokens > most:
        raise Refused(Refusal("invalid", f"max_tokens = {params.max_tokens}", "max_tokens", f"at most {most}",
                              "the key's limit; the server's --max-tokens, or max_tokens of the key file",
                              "max_tokens_exceeded"))  # fmt: skip
    return params if params.max_tokens is not None else replace(params, max_tokens=most)


def check_length(tokens: int, allowance: Allowance) -> None:
    """Raise `Refused` for a prompt that is longer than the client's may be."""
    if allowance.prompt_tokens is not None and tokens > allowance.prompt_tokens:
        raise Refused(Refusal("invalid", f"the prompt has {tokens} tokens", "prompt",
                              f"at most {allowance.prompt_tokens}", code="prompt_too_long"))  # fmt: skip


def _lowered(priority: int) -> int:
    """Return by how much a request stands behind the others of its client; none stands before them."""
    if priority < 0:
        raise Refused(Refusal("invalid", f"priority = {priority}", "priority", "0, or more to wait behind others",
                              code="priority_too_high"))  # fmt: skip
    return min(priority, 2**20)


class Answer:
    """An answer while it is generated."""

    def __init__(
        self, request: GenerationRequest, visit: Visit, services: Services, model: ServedModel, parts: list[_Part]
    ) -> None:
        """Take over the parts that the engine has."""
        self.request, self.visit, self.services, self.model = request, visit, services, model
        self._parts, self._last, self._numbers = parts, dict[tuple[int, int], float](), 0

    async def events(self) -> AsyncIterator[list[Event]]:
        """Yield the events as they come, and none now and then while nothing comes; the last one is `Ended` or
        `Failed`."""
        yield [event for part in self._parts for event in part.answer.began()]
        try:
            async for part, delta in self._deltas():
                if delta is None:
                    yield []
                    continue
                self._measure(part, delta)
                await self._let_others(delta)
                events = part.answer.push(delta)
                if events:
                    yield events
                if any(isinstance(event, Failed) for event in events):
                    return
                if part.answer.is_complete and delta.output is None:
                    part.handle.abort()  # one call of a tool was asked, and is there
        except QwenkitError as error:
            ends = isinstance(error, EngineStopped) and self.services.catalog.draining
            yield [Failed(ENDING if ends else refusal_of(error))]
            return
        finally:
            self._finish()
        yield [Ended(sum((part.answer.usage for part in self._parts), TokenUsage()))]

    async def _deltas(self) -> AsyncIterator[tuple[_Part, Delta | None]]:
        """Yield the deltas of all parts as they come, None where nothing comes for a while; the error of one ends
        all."""
        if len(self._parts) == 1:
            async for delta in self._of(self._parts[0]):
                yield self._parts[0], delta
            return
        waiting = {asyncio.ensure_future(part.handle.anext()): part for part in self._parts}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield self._parts[0], None
                for future in done:
                    part = waiting.pop(future)
                    if (delta := future.result()) is not None:
                        yield part, delta
                        if not part.answer.is_complete:
                            waiting[asyncio.ensure_future(part.handle.anext())] = part
        finally:
            for future in waiting:
                future.cancel()

    async def _of(self, part: _Part) -> AsyncIterator[Delta | None]:
        """Yield the deltas of one part, without a task for each."""
        while not part.answer.is_complete:
            try:
                delta = await part.handle.anext(timeout=QUIET_SECONDS)
            except EngineTimeout:
                if not part.handle.has_ended:
                    yield None
                    continue
                delta = await part.handle.anext()  # its last delta, or its own error
            if delta is None:
                return
            yield delta

    async def _let_others(self, delta: Delta) -> None:
        """Let the server's other requests go on now and then: where deltas come faster than they are written, there is
        nothing that this one would wait for."""
        self._numbers += len(delta.ids) * (1 + (self.request.top_logprobs or 0))
        if self._numbers >= NUMBERS_AT_ONCE:
            self._numbers = 0
            await asyncio.sleep(0)

    def _measure(self, part: _Part, delta: Delta) -> None:
        """Count the tokens of a delta, and when they came."""
        now, visit, metrics = time.monotonic(), self.visit, self.services.metrics
        if delta.ids:
            if visit.first_token_seconds is None:
                visit.first_token_seconds = visit.seconds
                metrics.first_token.observe(visit.seconds, model=self.model.name)
            answer = (id(part), delta.sample)
            if (last := self._last.get(answer)) is not None:
                each = (now - last) / len(delta.ids)
                metrics.inter_token.observe(each, len(delta.ids), model=self.model.name)
            self._last[answer], visit.last_token_seconds = now, visit.seconds
            visit.generated_tokens += len(delta.ids)
            self.services.usage.charge(client_of(visit), len(delta.ids))
        if delta.output is not None:
            visit.cached_tokens += delta.output.num_cached_tokens
            if self.services.settings.log_texts:
                visit.texts.setdefault("answers", []).extend(each.text for each in delta.output.samples)  # type: ignore[union-attr]

    def _finish(self) -> None:
        """Count the request, however it has ended."""
        metrics, model = self.services.metrics, self.model.name
        metrics.prompt_length.observe(self.visit.prompt_tokens, model=model)
        metrics.answer_length.observe(self.visit.generated_tokens, model=model)
