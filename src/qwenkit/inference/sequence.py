"""A request, and its answers while they are generated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from qwenkit.errors import QwenkitError
from qwenkit.inference.block_pool import BlockTable
from qwenkit.inference.detokenizer import IncrementalDetokenizer, TextTokenizer
from qwenkit.inference.outputs import Delta, FinishReason, Output, Sample, TopLogprobs
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.stopping import check_stop
from qwenkit.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from qwenkit.inference.adapters import EngineAdapter
    from qwenkit.inference.grammar import GrammarState
    from qwenkit.inference.thinking import Thought
    from qwenkit.inference.token_counts import TokenCounts

Status = Literal["waiting", "running", "finished"]


class Delivered(NamedTuple):
    """How much of an answer was in deltas."""

    ids: int = 0
    characters: int = 0


@dataclass(eq=False)
class Request:
    """One prompt with its settings, the same for all its samples."""

    rng_id: int
    """The number that its random draws are made from; -1 until it is queued, where that is its handle."""
    label: str
    """What error messages call it, such as `prompt 3`."""
    prompt: Prompt
    params: SamplingParams
    max_new_tokens: int
    stop_ids: frozenset[int]
    eos_id: int | None = None
    """The token that follows a sequence of `stop_words_ids`; None: the answer ends with the sequence itself."""
    first_sample: int = 0
    """Which sample of the draws the first one of the request is."""
    first_draw: int = 0
    """Which position of the draws the first token of an answer is."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """`bad_words` as the tokenizer spells them."""
    prompt_logprobs: list[float | None] = field(default_factory=list)
    """One for each token of the prompt where some are asked for, None where it is not known (yet)."""
    prompt_top_logprobs: list[TopLogprobs | None] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    handle: int = -1
    """The engine's number of the request, from when it is queued."""
    submitted: bool = False
    """Whether `step` hands out its deltas; otherwise the call that waits for it does."""
    output: Output | None = None
    error: QwenkitError | None = None
    """The reason why there is no output."""
    embeds_TD: Tensor | None = None
    """The vectors of the prompt's tokens where it has media, from when it is first read."""
    priority: int = 0
    """Lower numbers come first."""
    cache_salt: str | None = None
    """Beginnings are shared in the cache only among requests of the same salt."""
    adapter: EngineAdapter | None = None
    """What it is computed with, besides the model."""
    unscored_from: int = sys.maxsize
    """The first position of the prompt whose log-probability is wanted and not known; beyond it where there is none."""

    def ask_logprobs(self, start: int) -> None:
        """Ask for the log-probabilities of the prompt's own tokens from position `start`, 1 or more, on."""
        length = len(self.prompt.ids)
        self.prompt_logprobs, self.prompt_top_logprobs = [None] * length, [None] * length
        self.unscored_from = start if start < length else sys.maxsize

    def record_logprobs(self, start: int, logprobs: Seq[float], tops: Seq[TopLogprobs]) -> None:
        """Store the log-probabilities of the prompt's tokens from position `start` on, which follow on those known."""
        stop = start + len(logprobs)
        self.prompt_logprobs[start:stop], self.prompt_top_logprobs[start:stop] = logprobs, tops
        self.unscored_from = max(self.unscored_from, stop if stop < len(self.prompt.ids) else sys.maxsize)

    @cached_property
    def allowed_ids(self) -> np.ndarray | None:
        """Return the ids of the only tokens that an answer may have, [N], where there is such a list: it may be as long
        as the vocabulary, and is wanted for every token."""
        allowed = self.params.allowed_token_ids
        return None if allowed is None else np.array(allowed, dtype=np.int64)

    @property
    def read_length(self) -> int:
        """Return how many tokens of the prompt are read: nobody asks what follows the last one where there is no
        answer."""
        return len(self.prompt.ids) - (self.max_new_tokens == 0)

    @property
    def match_limit(self) -> int:
        """Return how many tokens may be found in the cache: the others are wanted themselves."""
        return self.unscored_from - 1

    @property
    def is_pending(self) -> bool:
        """Return whether there is neither an output nor an error yet."""
        return self.output is None and self.error is None

    def take_names(self, handle: int) -> None:
        """Take from the handle to come what was left open: the number of the draws, and the label."""
        self.rng_id = handle if self.rng_id < 0 else self.rng_id
        self.label = f"request {handle}" if self.label == "request" else self.label

    def cancel(self) -> None:
        """Abort the samples that are not finished: they leave the queue and the batch at the next step."""
        for sequence in self.sequences:
            sequence.finish_reason = sequence.finish_reason or "abort"

    @property
    def num_prompt_top_logprobs(self) -> int:
        """Return for how many most likely tokens of each position of the prompt the log-probabilities are asked
        for."""
        return _top(self.params.prompt_logprobs)

    def to_output(self, tok: TextTokenizer | None, version: int) -> Output:
        """Return the finished answers; `version` is that of the weights."""
        samples = [sequence.to_sample(tok) for sequence in self.sequences]
        prompt_logprobs = self.prompt_logprobs if self.params.prompt_logprobs else None
        top_logprobs = self.prompt_top_logprobs if self.num_prompt_top_logprobs else None
        cached = self.sequences[0].num_cached or 0
        return Output(self.handle, list(self.prompt.ids), samples, version, cached, prompt_logprobs, top_logprobs)

    def result(self) -> Output:
        """Return the output, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.output is not None, "the request is pending"
        return self.output


@dataclass(eq=False)
class Sequence:
    """The state of one sample of a request while it is generated."""

    request: Request
    sample: int
    detokenizer: IncrementalDetokenizer | None
    """Where stop strings or deltas need the text as it grows."""
    token_counts: TokenCounts | None = None
    """The tokens of prompt and answer, where a penalty asks for them."""
    thought: Thought | None = None
    """Where the answer stands with its thoughts, where a budget or a grammar depends on it."""
    grammar: GrammarState | None = None
    """How far the answer has come in its grammar, where it has one."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    started: bool = False
    """Whether it has, or had, a place in the batch."""
    finish_reason: FinishReason | None = None
    num_computed: int = 0
    """How many tokens of prompt and answer have keys and values in the cache."""
    num_cached: int | None = None
    """How many tokens of the prompt were found in the cache when it first entered the batch."""
    table: BlockTable = field(default_factory=BlockTable)
    """Where in the cache they are."""
    renew: Callable[[Sequence], None] | None = None
    """Makes what depends on the ids (detokenizer, counts, thought, grammar) as it was before the first one."""
    torn: bool = False
    """Whether an id was being added: where nobody is, an interrupt has left it half done, until `recover` is called."""

    @property
    def prompt(self) -> Prompt:
        """Return the prompt."""
        return self.request.prompt

    @property
    def params(self) -> SamplingParams:
        """Return the settings of the request."""
        return self.request.params

    @property
    def status(self) -> Status:
        """Return whether it waits for a place, runs, or is finished."""
        if self.finish_reason is not None:
            return "finished"
        return "running" if self.started else "waiting"

    @property
    def length(self) -> int:
        """Return the number of tokens of prompt and answer, which is also the position of the next one."""
        return len(self.prompt.ids) + len(self.ids)

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the tokens start to stop (half-open) of prompt and answer together."""
        count = len(self.prompt.ids)
        return (*self.prompt.ids[start:stop], *self.ids[max(0, start - count) : max(0, stop - count)])

    @property
    def logit_edits(self) -> list[tuple[int, float]]:
        """Return pairs of a token id and what is added to its logit: the bias, and -inf for stop tokens before
        `min_tokens`."""
        stops = self.request.stop_ids if self.is_before_min_tokens else ()
        return [*dict(self.params.logit_bias or ()).items(), *((id, float("-inf")) for id in stops)]

    @property
    def is_before_min_tokens(self) -> bool:
        """Return whether the answer is still too short to end."""
        return len(self.ids) < (self.params.min_tokens or 0)

    def last_ids(self, count: int) -> tuple[int, ...]:
        """Return the last `count` tokens of prompt and answer together."""
        return self.tokens(max(0, self.length - count), self.length)

    @property
    def draw_counters(self) -> tuple[int, int, int, int]:
        """Return what the draw of the next token is a function of: seed, rng_id, sample, position in the answer; the
        last two start where the request says."""
        request = self.request
        sample, position = request.first_sample + self.sample, request.first_draw + len(self.ids)
        return request.params.seed or 0, request.rng_id, sample, position

    @property
    def forbidden_ids(self) -> list[int]:
        """Return the tokens that would complete a bad word."""
        words = self.request.bad_words_ids
        return [word[-1] for word in words if len(word) == 1 or tuple(self.ids[1 - len(word) :]) == word[:-1]]

    @property
    def num_top_logprobs(self) -> int:
        """Return for how many most likely tokens the log-probabilities are asked for."""
        return _top(self.params.logprobs)

    def append(self, id: int, logprob: float, top_logprobs: TopLogprobs = ()) -> None:
        """Add a new token, and set `finish_reason` where it is the last.

        Where this is interrupted, the token is in `ids` with all that belongs to it, or it is not there at all, after
        `recover`; what is drawn again is the same token."""
        self.torn, count = True, len(self.ids)
        if self.params.logprobs:
            self.logprobs[count:] = [logprob]
        if self.num_top_logprobs:
            self.top_logprobs[count:] = [top_logprobs[: self.num_top_logprobs]]
        self.ids.append(id)
        self._follow(id, count + 1)
        self._end()
        self.torn = False

    def recover(self) -> None:
        """Make anew what depends on the ids, where `append` was interrupted: the ids say what is there."""
        if not self.torn:
            return
        if self.renew is not None:
            self.renew(self)
        for count, id in enumerate(self.ids, 1):
            self._follow(id, count)
        if self.finish_reason in (None, "stop", "length"):
            self._end()
        self.torn = False

    def _follow(self, id: int, count: int) -> None:
        """Let all that depends on the ids take the next one, after which there are `count`."""
        if self.token_counts is not None:
            self.token_counts.push(id)
        in_thought, stops = self.thought is not None and self.thought.push(id), id in self.request.stop_ids
        if self.grammar is not None and not in_thought and not stops:
            self.grammar.push(id)
        if self.detokenizer is not None and (not stops or self.params.include_stop_str_in_output):
            self.detokenizer.push(id, early=count <= (self.params.min_tokens or 0))

    def _end(self) -> None:
        """Set `finish_reason` where the newest token is the last; the text is complete then."""
        self.finish_reason = check_stop(self)
        if self.finish_reason is not None and self.detokenizer is not None:
            self.detokenizer.finish()

    def fail(self, error: QwenkitError, reason: FinishReason = "error") -> None:
        """End the whole request here; `error` is what it gets in place of an output."""
        self.request.error, self.finish_reason = error, reason
        self.request.cancel()

    def has_delta(self, start: Delivered) -> bool:
        """Return whether something came after what was delivered: new ids, or the end."""
        return self.finish_reason != "abort" and (self.status == "finished" or start.ids < len(self.ids))

    def delta(self, start: Delivered) -> tuple[Delta, Delivered]:
        """Return what came after what was delivered, and what is delivered with it. Nothing is changed."""
        stop, text = Delivered(len(self.ids), start.characters), None
        if self.detokenizer is not None:
            stop = stop._replace(characters=max(start.characters, self.detokenizer.settled))
            text = self.detokenizer.part(start.characters, stop.characters)
        logprobs = self.logprobs[start.ids : stop.ids] if self.params.logprobs else None
        ids = self.ids[start.ids : stop.ids]
        delta = Delta(self.request.handle, self.sample, ids, text, logprobs, self.finish_reason)
        delta.top_logprobs = self.top_logprobs[start.ids : stop.ids] if self.num_top_logprobs else None
        return delta, stop

    def to_sample(self, tok: TextTokenizer | None) -> Sample:
        """Return the finished answer, with its text where there is a tokenizer."""
        assert self.finish_reason is not None
        logprobs = self.logprobs if self.params.logprobs else None
        top_logprobs = self.top_logprobs if self.num_top_logprobs else None
        text = None if tok is None else self._text(tok)
        return Sample(self.ids, text, logprobs, self.finish_reason, top_logprobs)

    def _text(self, tok: TextTokenizer) -> str:
        if self.detokenizer is not None:
            return self.detokenizer.finish()
        stopped = self.finish_reason == "stop" and self.request.stop_ids.issuperset(self.ids[-1:])
        ids = self.ids[:-1] if stopped and not self.params.include_stop_str_in_output else self.ids
        stream = tok.stream(self.params.skip_special_tokens)  # an unknown id must not stop the other answers
        return "".join([*map(stream.push, ids), stream.flush()])


def _top(logprobs: bool | int | None) -> int:
    """Return how many most likely tokens a setting of log-probabilities asks for: true is the token itself alone."""
    return 0 if logprobs is None or isinstance(logprobs, bool) else logprobs
