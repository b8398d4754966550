"""A Jupyter kernel in a sandbox, and the conversation with it over sockets of the file system.

    kernel = Kernel(Limits(), "auto")
    kernel.execute("x = 1", CellOutput(1 << 20), deadline=time.monotonic() + 10)
    kernel.end()

The kernel is the sandbox's program: untrusted code runs in its process, so whatever comes from it may be forged, of
any size, late or never. Messages are JSON (no pickle), each bounded by `_MESSAGE_BYTES`; every wait has a limit; a
socket is opened by a descriptor that cannot be a link to somewhere else. The key that signs messages is the kernel's
own and protects from nobody but other programs of this machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from qwenkit.agents.byte_gate import ByteGate
from qwenkit.errors import UserError
from qwenkit.json_values import mapping
from qwenkit.sandbox import Limits, Result, Running, Sandbox, SandboxError

if TYPE_CHECKING:
    import zmq

LONGEST_LIFE = 86_400.0
"""Seconds that a kernel lives at most."""
START_SECONDS = 60.0
"""Seconds within which a kernel must answer."""
INTERRUPT_SECONDS = 3.0
"""Seconds that an interrupted cell has to end before its kernel is ended."""
_SETTLE_SECONDS = 1.0  # after the reply to a cell its last outputs must come within so long
_MESSAGE_BYTES, _MESSAGES = 32 << 20, 8  # of a message, and how many of them wait on a socket
_PART_BYTES = 16  # more than what ZeroMQ sends with each part
_PIECE = 1 << 20  # characters of output that the kernel sends at once
_CHANNELS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}

_PROGRAM = """
import os, sys
tmp = os.environ["TMPDIR"]
for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MPLCONFIGDIR",
             "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
    os.environ[name] = os.path.join(tmp, name.lower())
os.makedirs(os.environ["MPLCONFIGDIR"])
with open(os.path.join(os.environ["MPLCONFIGDIR"], "matplotlibrc"), "w") as settings:
    settings.write(FONTS)
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
sys._qwenkit = {"folder": os.getcwd(), "seen": {}}
import ipykernel.kernelapp as app
thread = app.IOPubThread
app.IOPubThread = lambda socket, pipe=True, **more: thread(socket, pipe=False, **more)  # the pipe is of TCP
from ipykernel.iostream import OutStream
write = OutStream.write
def write_in_pieces(self, text):  # a message of any size would not be taken
    if not isinstance(text, str) or len(text) <= PIECE:
        return write(self, text)
    for start in range(0, len(text), PIECE):
        write(self, text[start : start + PIECE])
        self.flush()
    return len(text)
OutStream.write = write_in_pieces
app.IPKernelApp.launch_instance(ARGUMENTS)
"""
"""What runs in the sandbox: the kernel, with its own files apart from the user's."""


class Listener(Protocol):
    """What takes the messages of a cell."""

    @property
    def is_full(self) -> bool:
        """Whether so much has come that the cell must end."""
        ...

    def take(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take a message; `content` is whatever the kernel has sent."""
        ...


class KernelDied(Exception):
    """The kernel has ended while it was asked; its `result` tells why."""

    def __init__(self, result: Result, cause: Literal["", "timeout", "output"] = "") -> None:
        """Keep the result of the sandbox's program, and why it was ended from here, if it was."""
        super().__init__(result.status)
        self.result = result
        self.cause: Literal["", "timeout", "output"] = cause


class Kernel:
    """One kernel: a process with a state. Cells are executed by one thread at a time; any may interrupt."""

    def __init__(
        self, limits: Limits, backend: Literal["auto", "bwrap", "landlock"], readable: Sequence[str] = (),
        figures: Sequence[str] = ("png",),
    ) -> None:  # fmt: skip
        """Start a kernel and wait until it answers; raises a `SandboxError` where it does not."""
        import zmq
        from jupyter_client.session import Session

        self._folder = tempfile.mkdtemp(prefix="qwenkit-kernel-")
        self._own_folder = tempfile.mkdtemp(prefix="qwenkit-gates-")
        self._descriptors: list[int] = []
        self._gates: dict[str, ByteGate] = {}
        self._sockets: dict[str, Any] = {}
        self._control_lock = threading.Lock()
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self._running: Running | None = None
        self._thread: threading.Thread | None = None
        key = secrets.token_hex(32)
        self._session = Session(key=key.encode(), check_pid=False)
        try:
            self._sandbox = Sandbox(limits, backend, readable=readable, shared=self._folder)
            self._running = self._sandbox.start(_program(self._folder, key, figures), timeout=LONGEST_LIFE)
            self._thread = threading.Thread(target=self._run, name="qwenkit-kernel", daemon=True)
            self._thread.start()
            self._connect(time.monotonic() + START_SECONDS)
        except BaseException:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the kernel's process runs."""
        return self._result is None and self._failure is None

    def _run(self) -> None:
        """Wait for the end of the process, on a thread of its own."""
        assert self._running is not None
        try:
            self._result = self._running.result()
        except BaseException as error:  # whoever waits is told
            self._failure = error

    # ---- start and end ----------------------------------------------------------------------------------------------

    def _connect(self, deadline: float) -> None:
        """Connect to the kernel's sockets, and ask until both kinds of answers come."""
        import zmq

        kinds = {"shell": zmq.DEALER, "iopub": zmq.SUB, "control": zmq.DEALER}
        for name, kind in kinds.items():
            place = f"{self._folder}/k-{_CHANNELS[name]}"
            while (descriptor := _open_socket(place)) is None:
                self._check_start(deadline)
                time.sleep(0.005)
            self._descriptors.append(descriptor)
            connection = self._sockets[name] = self._context.socket(kind)
            connection.linger, connection.maxmsgsize, connection.rcvhwm = 0, _MESSAGE_BYTES, _MESSAGES
            if name == "iopub":
                connection.subscribe(b"")
            self._gates[name] = ByteGate(descriptor, f"{self._own_folder}/{name}", _MESSAGE_BYTES)
            connection.connect(f"ipc://{self._own_folder}/{name}")
        self._greet(deadline)

    def _greet(self, deadline: float) -> None:
        """Ask what the kernel is until an answer and an output have come: outputs before are lost."""
        has_reply, has_output, asked = False, False, 0.0
        while not (has_reply and has_output):
            self._check_start(deadline)
            if time.monotonic() > asked + 0.2:
                self._send("shell", "kernel_info_request", {})
                asked = time.monotonic()
            for name, _, kind, _ in self._messages(("shell", "iopub"), 0.05):
                has_reply, has_output = has_reply or kind == "kernel_info_reply", has_output or name == "iopub"

    def _check_start(self, deadline: float) -> None:
        if not self.is_alive:
            if self._failure is not None:
                raise self._failure
            assert self._result is not None
            last = self._result.stderr.strip().splitlines()[-1:] or [self._result.status]
            missing = "No module named" in last[0]
            raise SandboxError(f"the kernel did not start ({last[0][:300]})", where="interpreter",
                               hint="install the extra `agents`" if missing else None)  # fmt: skip
        if time.monotonic() > deadline:
            raise SandboxError("the kernel does not answer", where="interpreter",
                               expected=f"an answer within {START_SECONDS:g} s")  # fmt: skip

    def stop(self) -> None:
        """Have the kernel end soon. Any thread may; one that waits for a cell then gets `KernelDied`."""
        if self._running is not None:
            self._running.stop()

    def end(self) -> Result | None:
        """End the kernel with all that it has started; return what the sandbox says of it, if it ever ran."""
        self.stop()
        if self._thread is not None:
            self._thread.join(START_SECONDS)
            self._sandbox.close()
        with self._control_lock:
            for connection in self._sockets.values():
                connection.close(0)
            self._sockets.clear()
        while self._gates:
            self._gates.popitem()[1].close()
        self._context.term()
        while self._descriptors:
            os.close(self._descriptors.pop())
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._own_folder, ignore_errors=True)
        return self._result

    # ---- cells ------------------------------------------------------------------------------------------------------

    def execute(
        self, code: str, output: Listener, deadline: float, own: bool = False
    ) -> Literal["", "timeout", "output"]:
        """Execute a cell and give its messages to `output`. Return why it was interrupted, "" where it was not.

        `own` code leaves no trace in the history. Raises `KernelDied` where the kernel ends, or must be ended because
        it neither answers nor heeds an interrupt until `INTERRUPT_SECONDS` after the deadline (monotonic clock)."""
        asked = self._send("shell", "execute_request", {
            "code": code, "silent": own, "store_history": not own, "user_expressions": {}, "allow_stdin": False,
            "stop_on_error": True,
        })  # fmt: skip
        cause: Literal["", "timeout", "output"] = ""
        last, replied, idle = deadline, False, False
        while not (replied and idle):
            if not self.is_alive:
                raise KernelDied(self._ended(), cause)
            now = time.monotonic()
            if not cause and (output.is_full or now > deadline):
                cause, last = "output" if output.is_full else "timeout", now + INTERRUPT_SECONDS
                self.interrupt()
            if now > last and (cause or replied):
                raise KernelDied(self._ended(), cause or "output")  # outputs that do not come were too large
            for name, parent, kind, content in self._messages(("shell", "iopub"), 0.1):
                if parent != asked:
                    continue
                if name == "shell" and kind == "execute_reply":
                    replied, last = True, min(last, time.monotonic() + _SETTLE_SECONDS)
                elif kind == "status" and content.get("execution_state") == "idle":
                    idle = True
                else:
                    output.take(kind, content)
                    last = last if not replied else time.monotonic() + _SETTLE_SECONDS
        return cause

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs; does nothing to a kernel that has ended."""
        with self._control_lock, contextlib.suppress(Exception):
            self._send("control", "interrupt_request", {})

    def _ended(self) -> Result:
        """End the kernel and return what the sandbox says of it."""
        result = self.end()
        if result is None:
            raise SandboxError("the kernel's sandbox does not end", where="interpreter") from self._failure
        return result

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _send(self, channel: str, kind: str, content: Mapping[str, object]) -> str:
        import zmq

        try:
            sent = self._session.send(self._sockets[channel], kind, content=dict(content))
        except zmq.ZMQError as error:
            raise SandboxError(f"the kernel cannot be asked ({error})", where="interpreter") from error
        return str(mapping(mapping(sent).get("header")).get("msg_id"))

    def _messages(self, channels: Sequence[str], seconds: float) -> list[tuple[str, str, str, Mapping[str, Any]]]:
        """Return (channel, id of the request, kind, content) of what comes; anything else is passed over."""
        import zmq

        poller = zmq.Poller()
        names = {self._sockets[name]: name for name in channels}
        for connection in names:
            poller.register(connection, zmq.POLLIN)
        messages = []
        for connection, _ in poller.poll(int(seconds * 1000)):
            with contextlib.suppress(zmq.Again):
                parts = connection.recv_multipart(zmq.NOBLOCK)
                self._gates[names[connection]].release(sum(len(part) + _PART_BYTES for part in parts))
                if (message := self._parsed(parts)) is not None:
                    messages.append((names[connection], *message))
        return messages

    def _parsed(self, parts: list[bytes]) -> tuple[str, str, Mapping[str, Any]] | None:
        try:
            _, rest = self._session.feed_identities(parts)
            message = self._session.deserialize(rest)
        except Exception:  # anything may come, and the library names its errors in many ways
            return None
        parent = mapping(message.get("parent_header")).get("msg_id")
        kind = message.get("msg_type")
        return str(parent), str(kind), mapping(message.get("content"))


def _open_socket(path: str) -> int | None:
    """Return a descriptor of a socket in the file system, None where there is none (yet).

    The kernel owns the folder: a link, or another kind of file, would lead elsewhere, so what is connected to is the
    descriptor and not the path. Raises a `SandboxError` for what is there and is not a socket."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise SandboxError("the kernel's socket is none", where="interpreter")


def _program(folder: str, key: str, figures: Sequence[str]) -> str:
    """Return the kernel's program, with its settings."""
    arguments = [
        "--IPKernelApp.transport=ipc", f"--IPKernelApp.ip={folder}/k", f"--Session.key=b{key!r}",
        *(f"--IPKernelApp.{name}_port={number}" for name, number in _CHANNELS.items()),
        "--HistoryManager.enabled=False", "--InteractiveShell.colors=nocolor", "--IPKernelApp.log_level=50",
        f"--InlineBackend.figure_formats={set(figures)!r}",
    ]  # fmt: skip
    given = {"ARGUMENTS": repr(arguments), "FONTS": repr(_font_settings()), "PIECE": str(_PIECE)}
    program = _PROGRAM
    for name, value in given.items():
        program = program.replace(name, value)
    return program


@cache
def _font_settings() -> str:
    """Return matplotlib's settings, by which Chinese is drawn where a font of the system has it.

    A list of families falls back for each character; a generic family, such as sans-serif, does not."""
    families: list[str] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["fc-list", ":lang=zh-cn", "family"], capture_output=True, text=True, timeout=10)
        families = sorted({line.split(",")[0].replace("\\-", "-").strip() for line in done.stdout.splitlines()})
    return f"font.family: {', '.join(['DejaVu Sans', *filter(None, families)][:6])}\naxes.unicode_minus: False\n"


def check_installed() -> None:
    """Raise a `UserError` where the packages of a kernel are not installed."""
    try:
        import ipykernel  # noqa: F401
        import jupyter_client.session
        import zmq  # noqa: F401
    except ImportError as error:
        raise UserError(f"the interpreter needs a package ({error.name})", where="Interpreter",
                        hint="pip install 'qwenkit[agents]'") from error  # fmt: skip
    assert jupyter_client.session
