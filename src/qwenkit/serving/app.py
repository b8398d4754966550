"""The application: from HTTP to the codecs and the engines, and back.

    app = make_app(catalog, ServerSettings(), RequestLog(sys.stderr))        # for any ASGI server

| path                       | what it answers                                                               |
| -------------------------- | ----------------------------------------------------------------------------- |
| `/v1/chat/completions`     | OpenAI's chat completions                                                     |
| `/v1/completions`          | OpenAI's completions, with `suffix`                                           |
| `/v1/responses`            | OpenAI's responses, without state                                             |
| `/v1/messages`             | Anthropic's messages; `/v1/messages/count_tokens` counts what they would read |
| `/v1/embeddings`           | a vector for each text                                                        |
| `/v1/models`               | the models by their names                                                     |
| `/v1/load_lora_adapter`    | one more adapter, and `/v1/unload_lora_adapter`, where the server lets anybody |
| `/tokenize`, `/detokenize` | texts and token ids, as vLLM has them                                         |
| `/health`, `/ready`        | whether the server lives, and whether its first model answers; without a key  |
| `/metrics`                 | figures for Prometheus                                                        |

A route is thin: it parses by its codec, has `answering.py` submit, and sends what the codec makes of the events. Whom
the server answers at all is `front.py`'s affair. Codecs may be exchanged (`codecs`), as tests do.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from qwenkit import __version__
from qwenkit.serving.adapter_routes import add_adapter_routes
from qwenkit.serving.answering import Answer, Services, begin
from qwenkit.serving.front import Front, Receive, Scope, Send
from qwenkit.serving.limits import Usage
from qwenkit.serving.log import RequestLog
from qwenkit.serving.metrics import CONTENT_TYPE, ServerMetrics
from qwenkit.serving.models import ModelCatalog
from qwenkit.serving.openapi import document
from qwenkit.serving.reading import fields_of, new_id, no_such_path, parsed, written
from qwenkit.serving.refusals import Kind, Refusal, Refused
from qwenkit.serving.request import Event, Events, Failed, GenerationRequest, Reply
from qwenkit.serving.routes import add_routes
from qwenkit.serving.settings import ServerSettings
from qwenkit.serving.visit import Visit

ALIVE = ": alive\n\n"
"""A comment of an event stream, which clients pass over."""
_KINDS: dict[int, Kind] = {405: "method"}


class Codec(Protocol):
    """One API: a module of `serving/faces`."""

    def parse(self, body: bytes) -> GenerationRequest:
        """Return what a body asks; raises `Refused`."""
        ...

    def whole(self, request: GenerationRequest, reply: Reply, events: Events) -> Mapping[str, Any]:
        """Return the complete response."""
        ...

    @property
    def Stream(self) -> Callable[[GenerationRequest, Reply], StreamCodec]:
        """Return what makes the frames of one answer."""
        ...

    def error(self, refusal: Refusal) -> tuple[int, Mapping[str, Any]]:
        """Return the status and the body of a refusal."""
        ...


class StreamCodec(Protocol):
    """The server-sent events of one answer."""

    def push(self, events: Events) -> Sequence[str]:
        """Return the frames for these events."""
        ...


def make_app(
    catalog: ModelCatalog,
    settings: ServerSettings,
    log: RequestLog | None = None,
    codecs: Mapping[str, Codec] | None = None,
) -> FastAPI:
    """Return the application for these models; `codecs` are those of the paths that generate."""
    if codecs is None:
        from qwenkit.serving.codecs import CODECS as codecs
    services, log = Services(catalog, settings, Usage(), ServerMetrics()), log or RequestLog(None)
    catalog.on_load = partial(_tell_load, log, services.metrics)
    app = FastAPI(title="qwenkit", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    for path, codec in codecs.items():
        app.add_api_route(path, _generating(codec, services), methods=["POST"], name=path)
    add_routes(app, services)
    if settings.adapters_from is not None:
        add_adapter_routes(app, services, settings.adapters_from)
    _add_state_routes(app, services)
    app.openapi = partial(document, codecs, not settings.keyring.is_open)
    if settings.page:
        from qwenkit.serving.page.mount import add_page

        app.state.sessions = add_page(app, services, log)
    app.add_exception_handler(HTTPException, _refuse)
    names = {path: _face_name(codec) for path, codec in codecs.items()}
    forms = _Forms(codecs)
    app.add_middleware(
        Front, settings=settings, error_form=forms, metrics=services.metrics, log=log,
        usage=services.usage, faces=names,
    )  # type: ignore[arg-type]  # fmt: skip
    return app


def _face_name(codec: Codec) -> str:
    return getattr(codec, "__name__", type(codec).__name__).rpartition(".")[2]


class _Forms:
    """Writes a refusal in the form of the API whose path was asked; elsewhere in OpenAI's."""

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self._codecs = codecs

    def __call__(self, path: str, refusal: Refusal) -> tuple[int, object]:
        own = [codec for at, codec in self._codecs.items() if path == at or path.startswith(f"{at}/")]
        return (own or list(self._codecs.values()))[0].error(refusal)


def _tell_load(log: RequestLog, metrics: ServerMetrics, name: str, seconds: float, error: BaseException | None) -> None:
    """Write down that a model was loaded, or why it was not."""
    metrics.loads.add(1, model=name, result="loaded" if error is None else "failed")
    log.write("load", model=name, seconds=seconds, error=None if error is None else str(error) or type(error).__name__)


async def _refuse(request: Request, error: Exception) -> Response:
    """Have the front refuse what the framework refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise no_such_path(request)
    kind = _KINDS.get(error.status_code, "invalid")
    allowed = (error.headers or {}).get("Allow")
    what = f"{request.method} is not for this path"
    raise Refused(Refusal(kind, what, None, allowed, code="method_not_allowed"))


# ---- answers --------------------------------------------------------------------------------------------------------


def _generating(codec: Codec, services: Services) -> Callable[[Request], Any]:
    """Return the route of an API that generates."""

    async def generate(request: Request) -> Response:
        visit: Visit = request.state.visit
        asked = await parsed(codec.parse, visit.body)
        answer = await begin(asked, visit, services)
        reply = Reply(id=new_id(visit), created=int(time.time()), model=answer.model.name)
        if asked.stream:
            return EventStream(_frames(codec, answer, reply), fields_of(asked.ignored))
        events: list[Event] = [event async for events in answer.events() for event in events]
        if isinstance(events[-1], Failed):
            raise Refused(events[-1].refusal)
        numbers = visit.generated_tokens * (1 + (asked.top_logprobs or 0))
        body = await written(partial(codec.whole, asked, reply, events), numbers)
        return Response(body, media_type="application/json", headers=fields_of(asked.ignored))

    return generate


async def _frames(codec: Codec, answer: Answer, reply: Reply) -> AsyncIterator[str]:
    """Yield the frames of an answer; its end, also a bad one, is told in the API's own way."""
    stream = codec.Stream(answer.request, reply)
    async for events in answer.events():
        if events and isinstance(events[-1], Failed):
            answer.visit.error = events[-1].refusal.code
        if frames := "".join(stream.push(events)) if events else ALIVE:
            yield frames


class EventStream(Response):
    """A stream of server-sent events. What they are made from is given back with the visit, not here."""

    def __init__(self, frames: AsyncIterator[str], headers: Mapping[str, str]) -> None:
        """Send frames as they come; a proxy is asked not to collect them."""
        super().__init__(None, 200, {"x-accel-buffering": "no", **headers})
        self.raw_headers = [field for field in self.raw_headers if field[0] != b"content-length"]
        self.raw_headers.append((b"content-type", b"text/event-stream; charset=utf-8"))
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all frames, then the end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for text in self._frames:
            await send({"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


# ---- the server itself ----------------------------------------------------------------------------------------------


def _add_state_routes(app: FastAPI, services: Services) -> None:
    """Add what tells how the server is."""
    catalog = services.catalog

    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        catalog.recover()
        state = catalog.state
        headers = {} if state == "ready" else {"retry-after": "1"}
        return JSONResponse({"status": state}, 200 if state == "ready" else 503, headers)

    async def metrics() -> Response:
        return PlainTextResponse(services.metrics.text(catalog.stats()), media_type=CONTENT_TYPE)

    for path, route in (("/health", health), ("/ready", ready), ("/metrics", metrics)):
        app.add_api_route(path, route, methods=["GET", "HEAD"], name=path)
