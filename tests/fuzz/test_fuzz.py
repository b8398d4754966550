"""Every reader over changed files: it reads, or says what is wrong; it never raises anything else, hangs or dies.

In the suite a few hundred files a reader, in this process; `make soak` reads thousands in forked children and hundreds
through the command line. A file that breaks a reader is kept and named. Seeds are fixed: N of the name makes it again.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest

from qwenkit.errors import QwenkitError
from tests.fuzz.readers import READERS, Reader

FAST = int(os.environ.get("QWENKIT_FUZZ", "200"))
SECONDS, COMMAND_SECONDS, BATCH, MEMORY_BYTES = 60, 120, 250, 8 << 30


def _changed(reader: Reader, folder: Path, healthy: bytes, name: str, number: int) -> bytes:
    data = reader.change(random.Random(f"{name} {number}"), healthy)
    (folder / reader.file).write_bytes(data)
    return data


def _keep(data: bytes, name: str, number: int, reader: Reader) -> Path:
    kept = Path(os.environ.get("QWENKIT_FUZZ_KEPT", "/tmp/qwenkit-fuzz")) / f"{name.replace(' ', '-')}-{number}"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / Path(reader.file).name).write_bytes(data)
    return kept


def _fault(reader: Reader, folder: Path) -> str:
    """What a reader did that none may do; empty where it read or refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.call(folder)
    except QwenkitError:
        return ""
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        own = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "qwenkit" in f.filename), at)
        return f"{type(error).__name__} at {Path(own.filename).name}:{own.lineno}: {str(error)[:120]}"
    return ""


def _healthy(name: str, folder: Path) -> tuple[Reader, bytes]:
    reader = READERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    reader.make(folder)
    assert _fault(reader, folder) == ""
    return reader, (folder / reader.file).read_bytes()


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    reader, healthy = _healthy(name, tmp_path)
    share = {"config": 3, "generation_config": 4, "safetensors": 3, "checkpoint": 2, "tokenizer_config": 2}.get(name, 1)
    faults = []
    for number in range(FAST // share):
        data = _changed(reader, tmp_path, healthy, name, number)
        if fault := _fault(reader, tmp_path):
            faults.append(f"{_keep(data, name, number, reader)}: {fault}")
    assert not faults, "\n".join(faults)


def _child(reader: Reader, folder: Path, healthy: bytes, name: str, numbers: range, log: Path) -> None:
    """Read a batch in a fork, with limits of its own; the log says how far it came and what went wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with log.open("a") as out:
        for number in numbers:
            _changed(reader, folder, healthy, name, number)
            out.write(f"{number} ")
            out.flush()
            signal.alarm(SECONDS)  # nobody handles it: it ends the process
            fault = _fault(reader, folder)
            signal.alarm(0)
            out.write(f"{fault}\n")
    os._exit(0)


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_changed_files(name: str, tmp_path: Path) -> None:
    reader, healthy = _healthy(name, tmp_path / "m")
    count, number, faults = int(os.environ.get("QWENKIT_FUZZ_SOAK", "20000")), 0, []
    while number < count:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            try:
                _child(reader, tmp_path / "m", healthy, name, range(number, min(count, number + BATCH)), log)
            finally:
                os._exit(9)
        status = os.waitpid(pid, 0)[1]
        rows = [line.partition(" ") for line in log.read_text().splitlines()]
        faults += [(int(at), fault) for at, _, fault in rows if fault]
        if status != 0:
            faults.append((int(rows[-1][0]), f"it ended with status {status}: a signal, a hang, or all memory"))
        number = int(rows[-1][0]) + 1
    told = [f"{_keep(_changed(reader, tmp_path / 'm', healthy, name, n), name, n, reader)}: {f}" for n, f in faults]
    assert not told, "\n".join(told)


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.command])
def test_changed_files_through_the_command_line(name: str, tmp_path: Path) -> None:
    reader, healthy = _healthy(name, tmp_path / "m")
    (tmp_path / "m" / "text.jsonl").write_text('{"id": "a", "text": "some text"}\n')
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    faults = []
    for number in range(int(os.environ.get("QWENKIT_FUZZ_COMMANDS", "200"))):
        data = _changed(reader, tmp_path / "m", healthy, name, number)
        command = [sys.executable, "-m", "qwenkit.cli", *reader.command.format(tmp_path / "m").split()]
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, env=environment, cwd=tmp_path)
            fault = (
                "" if done.returncode in (0, 1, 2) and b"Traceback" not in done.stderr else done.stderr.decode()[-300:]
            )
        except subprocess.TimeoutExpired:
            fault = f"it hung for {time.monotonic() - start:.0f} seconds"
        if fault:
            faults.append(f"{_keep(data, name, number, reader)}: {fault}")
    assert not faults, "\n".join(faults)
