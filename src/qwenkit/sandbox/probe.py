"""Which tier works here, found out by a child that tries what must be refused, and not by asking for a version."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwenkit.errors import UserError, notice
from qwenkit.sandbox import launch, seccomp
from qwenkit.sandbox.inside import kernel
from qwenkit.sandbox.limits import Limits
from qwenkit.sandbox.session import SandboxError, Session, parse

BACKENDS: tuple[launch.Backend, ...] = ("bwrap", "landlock")
"""The tiers, the stronger one first."""

_TRIAL = """
import os, socket, sys
def refused(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return True
    return False
path, parent = sys.argv[1], int(sys.argv[2])
assert refused(open, path), "a file of the host can be read"
assert refused(open, path, "r+"), "a file of the host can be written"
assert refused(socket.socket), "it has a network"
assert refused(os.kill, parent, 0), "a process of the host can be signalled"
assert os.geteuid() != 0, "it is root"
open("trial", "w").write("x")
print("closed")
"""


@dataclass(frozen=True)
class Tier:
    """A tier that works here, or why it does not."""

    backend: launch.Backend
    works: bool
    landlock: int
    """The version of the kernel's Landlock; 0 without it."""
    reason: str = ""
    hint: str = ""

    def text(self) -> str:
        """Return a line for people."""
        layers = [f"Landlock {self.landlock}"] if self.landlock else []
        if self.backend == "bwrap":
            layers.insert(0, "namespaces")
        layers.append("seccomp")
        return f"{self.backend}: " + (", ".join(layers) if self.works else f"does not work: {self.reason}")


@functools.cache
def probe(backend: launch.Backend) -> Tier:
    """Return whether a tier works here; it is tried once in a process."""
    abi, why = _landlock()
    obstacle = _obstacle(backend, abi, why)
    if obstacle:
        return Tier(backend, False, abi, *obstacle)
    try:
        _try(backend, abi)
    except SandboxError as error:
        return Tier(backend, False, abi, error.what, _hint(error.what))
    return Tier(backend, True, abi)


def choose(backend: str) -> Tier:
    """Return the tier that is asked for, or for `auto` the strongest that works, and say so where that is not the
    first; raises a `UserError` with the reasons where none works. No program is ever run without one."""
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"{backend!r}"[:200], where="backend", expected="auto, " + ", ".join(BACKENDS))
    tiers: list[Tier] = []
    for name in BACKENDS:
        if backend not in ("auto", name):
            continue
        tier = probe(name)
        if tier.works:
            if tiers:
                notice(f"programs run in the sandbox's second tier, Landlock alone: {tiers[0].reason}"
                       + (f" ({tiers[0].hint})" if tiers[0].hint else ""))  # fmt: skip
            return tier
        tiers.append(tier)
    reasons = "; ".join(f"{tier.backend}: {tier.reason}" for tier in tiers)
    hints = [tier.hint for tier in tiers if tier.hint]
    raise UserError(f"there is no sandbox here, and no program is run without one ({reasons})",
                    where="sandbox", hint=hints[0] if hints else None)  # fmt: skip


def _landlock() -> tuple[int, str]:
    """Return (Landlock's version, why there is none)."""
    if sys.platform != "linux":
        return 0, "it needs Linux"
    try:
        return kernel.landlock_abi(), ""
    except OSError as error:
        off = error.errno == 95
        return 0, "Landlock is turned off at the kernel's start" if off else "the kernel has no Landlock"


def _obstacle(backend: launch.Backend, abi: int, why: str) -> tuple[str, str] | None:
    """Return (reason, hint) where a tier need not be tried."""
    if sys.platform != "linux":
        return "it needs Linux", ""
    if platform.machine() not in seccomp.ARCHITECTURES:
        return f"there is no filter of system calls for {platform.machine()}", ""
    if backend == "bwrap":
        return None if launch.bubblewrap() else ("bubblewrap is not installed", "apt install bubblewrap")
    if not abi:
        return why, "add landlock to the kernel's lsm= line" if "turned off" in why else _container_hint()
    needed = 3 if os.geteuid() == 0 else 6
    if abi < needed:
        return (f"the kernel's Landlock is version {abi}, and {needed} is needed",
                "Linux 6.12 or later" if needed == 6 else "Linux 6.2 or later")  # fmt: skip
    return None


def _try(backend: launch.Backend, abi: int) -> None:
    """Run a program that must be refused everything; raises a `SandboxError` with the reason where it is not."""
    limits = Limits()
    setup = launch.Setup(backend, abi, sys.executable)
    box = launch.new_box(setup)
    with _canary() as path:
        code = _TRIAL.encode()
        argv = [sys.executable, "-P", f"{box}/main.py", path, str(os.getpid())]
        asked = launch.request(setup, limits, box, argv, 10.0, [("main.py", len(code))], [])
        session = Session(lambda fd: launch.command(setup, limits, fd), launch.supervisor_code(), [])
        try:
            talk = session.talk(b"", 4096, 1 << 16, lambda far: session.ask(asked, [code], far),
                                time.monotonic() + 20)  # fmt: skip
        finally:
            errors = session.end()
    answer = parse(bytes(talk.answer))
    out, problem = talk.outputs[0].value()[0], talk.outputs[1].value()[0].decode("utf-8", "replace")
    if answer is None or answer.failed:
        raise SandboxError(_last_line(errors) or (answer.failed if answer else "") or "its supervisor did not answer")
    if answer.code != 0 or out != b"closed\n" or answer.files.get("trial") != b"x":
        raise SandboxError(_last_line(problem) or "a program could not be run in it")


@contextlib.contextmanager
def _canary() -> Iterator[str]:
    """Yield the path of a file of the host that anybody may read and write."""
    with tempfile.NamedTemporaryFile(prefix="qwenkit-canary-") as file:
        os.chmod(file.name, 0o666)
        yield file.name


def _last_line(text: str) -> str:
    """Return the last line of what went wrong."""
    return (text.strip().splitlines() or [""])[-1].strip()[:300]


def _hint(reason: str) -> str:
    """Return what may help where the trial of a tier has failed."""
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    with contextlib.suppress(OSError):
        if restricted.read_text().strip() == "1" and os.geteuid() != 0:
            return ("this system lets no ordinary user make namespaces: give bwrap a profile of AppArmor, or set "
                    "kernel.apparmor_restrict_unprivileged_userns=0")  # fmt: skip
    if "ermission" in reason and os.geteuid() == 0:
        return "see that Python and the folder for temporary files can be reached by every user"
    return _container_hint()


def _container_hint() -> str:
    """Return what may help in a container or under gVisor; "" elsewhere."""
    with contextlib.suppress(OSError):
        if "gvisor" in Path("/proc/version").read_text().lower() or Path("/dev/gofer").exists():
            return "gVisor has no Landlock: let it make namespaces"
    if any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv"))):
        return "in a container: allow it to make namespaces (docker run --security-opt seccomp=unconfined)"
    return ""
