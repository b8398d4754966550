"""`qwenkit serve` in a process of its own, as the benchmarks of the server ask it.

with ServerProcess(model, "--threads", "2") as server:
    server.url, server.resident(), server.figures()["qwenkit_requests_waiting"]
"""

from __future__ import annotations

import http.client
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path
from types import TracebackType

LIMIT = 600.0
_FIGURE = re.compile(r"^(\w+)(?:\{[^}]*\})? ([-+.\deE]+|NaN)$", re.M)


class ServerProcess:
    """A server that ends with the `with` block."""

    def __init__(self, model: Path | str, *options: str) -> None:
        """Start it, without a log. Exits with its own words where it does not start."""
        command = [sys.executable, "-m", "qwenkit.cli", "serve", str(model), "--port", "0", "--log", "none", *options]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- `__exit__` closes it
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self.url = self._line().split()[0]
        if not self._line().startswith("serving"):
            self._give_up()

    def _line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self._give_up()
        return line

    def _give_up(self) -> None:
        self.process.kill()
        self._errors.seek(0)
        sys.exit(f"the server did not start:\n{self._errors.read()[-3000:]}")

    def resident(self) -> int:
        """Return the bytes of the process that lie in memory."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    def figures(self) -> dict[str, float]:
        """Return the figures of `/metrics`; those of one name are added up."""
        address = self.url.partition("://")[2]
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        sums: dict[str, float] = {}
        for name, value in _FIGURE.findall(text):
            sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def wait_until_idle(self, seconds: float) -> float | None:
        """Return after how many seconds nothing ran or waited; None: not within the limit."""
        start = time.monotonic()
        while (now := time.monotonic() - start) < seconds:
            figures = self.figures()
            if not figures["qwenkit_requests_running"] and not figures["qwenkit_requests_waiting"]:
                return now
            time.sleep(0.1)
        return None

    def __enter__(self) -> ServerProcess:
        """Return the started server."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 at: TracebackType | None) -> None:  # fmt: skip
        """End it, in order where it can."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._errors.close()


class MemorySamples:
    """The memory of a server, looked at again and again on a thread."""

    def __init__(self, server: ServerProcess, every: float = 1.0) -> None:
        """Begin inside a `with` block."""
        self.seconds, self.bytes = array("d"), array("d")
        self._server, self._every, self._end = server, every, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        start = time.monotonic()
        while not self._end.wait(self._every):
            self.seconds.append(time.monotonic() - start)
            self.bytes.append(self._server.resident())

    def __enter__(self) -> MemorySamples:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._end.set()
        self._thread.join(10)
