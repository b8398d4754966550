"""Answers that are bound to a grammar: a JSON schema, a regular expression, a context-free grammar, a call of a tool.

    grammars = Grammars(tok)
    state = grammars.start(SamplingParams(regex="[0-9]{4}"))     # one for each answer
    state.allowed()                                              # true [V] at the tokens that may follow
    state.push(token_id)

The package `llguidance` says which tokens may follow; the sampler gives all others the probability 0. A grammar is
compiled in a thread of its own, at most `SECONDS` long, and kept for the next request. `llguidance` counts what it
does: a grammar, or a state of one, that is too complex ends in an error and not in a long wait.

Special tokens are no text: a grammar's strings never match them, and only the tags of tool calls name them.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from qwenkit.chat.styles import STYLES, ChatStyle, Hermes, ReAct
from qwenkit.errors import UserError
from qwenkit.inference.sampling_params import GRAMMARS, SamplingParams

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

SECONDS = 1.0
"""The longest that compiling a grammar may take."""
KEPT = 64
"""Compiled grammars that are kept for later requests, those that were used last."""
_WHERE = "sampling parameters"
_WHITESPACE = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"}
"""What may stand between the marks of JSON: a bound, as small models go on with newlines for ever."""
T = TypeVar("T")


class GrammarTokenizer(Protocol):
    """What grammars need of a tokenizer; `qwenkit.tokenizer.Tokenizer` is one."""

    n_tokens: int
    special: dict[str, int]

    def tokens(self) -> dict[int, bytes]:
        """Return the bytes of every regular token by its id."""
        ...

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text in which no special token is named."""
        ...


class GrammarState:
    """How far one answer has come in its grammar."""

    def __init__(self, compiled: LLMatcher, size: int) -> None:
        """Begin at the grammar's start; `size` is the number of tokens. `compiled` stays as it is."""
        self._compiled, self._matcher, self._size = compiled, compiled.deep_copy(), size
        self.may_end = False
        """Whether the answer may end here, as of the last `allowed`."""

    def allowed(self) -> np.ndarray:
        """Return true [V] at the tokens that may follow; raises a `UserError` where that takes too long to say."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise UserError("its grammar is too complex at this point", expected="a simpler one",
                            hint=_first_line(self._matcher.get_error()))  # fmt: skip
        mask = np.unpackbits(bits, count=self._size + 1, bitorder="little").view(np.bool_)
        self.may_end = bool(mask[self._size])  # the end of the text is the token after all others
        return mask[: self._size]

    def renewed(self) -> GrammarState:
        """Return the state at the grammar's start."""
        return GrammarState(self._compiled, self._size)

    def push(self, id: int) -> None:
        """Take the next token of the answer, one of those that are allowed."""
        self._matcher.consume_token(id)

    @property
    def is_complete(self) -> bool:
        """Return whether nothing can follow: the answer ends here."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


class Grammars:
    """Compiles grammars for one tokenizer, and keeps them. Any thread may call it."""

    def __init__(self, tok: object) -> None:
        """Prepare for a tokenizer; what needs `llguidance` is done with the first grammar."""
        self._tok, self._lock = tok, threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()

    def start(self, params: SamplingParams) -> GrammarState | None:
        """Return the state of an answer at its beginning, or None where its request has no grammar.

        Raises a `UserError` where the package or a fitting tokenizer is missing, and for a grammar that cannot be
        compiled, or not in time."""
        key = next(((name, cast(str, text)) for name in GRAMMARS if (text := getattr(params, name)) is not None), None)
        if key is None:
            return None
        tok = self._checked_tokenizer(key[0])
        with self._lock:
            matcher = self._compiled.get(key)
        if matcher is None:
            matcher = self._compile(tok, *key)
        with self._lock:
            self._compiled[key] = matcher
            self._compiled.move_to_end(key)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return GrammarState(matcher, tok.n_tokens)

    def _checked_tokenizer(self, name: str) -> GrammarTokenizer:
        if not all(hasattr(self._tok, part) for part in ("n_tokens", "special", "tokens", "encode_ordinary")):
            raise UserError(f"{name} needs a tokenizer that shows its tokens", where=_WHERE,
                            expected="Engine(model, load_tokenizer(path))")  # fmt: skip
        return cast(GrammarTokenizer, self._tok)

    def _compile(self, tok: GrammarTokenizer, name: str, text: str) -> LLMatcher:
        llguidance = _package(name)
        with self._lock:
            tokenizer = self._tokenizer = self._tokenizer or llguidance.LLTokenizer(_Vocabulary(tok), slices=None)

        def compile() -> LLMatcher:
            grammar = _source(llguidance, tok, name, text)
            limits = llguidance.LLParserLimits(verbose_errors=False)
            matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
            trial = matcher.deep_copy()  # the first mask is a part of what a grammar costs
            trial.compute_bitmask()
            return trial if trial.is_error() else matcher

        matcher = within_seconds(compile, SECONDS, name)
        if matcher.is_error():
            raise UserError(f"{name} cannot be followed", where=_WHERE, expected="one that llguidance compiles",
                            hint=_first_line(matcher.get_error()))  # fmt: skip
        return matcher


class _Vocabulary:
    """A tokenizer as `llguidance` reads it; the token that ends a text is one after all others."""

    is_tokenizer_wrapper = True
    eos_token_id = None
    bos_token_id = None

    def __init__(self, tok: GrammarTokenizer) -> None:
        table = {**tok.tokens(), **{id: name.encode() for name, id in tok.special.items()}}
        self.tokens = [table.get(id, b"") for id in range(tok.n_tokens)]
        self.special_token_ids = list(tok.special.values())
        self._tok = tok

    def __call__(self, text: bytes | str) -> list[int]:
        """Return the ids of a text."""
        return self._tok.encode_ordinary(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def within_seconds(function: Callable[[], T], seconds: float, name: str) -> T:
    """Return the result of a function that runs in a thread of its own; raises a `UserError` where it takes longer.

    The thread then ends by itself, at the limits of what it computes."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="grammar", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        if isinstance(errors[0], UserError):
            raise errors[0]
        raise UserError(f"{name} cannot be followed ({_first_line(str(errors[0]))})", where=_WHERE) from errors[0]
    if not results:
        raise UserError(f"{name} takes longer than {seconds:g} s to compile", where=_WHERE, expected="a simpler one")
    return results[0]


def _source(llguidance: ModuleType, tok: GrammarTokenizer, name: str, text: str) -> str:
    """Return a grammar in the package's form."""
    matcher: Any = llguidance.LLMatcher
    if name == "json_schema":
        return matcher.grammar_from_json_schema(text, defaults=_WHITESPACE)
    if name == "regex":
        return matcher.grammar_from_regex(text)
    return matcher.grammar_from_lark(text if name == "grammar" else tool_grammar(tok, json.loads(text)))


def tool_grammar(tok: object, tools: Sequence[dict[str, Any]]) -> str:
    """Return the grammar of a call of one of these tools in the chat style of a tokenizer.

    Raises a `UserError` for a style without tools, and for a folder's own template, whose form of calls is not
    known."""
    style = STYLES.get(getattr(tok, "style", None) or "", ChatStyle("of this folder", tools=None))
    special: dict[str, int] = getattr(tok, "special", {})
    rules = [f"arguments_{i}: %json {json.dumps(tool['parameters'])}" for i, tool in enumerate(tools)]
    if isinstance(style.tools, Hermes):
        start, end = (_literal(part, special) for part in style.tools.call)
        heads = (f'{{"name": {json.dumps(tool["name"])}, "arguments": ' for tool in tools)
        calls = [f'{json.dumps(head)} arguments_{i} "}}"' for i, head in enumerate(heads)]
        return "\n".join([f"start: {start} ({' | '.join(calls)}) {end}", *rules, ""])
    if isinstance(style.tools, ReAct):
        before, between = (_literal(part, special) for part in style.tools.call)
        calls = [f"{json.dumps(tool['name'])} {between} arguments_{i}" for i, tool in enumerate(tools)]
        return "\n".join([f"start: /[^\\n]*/ {before} ({' | '.join(calls)})", *rules, ""])
    known = [name for name, style in STYLES.items() if style.tools is not None]
    raise UserError(f"tools, and how the chat style {style.name} writes calls is not known", where=_WHERE,
                    expected=f"a chat style that has calls: {', '.join(known)}", hint="or use json_schema")  # fmt: skip


def _literal(text: str, special: dict[str, int]) -> str:
    """Return a text as the parts of a rule; the names of special tokens in it are those tokens."""
    name = next((name for name in special if name in text), None)
    if name is None:
        return json.dumps(text) if text else ""
    before, after = text.split(name, 1)
    return f"{_literal(before, special)} <[{special[name]}]> {_literal(after, special)}".strip()


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module("llguidance")
    except ImportError:
        raise UserError(f"{name} needs the package `llguidance`, which is not installed", where=_WHERE,
                        hint="pip install 'qwenkit[grammar]'") from None  # fmt: skip


def _first_line(text: str) -> str:
    """Return the beginning of a message of the package, on one line."""
    line = " ".join(text.split("\n", 1)[0].split())
    return line if len(line) <= 200 else f"{line[:197]}..."
