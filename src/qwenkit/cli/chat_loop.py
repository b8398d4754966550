"""`qwenkit chat`: a conversation in the terminal, or through pipes.

`chat/session.py` is the conversation, `chat/commands.py` what is typed, `chat_input.py` how it is read, `markdown.py`
how answers look. Here they meet the models: a `Player` is one, whose engine is made when it first answers.

In a terminal answers have styles, and a dim line says after each what it took; Ctrl-C stops an answer, and twice at an
empty line leaves. Without one the output is the text of the answers alone; the exit code is that of the first question
that could not be asked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from qwenkit.chat import commands
from qwenkit.chat.messages import Message, TemplateKwargs
from qwenkit.chat.session import Session, Usage, fitting
from qwenkit.chat.thoughts import OPEN, thought_tokens
from qwenkit.cli.chat_input import Input, line_reader, read_any_bytes
from qwenkit.cli.markdown import AnswerStyler, Span, painted
from qwenkit.errors import INTERRUPTED, QwenkitError, UserError, visible

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.inference import Delta, SamplingParams
    from qwenkit.inference.sequence import Request
    from qwenkit.inference.stats import EngineStats


class ChatEngine(Protocol):
    """What a chat needs of an engine; `qwenkit.inference.Engine` is one."""

    @property
    def max_window(self) -> int | None:
        """Return the bound on a chat's history in tokens, or None."""
        ...

    @property
    def max_length(self) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        ...

    @property
    def prepare(self) -> Callable[..., Request]:
        """Return what makes a request of a conversation, sampling parameters and `rng_id`."""
        ...

    def enqueue(self, request: Request, /) -> int:
        """Queue a request and return its handle."""
        ...

    def step(self) -> list[Delta]:
        """Run one step of the model; return what the request has got."""
        ...

    def abort(self, handle: int, /) -> None:
        """Drop a request, unless it is complete."""
        ...

    def stats(self) -> EngineStats:
        """Return counts, of which those of prompts are looked at."""
        ...


@dataclass
class Player:
    """One model of a chat. `make_engine` loads it, when it first answers."""

    name: str
    tok: ChatTokenizer
    make_engine: Callable[[], ChatEngine]
    template_kwargs: TemplateKwargs = field(default_factory=dict[str, object])

    @cached_property
    def engine(self) -> ChatEngine:
        """Return the engine, which is made once."""
        return self.make_engine()

    def kept(self, messages: Sequence[Message], thinking: bool | None) -> list[Message]:
        """Return the conversation without the oldest turns that do not fit."""
        engine = self.engine
        return fitting(self.tok, messages, engine.max_window, engine.max_length, thinking, self.template_kwargs or None)


class Answer:
    """One answer while it is generated: iterate over its text; `usage` and `in_thought` are known while it grows."""

    def __init__(self, player: Player, messages: Sequence[Message], params: SamplingParams, session: Session) -> None:
        """Render and check the question; raises a `UserError` for one that cannot be asked."""
        from qwenkit.inference import Conversation

        self._engine, self._start = player.engine, time.perf_counter()
        kwargs = player.template_kwargs or None
        conversation = Conversation(messages, thinking=session.thinking, template_kwargs=kwargs)
        self._request = self._engine.prepare(conversation, params, session.attempts, label="conversation")
        tags, prompt = thought_tokens(player.tok), self._request.prompt
        self.in_thought = tags is not None and tags.state(prompt.ids) == "inside"
        """Whether the prompt ends inside a thought, so that the answer begins there."""
        self.usage = Usage(len(prompt.ids), 0, 0, 0.0, 0.0, None)
        self.text = ""
        """What came so far. A thought that the prompt begins is complete here, for the turns to come."""

    def __iter__(self) -> Generator[str, None, None]:
        """Yield the text in deltas; raises the error of a request that fails. Leaving it drops the rest."""
        before = self._engine.stats().prompt_tokens_found
        handle = self._engine.enqueue(self._request)
        try:
            while self.usage.finish_reason is None:
                for delta in self._engine.step():
                    cached = self._engine.stats().prompt_tokens_found - before
                    self._count(delta, cached)
                    if delta.error is not None:
                        raise delta.error
                    yield self._grow(delta.text or "")
                if self.usage.finish_reason is None:
                    yield ""  # nothing yet: the caller may stop a long prompt
        finally:
            self._engine.abort(handle)

    def _grow(self, text: str) -> str:
        begins_in_thought = text and not self.text and self.in_thought
        self.text += f"{OPEN}\n{text}" if begins_in_thought else text
        return text

    def _count(self, delta: Delta, cached: int) -> None:
        now, usage = time.perf_counter() - self._start, self.usage
        tokens = usage.answer_tokens + len(delta.ids)
        first = now if tokens and not usage.answer_tokens else usage.first_s
        self.usage = Usage(usage.prompt_tokens, cached, tokens, first, now, delta.finish_reason)


@dataclass
class Screen:
    """Where a chat is shown: `styled` in a terminal that has styles, else as plain text."""

    styled: bool

    def write(self, span: Span) -> None:
        """Show a text in its styles; what would move the cursor is escaped."""
        text = visible(span.text)
        sys.stdout.write(painted(span.style, text) if self.styled else text)

    def say(self, text: str, style: str = "") -> None:
        """Show a line of our own."""
        self.write(Span(style, text + "\n"))
        sys.stdout.flush()

    def tell(self, text: str) -> None:
        """Show a line that is not part of the conversation, on standard error."""
        sys.stdout.flush()
        print(visible(text), file=sys.stderr, flush=True)

    def show(self, answer: Answer, is_stopped: Callable[[], bool]) -> None:
        """Show an answer while it is generated, until it ends or is stopped."""
        styler = AnswerStyler(answer.in_thought)
        try:
            with contextlib.closing(iter(answer)) as deltas:
                for text in deltas:
                    self._write_all(styler.push(text))
                    if is_stopped():
                        break
        finally:
            self._write_all(styler.finish())
            print(flush=True)

    def _write_all(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self.write(span)
        sys.stdout.flush()


@contextlib.contextmanager
def stopping(enabled: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed since; pressed again it raises `KeyboardInterrupt` at once,
    and so does the first time unless `enabled`."""
    presses: list[int] = []

    def press(number: int, frame: object) -> None:
        presses.append(number)
        if len(presses) > 1:
            raise KeyboardInterrupt

    if not enabled or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(presses)
    finally:
        signal.signal(signal.SIGINT, before)


NO_EFFECT = ("n", "logprobs", "prompt_logprobs", "tools")
"""Sampling parameters whose effect a chat does not show."""


@dataclass
class Chat:
    """A session, its models, and where it is shown; `interactive` where a person types in a terminal."""

    session: Session
    players: Sequence[Player]
    screen: Screen
    interactive: bool
    exit_code: int = 0
    """That of the first error."""

    def talk(self, texts: Input) -> None:
        """Take texts until the end of the input, `/quit`, or Ctrl-C twice at an empty line."""
        if self.interactive:
            self.screen.say("/help lists the commands, /quit leaves")
        presses = 0
        while True:
            try:
                text = texts.next()
            except KeyboardInterrupt:
                presses += 1
                if not self.interactive or presses == 2:
                    self.exit_code = 0 if self.interactive else INTERRUPTED
                    return
                self.screen.tell("Ctrl-C again, or /quit, leaves")
                continue
            presses = 0
            if text is None or not self.take(text):
                return

    def take(self, text: str) -> bool:
        """Ask a question, or run a command; return whether to go on. Mistakes are explained."""
        if not text.strip():
            return True
        reply = commands.Reply(then="answer")
        try:
            if commands.is_command(text):
                reply = commands.run(text, self.session, self)
            else:
                self.session.ask(text)
        except (QwenkitError, OSError) as error:
            self._explain(error)
            return True
        if reply.text:
            self.screen.say(reply.text) if self.interactive else self.screen.tell(reply.text)
        if reply.then == "answer":
            self.respond()
        return reply.then != "quit"

    def respond(self) -> None:
        """Let each model answer the last question; one that cannot be asked is explained, and taken back."""
        for number in range(len(self.players)):
            try:
                self.answer(number)
            except QwenkitError as error:
                self.session.drop(number)
                self._explain(error)
            except KeyboardInterrupt:  # while a model was loaded, or its prompt was prepared
                if not self.interactive:
                    raise
                self.session.drop(number)
                self.screen.tell("stopped; the question is taken back")
        self.session.attempts += 1

    def answer(self, number: int) -> None:
        """Let one model answer the last question; raises its error."""
        from qwenkit.inference import SamplingParams

        player, messages = self.players[number], self.session.messages(number)
        if len(self.players) > 1:
            self.screen.say(f"{player.name}:", "name")
        kept = player.kept(messages, self.session.thinking)
        answer = Answer(player, kept, SamplingParams(**{"logprobs": False, **self.session.settings}), self.session)
        if len(kept) < len(messages):
            self.screen.tell(f"(the model no longer sees the oldest {len(messages) - len(kept)} messages)")
        interrupts = (KeyboardInterrupt,) if self.interactive else ()
        with contextlib.suppress(*interrupts), stopping(self.interactive) as is_stopped:
            self.screen.show(answer, is_stopped)
        if answer.text:
            self.session.answer(number, answer.text)
        else:
            self.session.drop(number)
            self.screen.tell("(no answer; the question is taken back)")
        if self.interactive:
            self.screen.say(f"({answer.usage.line()})", "dim")

    def _explain(self, error: Exception) -> None:
        """Show an error; the first one without a terminal is the exit code."""
        known = error if isinstance(error, QwenkitError) else UserError(str(error))
        self.screen.tell(f"error: {known}")
        if not self.interactive and not self.exit_code:
            self.exit_code = known.exit_code

    # ---- what the models say of settings: `commands.Checks` ---------------------------------------------------------

    def name(self, name: str) -> None:
        """Raise a `UserError` for the name of no sampling parameter that a chat may have."""
        from qwenkit.inference.sampling_params import VALIDATORS

        if name in NO_EFFECT:
            raise UserError(f"{name} has no effect in a chat", where="sampling parameters")
        if name not in VALIDATORS:
            self.sampling({name: None})  # which says what there is

    def sampling(self, settings: Mapping[str, Any]) -> None:
        """Raise a `UserError` for values that a sampling parameter cannot have."""
        from qwenkit.inference import SamplingParams

        SamplingParams(**settings)

    def thinking(self, thinking: bool | None) -> None:
        """Raise a `UserError` where a model cannot be asked to think, or not to."""
        head = [{"role": "system", "content": self.session.system}] if self.session.system else []
        for player in self.players if thinking is not None else ():
            player.tok.render(
                [*head, {"role": "user", "content": "Hi"}],
                add_generation_prompt=True,
                thinking=thinking,
                template_kwargs=player.template_kwargs,
            )


def start(chat: Chat, prompt: str | None) -> None:
    """Ask once (`prompt`; raises what goes wrong), or talk until the end."""
    for player in chat.players:
        for remark in getattr(player.tok, "remarks", ()):
            chat.screen.tell(f"note: {remark}")
    if prompt is not None:
        chat.session.ask(prompt)
        for number in range(len(chat.players)):
            chat.answer(number)
        return
    read_any_bytes()
    editing = chat.interactive and _has_styles()
    read = line_reader(_words() if editing else (), editing)
    chat.talk(Input(read, lambda text: chat.screen.tell(f"note: {text}"), chat.interactive))


def _words() -> list[str]:
    """Return what Tab completes."""
    from qwenkit.inference.sampling_params import VALIDATORS

    settings = [f"/set {name}" for name in VALIDATORS if name not in NO_EFFECT]
    return [*(f"/{name}" for name in commands.COMMANDS), *settings, "/think on", "/think off", "/think auto"]


def _has_styles() -> bool:
    return os.environ.get("TERM") not in ("dumb", "unknown")


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal; one that is closed is not."""
    return stream is not None and not stream.closed and stream.isatty()


def screen() -> Screen:
    """Return the screen of standard output: styled in a terminal, unless NO_COLOR is set."""
    return Screen(is_terminal(sys.stdout) and _has_styles() and not os.environ.get("NO_COLOR"))
