"""One HTTP request on its way through the server: who asks, under which id, what has become of it so far.

    visit = Visit.begin(scope)                   # raises Refused for an id that is none
    visit.stack                                  # what is given back when the request ends, however it ends
    visit.log_line()

A client may name a request (`X-Request-Id`), so that its log and the server's can be read together; else it gets a
name. The name is in every response, and two requests of one client that are open have two names.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from qwenkit.serving.keys import Client
from qwenkit.serving.page.key_form import key_of
from qwenkit.serving.refusals import Refusal, Refused

Scope = MutableMapping[str, Any]
PAGE = "/ui"
"""Where the chat page is, on a server that has one; all below it belongs to the page."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


@dataclass(eq=False)
class Visit:
    """A request, and what the log and the figures say of it at its end."""

    method: str
    path: str
    headers: dict[str, str]
    """By names in lower case; of one that came twice the last."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    client: Client | None = None
    body: bytes = b""
    is_read: bool = False
    """The whole body has come."""
    face: str = "other"
    """The interface that answers: one of the server's own names."""
    model: str | None = None
    user: str | None = None
    """The client's name of its own user."""
    status: int | None = None
    error: str | None = None
    """The code of what was refused or failed."""
    fault: str | None = None
    """What has failed inside, for the log alone."""
    left: bool = False
    """The client has closed the connection before its answer was complete."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    first_token_seconds: float | None = None
    last_token_seconds: float | None = None
    """The last one that has come so far; both since the request came."""
    texts: dict[str, object] = field(default_factory=dict[str, object])
    """Prompt and answer, where the log has texts."""

    @classmethod
    def begin(cls, scope: Scope) -> Visit:
        """Return the visit of an ASGI request."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        return cls(scope["method"], scope["path"], headers)

    def take_id(self) -> None:
        """Take over the name that the client gives; raises `Refused` for one that no log could hold."""
        given = self.headers.get("x-request-id")
        if given is None:
            return
        if not _ID.fullmatch(given):
            raise Refused(
                Refusal(
                    "invalid",
                    "the request's id is not one",
                    "X-Request-Id",
                    "1 to 128 letters, digits and . _ : / + = @ -",
                    code="invalid_request_id",
                )
            )
        self.id = given

    def check_length(self) -> None:
        """Raise `Refused` for a body whose length is said twice: a proxy in front may have believed the other one, and
        what it took for a body would be the next request here (RFC 9112, 6.3)."""
        if "transfer-encoding" in self.headers and "content-length" in self.headers:
            raise Refused(Refusal("invalid", "stands beside Content-Length", "Transfer-Encoding", "one of the two",
                                  code="two_lengths"))  # fmt: skip

    @property
    def leaves_body(self) -> bool:
        """Return whether a body may come that nobody has read."""
        announced = self.headers.get("content-length", "0").strip("0 ") or "transfer-encoding" in self.headers
        return not self.is_read and (self.method == "POST" or bool(announced))

    @property
    def is_page(self) -> bool:
        """Return whether the request is for the chat page or something below it."""
        return self.path.startswith(f"{PAGE}/")

    @property
    def host(self) -> str | None:
        """Return the name by which the server is asked."""
        return self.headers.get("host")

    @property
    def origin(self) -> str | None:
        """Return the page that asks, where a browser says so."""
        return self.headers.get("origin")

    @property
    def presented_key(self) -> str | None:
        """Return the key that the request carries, in the way of OpenAI's clients or in that of Anthropic's; below the
        page its cookie alone, which opens nothing else."""
        if self.is_page:
            return key_of(self.headers.get("cookie"))
        scheme, _, secret = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secret.strip():
            return secret.strip()
        return self.headers.get("x-api-key")

    @property
    def seconds(self) -> float:
        """Return how long the request has been here."""
        return time.monotonic() - self.started

    def log_line(self) -> dict[str, object]:
        """Return what the log says of the request, without texts."""
        return {
            "id": self.id, "key": self.client and self.client.name, "method": self.method, "path": self.path,
            "face": self.face, "model": self.model, "user": self.user,
            "status": self.status, "error": self.error, "fault": self.fault,
            "left": self.left or None, "prompt_tokens": self.prompt_tokens or None,
            "cached_tokens": self.cached_tokens or None, "generated_tokens": self.generated_tokens or None,
            "first_token_seconds": self.first_token_seconds, "seconds": self.seconds,
        }  # fmt: skip
