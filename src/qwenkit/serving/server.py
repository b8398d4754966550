"""Runs the application: the socket, the start, the signals, the end.

    code = run(app, catalog, settings, ready=lambda model, address: print(model.name, address))

The socket is taken before anything is loaded, so a port in use is told at once. The server listens while the first
model is loaded: `/health` answers, `/ready` says that it is not. SIGTERM or Ctrl-C end it in order: no more requests
are taken, those that are open have `drain_seconds`, then the engines are stopped; a second Ctrl-C ends it at once. A
model that is being loaded is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from qwenkit.errors import DONE, UserError
from qwenkit.serving.connection import BoundedConnection, reserve_descriptors
from qwenkit.serving.guard import check_exposure
from qwenkit.serving.models import ModelCatalog
from qwenkit.serving.served_model import ServedModel
from qwenkit.serving.settings import Limits, ServerSettings

BACKLOG = 512
LAST_SECONDS = 5.0
"""How long requests that were ended have to say so, before their connections are cut."""
_STARTS = 0.05


def run(
    app: Any, catalog: ModelCatalog, settings: ServerSettings, ready: Callable[[ServedModel, str], None],
    listening: Callable[[str], None] = lambda address: None,
) -> int:  # fmt: skip
    """Serve until a signal comes; return the exit code. `listening` hears of the address as soon as it answers, `ready`
    when the first model is loaded.

    Raises a `UserError` for an address that cannot be had, one that is public without a key, and a first model that
    cannot be loaded."""
    check_exposure(settings)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it would tell of every client that leaves
    sock = listen(settings)
    address = address_of(sock, settings)
    try:
        return asyncio.run(_serve(app, catalog, settings, sock, address, ready, listening))
    finally:
        sock.close()
        if settings.unix_socket is not None:
            with contextlib.suppress(OSError):
                settings.unix_socket.unlink()


async def _serve(
    app: Any, catalog: ModelCatalog, settings: ServerSettings, sock: socket.socket, address: str,
    ready: Callable[[ServedModel, str], None], listening: Callable[[str], None],
) -> int:  # fmt: skip
    server = DrainingServer(configuration(app, settings.limits), catalog)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    loading = asyncio.create_task(_load_first(server, catalog))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(_STARTS)
        listening(address)
        await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not loading.cancelled() and loading.exception() is None:
            ready(loading.result(), address)
        await serving
        if loading.done() and not loading.cancelled() and (error := loading.exception()) is not None:
            raise error
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await catalog.stop()
    return DONE


async def _load_first(server: DrainingServer, catalog: ModelCatalog) -> ServedModel:
    """Load the first model; end the server where that fails."""
    try:
        return await catalog.load(catalog.entries[0])
    except BaseException:
        server.should_exit = True
        raise


def configuration(app: Any, limits: Limits) -> uvicorn.Config:
    """Return how uvicorn runs: HTTP/1.1 alone, within the limits, without a log or headers of its own."""
    limits = replace(limits, connections=reserve_descriptors(limits.connections, BACKLOG))
    protocol = type("Connection", (BoundedConnection,), {"limits": limits})
    return uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", log_config=None, log_level="error", access_log=False,
        server_header=False, proxy_headers=False, backlog=BACKLOG,
        h11_max_incomplete_event_size=limits.header_bytes, timeout_keep_alive=int(max(1, limits.idle_seconds)),
        timeout_graceful_shutdown=math.ceil(limits.drain_seconds + LAST_SECONDS),
    )  # fmt: skip


class DrainingServer(uvicorn.Server):
    """A server that tells its models to end, and whose end by a signal is an ordinary end."""

    def __init__(self, config: uvicorn.Config, catalog: ModelCatalog) -> None:
        super().__init__(config)
        self._catalog = catalog

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let open requests end within their time; then end what they wait for, so that each client is told."""
        self._catalog.give_up_loads()
        ending = asyncio.create_task(self._end_models())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def _end_models(self) -> None:
        await asyncio.sleep((self.config.timeout_graceful_shutdown or 0) - LAST_SECONDS)
        _tell_nothing()  # who is cut off later than this has had both times
        await self._catalog.stop(LAST_SECONDS / 2)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order; at once where Ctrl-C comes again."""
        self._catalog.drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        if self.force_exit:
            _tell_nothing()
        self.should_exit = True


def _tell_nothing() -> None:
    """Have uvicorn show no traceback of requests that are cancelled."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that the server will answer at; raises a `UserError` where it cannot be had."""
    if settings.unix_socket is not None:
        return _listen_unix(settings.unix_socket)
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"this address is not known ({_reason(error)})", where=f"--host {settings.host}",
                        expected="an address or a name of this machine") from error  # fmt: skip
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {settings.port} is in use", where=where, expected="a free port",
                            hint=f"--port {settings.port + 1}, or end the program that has it") from error  # fmt: skip
        raise UserError(f"this address cannot be had ({_reason(error)})", where=where) from error
    return sock


def _listen_unix(path: Path) -> socket.socket:
    """Return a socket in the file system that its owner alone may use; one that nobody answers at is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UserError("this is not a socket", where=str(path), expected="a path that is free")
        if _answers(path):
            raise UserError("this socket is in use", where=str(path), expected="a path that is free")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise UserError(f"this socket cannot be made ({_reason(error)})", where=str(path)) from error
    finally:
        os.umask(mask)
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        return sock.connect_ex(str(path)) == 0


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def address_of(sock: socket.socket, settings: ServerSettings) -> str:
    """Return the address that clients ask, such as `http://127.0.0.1:8000`."""
    if settings.unix_socket is not None:
        return f"unix:{settings.unix_socket}"
    port = sock.getsockname()[1]
    return f"http://[{settings.host}]:{port}" if ":" in settings.host else f"http://{settings.host}:{port}"
