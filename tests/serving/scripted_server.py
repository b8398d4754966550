"""A model that answers by a script, behind the real server: the prompts are rendered, the answers parsed and streamed.

Random weights call no tools. Here a tool that is offered is called once, a form that is asked for is kept to, and what
else comes is text; a model that thinks has a thought before each answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwenkit.chat import ChatTokenizer, load_tokenizer
from qwenkit.inference import Delta, Engine, EngineLoop, Output, Sample
from qwenkit.inference.detokenizer import IncrementalDetokenizer
from qwenkit.inference.sequence import Request
from qwenkit.serving.codecs import CODECS
from qwenkit.serving.served_model import ServedModel
from tests.serving.conftest import Desk
from tests.serving.test_server import running

PROSE = "It is sunny. 晴天。"
THOUGHT = "They ask about the weather."
POSITIONS = 32768
CITY = {"city": "北京"}
WEATHER = {"title": "weather", "description": "W", "type": "object", "properties": {"city": {"type": "string"}},
           "required": ["city"]}  # fmt: skip


class Script:
    """What the model says to a prompt."""

    def __init__(self, arguments: dict[str, Any], text: str = PROSE, thought: str = "") -> None:
        """Call a tool with `arguments`; answer `text`, also where JSON is asked for."""
        self.arguments, self.text, self.thought = arguments, text, thought

    def __call__(self, prompt: str, request: Request) -> str:
        """Return the answer to a rendered prompt, as a model writes it."""
        lead = f"<think>\n{self.thought}\n</think>\n\n" if self.thought else ""
        turn = prompt[prompt.rindex("<|im_start|>", 0, prompt.rindex("<|im_start|>assistant")) :]
        tools = list(tools_of(prompt))
        if not tools or "<tool_response>" in turn or not turn.startswith("<|im_start|>user"):
            return lead + self.text
        call = json.dumps({"name": tools[0]["name"], "arguments": self.arguments}, ensure_ascii=False)
        return f"{lead}<tool_call>\n{call}\n</tool_call>"


def tools_of(prompt: str) -> Iterator[dict[str, Any]]:
    """Yield the functions that a rendered prompt offers."""
    between = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0]
    for line in between.splitlines():
        tool = json.loads(line)
        yield tool.get("function", tool)


class ScriptedEngine:
    """An engine that prepares requests as the real one does, and answers by a script, a token a step."""

    def __init__(self, engine: Engine, tok: ChatTokenizer, script: Script) -> None:
        self.engine, self.tok, self.script = engine, tok, script
        self.prepare, self.stats = engine.prepare, engine.stats
        self.answers: dict[int, list[Iterator[Delta]]] = {}
        self.requests: list[Request] = []
        self.prompts: list[str] = []

    @property
    def has_work(self) -> bool:
        return bool(self.answers)

    def enqueue(self, request: Request) -> int:
        request.handle = len(self.requests)
        self.requests.append(request)
        self.prompts.append(self.tok.decode(request.prompt.ids))
        text = self.script(self.prompts[-1], request)
        samples: list[Sample] = []
        self.answers[request.handle] = [self._answer(request, text, n, samples) for n in range(request.params.n)]
        return request.handle

    def step(self) -> list[Delta]:
        deltas = [delta for answers in self.answers.values() for answer in answers for delta in [next(answer, None)]]
        ended = {delta.handle for delta in deltas if delta is not None and delta.output is not None}
        for handle in ended:
            del self.answers[handle]
        return [delta for delta in deltas if delta is not None]

    def abort(self, handle: int) -> None:
        self.answers.pop(handle, None)

    def _answer(self, request: Request, text: str, sample: int, samples: list[Sample]) -> Iterator[Delta]:
        """Yield the deltas of one answer: its tokens, then the one that ends its turn, within the limit."""
        ids = [*self.tok.encode(text, allowed_special="all"), self.tok.special["<|im_end|>"]]
        written, detokenizer, shown = ids[: request.max_new_tokens], IncrementalDetokenizer(self.tok, request.params), 0
        reason: Any = "stop" if written == ids else "length"
        for place, id in enumerate(written, 1):
            last = place == len(written)
            if id != ids[-1] and detokenizer.push(id):
                last, reason, written = True, "stop", written[:place]
            if last:
                detokenizer.finish()
            new, shown = detokenizer.text[shown : detokenizer.settled], max(shown, detokenizer.settled)
            logprobs = [-0.5] if request.params.logprobs else None
            delta = Delta(request.handle, sample, [id], new, logprobs, reason if last else None)
            if logprobs and type(request.params.logprobs) is int:
                delta.top_logprobs = [((id, -0.5), *((other, -3.0) for other in (0, 1, 2) if other != id))]
            if last:
                samples.append(Sample(written, detokenizer.text, None, reason))
                if len(samples) == request.params.n:
                    delta.output = Output(request.handle, list(request.prompt.ids), samples, 0)
            yield delta
            if last:
                return


class ScriptedDesk(Desk):
    """Makes applications whose models answer by a script."""

    def __init__(self, folder: Path, script: Script, style: str = "chatml") -> None:
        super().__init__(folder)
        self.script, self.style = script, style
        self.scripted: list[ScriptedEngine] = []

    def load(self, name: str, reference: str) -> ServedModel:
        tok = ChatTokenizer(load_tokenizer(self.folder), self.style)
        engine = Engine(self.folder, tok, invariant=False, kv_tokens=POSITIONS, max_batch=8, native=False)
        made = ScriptedEngine(engine, tok, self.script)
        model = ServedModel(name, engine, tok, EngineLoop(made), self.folder)
        self.scripted.append(made)
        self._models.append(model)
        return model

    @property
    def prompts(self) -> list[str]:
        """Return all prompts so far, as the model reads them."""
        return [prompt for engine in self.scripted for prompt in engine.prompts]

    @property
    def requests(self) -> list[Request]:
        """Return all requests so far."""
        return [request for engine in self.scripted for request in engine.requests]


@contextmanager
def serving(folder: Path, script: Script, style: str = "chatml", **settings: Any) -> Iterator[tuple[ScriptedDesk, str]]:
    """Give a server of a scripted model on a real socket, and the address that OpenAI's clients ask."""
    desk = ScriptedDesk(folder, script, style)
    try:
        with running(desk, codecs=CODECS, **settings) as made:
            yield desk, f"http://127.0.0.1:{made.port}/v1"
    finally:
        desk.close()
