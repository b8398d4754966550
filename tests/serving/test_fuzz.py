"""Requests as nobody should send them: no fault of the server's own, nothing left behind. `benchmarks/serve_fuzz.py` is
the long form, over real sockets."""

from __future__ import annotations

import asyncio
import random

from qwenkit.serving.codecs import CODECS
from tests.serving.asgi import LIMIT, Exchange
from tests.serving.conftest import Desk
from tests.serving.requests_from_anywhere import Sent, make

COUNT = 300


async def send(app: object, sent: Sent) -> int:
    exchange = Exchange(app, sent.method, sent.path, sent.body, sent.headers)
    if sent.leaves:
        async for _ in exchange.chunks():
            exchange.leave()
            break
        await asyncio.wait_for(exchange.task, LIMIT)
        return exchange.status
    return (await exchange.answer()).status


def test_no_fault_and_nothing_left_behind(desk: Desk) -> None:
    async def run() -> None:
        app, rng = desk.app(codecs=CODECS), random.Random(17)
        allowed = {200, 204, *range(400, 500), 499, 503}
        for number in range(COUNT):
            sent = make(rng)
            status = await send(app, sent)
            assert status in allowed, (number, status, sent.method, sent.path, sent.body[:500], desk.log_rows()[-1])
        model = desk.made.loaded["tiny"]
        for _ in range(int(LIMIT / 0.01)):
            if not model.loop.stats().running and not model.engine.stats().kv_tokens_used:
                break
            await asyncio.sleep(0.01)
        stats = model.loop.stats()
        assert (stats.state, stats.running, stats.waiting, model.engine.stats().kv_tokens_used) == ("running", 0, 0, 0)
        assert desk.made.entries[0].users == 0

    asyncio.run(run())
