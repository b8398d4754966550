"""How a server runs: where it listens, whom it answers, and every limit.

    ServerSettings(port=8000, keyring=read_key_file(path), limits=Limits(max_queue=64))

Each limit has a default that a small machine survives, and a flag of `qwenkit serve` that changes it; SECURITY.md lists
what is refused where one is passed. Sizes are in bytes, times in seconds, lengths in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from qwenkit.errors import UserError
from qwenkit.serving.keys import Keyring

MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, one client and all of them together may take."""

    body_bytes: int = 8 * MEGABYTE
    """The body of one request."""
    all_body_bytes: int = 64 * MEGABYTE
    """The bodies of all requests that are being read or answered."""
    header_bytes: int = 16 * 1024
    """The first line (so the URL) and all header fields of one request."""
    answers: int = 128
    """Answers of one request: prompts times `n`."""
    connections: int = 1024
    max_queue: int = 256
    """Requests of one model that have no token yet."""
    body_seconds: float = 30.0
    """How long the body of a request may take to arrive."""
    send_seconds: float = 30.0
    """How long a client may take nothing of an answer that waits for it."""
    idle_seconds: float = 75.0
    """How long a connection may be open without a complete request."""
    request_seconds: float = 600.0
    """How long a request may take, from its arrival to its last token."""
    load_seconds: float = 600.0
    """How long a request waits for its model to be loaded."""
    drain_seconds: float = 30.0
    """How long open requests have when the server is told to end."""

    def __post_init__(self) -> None:
        """Raise a `UserError` for a limit that lets nothing pass, and for one that is none."""
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise UserError(f"{name} = {value}", where="limits of the server", expected="a number above 0")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens, and whom it answers."""

    host: str = "127.0.0.1"
    port: int = 8000
    unix_socket: Path | None = None
    """A socket in the file system, for its owner alone, in place of host and port."""
    keyring: Keyring = field(default_factory=Keyring)
    """The keys; without any, everybody who reaches the server may ask."""
    origins: tuple[str, ...] = ()
    """Pages of other sites that may ask from a browser (CORS), such as `https://chat.example.org`; `*`: all."""
    hosts: tuple[str, ...] = ()
    """Names by which the server may be asked besides its addresses; `*`: any."""
    allow_public_without_key: bool = False
    allow_failed_certificate: bool = False
    """Serve a model whose outputs are not those that its certificate tells."""
    adapters_from: Path | None = None
    """The folder whose adapters clients may load while the server runs, by keys that may (`load_adapters`)."""
    page: bool = False
    """Serve the chat page at `/ui/` (the extra `ui`)."""
    log_texts: bool = False
    """Write prompts and answers into the log."""
    limits: Limits = field(default_factory=Limits)
