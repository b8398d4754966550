"""The internal form: what is asked of a model, and the events that an answer consists of. Every API becomes this.

    request = faces.chat_completions.parse(body)             # a `GenerationRequest`, all checked
    prompts = [engine_prompt(prompt, tok) for prompt in request.prompts]

The events are a `Began` for each prompt, then what each choice consists of (`TextDelta`, `ReasoningDelta`,
`ToolCallBegin`, `ToolCallArguments`, `ToolCallsRevoked`, `TokenDelta`) up to its `ChoiceEnd`, then `Ended`; `Failed`
may come at any point, and is then the last.

A choice is one answer: prompt i and sample s are choice `i * params.n + s`. Events of different choices interleave;
those of one choice come in order. `AnswerEvents` makes them from the engine's deltas. No web framework here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qwenkit.inference import Conversation, SamplingParams
from qwenkit.serving.refusals import Refusal

Face = Literal["chat_completions", "completions", "responses", "messages"]
"""The API that a request came by, by the name of its codec."""
Tool = Mapping[str, Any]
"""A function that the model may call: `{"type": "function", "function": {"name": ..., "parameters": ...}}`."""


# ---- what is asked --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FillIn:
    """A gap in a text: the model writes what stands between `prefix` and `suffix`."""

    prefix: str
    suffix: str


PromptForm = Conversation | FillIn | str | tuple[int, ...]
"""A conversation, a text with a gap, a text, or token ids."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What one request asks, whichever API it came by."""

    face: Face
    model: str | None
    """The name that the client gives; None: the server's only or first model."""
    prompts: tuple[PromptForm, ...]
    """One, except where `/v1/completions` has a list."""
    params: SamplingParams
    """With the grammar that `response_format` or a forced tool choice asks for. `params.n` answers for each prompt."""
    tools: tuple[Tool, ...] = ()
    """The tools that answers may call; () where there are none, or `tool_choice` is "none"."""
    tool_choice: str = "auto"
    """auto, none, required, or the name of the tool that must be called (`named` is then true)."""
    named: bool = False
    parallel_tool_calls: bool = True
    """False: an answer ends with its first tool call."""
    stream: bool = False
    include_usage: bool = True
    """Whether a stream says at its end how many tokens were used; only chat completions and completions ask."""
    top_logprobs: int | None = None
    """Log-probabilities in the response: None: none; 0: of the tokens themselves; k: also of the k likeliest."""
    echo: bool = False
    """Whether the text of the prompt stands before the completion."""
    return_token_ids: bool = False
    """Whether the response has the ids of prompts and answers."""
    parse_special: bool = False
    """Whether names of special tokens in a text prompt are those tokens; in conversations they never are."""
    priority: int = 0
    """Lower numbers come first."""
    user: str | None = None
    """The client's name of its own user, for the log."""
    show_reasoning: bool = True
    """Whether thoughts are in the response."""
    ignored: tuple[str, ...] = ()
    """Known fields that were given and have no effect here; the server names them in a header of the response."""
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The body as it came, for fields that the response repeats."""

    @property
    def number_of_choices(self) -> int:
        """Return how many answers there will be."""
        return len(self.prompts) * self.params.n


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """What `/tokenize`, `/detokenize` and `count_tokens` ask: a prompt, or ids."""

    model: str | None
    prompt: PromptForm
    parse_special: bool = False
    return_token_strs: bool = False
    add_generation_prompt: bool = True
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """What `/v1/embeddings` asks: a vector for each text or list of token ids."""

    model: str | None
    inputs: tuple[str | tuple[int, ...], ...]
    encoding: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What names a response, made by the server when it takes a request."""

    id: str
    """Letters and digits without an API's prefix (`chatcmpl-`, `resp_`, `msg_`), which the codec adds."""
    created: int
    """Seconds since 1970."""
    model: str
    """The name under which the model is served."""


# ---- what an answer consists of -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Began:
    """The engine has taken a prompt; all of these come before any other event."""

    prompt_ids: tuple[int, ...]
    prompt: int = 0
    """Which of the request's prompts it is."""
    text: str | None = None
    """The text of the prompt, where `echo` asks for it."""


@dataclass(frozen=True)
class TextDelta:
    """More text of an answer, as whole characters."""

    choice: int
    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the thoughts before an answer."""

    choice: int
    text: str


@dataclass(frozen=True)
class ToolCallBegin:
    """A call of a tool begins; its arguments follow."""

    choice: int
    index: int
    """The number of the call in its answer, from 0."""
    id: str
    """Letters and digits without an API's prefix (`call_`, `toolu_`), which the codec adds."""
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """More of the JSON text of a call's arguments."""

    choice: int
    index: int
    text: str


@dataclass(frozen=True)
class ToolCallsRevoked:
    """Calls that had begun turn out to be malformed: they are text, which follows as `TextDelta`s. A complete response
    does not show such calls; a stream cannot take back what it has shown of their arguments."""

    choice: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its bytes, and its log-probability in nats (None for the first token of a prompt)."""

    id: int
    bytes: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at its place, the likeliest first."""

    @property
    def text(self) -> str:
        """Return the token as text, with U+FFFD for bytes that are no whole character."""
        return self.bytes.decode("utf-8", "replace")


@dataclass(frozen=True)
class TokenDelta:
    """The tokens that an answer has got, the one that stopped it included. Comes before the text that they complete."""

    choice: int
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each id, where the request asks for them."""


@dataclass(frozen=True)
class PromptLogprobs:
    """The log-probabilities of a prompt's tokens, where `echo` and `logprobs` ask for them; known once it is read."""

    prompt: int
    tokens: tuple[TokenLogprob, ...]


EndReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class ChoiceEnd:
    """An answer is complete."""

    choice: int
    reason: EndReason
    """tool_calls: it ended by itself, and calls tools."""
    stop_sequence: str | None = None
    """The stop string that ended it, where one did and that can be told."""


@dataclass(frozen=True)
class Usage:
    """How many tokens a request read and wrote."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the prompts that were found in the cache."""
    reasoning_tokens: int = 0
    """Tokens of the answers that belong to thoughts."""

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, for a request with several prompts."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True)
class Ended:
    """All answers are complete: the last event."""

    usage: Usage


@dataclass(frozen=True)
class Failed:
    """Something went wrong after the request was taken: the last event."""

    refusal: Refusal


Event = (
    Began | TextDelta | ReasoningDelta | ToolCallBegin | ToolCallArguments | ToolCallsRevoked | TokenDelta
    | PromptLogprobs | ChoiceEnd | Ended | Failed
)  # fmt: skip
Events = Sequence[Event]
