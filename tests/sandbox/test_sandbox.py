"""What a sandbox takes, gives back and says; `test_escapes.py` has what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qwenkit.agents import Limits, Sandbox
from qwenkit.errors import UserError
from qwenkit.sandbox import SandboxError
from tests.sandbox.conftest import SMALL


def test_code_runs_and_its_output_comes_back(box: Sandbox) -> None:
    result = box.run("import sys\nprint('文', 2 ** 10)\nprint('bad', file=sys.stderr)")
    assert (result.status, result.returncode, result.stdout, result.stderr) == ("ok", 0, "文 1024\n", "bad\n")
    assert not result.files and not result.omitted and not result.truncated
    assert result.seconds > 0 and result.cpu_seconds > 0


def test_a_command_runs(box: Sandbox) -> None:
    result = box.run(["sh", "-c", 'cat; echo "$0 $1" >&2', "name", "$HOME\n"], stdin="über")
    assert (result.status, result.stdout, result.stderr) == ("ok", "über", "name $HOME\n\n")


def test_input_is_read_to_its_end_or_not_at_all(box: Sandbox) -> None:
    data = bytes(range(256)) * 4096
    assert box.run("import sys; print(len(sys.stdin.buffer.read()))", stdin=data).stdout == f"{len(data)}\n"
    assert box.run("print(1)", stdin=data).stdout == "1\n"
    assert box.run("print(repr(input()))", stdin="\0a\n").stdout == "'\\x00a'\n"


@pytest.mark.parametrize(
    ("code", "status", "returncode"),
    [
        ("raise SystemExit(3)", "error", 3),
        ("1 / 0", "error", 1),
        ("import os; os.kill(os.getpid(), 11)", "killed", -11),
        ("import os; os.abort()", "killed", -6),
        ("import os; os._exit(0)", "ok", 0),
    ],
)
def test_how_a_program_ends(box: Sandbox, code: str, status: str, returncode: int) -> None:
    result = box.run(code)
    assert (result.status, result.returncode) == (status, returncode)


def test_files_go_in_and_new_ones_come_back(box: Sandbox) -> None:
    given = {"a.txt": "one", "d/e/b.bin": b"\0\xff", "same": "same", "two\nlines": "x"}
    code = (
        "import os\n"
        "assert open('a.txt').read() == 'one' and open('d/e/b.bin', 'rb').read() == b'\\0\\xff'\n"
        "assert open('two\\nlines').read() == 'x'\n"
        "open('a.txt', 'a').write('!'); open('d/new', 'w').write('n'); os.unlink('d/e/b.bin')\n"
        "open(b'\\xff', 'w').write('odd'); os.symlink('/etc/passwd', 'link')\n"
    )
    result = box.run(code, files=given)
    assert result.status == "ok", result.stderr
    assert result.files == {"a.txt": b"one!", "d/new": b"n", "\udcff": b"odd"}


def test_each_run_begins_with_nothing(box: Sandbox) -> None:
    code = "import os, tempfile\nprint(sorted(os.listdir()), os.listdir(tempfile.gettempdir()))\n"
    left = code + "open('x', 'w').write('1'); open(tempfile.gettempdir() + '/y', 'w'); os.chmod('.', 0o755)"
    assert box.run(left).stdout == box.run(code).stdout == "[] []\n"


def test_modules_of_its_folder_are_imported_and_its_own_file_is_not_in_it(box: Sandbox) -> None:
    result = box.run("import helper, os; print(helper.x, os.listdir(), __name__)", files={"helper.py": "x = 5"})
    assert result.stdout == "5 ['helper.py'] __main__\n"


def test_nothing_of_the_environment_is_there(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_KEY", "xyzzy")
    result = box.run("import os; print('\\n'.join(f'{k}={v}' for k, v in os.environ.items()))")
    assert "xyzzy" not in result.stdout and "HOME=" in result.stdout
    assert os.path.expanduser("~") not in result.stdout.split("HOME=")[1].splitlines()[0] + "\n"


def test_its_user_is_not_root_and_owns_its_folder(box: Sandbox) -> None:
    code = "import os; print(os.getuid() != 0, os.stat('.').st_uid == os.getuid(), os.getsid(0) == os.getpid())"
    assert box.run(code).stdout == "True True True\n"


def test_output_keeps_its_front_and_its_end(box: Sandbox) -> None:
    result = box.run("print('front'); print('x' * 30_000); print('end')")
    assert result.status == "output" and result.truncated
    assert result.stdout.startswith("front\nxxx") and result.stdout.endswith("xxx\nend\n")
    assert len(result.stdout) == SMALL.output_bytes
    assert result.omitted == {"stdout": 6 + 30_001 + 4 - SMALL.output_bytes}
    exact = box.run(f"print('x' * {SMALL.output_bytes - 1})")
    assert exact.status == "ok" and not exact.truncated


def test_a_time_limit_ends_a_program_and_what_it_said_is_there(box: Sandbox) -> None:
    result = box.run("print('before')\nimport time; time.sleep(60)", timeout=0.5)
    assert (result.status, result.returncode, result.stdout) == ("timeout", -9, "before\n")


def test_memory_by_its_words_and_by_its_children(box: Sandbox) -> None:
    assert box.run("x = bytearray(10 ** 10)").status == "memory"
    assert box.run("try:\n  x = bytearray(10 ** 10)\nexcept MemoryError:\n  print('enough')").status == "ok"


def test_a_disk_that_is_full_can_be_lived_with(box: Sandbox) -> None:
    code = (
        "try:\n  open('big', 'wb').write(b'x' * (5 << 20))\nexcept OSError as error:\n  print(error.errno)\n"
        "import os; os.unlink('big')"
    )
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "27\n")


def test_files_that_are_too_many_to_return_are_counted(backend: Any) -> None:
    with Sandbox(Limits(files=10, disk_bytes=1 << 20), backend) as box:
        result = box.run("for i in range(11): open(f'f{i}', 'w').write('x')")
        assert len(result.files) == 10 and result.omitted == {"files": 1}


def test_a_file_larger_than_the_disk_does_not_come_back(box: Sandbox) -> None:
    code = "for i in range(9):\n  with open(f'f{i}', 'wb') as f: f.truncate(1 << 20)"
    result = box.run(code)
    assert sum(map(len, result.files.values())) <= SMALL.disk_bytes and result.omitted == {"files": 1}


def test_deep_folders_are_removed(backend: Any) -> None:
    with Sandbox(Limits(), backend) as box:
        result = box.run("import os\nfor _ in range(1500):\n  os.mkdir('d'); os.chdir('d')\nopen('f', 'w')")
        assert result.status in ("ok", "disk")
        assert box.run("import os; print(os.listdir())").stdout == "[]\n"


@pytest.mark.parametrize("code", [b"x = 1\0", b"x = '\xff'", "x = '\udcff'", "\ufeffprint(1", b"\xff\xfe\0"])
def test_code_that_is_not_code_is_an_error_of_the_program(box: Sandbox, code: str | bytes) -> None:
    assert box.run(code).status in ("error", "ok")


def test_ten_megabytes_of_code(backend: Any) -> None:
    with Sandbox(Limits(), backend) as box:
        code = "#" + "x" * (10 << 20) + "\nprint('here')"
        assert box.run(code).stdout == "here\n"
    with Sandbox(SMALL, backend) as box, pytest.raises(UserError, match=r"raise Limits\.disk_bytes"):
        box.run(code)


def test_a_thousand_files(backend: Any) -> None:
    with Sandbox(Limits(), backend) as box:
        given = {f"d{number % 10}/f{number}": str(number) for number in range(1000)}
        result = box.run("import os; print(sum(len(f) for _, _, f in os.walk('.')))", files=given)
        assert (result.status, result.stdout, result.files) == ("ok", "1000\n", {})


def test_a_command_that_is_not_there(box: Sandbox) -> None:
    result = box.run(["nonesuch-program"])
    assert (result.status, result.returncode, result.stderr) == (
        "error", 127, "`nonesuch-program` is not a program in the sandbox (No such file or directory)\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(timeout=0), "timeout: 0\n  expected: seconds, up to 86,400"),
        (dict(timeout=1e9), "timeout: 1000000000.0\n  expected: seconds, up to 86,400"),
        (dict(timeout=float("nan")), "timeout: nan\n  expected: seconds, up to 86,400"),
        (dict(timeout=True), "timeout: True\n  expected: seconds, up to 86,400"),
        (dict(files={"../x": "1"}), "files: '../x'\n  expected: a path below the folder, without `..`"),
        (dict(files={"/x": "1"}), "files: '/x'\n  expected: a path below the folder, without `..`"),
        (dict(files={"a/./x": "1"}), "files: 'a/./x'\n  expected: a path below the folder, without `..`"),
        (dict(files={"a\0": "1"}), "files: 'a\\x00'\n  expected: a relative path without NUL"),
        (dict(files={"x" * 300: "1"}), f"files: '{'x' * 60}'...\n  expected: names of at most 255 bytes"),
        (dict(files={"x": 5}), "files['x']: it is int\n  expected: text or bytes"),
        (dict(files={"x": "1", "x/y": "2"}), "files: 'x' is a file and a folder"),
        (dict(code_or_argv=[]), "code_or_argv: []\n  expected: Python code, or a list of strings"),
        (dict(code_or_argv=["a", 5]), "code_or_argv: ['a', 5]\n  expected: Python code, or a list of strings"),
        (dict(code_or_argv=["a\0"]), "code_or_argv: an argument has a NUL character\n  expected: arguments without it"),
        (dict(code_or_argv=None), "code_or_argv: None\n  expected: Python code, or a list of strings"),
        (dict(stdin=5), "stdin: it is int\n  expected: text or bytes"),
        (
            dict(code_or_argv=["a", "x" * 200_000]),
            "code_or_argv: the arguments are too long\n  expected: 100,000 characters at most\n"
            "  hint: give it as a file",
        ),
    ],
)
def test_what_cannot_be_run(box: Sandbox, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        box.run(**{"code_or_argv": "pass", **arguments})
    assert str(error.value) == message


def test_a_python_that_is_not_there() -> None:
    with pytest.raises(UserError) as error:
        Sandbox(python="/nonesuch/python")
    assert str(error.value) == "python: there is no Python at `/nonesuch/python`\n  expected: the path of a Python"


def test_several_threads_share_a_sandbox(box: Sandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: box.run(f"print({number})").stdout, range(12)))
    assert results == [f"{number}\n" for number in range(12)]


def test_a_sandbox_outlives_the_thread_that_used_it_first(backend: Any) -> None:
    with Sandbox(SMALL, backend) as box:
        thread = threading.Thread(target=box.run, args=("pass",))
        thread.start()
        thread.join()
        assert box.run("print(1)").stdout == "1\n"


def test_a_supervisor_that_dies_is_replaced(box: Sandbox) -> None:
    box.run("pass")
    for worker in box._workers._idle:
        os.kill(worker.session.process.pid, signal.SIGKILL)
        worker.session.process.wait()
    assert box.run("print(1)").stdout == "1\n"


def test_a_supervisor_that_dies_meanwhile_is_a_named_error(backend: Any) -> None:
    if backend == "bwrap":
        pytest.skip("nobody outside knows the supervisor's number there")
    pattern = f"qwenkit-sandbox-{os.getpid()}-*"
    before = set(Path(tempfile.gettempdir()).glob(pattern))  # of sandboxes that other tests keep
    with Sandbox(SMALL, backend) as box:
        worker_pid: list[int] = []

        def kill() -> None:
            with box._workers.one() as worker:
                worker_pid.append(worker.session.process.pid)
                timer = threading.Timer(0.3, os.kill, (worker.session.process.pid, signal.SIGKILL))
                timer.start()
                box._workers._idle.append(worker)
                box.run("import time; time.sleep(20)")

        with pytest.raises(SandboxError, match="the sandbox did not answer"):
            kill()
        end = time.monotonic() + 10  # the program may write until it is dead, too
        while set(Path(tempfile.gettempdir()).glob(pattern)) - before and time.monotonic() < end:
            time.sleep(0.1)
        assert set(Path(tempfile.gettempdir()).glob(pattern)) <= before
        assert box.run("print(1)").stdout == "1\n"


def test_closing_ends_what_waits(backend: Any) -> None:
    box = Sandbox(SMALL, backend)
    box.run("pass")
    processes = [worker.session.process for worker in box._workers._idle]
    box.close()
    assert processes and all(process.poll() is not None for process in processes)
    assert box.run("print(1)").stdout == "1\n"
    box.close()


def test_further_folders_and_variables(backend: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x").write_text("here")
    for place in [folder, *folder.parents[:3]]:
        place.chmod(0o755)
    with Sandbox(SMALL, backend, readable=[str(folder)], environment={"WHERE": str(folder)}) as box:
        code = "import os; f = os.environ['WHERE'] + '/x'; print(open(f).read())\nopen(f, 'w')"
        result = box.run(code)
    assert result.stdout == "here\n" and result.status == "error"
    assert (folder / "x").read_text() == "here"


def test_its_python_is_this_one(box: Sandbox) -> None:
    result = box.run("import sys; print(sys.prefix, sys.version_info[:3])")
    assert result.stdout == f"{sys.prefix} {sys.version_info[:3]}\n"


def test_a_copy_of_the_process_has_supervisors_of_its_own(box: Sandbox) -> None:
    box.run("pass")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if box.run("print(1)").stdout == "1\n" and not box._workers.close() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert box.run("print(2)").stdout == "2\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_the_host_ignores_is_not_ignored_by_a_program(backend: Any, number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Sandbox(SMALL, backend) as box:
            result = box.run(["sh", "-c", f"kill -{number} $$; echo still here"])
    finally:
        signal.signal(number, before)
    assert (result.status, result.stdout) == ("killed", "")


def test_an_interrupt_ends_the_program(backend: Any) -> None:
    code = (
        "import signal, sys, threading, os\nfrom qwenkit.sandbox import Sandbox\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what starts in the background ignores it
        f"box = Sandbox(backend={backend!r})\nbox.run('pass')\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n  box.run('import time; time.sleep(30)', timeout=60)\n"
        "except KeyboardInterrupt:\n  print('interrupted')\n"
        "print(box.run('print(1)').stdout)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == ["interrupted", "1"], done.stderr


def test_a_host_that_is_killed_leaves_nothing(backend: Any) -> None:
    code = (
        "import os, sys\nfrom qwenkit.sandbox import Sandbox\n"
        f"box = Sandbox(backend={backend!r})\nprint(os.getpid(), flush=True)\n"
        "code = 'import os, time\\nfor _ in range(3):\\n  if os.fork() == 0: os.setsid()\\ntime.sleep(55.5)'\n"
        "box.run(code, timeout=60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert host.stdout and host.stdout.readline()
    pids: list[int] = []
    for _ in range(100):
        pids = descendants(host.pid)
        if len(pids) > 5:
            break
        time.sleep(0.1)
    host.kill()
    host.wait()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            break
        time.sleep(0.1)
    assert pids and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list(Path(tempfile.gettempdir()).glob(f"qwenkit-sandbox-{host.pid}-*"))
    host.stdout.close()


def descendants(pid: int) -> list[int]:
    """Return a process's children and theirs."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(word) for word in text.split()]
    return children + [below for child in children for below in descendants(child)]


def test_a_program_is_stopped_from_outside(box: Sandbox) -> None:
    running = box.start("import time; print('here'); time.sleep(60)", timeout=80)
    threading.Timer(0.5, running.stop).start()
    result = running.result()
    assert (result.status, result.returncode, result.seconds < 30) == ("killed", -9, True)
    early = box.start("import time; time.sleep(60)", timeout=80)
    early.stop()
    assert early.result().status == "killed"
    assert box.run("print(1)").stdout == "1\n"


def test_a_folder_is_shared_and_served_in(backend: Any) -> None:
    server = (
        "import os, socket, sys\nserver = socket.socket(socket.AF_UNIX)\nserver.bind(sys.argv[1])\nserver.listen()\n"
        "os.chmod(sys.argv[1], 0o777) if len(sys.argv) > 2 else None\n"
        "peer = server.accept()[0]\npeer.sendall(peer.recv(100)[::-1])\npeer.close()\n"
        "for family in (socket.AF_INET, socket.AF_NETLINK):\n"
        "  try: socket.socket(family, 3 if family != socket.AF_INET else 1); print('ESCAPED')\n"
        "  except OSError: pass\n"
        "try: socket.socket(socket.AF_UNIX).bind('\\0abstract'); print('ESCAPED' if len(sys.argv) > 3 else '')\n"
        "except OSError: pass\n"
    )
    with tempfile.TemporaryDirectory(prefix="qwenkit-shared-") as folder:
        with Sandbox(SMALL, backend, shared=folder) as box, ThreadPoolExecutor(1) as pool:
            path = f"{folder}/s"
            argv = [box.setup.python, "-c", server, path]
            future = pool.submit(box.start(argv, timeout=30).result)
            for _ in range(200):
                if os.path.exists(path):
                    break
                time.sleep(0.05)
            with socket.socket(socket.AF_UNIX) as client:
                for _ in range(100):
                    try:
                        client.connect(path)
                        break
                    except ConnectionRefusedError:  # it is bound, and does not listen yet
                        time.sleep(0.05)
                client.sendall(b"abc")
                assert client.recv(100) == b"cba"
            result = future.result()
        assert (result.status, result.stdout.strip()) == ("ok", ""), result.stderr


def test_a_file_that_was_cut_without_a_word_is_a_limit(backend: Any) -> None:
    """Python reports nothing where a file that nobody closes cannot be written at its end."""
    with Sandbox(Limits(file_bytes=10), backend) as box:
        assert box.run("open('a', 'w').write('x' * 10)").status == "ok"
        assert box.run("open('a', 'w').write('x' * 11)").status == "disk"
        assert box.run("pass", files={"given": "x" * 100}).status == "ok"
