"""The interpreter: what cells give back, what stays between them, and what ends them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwenkit.agents import Interpreter, Limits
from qwenkit.errors import UserError
from qwenkit.platform import resident_mb
from qwenkit.sandbox import SandboxError, probe

for package in ("ipykernel", "jupyter_client"):
    pytest.importorskip(package, reason="the extra `agents` is not installed")

SMALL = Limits(cpu_seconds=60, memory_bytes=512 << 20, processes=48, files=200, file_bytes=2 << 20, output_bytes=10_000,
               disk_bytes=8 << 20)  # fmt: skip


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> Any:
    tier = probe(request.param)
    if not tier.works:
        pytest.skip(f"the tier does not work here: {tier.reason}")
    return request.param


@pytest.fixture(scope="module")
def python(backend: Any) -> Iterator[Interpreter]:
    """An interpreter that tests share; each begins with the names of those before."""
    with Interpreter(SMALL, backend) as interpreter:
        yield interpreter


def test_a_value_output_and_state(python: Interpreter) -> None:
    first = python.run("import sys\nx = 20\nprint('文')\nprint('bad', file=sys.stderr)\nx + 1")
    assert (first.status, first.text, first.stdout, first.stderr) == ("ok", "21", "文\n", "bad\n")
    assert not first.error and not first.displays and not first.files and not first.truncated and first.seconds > 0
    second = python.run("x * 2;")
    assert (second.status, second.text, second.state_lost) == ("ok", "", False)
    assert python.run("x").text == "20"


def test_an_exception_is_a_result(python: Interpreter) -> None:
    cell = python.run("kept = 7\n1 / 0")
    assert cell.status == "error" and cell.error.endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in cell.error and "----> 2 1 / 0" in cell.error
    assert python.run("kept").text == "7"
    assert python.run("def f(:").error.endswith("SyntaxError: invalid syntax")


def test_files_go_in_and_new_ones_come_back(python: Interpreter) -> None:
    cell = python.run("data = open('d/in.bin', 'rb').read()\nopen('out.txt', 'w').write('é'); data",
                      files={"d/in.bin": b"\0\xff", "unread": "text"})  # fmt: skip
    assert (cell.status, cell.text) == ("ok", r"b'\x00\xff'")
    assert cell.files == {"out.txt": "é".encode()}
    assert python.run("pass").files == {}
    assert python.run("import os; os.remove('unread'); open('out.txt', 'a').write('!')").files == {
        "out.txt": "é!".encode()
    }


def test_only_files_come_back(python: Interpreter) -> None:
    """Links, pipes and folders are no files, and a name may be anything."""
    code = (
        "import os\nos.symlink('/etc/passwd', 'link'); os.mkfifo('pipe'); os.mkdir('e'); open('a\\nb', 'w').write('1')"
    )
    cell = python.run(code)
    assert (cell.status, cell.files) == ("ok", {"a\nb": b"1"}), cell.error


def test_tables_and_objects_are_shown(python: Interpreter) -> None:
    code = "class Table:\n  def _repr_html_(self): return '<table>文</table>'\n  def __repr__(self): return 'a table'\n"
    cell = python.run(code + "Table()")
    assert cell.text == "a table" and cell.displays == ({"text/plain": "a table", "text/html": "<table>文</table>"},)


def test_figures_are_pictures(backend: Any) -> None:
    pytest.importorskip("matplotlib")
    with Interpreter(backend=backend, figures=("png", "svg")) as python:
        cell = python.run("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.title('中文')\nNone")
        assert cell.status == "ok", cell.error
        assert [figure[:8] for figure in cell.figures] == [b"\x89PNG\r\n\x1a\n"]
        assert "<svg" in str(cell.displays[0]["image/svg+xml"])
        if python.run("import matplotlib; len(matplotlib.rcParams['font.family']) > 1").text == "True":
            assert "missing from" not in cell.stderr  # a font of the system has the characters
        else:
            assert "missing from" in cell.stderr  # and it is said where none has
        assert python.run("None").files == {}


def test_a_cell_that_takes_too_long_is_interrupted_and_the_state_stays(python: Interpreter) -> None:
    python.run("here = 'still'")
    cell = python.run("print('begun')\nwhile True: pass", timeout=0.5)
    assert (cell.status, cell.stdout, cell.state_lost) == ("timeout", "begun\n", False)
    assert cell.error.endswith("KeyboardInterrupt:")
    assert python.run("here").text == "'still'"


def test_a_cell_that_heeds_no_interrupt_takes_the_state_with_it(backend: Any) -> None:
    with Interpreter(SMALL, backend) as python:
        ignore = "import signal\nx = 1\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
        cell = python.run(ignore, timeout=0.3)
        assert (cell.status, cell.state_lost) == ("timeout", True)
        assert not python.is_alive
        assert python.run("x").error.endswith("NameError: name 'x' is not defined")


@pytest.mark.parametrize(
    ("code", "status", "lost"),
    [
        ("print('x' * 10_000_000)", "output", None),  # an interrupt that meets the end of a cell may cost the kernel
        ("while True: print('x' * 1000)", "output", None),
        ("b = bytearray(2_000_000_000)", "memory", False),
        ("import os; os._exit(0)", "killed", True),
        ("import os; os.kill(os.getpid(), 11)", "killed", True),
        ("input()", "error", False),
    ],
)
def test_how_cells_end(python: Interpreter, code: str, status: str, lost: bool | None) -> None:
    cell = python.run(code, timeout=20)
    assert cell.status == status and cell.state_lost in ((lost,) if lost is not None else (True, False)), cell
    assert len(cell.stdout) <= SMALL.output_bytes and len(cell.error) <= SMALL.output_bytes
    assert ("stdout" in cell.omitted) == (status == "output")
    assert python.run("1 + 1").text == "2"


def test_a_file_that_is_too_large(backend: Any) -> None:
    with Interpreter(SMALL, backend) as python:
        assert python.run("open('big', 'wb').write(b'x' * 3_000_000)").status == "disk"
        assert python.run("1 + 1").text == "2"


def test_what_a_program_starts_in_the_background_ends_with_the_kernel(backend: Any) -> None:
    mark = f"{os.getpid()}{time.time_ns()}"
    with Interpreter(SMALL, backend) as python:
        assert python.run(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; "
                          f"time.sleep(600)', '{mark}'], start_new_session=True)").status == "ok"  # fmt: skip
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/cmdline", "rb") as file:
                assert mark.encode() not in file.read()
        except OSError:
            continue


def test_interrupt_from_another_thread(python: Interpreter) -> None:
    timer = threading.Timer(0.5, python.interrupt)
    timer.start()
    cell = python.run("import time\ntime.sleep(30)")
    assert cell.status == "error" and cell.error.endswith("KeyboardInterrupt:") and cell.seconds < 25


def test_restart_and_close(backend: Any) -> None:
    python = Interpreter(SMALL, backend)
    assert not python.is_alive
    python.run("x = 1\nopen('a', 'w').write('1')")
    python.restart()
    assert python.is_alive and python.run("import os; 'x' in globals(), os.listdir()").text == "(False, [])"
    timer = threading.Timer(0.5, python.close)
    timer.start()
    cell = python.run("import time; time.sleep(30)")
    assert (cell.status, cell.state_lost) == ("killed", True) and cell.seconds < 25
    timer.join()
    assert not python.is_alive
    assert python.run("2").text == "2"
    python.close()


def test_a_kernel_that_nobody_asks_is_ended(backend: Any) -> None:
    with Interpreter(SMALL, backend, idle_seconds=0.2) as python:
        python.run("x = 1")
        end = time.monotonic() + 30
        while python.is_alive:
            assert time.monotonic() < end
            time.sleep(0.02)
        cell = python.run("1")
        assert (cell.text, cell.state_lost) == ("1", True)


def test_kernels_do_not_see_each_other_nor_the_network(backend: Any) -> None:
    look = "import os, socket\nfound = []\n"
    look += "for family in (socket.AF_INET, socket.AF_INET6):\n  try: socket.socket(family); found.append(family)\n"
    look += "  except OSError: pass\n"
    look += "import glob\nfound + [path for path in glob.glob('/tmp/qwenkit-kernel-*/*') if os.access(path, os.W_OK)]"
    with Interpreter(SMALL, backend) as one, Interpreter(SMALL, backend) as other:
        one.run("secret = 1")
        cell = other.run(look)
        assert cell.status == "ok", cell.error
        assert "AF_INET" not in cell.text and cell.text.count("/k-") <= 5  # its own sockets alone


FORGED = {
    "no message": "socket.send_multipart([b'garbage'])",
    "another signature": "socket.send_multipart([b'<IDS|MSG>', b'00', b'{}', b'{}', b'{}', b'{}'])",
    "deep JSON": "socket.send_multipart([b'<IDS|MSG>', b'', b'[' * 100000, b'{}', b'{}', b'{}'])",
    "other types": "shell.kernel.session.send(socket, 'stream', content={'name': ['a'], 'text': 5}, parent=parent)",
    "an odd error": "shell.kernel.session.send(socket, 'error', content={'traceback': {'a': 1}}, parent=parent)",
    "paths that leave": (
        "shell.kernel.session.send(socket, 'display_data', parent=parent,"
        " content={'data': {'application/vnd.qwenkit.files': {'files': {'../x': 'aGk=', '/y': 'aGk='}}}})"
    ),
    "a picture that is none": (
        "shell.kernel.session.send(socket, 'display_data', parent=parent, content={'data': {'image/png': 'é%%%'}})"
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_messages_do_no_harm(python: Interpreter, name: str) -> None:
    begin = "shell = get_ipython(); socket = shell.kernel.iopub_socket; parent = shell.kernel.get_parent()\n"
    cell = python.run(begin + FORGED[name], timeout=20)
    assert cell.status in ("ok", "error", "killed") and not cell.files
    assert python.run("1 + 1").text == "2"


def test_a_message_without_end_takes_no_memory(backend: Any) -> None:
    """ZeroMQ keeps the parts of a message until the last one has come: here the kernel waits, and is ended."""
    send = (
        "import zmq\nsocket = get_ipython().kernel.iopub_socket\nsocket = getattr(socket, 'io_thread', socket).socket\n"
        "while True: socket.send(b'x' * (1 << 20), zmq.SNDMORE)"
    )
    highest, done = [resident_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            highest.append(resident_mb())

    thread = threading.Thread(target=watch)
    with Interpreter(SMALL, backend) as python:
        python.run("1")
        thread.start()
        cell = python.run(send, timeout=3)
        done.set()
        thread.join()
        assert cell.status != "ok" and max(highest) - highest[0] < 200, (cell.status, max(highest))
        assert python.run("1 + 1").text == "2"


def test_a_kernel_that_lies_about_its_end(backend: Any) -> None:
    """It says that the cell is over while code of it runs on: the next cell is answered by the same kernel, or by
    another one, and never hangs."""
    lie = (
        "shell = get_ipython(); kernel = shell.kernel; parent = kernel.get_parent()\n"
        "kernel.session.send(kernel.iopub_socket, 'status', content={'execution_state': 'idle'}, parent=parent)\n"
        "import time; time.sleep(1)"
    )
    with Interpreter(SMALL, backend) as python:
        assert python.run(lie).status == "ok"
        assert python.run("1 + 1", timeout=20).text == "2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": 5}, "limits: 5 (expected: a Limits(...))"),
        ({"timeout": 0}, "timeout: 0"),
        ({"idle_seconds": float("nan")}, "timeout: nan"),
        ({"figures": ("gif",)}, "figures: ('gif',)"),
        ({"figures": ()}, "figures: ()"),
    ],
)
def test_settings_that_are_none(settings: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        Interpreter(**settings)
    assert str(raised.value).startswith(message.split(" (")[0])


def test_what_is_no_cell(python: Interpreter) -> None:
    for arguments in ({"code": "a\0"}, {"code": b"1"}, {"code": "1", "files": {"../a": "1"}},
                      {"code": "1", "files": {"a": 1}}, {"code": "1", "timeout": -1}):  # fmt: skip
        with pytest.raises(UserError):
            python.run(**arguments)  # type: ignore[arg-type]
    assert python.run("'\ud800'").status in ("ok", "error")
    assert python.run("# " + "x" * 10_000_000).status == "ok"


def test_a_kernel_that_cannot_start_is_an_error(backend: Any) -> None:
    with Interpreter(Limits(memory_bytes=32 << 20), backend) as python:
        with pytest.raises(SandboxError, match="the kernel did not start"):
            python.run("1")
    assert not [
        name for name in os.listdir("/tmp") if name.startswith("qwenkit-kernel-") and not os.listdir(f"/tmp/{name}")
    ]
