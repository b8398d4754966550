"""Who may reach a server: the address it listens on, the name it is asked by, the page that asks.

    check_exposure(settings)                     # before it starts: a public address wants keys
    gate = Gate(settings)
    gate.check_host("localhost:8000")            # raises Refused
    gate.check_origin("https://example.org", "localhost:8000")
    gate.cors_headers(origin)

**DNS rebinding.** A page from anywhere may name this machine's address by a name of its own, and a browser then lets
it ask as if the server were its own. Such a request carries that name as its Host. So a server is answered under
addresses, `localhost`, its `host` and the names it was told (`hosts`), and under no other.

**Other sites.** A browser sends the page's origin. Pages of this server itself may ask, and those that it was told
(`origins`); others are refused, before anything is computed, even where the browser would only hide the answer.
Credentials are never allowed to other origins: a key is sent by the page that has one, not by the browser.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from qwenkit.errors import UserError
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.settings import ServerSettings

_DEFAULT_PORTS = {"http": 80, "https": 443}
_METHODS = "GET, POST, OPTIONS"
_HOST = re.compile(r"[a-z0-9_.:-]+")
_FIELDS = re.compile(r"[A-Za-z0-9_-]+(\s*,\s*[A-Za-z0-9_-]+)*")
_SENT = "Authorization, Content-Type, X-Api-Key, X-Request-Id, Anthropic-Version, Anthropic-Beta, Retry-After"


def check_exposure(settings: ServerSettings) -> None:
    """Raise a `UserError` for a server that anybody on the network could use, or give adapters to, and for names that
    no request has."""
    _check_names(settings)
    if settings.adapters_from is not None and settings.keyring.is_open:
        raise UserError("without a key everybody who reaches the server could load adapters",
                        where=f"--adapters-from {settings.adapters_from}",
                        expected="--api-key-file FILE, or QWENKIT_API_KEY in the environment")  # fmt: skip
    if settings.unix_socket is not None or is_loopback(settings.host):
        return
    if settings.keyring.is_open and not settings.allow_public_without_key:
        raise UserError(
            "without a key everybody on the network may ask this server",
            where=f"--host {settings.host}",
            expected="--api-key-file FILE, or QWENKIT_API_KEY in the environment",
            hint="--host 127.0.0.1 is for this machine alone; --allow-public-without-key is for everybody",
        )


def _check_names(settings: ServerSettings) -> None:
    """Raise a `UserError` for a name or an origin that would never be one of a request."""
    for name in settings.hosts:
        host, port = split_host(name)
        if name != "*" and (not _HOST.fullmatch(host) or port is not None):
            raise UserError("no request names the server like this", where=f"--allow-host {name}",
                            expected="a name without scheme and port, such as api.example.org; or *")  # fmt: skip
    for origin in settings.origins:
        if origin not in ("*", "null") and not _is_origin(origin):
            raise UserError("no page has this origin", where=f"--allow-origin {origin}",
                            expected="scheme and name, such as https://chat.example.org; or *")  # fmt: skip


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text.rstrip("/"))
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname) and not (parts.path or parts.query or parts.fragment)


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's alone."""
    address = as_address(host)
    return host == "localhost" if address is None else address.is_loopback


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host that is an address, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def split_host(header: str) -> tuple[str, int | None]:
    """Return the host (lower case, an IPv6 address without brackets) and the port of a Host header, ("", None) for one
    that is none."""
    try:
        parts = urlsplit(f"//{header}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    rest = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    return ("", None) if rest or not header.isascii() else (host.rstrip("."), port)


class Gate:
    """Compares what a request says of itself with what the server was told."""

    def __init__(self, settings: ServerSettings) -> None:
        """Keep the names and origins that are allowed."""
        self.any_host, self.any_origin = "*" in settings.hosts, "*" in settings.origins
        self._hosts = {"localhost", settings.host.lower(), *(split_host(name)[0] for name in settings.hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.origins}

    def check_host(self, header: str | None) -> None:
        """Raise `Refused` for a request that names the server by a name that is not its own."""
        if self.any_host:
            return
        host, _ = split_host(header or "")
        if not host or (host not in self._hosts and as_address(host) is None):
            what = f"this server is not called {shortened(header)}" if header else "the request names no host"
            raise _forbidden("host_not_allowed", what,
                             "its address, localhost, or a name that it was told", "--allow-host NAME")  # fmt: skip

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """Raise `Refused` for a page of another site."""
        if origin is None or self.allows(origin) or _same_site(origin, host or ""):
            return
        raise _forbidden("origin_not_allowed", f"pages of {shortened(origin)} may not ask this server",
                         "a page of its own, or of an origin that it was told", "--allow-origin ORIGIN")  # fmt: skip

    def allows(self, origin: str) -> bool:
        """Return whether an origin is among those that the server was told."""
        return self.any_origin or origin.lower() in self._origins

    def cors_headers(
        self, origin: str | None, preflight: bool = False, wanted: str | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the header fields by which a browser lets a page read the answer; none for an origin that is not
        allowed. `wanted` are the fields that the page would send: a page that may ask may send any."""
        if origin is None or not self.allows(origin):
            return []
        allowed = "*" if self.any_origin else origin
        fields = [("access-control-allow-origin", allowed), ("vary", "Origin")]
        fields += [("access-control-expose-headers", "X-Request-Id, Retry-After, X-Ignored-Fields")]
        if preflight:
            sent = wanted if wanted is not None and _FIELDS.fullmatch(wanted) else _SENT
            fields += [("access-control-allow-methods", _METHODS), ("access-control-allow-headers", sent)]
            fields += [("access-control-max-age", "600")]
        return [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields]


def _forbidden(code: str, what: str, expected: str, flag: str) -> Refused:
    """Return the refusal that a flag of `qwenkit serve` lifts."""
    return Refused(Refusal("forbidden", what, expected=expected, hint=f"start the server with {flag}", code=code))


def _same_site(origin: str, host: str) -> bool:
    """Return whether a page's origin is this server under the name it is asked by; `null` is nobody's."""
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    name, given = split_host(host)
    return (
        bool(name)
        and (parts.hostname or "").rstrip(".") == name
        and port == (given or _DEFAULT_PORTS.get(parts.scheme))
    )


def shortened(text: str | None) -> str:
    """Return what a client sent, for a message to that client."""
    return "" if text is None else text if len(text) <= 80 else f"{text[:77]}..."
