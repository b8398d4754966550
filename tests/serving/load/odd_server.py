"""A server of streams that behaves as it is told: well, or as servers do that are broken, busy or no servers at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

LIMIT = 30.0
Answer = Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def word(text: str, reason: str | None = None) -> bytes:
    """An event with some text, of chats and of completions alike."""
    return event(choices=[{"index": 0, "delta": {"content": text}, "text": text, "finish_reason": reason}])


async def good(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """A role without text, as many words as may be, usage, the end."""
    count = body.get("max_tokens", 3)
    writer.write(STREAM + chunk(event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])))
    for number in range(count):
        writer.write(chunk(word(f"w{number} ", "length" if number == count - 1 else None)))
        await writer.drain()
        await asyncio.sleep(0.001)
    writer.write(chunk(event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": count})))
    writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))


async def without_usage(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """Two words and an end, without a word about tokens; the end of the stream is that of the connection."""
    writer.write(STREAM + chunk(word("a")) + chunk(word("b", "stop")) + chunk(b""))


async def drops(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """The connection breaks in mid-stream."""
    writer.write(STREAM + chunk(word("a")) + chunk(word("b")))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()


async def half_a_line(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """The stream ends in order, within an event."""
    writer.write(STREAM + chunk(word("a")) + chunk(word("b")[:20]) + chunk(b""))


async def silent(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """Nothing at all."""
    await asyncio.sleep(LIMIT)


async def stalls(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """A word, then nothing."""
    writer.write(STREAM + chunk(word("a")))
    await asyncio.sleep(LIMIT)


async def drips(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """Comments for ever, never a word."""
    writer.write(STREAM)
    with contextlib.suppress(ConnectionError):
        for _ in range(int(LIMIT * 50)):
            writer.write(chunk(b": alive\n\n"))
            await writer.drain()
            await asyncio.sleep(0.02)


def plain(status: str, content: bytes, kind: str = "application/json", *fields: str) -> Answer:
    """A response that is no stream."""

    async def answer(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(content)}", *fields]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + content)

    return answer


def streams(*pieces: bytes) -> Answer:
    """A stream of these pieces."""

    async def answer(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        writer.write(STREAM + b"".join(map(chunk, pieces)) + chunk(b""))

    return answer


async def not_http(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """A line of another protocol."""
    writer.write(b"220 mail.example.org ESMTP ready\r\n")
    await writer.drain()
    writer.close()


async def hangs_up(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """The connection ends before a byte of an answer."""
    writer.transport.abort()


def in_turn(*answers: Answer) -> Answer:
    """One of these after the other, again and again."""
    number = iter(range(10**9))

    async def answer(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        await answers[next(number) % len(answers)](writer, body)

    return answer


MODELS = plain("200 OK", b'{"object": "list", "data": [{"id": "odd", "object": "model"}, {"id": "other"}]}')


class OddServer:
    """Listens on this machine; `requests` are the heads and bodies that came."""

    def __init__(self, answer: Answer, models: Answer = MODELS) -> None:
        self.answer, self.models = answer, models
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (int(line[15:]) for line in head.split("\r\n") if line.lower()[:15] == "content-length:"), 0
                )
                body = json.loads(await reader.readexactly(length) or b"{}")
                self.requests.append((head, body))
                await (self.models if head.startswith("GET") else self.answer)(writer, body)
                await writer.drain()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its address, in the event loop of whoever asks."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


@contextlib.contextmanager
def on_a_thread(server: OddServer) -> Iterator[str]:
    """Have a server listen in an event loop of its own."""
    addresses: list[str] = []
    ready, end = threading.Event(), threading.Event()

    async def serve() -> None:
        async with server.listening() as url:
            addresses.append(url)
            ready.set()
            while not end.is_set():
                await asyncio.sleep(0.01)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(LIMIT)
        yield addresses[0]
    finally:
        end.set()
        thread.join(LIMIT)
        assert not thread.is_alive()
