"""A page in headless Chromium, and answers that a test has written beforehand."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from qwenkit.serving.page import writing
from qwenkit.serving.page.asking import Asked
from tests.serving.asgi import LIMIT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MILLISECONDS = LIMIT * 1000
NOTHING_OUTSIDE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
Delta = dict[str, Any]


def call(name: str, arguments: str) -> list[Delta]:
    """A call of a tool, in three parts."""
    first = {"index": 0, "id": "call_1", "function": {"name": name, "arguments": ""}}
    halves = arguments[:3], arguments[3:]
    return [
        {"tool_calls": [first]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": half}}]} for half in halves),
    ]


ANSWERS: dict[str, list[Delta]] = {
    "attack": [{"content": "<script>window.broken = 1</script> <img src=x onerror='window.broken = 2'> "},
               {"content": "![p](http://outside.example/p.png) [l](javascript:window.broken=3) $a<b$ and **bold**"}],
    "code": [{"content": "Here:\n\n```python\nprint('<b>')\n```\n"}],
    "think": [{"reasoning": "Let me see."}, {"content": "Done."}],
    "tool": call("weather", '{"city": "Oslo"}'),
}  # fmt: skip


class Written:
    """Answers by the words of a question, in place of a model; `slow` writes until its client leaves. A question with
    `river` goes to the model."""

    asked: list[Written] = []  # noqa: RUF012

    def __init__(self, app: Any, body: Mapping[str, Any], key: str | None) -> None:
        self.body, self.left = body, asyncio.Event()
        self.question = str(body["messages"][-1]["content"])
        self._real = Asked(app, body, key) if "river" in self.question else None
        Written.asked.append(self)

    def leave(self) -> None:
        self.left.set()
        if self._real is not None:
            self._real.leave()

    @property
    def figures(self) -> dict[str, float]:
        own = {"prompt_tokens": 3, "answer_tokens": 2, "first_s": 0.1, "last_s": 0.2}
        return own if self._real is None else self._real.figures

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        if self._real is not None:
            async for chunk in self._real.chunks():
                yield chunk
            return
        while "slow" in self.question:
            yield {"choices": [{"delta": {"content": "more "}}]}
            try:
                await asyncio.wait_for(self.left.wait(), 0.1)
                return
            except TimeoutError:
                continue
        written = next((deltas for word, deltas in ANSWERS.items() if word in self.question), None)
        for delta in written or [{"content": f"{self.body['model']} has read: {self.question}"}]:
            yield {"choices": [{"delta": delta}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}


@contextmanager
def written_answers() -> Iterator[list[Written]]:
    """Have all pages answered so; give the list of what they ask."""
    patch = pytest.MonkeyPatch()
    patch.setattr(writing, "Asked", Written)
    Written.asked.clear()
    try:
        yield Written.asked
    finally:
        patch.undo()


@contextmanager
def no_network() -> Iterator[list[object]]:
    """Refuse every connection of this process to another machine; give the list of those that were tried."""
    patch, tried = pytest.MonkeyPatch(), list[object]()
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            tried.append(address)
            raise OSError("refused by the test")
        connect(self, address)

    patch.setattr(socket.socket, "connect", local_only)
    try:
        yield tried
    finally:
        patch.undo()


class Tab:
    """A tab of the browser, and what went wrong or left the machine in it."""

    def __init__(self, browser: Any, port: int, **context: Any) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.context = browser.new_context(locale=context.pop("locale", "en-US"), **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(MILLISECONDS)
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.base}/", "data:", "blob:")):
            self.outside.append(request.url)

    def open(self) -> Tab:
        """Open the page, and wait until it says which model it is."""
        self.page.goto(f"{self.base}/ui/")
        self.page.wait_for_selector("#line p")
        return self

    def ask(self, question: str) -> None:
        """Ask, and do not wait."""
        self.page.fill("#question textarea", question)
        self.page.press("#question textarea", "Enter")

    def wait_for(self, text: str, place: str = "#chat0") -> None:
        """Wait until some text is shown."""
        self.page.locator(place).get_by_text(text).first.wait_for()

    def close(self) -> None:
        """Close it; nothing may have been asked of another machine, and no script may have failed."""
        self.context.close()
        assert (self.outside, self.errors) == ([], [])
