"""The gate: both ways, no further than it may, and to a socket that does not listen yet."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from qwenkit.agents.byte_gate import ByteGate

LIMIT = 10.0


def received(side: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += side.recv(count - len(data))
    return data


def test_bytes_go_both_ways_and_no_further_than_they_may(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as kernel, socket.socket(socket.AF_UNIX) as own:
        kernel.bind(str(tmp_path / "k"))
        descriptor = os.open(tmp_path / "k", os.O_PATH)
        gate = ByteGate(descriptor, str(tmp_path / "own"), most=1000)
        time.sleep(0.1)  # it is refused until the kernel listens
        kernel.listen()
        own.settimeout(LIMIT)
        own.connect(str(tmp_path / "own"))
        peer, _ = kernel.accept()
        with peer:
            own.sendall(b"asked")
            assert received(peer, 5) == b"asked"
            peer.sendall(b"x" * 1000)
            assert received(own, 1000) == b"x" * 1000
            peer.sendall(b"more")
            own.settimeout(0.3)
            with pytest.raises(TimeoutError):
                own.recv(1)
            own.settimeout(LIMIT)
            gate.release(1000)
            assert received(own, 4) == b"more"
            gate.close()
        os.close(descriptor)
