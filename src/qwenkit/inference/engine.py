"""The one engine that generates: for rollouts, evaluation and chat.

    engine = Engine(model_or_path, tok)                      # Engine(model, None): ids in, ids out
    outputs = engine.generate(["The capital of", "北京是"], SamplingParams(max_tokens=16, temperature=0))
    outputs[0].text, outputs[0].ids, outputs[0].logprobs, outputs[0].finish_reason
    engine.chat([[{"role": "user", "content": "Hi"}]], SamplingParams(max_tokens=64))
    for delta in engine.stream("Once", SamplingParams(max_tokens=64)): print(delta, end="")
    engine.stream_chat([{"role": "user", "content": "Hi"}])  # the same for a chat's answer
    engine.score(["2 + 2 ="], [" 4"])                        # the log-probability of every token, in nats

One request at a time (`submit`, `step`, `abort`), steps and the cache, new weights: `engine_core.py`.

What a request gets does not depend on what else is in the batch: every random draw is a function of (seed, rng_id,
sample, position in the answer), and so are the bits of the logits, except for wide models in bf16 or with several
threads, and for experts, which are given the tokens of all rows together (`model_runner.py` has the limits). Nor do
they depend on where prompts were cut, what of them was found, or what was put back. `invariant=False` gives the last
part up, for speed: answers may be found too and are read again in pieces, and a prompt is cut so that the others do
not wait. The same call gives the same answers again; ask with another seed for others.

Calls may interleave: each step advances all requests, and each result waits for the call that asked for it. A call that
fails or is interrupted takes its requests with it and leaves the others as they were. Logits that are NaN or infinite
end their own request, with an error that names it, and so do media that cannot be read: `generate` and `stream` raise
it, `step` puts it into the request's last delta.

Caveats: an empty prompt is refused, since Qwen has no token for the beginning of a text. `[tok.eot_id]` is one, but
means "a new text begins" only to models that were trained across the ends of documents; those trained here were not. A
prompt that leaves no position for a new token is refused, and `max_tokens=0` gives an empty answer with finish_reason
"length".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

from qwenkit.inference.argument_checks import as_list
from qwenkit.inference.engine_core import EngineCore
from qwenkit.inference.outputs import Output
from qwenkit.inference.requests import (
    AdapterLike,
    Conversation,
    Messages,
    PromptLike,
    Tools,
    as_prompts,
    tools_for_each,
)
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.scoring import reading_order, scores, scoring_requests
from qwenkit.inference.sequence import Delivered, Request


class Engine(EngineCore):
    """A model, its tokenizer and the pending requests."""

    def generate(
        self,
        prompts: Seq[PromptLike],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        rng_ids: Seq[int] | None = None,
        first_draws: Seq[int] | None = None,
        *,
        adapter: AdapterLike = None,
    ) -> list[Output]:
        """Return the answers in the order of the prompts. The random draws of prompt i are made from the number
        `rng_ids[i]` (or i) and from the position in the answer, which is counted from `first_draws[i]` (or 0).
        `adapter` is the name of one that was loaded, for all prompts, or a list with one (or None) for each."""
        prompts = as_prompts(prompts, "prompts", hint="generate([prompt])")
        params = self.request_factory.effective_params_for_each(params, len(prompts))
        return self._generate(prompts, params, rng_ids, first_draws, adapter)

    def chat(
        self,
        conversations: Seq[Messages],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        tools: Tools | Seq[Tools | None] | None = None,
        *,
        rng_ids: Seq[int] | None = None,
        thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        adapter: AdapterLike = None,
    ) -> list[Output]:
        """Return the answers to conversations; an answer ends at a stop token of the chat (`chat.stop_token_ids`).

        `tools` is one list for all conversations, or one list (or None) for each. `rng_ids` and `adapter` are as in
        `generate`.
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
        return self._generate(prompts, params, rng_ids, adapter=adapter)

    def stream(
        self, prompt: PromptLike, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[str]:
        """Yield the text of one answer in deltas as it is generated; their sum is the answer's text."""
        self.request_factory.text_tokenizer("stream")
        return self._stream(prompt, self.request_factory.effective_params(params), adapter)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        tools: Tools | None = None,
        *,
        thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> Iterator[str]:
        """Yield the deltas of the answer that `chat([messages], params, tools)` returns."""
        self.request_factory.text_tokenizer("chat")
        prompt = self.request_factory.render(Conversation(messages, tools, thinking, template_kwargs), "conversation")
        return self._stream(prompt, self.request_factory.effective_params(params, chat=True), adapter)

    def score(
        self,
        prompts: Seq[PromptLike],
        continuations: Seq[PromptLike] | None = None,
        *,
        adapter: AdapterLike = None,
    ) -> list[list[float]]:
        """Return the model's log-probability of each token in nats: of the continuations given the prompts, or, without
        continuations, of the prompts' own tokens after the first.

        A prompt and its continuation are encoded separately. `adapter` is as in `generate`.
        Raises `Stopped` where a number is not finite."""
        rows, starts = self.request_factory.scoring_rows(prompts, continuations)
        requests = scoring_requests(rows, starts)
        for request, each in zip(requests, self.request_factory.adapters_for_each(adapter, len(rows)), strict=True):
            request.adapter = each
        with self._pending(reading_order(requests)):
            for request in requests:
                self._finish(request)
        return [scores(request, start) for request, start in zip(requests, starts)]

    # ---- until they are complete -------------------------------------------------------------------------------------

    def _generate(
        self,
        prompts: Seq[PromptLike],
        params: Seq[SamplingParams],
        rng_ids: Seq[int] | None,
        first_draws: Seq[int] | None = None,
        adapter: AdapterLike = None,
    ) -> list[Output]:
        """Step until every prompt is answered; `params` are the effective ones."""
        requests = self.request_factory.make_requests(prompts, params, rng_ids, first_draws, adapter)
        with self._pending(requests):
            return [self._finish(request) for request in requests]

    def _finish(self, request: Request) -> Output:
        """Step until a request is complete; return its output, or raise its error."""
        while request.is_pending:
            self._step()
        return request.result()

    def _stream(self, prompt: PromptLike, params: SamplingParams, adapter: str | None) -> Iterator[str]:
        params = replace(params, n=1)
        request = self.request_factory.make_request(prompt, params, 0, label="prompt", with_text=True)
        request.adapter = self.request_factory.adapters.find(adapter, "adapter")
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
