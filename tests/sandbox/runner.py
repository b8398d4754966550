"""Runs the programs of `escapes` in one tier, with something outside for them to reach, and says what came of each.

    python runner.py TIER [NAME ...]

A process of its own, so that it can be another user. Limits of this process bound what the programs could do if the
sandbox failed; the programs themselves are bounded too: a fork bomb forks some hundred times, and no more."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwenkit.sandbox import Limits, Sandbox

HERE = Path(__file__).parent
LIMITS = Limits(cpu_seconds=1, memory_bytes=128 << 20, processes=24, files=64, file_bytes=4 << 20, output_bytes=20_000,
                disk_bytes=8 << 20)  # fmt: skip
VICTIM = (
    "import signal, time; signal.signal(signal.SIGURG, lambda *_: exit(1)); print('ready', flush=True); time.sleep(900)"
)
"""A process that ends at a signal which others ignore."""
TIMEOUT, SHORT = 20.0, 1.5
"""Seconds for a program, and for one that is to end by them."""


def bound_this_process() -> None:
    """Set limits for this process and all that it starts."""
    for name, most in (("FSIZE", 256 << 20), ("NPROC", 600), ("CORE", 0), ("AS", 6 << 30), ("CPU", 600)):
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (most, most))


@contextlib.contextmanager
def outside(tier: str) -> Iterator[tuple[dict[str, object], Outside]]:
    """Yield what a program is told of the host, and the host's own view of it."""
    secret = f"secret-{secrets.token_hex(16)}"
    os.environ["QWENKIT_TEST_SECRET"] = secret
    with tempfile.TemporaryDirectory(prefix="qwenkit-outside-") as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o777)
        canary = Path(folder) / "canary"
        canary.write_text(secret)
        canary.chmod(0o666)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listeners = [tcp]
        for kind, name in (
            (1, f"{folder}/stream"),
            (2, f"{folder}/datagram"),
            (1, f"\0qwenkit-{secrets.token_hex(8)}"),
        ):
            listeners.append(stack.enter_context(socket.socket(socket.AF_UNIX, kind)))
            listeners[-1].bind(name)
            if kind == 1:
                listeners[-1].listen()
            if name[0] != "\0":
                os.chmod(name, 0o777)
        victim = subprocess.Popen([sys.executable, "-S", "-c", VICTIM, secret], env={"VICTIM": secret},
                                  stdout=subprocess.PIPE)  # fmt: skip
        assert victim.stdout and victim.stdout.readline()
        told: dict[str, object] = {
            "canary": str(canary), "folder": folder, "port": tcp.getsockname()[1], "socket": f"{folder}/stream",
            "datagram": f"{folder}/datagram", "abstract": listeners[3].getsockname().decode().strip("\0"),
            "victim": victim.pid, "runner": os.getpid(), "secret": secret, "tier": tier,
        }  # fmt: skip
        try:
            yield told, Outside(folder, canary, secret, listeners, victim)
        finally:
            victim.kill()
            victim.wait()


class Outside:
    """What a program must not have touched."""

    def __init__(self, folder: str, canary: Path, secret: str, listeners: list[socket.socket],
                 victim: subprocess.Popen[bytes]) -> None:  # fmt: skip
        self.folder, self.canary, self.secret, self.listeners, self.victim = folder, canary, secret, listeners, victim
        self.before = self.state()

    def state(self) -> list[object]:
        """Return what is as it was as long as nobody has reached it."""
        stat = self.canary.stat()
        return [sorted(os.listdir(self.folder)), self.canary.read_text(), stat.st_mode, stat.st_uid, stat.st_mtime_ns]

    def touched(self) -> list[str]:
        """Return what a program has reached."""
        marks = [] if self.state() == self.before else ["the file or its folder has changed"]
        if self.victim.poll() is not None:
            marks.append("the victim is dead")
        for listener in self.listeners:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()
                marks.append(f"somebody has come to {listener.getsockname()!r}")
        return marks


def main(tier: str, names: list[str]) -> None:
    """Run the programs and print a line of JSON for each."""
    bound_this_process()
    attack = (HERE / "attack.py").read_bytes()
    with outside(tier) as (told, host), Sandbox(LIMITS, tier) as box:
        files = {"attack.py": attack, "host.json": json.dumps(told).encode()}

        def one(path: Path) -> str:
            code = path.read_bytes()
            result = box.run(code, files=files, timeout=SHORT if code.startswith(b"# ends: timeout\n") else TIMEOUT)
            leaked = [name for name, content in result.files.items() if host.secret.encode() in content]
            return json.dumps({
                "name": path.stem, "status": result.status, "stdout": result.stdout, "stderr": result.stderr,
                "seconds": result.seconds, "touched": host.touched() + [f"{name} has the secret" for name in leaked],
            })  # fmt: skip

        paths = [path for path in sorted((HERE / "escapes").glob("*.py")) if not names or path.stem in names]
        with ThreadPoolExecutor(3) as pool:
            for line in pool.map(one, paths):
                print(line, flush=True)
    print(json.dumps({"name": "", "left": left(), "megabytes": peak_megabytes()}))


def peak_megabytes() -> int:
    """Return the most memory of this program. What `getrusage` says counts the process that started it, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def left() -> list[str]:
    """Return what the sandbox has left behind: processes of this one's, folders, cgroups."""
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    strangers = {str(path) for path in Path("/proc").glob("[0-9]*") if _owner(path) >= 1_900_000_000}
    end = time.monotonic() + 30  # programs of other sandboxes of this machine, which end soon
    while strangers and time.monotonic() < end:
        time.sleep(0.2)
        strangers = {path for path in strangers if _owner(Path(path)) >= 1_900_000_000}
    folders = [str(path) for path in Path(tempfile.gettempdir()).glob(f"qwenkit-sandbox-{os.getpid()}-*")]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/qwenkit-sandbox-{os.getpid()}-*")]
    return own + sorted(strangers) + folders + groups


def _owner(path: Path) -> int:
    """Return who owns a process; -1 where it is gone."""
    try:
        return path.stat().st_uid
    except OSError:
        return -1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
