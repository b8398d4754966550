"""`/v1/completions`: a text goes on, in OpenAI's old form; with `suffix` the model fills in.

    request = parse(body);  whole(request, reply, events);  Stream(request, reply).push(events);  error(refusal)

A prompt is a text, token ids, or a list of either; choice i * n + s is answer s to prompt i. Names of special tokens
in a text are text, unless `parse_special` is true. With `echo` and `logprobs` the prompt's tokens have theirs too, also
with `max_tokens` = 0, where nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwenkit.serving.faces.collected import Answer, ChoiceAnswer
from qwenkit.serving.faces.frames import DONE, TextFrame, frame, openai_error, usage
from qwenkit.serving.faces.generation import (
    IGNORED,
    SAMPLING,
    answer_form,
    engine_logprobs,
    read_stream,
    sampling_params,
)
from qwenkit.serving.fields import ANY, BOOLEAN, INTEGER, OBJECT, TEXT, Table, Values, refused, token_ids, wrong
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Refusal
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    Failed,
    FillIn,
    GenerationRequest,
    PromptForm,
    Reply,
    TextDelta,
    TokenDelta,
    TokenLogprob,
)

FIELDS = Table(
    {
        **SAMPLING, "prompt": ANY, "model": TEXT, "suffix": TEXT, "echo": BOOLEAN, "logprobs": INTEGER,
        "best_of": INTEGER, "stream": BOOLEAN, "stream_options": OBJECT, "response_format": OBJECT,
        "structured_outputs": OBJECT, "priority": INTEGER, "return_token_ids": BOOLEAN, "parse_special": BOOLEAN,
        "user": TEXT,
    },
    required=("prompt",),
    ignored=IGNORED,
    unsupported={
        "use_beam_search": "use sampling", "logits_processors": "use logit_bias or bad_words",
        "prompt_embeds": "use a prompt", "cache_salt": "keys do not share prompts",
        "prompt_logprobs": "use echo and logprobs", "guided_json": "use structured_outputs",
        "guided_regex": "use structured_outputs", "guided_grammar": "use structured_outputs",
        "guided_choice": "use structured_outputs",
    },
)  # fmt: skip
DEFAULT_TOKENS = 16
"""OpenAI's default of `max_tokens` here."""
MAX_PROMPTS = 1024
_PROMPT = "a string, a list of token ids, or a list of either"


# ---- the request ----------------------------------------------------------------------------------------------------


def parse(body: bytes | str | Mapping[str, Any]) -> GenerationRequest:
    """Return what a body asks; raises `Refused` for what cannot be asked."""
    given = read_body(body)
    values = FIELDS.read(given)
    if values.get("best_of", values.get("n", 1)) != values.get("n", 1):
        raise refused(
            "best_of", f"is {values['best_of']}", "n answers, without a choice among more", "unsupported_field"
        )
    prompts = read_prompts(values["prompt"])
    if "suffix" in values:
        prompts = tuple(_fill_in(prompt, values["suffix"]) for prompt in prompts)
    top, echo = values.get("logprobs"), values.get("echo", False)
    if top is not None and not 0 <= top <= 20:
        raise wrong("logprobs", top, "0 to 20")
    stream, include_usage, ignored = read_stream(values)
    if echo and "suffix" in values:
        raise refused("echo", "is given beside suffix", "one of the two", "unsupported_combination")
    if echo and stream and top is not None:
        raise refused("logprobs", "is given beside echo and stream", "two of the three", "unsupported_combination")
    params = sampling_params(
        Values({**values, "max_tokens": _max_tokens(values)}, "", ()), logprobs=engine_logprobs(top),
        prompt_logprobs=engine_logprobs(top) if echo else None, **answer_form(values),
    )  # fmt: skip
    return GenerationRequest(
        face="completions", model=values.get("model"), prompts=prompts, params=params, stream=stream,
        include_usage=include_usage, top_logprobs=top, echo=echo, priority=values.get("priority", 0),
        return_token_ids=values.get("return_token_ids", False), parse_special=values.get("parse_special", False),
        user=values.get("user"), ignored=(*values.ignored, *ignored), body=given,
    )  # fmt: skip


def read_prompts(value: Any, place: str = "prompt", expected: str = _PROMPT) -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts of a body; raises `Refused` for other values."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise wrong(place, value, expected)
    if isinstance(value[0], int):
        return (token_ids(value, place),)
    if len(value) > MAX_PROMPTS:
        raise refused(place, f"has {len(value):,} prompts", f"at most {MAX_PROMPTS:,}")
    prompts: list[str | tuple[int, ...]] = []
    for number, item in enumerate(value):
        if not isinstance(item, (str, list)):
            raise wrong(f"{place}[{number}]", item, expected)
        prompts.append(item if isinstance(item, str) else token_ids(item, f"{place}[{number}]"))
    return tuple(prompts)


def _fill_in(prompt: PromptForm, suffix: str) -> FillIn:
    if not isinstance(prompt, str):
        raise refused("prompt", "is token ids beside a suffix", "a string")
    return FillIn(prompt, suffix)


def _max_tokens(values: Values) -> int:
    most = values.get("max_tokens", DEFAULT_TOKENS)
    return 1 if _only_reads(values) else most


def _only_reads(values: Mapping[str, Any]) -> bool:
    """Return whether only the log-probabilities of the prompt are asked for."""
    return bool(values.get("max_tokens") == 0 and values.get("echo") and values.get("logprobs") is not None)


# ---- the response ---------------------------------------------------------------------------------------------------


def whole(request: GenerationRequest, reply: Reply, events: Iterable[Event]) -> dict[str, Any]:
    """Return the response; raises `Refused` where the events end with `Failed`."""
    answer = Answer.of(events, request.number_of_choices)
    choices = [_choice(request, answer, number) for number in sorted(answer.choices)]
    return {**_head(reply), "choices": choices, "usage": usage(answer.usage)}


def _choice(request: GenerationRequest, answer: Answer, number: int) -> dict[str, Any]:
    choice, prompt = answer.choices[number], number // request.params.n
    if _only_reads(request.body):
        choice = ChoiceAnswer(reason="length")
    before = (answer.prompts[prompt].text or "") if request.echo else ""
    shown = {"index": number, "text": before + choice.text, "finish_reason": _finish(choice.reason), "logprobs": None}
    if request.top_logprobs is not None:
        tokens = [*answer.prompt_logprobs.get(prompt, ()), *choice.logprobs]
        shown["logprobs"] = logprobs(tokens)
    if request.return_token_ids:
        shown |= {"prompt_token_ids": list(answer.prompts[prompt].prompt_ids), "token_ids": choice.ids}
    return shown


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"cmpl-{reply.id}", "object": "text_completion", "created": reply.created, "model": reply.model}


def _finish(reason: str) -> str:
    return "length" if reason == "length" else "stop"


def logprobs(tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """Return log-probabilities in the old form; `offset` is where in the text the first token begins."""
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [None if token.logprob is None else _top(token) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: TokenLogprob) -> dict[str, float | None]:
    """Return the likeliest tokens at a place, and the one that came."""
    return {**{top.text: top.logprob for top in token.top}, token.text: token.logprob}


class Stream:
    """A response as server-sent events."""

    def __init__(self, request: GenerationRequest, reply: Reply) -> None:
        """Begin a stream."""
        self._request, self._head = request, _head(reply)
        self._text_frames: dict[int, TextFrame] = {}
        self._waiting: dict[int, dict[str, Any]] = {}
        self._offsets: dict[int, int] = {}
        """How many characters of tokens each choice has had."""

    def push(self, events: Iterable[Event]) -> list[str]:
        """Return the frames of events; the last ones come with `Ended` or `Failed`."""
        frames = [shown for event in events for shown in self._frames(event)]
        return [*frames, *(self._chunk(number, "") for number in list(self._waiting))]

    def _frames(self, event: Event) -> list[str]:
        match event:
            case Began():
                return self._began(event)
            case TokenDelta():
                self._keep(event)
                return []
            case TextDelta(number, text):
                return [self._text(number, text)]
            case ChoiceEnd(number, reason):
                return [self._chunk(number, "", _finish(reason))]
            case Ended(used):
                last = {**self._head, "choices": [], "usage": usage(used)}
                return [*([frame(last)] if self._request.include_usage else ()), DONE]
            case Failed(refusal):
                self._waiting.clear()
                return [frame(error(refusal)[1]), DONE]
            case _:
                return []

    def _text(self, number: int, text: str) -> str:
        if number in self._waiting:
            return self._chunk(number, text)
        known = self._text_frames.get(number)
        if known is None:
            known = self._text_frames[number] = TextFrame(self._chunk(number, TextFrame.MARK))
        return known.filled(text)

    def _began(self, event: Began) -> list[str]:
        if not (self._request.echo or self._request.return_token_ids):
            return []
        n = self._request.params.n
        first = event.prompt * n
        more = {"prompt_token_ids": list(event.prompt_ids)} if self._request.return_token_ids else {}
        return [self._chunk(number, event.text or "", more=more) for number in range(first, first + n)]

    def _keep(self, event: TokenDelta) -> None:
        """Keep the tokens of a choice for its next chunk."""
        shown = self._waiting.setdefault(event.choice, {})
        if event.logprobs is not None:
            offset = self._offsets.get(event.choice, 0)
            self._offsets[event.choice] = offset + sum(len(token.text) for token in event.logprobs)
            new, old = logprobs(event.logprobs, offset), shown.get("logprobs", {})
            shown["logprobs"] = {name: [*old.get(name, ()), *values] for name, values in new.items()}
        if self._request.return_token_ids:
            shown["token_ids"] = [*shown.get("token_ids", ()), *event.ids]

    def _chunk(self, number: int, text: str, reason: str | None = None, more: Mapping[str, Any] | None = None) -> str:
        choice = {"index": number, "text": text, "logprobs": None, "finish_reason": reason, **(more or {})}
        choice |= self._waiting.pop(number, {})
        used = {"usage": None} if self._request.include_usage else {}
        return frame({**self._head, "choices": [choice], **used})


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal."""
    return openai_error(refusal)
