"""Send a server what nobody should send: no 500, no hang, no growth.

    python benchmarks/serve_fuzz.py --requests 10000 --seed 17

Starts `qwenkit serve` on a tiny random model in a process of its own and asks it over real sockets, 16 at a time:
bodies that are nearly right, damaged, deep, huge, not UTF-8; absurd schemas and numbers; strange paths, methods and
headers; header floods; clients that leave in mid-stream or send half a request. Afterwards a plain question must be
answered, nothing may run or wait, and the memory after the last quarter must be that after the second, within a tenth.
The last line is the verdict; the exit code is 1 where a request was answered by a fault or not at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.serving.requests_from_anywhere import Sent, make
from tests.stages.conftest import make_folder

LIMIT = 120.0
AT_ONCE = 16
_POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
RAW = (
    b"", b"\x00" * 100, b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n", _POST + b"Content-Length: 100\r\n\r\n{",
    _POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", _POST + b"Content-Length: 99999999999\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip
"""What is no HTTP, or half of it."""


def wire(sent: Sent) -> bytes:
    """Return a request as bytes; what no header may hold is left out."""
    target = "".join(sign if "!" <= sign <= "~" else f"%{byte:02x}" for sign in sent.path for byte in sign.encode())
    fields = {"host": "localhost", "content-length": str(len(sent.body)), "connection": "close", **sent.headers}
    lines = [f"{name}: {value}" for name, value in fields.items() if not re.search(r"[\r\n\x00]", value)]
    return (
        f"{sent.method} {target} HTTP/1.1\r\n".encode()
        + "\r\n".join(lines).encode("latin-1", "replace")
        + b"\r\n\r\n"
        + sent.body
    )


async def ask(port: int, rng: random.Random) -> str:
    """Send one request; return its status, `closed` for a connection that the server or the client has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        raw = rng.random() < 0.1
        sent = make(rng)
        leaves = sent.leaves or (raw and rng.random() < 0.5)
        writer.write(rng.choice(RAW) if raw else wire(sent))
        await writer.drain()
        if raw:
            writer.write_eof()
        first = await reader.read(64 if leaves else 65536)
        while not leaves and await reader.read(65536):
            pass
        return first.split(b" ")[1].decode() if first.startswith(b"HTTP/") else "closed"
    except OSError:
        return "closed"
    finally:
        writer.transport.abort()


async def attack(port: int, count: int, seed: int, statuses: Counter[str]) -> None:
    """Send so many requests, some at a time; a request that takes too long counts as `hang`."""
    rng = random.Random(seed)
    seeds = iter([rng.getrandbits(64) for _ in range(count)])

    async def worker() -> None:
        for each in seeds:
            try:
                statuses[await asyncio.wait_for(ask(port, random.Random(each)), LIMIT)] += 1
            except TimeoutError:
                statuses["hang"] += 1

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def plain(port: int, path: str, body: object = None) -> tuple[int, bytes]:
    """Ask as one should."""
    sent = Sent("GET" if body is None else "POST", path, b"" if body is None else json.dumps(body).encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire(sent))
    answer = await asyncio.wait_for(reader.read(-1), LIMIT)
    writer.close()
    return int(answer.split(b" ")[1]), answer.partition(b"\r\n\r\n")[2]


def resident(process: int) -> int:
    """Return the memory of a process in kB."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


async def main(count: int, seed: int, port: int, process: int) -> bool:
    """Run the attack in quarters; print what came of it."""
    statuses: Counter[str] = Counter()
    memory: list[int] = []
    start = time.monotonic()
    for quarter in range(4):
        await attack(port, count // 4, seed * 4 + quarter, statuses)
        memory.append(resident(process))
    seconds = time.monotonic() - start
    await asyncio.sleep(2)
    status, _ = await plain(port, "/v1/completions", {"prompt": "river", "max_tokens": 2})
    figures = (await plain(port, "/metrics"))[1].decode()
    idle = all(
        f'{name}{{model="tiny"}} 0' in figures for name in ("qwenkit_requests_running", "qwenkit_requests_waiting")
    )
    faults = statuses["500"] + statuses["hang"]
    flat = memory[-1] <= 1.1 * memory[1]
    print(f"{sum(statuses.values())} requests in {seconds:.0f} s, {AT_ONCE} at a time")
    print("answers  " + "  ".join(f"{name}: {number}" for name, number in sorted(statuses.items())))
    print("memory   " + "  ".join(f"{kilobytes / 1024:.0f} MB" for kilobytes in memory) + "  after each quarter")
    good = status == 200 and idle and not faults and flat
    print(f"faults {faults}, idle {idle}, flat {flat}, answers afterwards {status == 200}: {'good' if good else 'BAD'}")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=17)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = make_folder(Path(place) / "tiny")
        command = [sys.executable, "-m", "qwenkit.cli", "serve", str(folder), "--port", "0", "--threads", "1",
                   "--kv-tokens", "8192", "--idle-timeout", "5", "--log", "none"]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            assert server.stdout.readline().startswith("serving"), "the server did not start"
            good = asyncio.run(main(given.requests, given.seed, int(address.rpartition(":")[2]), server.pid))
        finally:
            server.terminate()
            server.wait(LIMIT)
    sys.exit(0 if good else 1)
