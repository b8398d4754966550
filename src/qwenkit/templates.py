"""Chat templates, which are programs from whoever published a folder: run in a separate process, and within limits.

    text = render(template, {"messages": [...], "add_generation_prompt": True})
    names = names_read(template)

jinja2's sandbox keeps a template from files and attributes, not from looping, nor from asking for all memory in one
multiplication. So a template that we did not write runs in a process of its own, with limits of memory, of time, and
of how long its text may be. The process is started when it is first needed (not forked: threads may run here), serves
all later calls at about 0.1 ms each, and is replaced when it had to be ended. Templates of ours run in place.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import pickle
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from qwenkit.errors import QwenkitError, UserError

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATION_MARKS = "qwenkit_generation_marks"
"""A variable with two strings, put before and after what `{% generation %}` holds."""
SECONDS, START_SECONDS, TRIES = 5.0, 60.0, 2
MEMORY_BYTES = 1 << 30
LONGEST_TEMPLATE, LONGEST_TEXT = 1 << 20, 1 << 26
"""Characters of a template, and of the text that it may make."""
_START = "import sys; sys.path[:] = sys.argv[1].split('\\n'); from qwenkit.templates import serve; serve()"

# ---- the names in a template ----------------------------------------------------------------------------------------


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON as the filter of transformers: Chinese characters stay, and nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@cache
def environment() -> Environment:
    """Return jinja2's environment as transformers sets it up; imported here because most runs never render a
    template."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}`: what an assistant wrote."""

        tags: ClassVar = {"generation"}  # pyright: ignore[reportIncompatibleVariableOverride]

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_held", [nodes.Name(GENERATION_MARKS, "load")])
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _held(self, marks: Any, caller: Callable[[], str]) -> str:
            return f"{marks[0]}{caller()}{marks[1]}" if marks else caller()

    env: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _refuse
    env.globals["strftime_now"] = _now
    return env


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: str) -> None:
    raise UserError(f"the chat template refuses this conversation: {message}")


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:
    try:
        return environment().from_string(template)
    except Exception as error:
        raise UserError(f"the chat template does not compile: {_words(error)}") from None


def _rendered(template: str, given: Mapping[str, Any]) -> str:
    compiled = _compiled(template)
    pieces, room = io.StringIO(), LONGEST_TEXT
    try:
        for piece in compiled.generate(**given):
            room -= len(piece)
            if room < 0:
                raise UserError(f"the chat template makes a string of more than {LONGEST_TEXT} characters")
            pieces.write(piece)
        text = pieces.getvalue()
    except QwenkitError:
        raise
    except Exception as error:  # whatever a program of somebody else's may raise
        raise UserError(f"the chat template fails on this conversation: {_words(error)}") from None
    return text


def _words(error: Exception) -> str:
    """Return why a program failed, without the names of classes."""
    if isinstance(error, RecursionError):
        return "it goes too deep, or calls itself without end"
    if isinstance(error, MemoryError):
        return "it takes too much memory"
    message = re.sub(r"\bNoneType\b", "none", str(error).split("\n")[0][:300])
    return re.sub(r"\b[A-Z]\w*(?:Error|Exception)\b", "an error", message) or "it gives no reason"


@cache
def _named(template: str) -> frozenset[str]:
    from jinja2 import meta

    _compiled(template)
    return frozenset(meta.find_undeclared_variables(environment().parse(template)))


# ---- for callers ---------------------------------------------------------------------------------------------

_trusted: set[str] = set()


def trust(templates: Collection[str]) -> None:
    """Mark templates that come with the package: they run in this process."""
    _trusted.update(templates)


def render(template: str, given: Mapping[str, object]) -> str:
    """Return the text that a template makes of its variables; raises a `UserError` that says why it fails."""
    if template in _trusted:
        return _rendered(template, given)
    return _WORKER.ask("render", template, dict(given))


def names_read(template: str) -> frozenset[str]:
    """Return the names of the variables that a template reads."""
    if template in _trusted:
        return _named(template)
    return _names_apart(template)


@lru_cache(maxsize=64)
def _names_apart(template: str) -> frozenset[str]:
    return frozenset(json.loads(_WORKER.ask("names", template, {})))


# ---- the separate process: parent's side ----------------------------------------------------------------------------


class _Worker:
    """The process that runs templates, started when it is needed. A fork of ours starts one of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()

    def ask(self, what: str, template: str, given: dict[str, Any]) -> str:
        """One question and its answer. A process that does not answer in time is ended."""
        if len(template) > LONGEST_TEMPLATE:
            raise UserError(f"the chat template has more than {LONGEST_TEMPLATE} characters")
        if self._ended[template] >= TRIES:
            raise UserError(f"the chat template was ended {TRIES} times, and is not run again")
        question = pickle.dumps((what, template, given), protocol=5)
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(len(question).to_bytes(8, "big") + question)
                process.stdin.flush()
                kind, answer = self._answer(process, SECONDS)
            except (OSError, TimeoutError, EOFError) as error:
                self.end()
                self._ended[template] += 1
                why = "it does not end" if isinstance(error, TimeoutError) else "it takes more than it may have"
                raise UserError(
                    f"the chat template fails on this conversation: {why}",
                    expected=f"at most {SECONDS:g} seconds and {MEMORY_BYTES >> 20} MB",
                ) from None
            except BaseException:  # Ctrl-C: a half-sent question cannot be answered any more
                self.end()
                raise
        if kind == b"T":
            return answer.decode("utf-8", "surrogatepass")
        raise UserError(**json.loads(answer))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-c", _START, "\n".join(map(str, sys.path))]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                self._answer(self._process, START_SECONDS)
            except (OSError, TimeoutError, EOFError) as error:
                self.end()
                raise UserError("the process that runs chat templates could not be started") from error
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bytes]:
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        head = _read_before(process.stdout.fileno(), 9, deadline)
        size = int.from_bytes(head[1:], "big")
        if size > 4 * LONGEST_TEXT + 65_536:
            raise EOFError
        return head[:1], _read_before(process.stdout.fileno(), size, deadline)

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
            process.wait()

    def forget(self) -> None:
        """In a fork: the process is our parent's. Its pipes are closed here, so that it ends when the parent does."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            process.returncode = 0  # not a child of this process
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    os.close(pipe.fileno())  # pyright: ignore[reportOptionalMemberAccess]


def _read_before(handle: int, size: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while size:
        if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(handle, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


_WORKER = _Worker()
atexit.register(_WORKER.end)
os.register_at_fork(after_in_child=_WORKER.forget)


# ---- the separate process: its own side ----------------------------------------------------------------------------


def serve() -> None:
    """Answer questions on standard input until it ends.

    Nothing here writes a file, and memory is bounded; so is the processor time of each question, in case the caller is
    gone and nobody ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment()
    _named("{{ messages }}")
    _rendered("{{ messages|tojson }}", {"messages": []})  # loads lazy imports
    for what, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _reply(answers, b"T", b"")
    while head := asked.read(8):
        question = asked.read(int.from_bytes(head, "big"))
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + SECONDS) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        _reply(answers, *_reaction(*pickle.loads(question)))


def _reply(answers: BinaryIO, kind: bytes, body: bytes) -> None:
    answers.write(kind + len(body).to_bytes(8, "big") + body)
    answers.flush()


def _reaction(what: str, template: str, given: dict[str, Any]) -> tuple[bytes, bytes]:
    try:
        text = _rendered(template, given) if what == "render" else json.dumps(sorted(_named(template)))
        return b"T", text.encode("utf-8", "surrogatepass")
    except QwenkitError as error:
        parts = (error.what[:10_000], error.where, error.expected, error.nearest, error.hint)
        return b"E", json.dumps(dict(zip(("what", "where", "expected", "nearest", "hint"), parts))).encode()
