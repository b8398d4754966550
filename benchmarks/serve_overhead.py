"""What HTTP costs: the same answers from an engine's loop in this process, and from `qwenkit serve` over a socket.

    python benchmarks/serve_overhead.py MODEL --streams 16 --tokens 64 --rounds 5

Both get the same prompts, as many at a time as `--streams`, stream every token, and are asked in turn. Tokens a second
are those of a round from its first request to its last token. Both engines are in the mode of servers, in which bits
may depend on what else runs; so it is told how many answers are equal. The last line is the ratio of the medians,
server over loop: 0.95 or more is the aim.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from qwenkit import Engine, SamplingParams, load_tokenizer
from qwenkit.inference import EngineLoop
from qwenkit.platform import torch_threads

LIMIT = 600.0
TEXTS = ("The river runs past the old mill", "Once there was a lamp", "A list of five cities:", "def add(a, b):")


def prompts(count: int, round: int) -> list[str]:
    """Return prompts that no earlier round had: nothing is found in the cache."""
    return [f"{round}.{number} {TEXTS[number % len(TEXTS)]}" for number in range(count)]


async def from_loop(loop: EngineLoop, texts: list[str], tokens: int) -> tuple[float, list[str]]:
    """Return tokens a second and the texts of the loop."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=False)

    async def one(text: str) -> str:
        handle = await loop.asubmit(text, params, timeout=LIMIT)
        return "".join([delta.text or "" async for delta in handle])

    start = time.perf_counter()
    answers = await asyncio.gather(*map(one, texts))
    return len(texts) * tokens / (time.perf_counter() - start), answers


async def from_server(port: int, texts: list[str], tokens: int) -> tuple[float, list[str]]:
    """Return tokens a second and the texts of the server."""

    async def one(text: str) -> str:
        asked = {"prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        body = json.dumps(asked).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\n\r\n".encode() + body)
        answer = ""
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                answer += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
        writer.close()
        return answer

    start = time.perf_counter()
    answers = await asyncio.gather(*map(one, texts))
    return len(texts) * tokens / (time.perf_counter() - start), answers


def main(model: Path, streams: int, tokens: int, rounds: int, threads: int, port: int) -> None:
    """Ask both in turn; print the rates."""
    rates: dict[str, list[float]] = {"loop": [], "server": []}
    equal = asked = 0
    with torch_threads(threads), EngineLoop(Engine(model, load_tokenizer(model), invariant=False)) as loop:
        for round in range(-1, rounds):  # the first one is not counted
            texts = prompts(streams, round)
            own = asyncio.run(from_loop(loop, texts, tokens))
            served = asyncio.run(from_server(port, texts, tokens))
            asked, equal = asked + streams, equal + sum(a == b for a, b in zip(own[1], served[1], strict=True))
            if round >= 0:
                rates["loop"].append(own[0])
                rates["server"].append(served[0])
    for name, values in rates.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:<8}{statistics.median(values):8.1f} tokens/s   ({spread}, {len(values)} rounds)")
    print(f"{equal} of {asked} answers equal")
    print(f"ratio {statistics.median(rates['server']) / statistics.median(rates['loop']):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for name, default in (("streams", 16), ("tokens", 64), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    command = [sys.executable, "-m", "qwenkit.cli", "serve", str(given.model), "--port", "0", "--log", "none"]
    server = subprocess.Popen([*command, "--threads", str(given.threads)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        assert server.stdout.readline().startswith("serving"), "the server did not start"
        port = int(address.rpartition(":")[2])
        main(given.model, given.streams, given.tokens, given.rounds, given.threads, port)
    finally:
        server.terminate()
        server.wait(60)
