"""Puts the page on the server: `/ui/`, its form for a key, its files, and gradio behind its gate.

    add_page(app, services, log)             # `qwenkit serve --ui`; needs the extra `ui`

| path                        | what it is                                                     |
| --------------------------- | -------------------------------------------------------------- |
| `/`, `/ui`                  | lead to the page                                               |
| `/ui/`                      | the page; without a key that is known, the form that asks one  |
| `/ui/key`                   | takes the form's key, and gives it back as a cookie            |
| `/ui/page.js`, `page.css`   | the page's own script and style                                |
| `/ui/export/NAME.json`      | the conversation of an open page; `.md` as Markdown            |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from qwenkit.serving.answering import Services, client_of
from qwenkit.serving.front import place_of
from qwenkit.serving.log import RequestLog
from qwenkit.serving.page import transcript
from qwenkit.serving.page.gate import POLICY, PageGate
from qwenkit.serving.page.key_form import cookie, form_page, key_in_form
from qwenkit.serving.page.sessions import Sessions
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.visit import PAGE, Visit

_HERE = Path(__file__).parent
_FILES = {"page.js": "text/javascript", "page.css": "text/css", "key.css": "text/css"}
_POLICY = {"content-security-policy": POLICY, "referrer-policy": "same-origin"}
"""Without a referrer of its own a form would come from the origin `null`, which the server refuses."""
MOST_STATES = 256
"""Pages of which gradio keeps its own state; the page's conversations are not in it."""


def add_page(app: FastAPI, services: Services, log: RequestLog) -> Sessions:
    """Add the page to an application; return its open pages. What fails in an event of the page is told to the log."""
    from gradio import queueing

    from qwenkit.serving.page.layout import PageServices, make_blocks

    queueing.traceback = _Faults(log)  # gradio would print it, with whatever people wrote
    sessions = Sessions()
    routes = _Routes(services, sessions, make_blocks(PageServices(app, services, sessions)))
    for path in ("/", PAGE):
        app.add_api_route(path, routes.lead, methods=["GET"], include_in_schema=False)
    app.add_api_route(f"{PAGE}/key", routes.take_key, methods=["POST"], include_in_schema=False)
    app.add_api_route(f"{PAGE}/export/{{name}}", routes.export, methods=["GET"], include_in_schema=False)
    for name in _FILES:
        app.add_api_route(f"{PAGE}/{name}", routes.file, methods=["GET"], include_in_schema=False)
    app.mount(PAGE, routes.page)
    return sessions


class _Faults:
    """Stands in for the module `traceback` where gradio prints errors: the log gets their kind and place alone."""

    def __init__(self, log: RequestLog) -> None:
        self._log = log

    def print_exc(self) -> None:
        """Write down the error that is being handled."""
        if (error := sys.exc_info()[1]) is not None:
            self._log.write("page_fault", fault=place_of(error))


def _gradio_app(blocks: Any, sessions: Sessions, is_draining: Callable[[], bool]) -> PageGate:
    """Return gradio's application behind its gate: no uploads, no files, no link outside, no record of requests."""
    from gradio.routes import App

    from qwenkit.serving.page.layout import theme

    blocks.dev_mode = blocks.ssr_mode = blocks.share = blocks.run_history = False
    blocks.footer_links, blocks.allowed_paths, blocks.blocked_paths = [], [], ["/"]
    blocks.custom_mount_path, blocks.show_error, blocks.enable_monitoring = PAGE, False, False
    blocks.max_file_size, blocks.state_session_capacity = 1, MOST_STATES
    blocks.theme, blocks.css, blocks.js, blocks.head = theme(), "", "", ""
    blocks.css_paths, blocks.head_paths = [], []
    blocks._queue.ANALYTICS_MAX_EVENTS, blocks._queue.ANAYLTICS_CACHE_FREQUENCY = 0, sys.maxsize  # no table of events
    blocks._set_html_css_theme_variables()
    blocks.config = blocks.get_config_file()
    return PageGate(App.create_app(blocks), sessions, blocks.fns, is_draining)


class _Routes:
    def __init__(self, services: Services, sessions: Sessions, blocks: Any) -> None:
        self.services, self.sessions, self.blocks = services, sessions, blocks
        self.gradio = _gradio_app(blocks, sessions, lambda: services.catalog.draining)
        self.files = {name: (_HERE / name).read_text("utf-8") for name in _FILES}

    async def page(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with gradio's page, or with the form where nobody's key has come."""
        visit: Visit = scope["state"]["visit"]
        if visit.client is None:
            form = form_page(visit.headers.get("accept-language"), False, PAGE)
            await HTMLResponse(form, headers=_POLICY)(scope, receive, send)
            return
        if not self.blocks.is_running:
            self.blocks.run_startup_events()  # its queue belongs to this event loop
        await self.gradio(scope, receive, send)

    async def lead(self) -> Response:
        """Lead to the page."""
        return RedirectResponse(f"{PAGE}/", 307)

    async def take_key(self, request: Request) -> Response:
        """Keep the key of the form in the browser's session, where it is known."""
        visit: Visit = request.state.visit
        key = key_in_form(visit.body)
        if key and (self.services.settings.keyring.is_open or self.services.settings.keyring.identify(key) is None):
            form = form_page(visit.headers.get("accept-language"), True, PAGE)
            return HTMLResponse(form, 401, headers=_POLICY)
        secure = (visit.origin or "").startswith("https:")
        return RedirectResponse(f"{PAGE}/", 303, headers={"set-cookie": cookie(key, PAGE, secure)})

    async def file(self, request: Request) -> Response:
        """Return the page's script or a style."""
        name = request.url.path.rpartition("/")[2]
        return Response(self.files[name], media_type=_FILES[name], headers=_POLICY)

    async def export(self, request: Request, name: str) -> Response:
        """Return the conversation that a page shows, as a file."""
        page, _, kind = name.partition(".")
        if kind not in ("json", "md"):
            raise Refused(Refusal("not_found", f"there is no path {request.url.path[:80]}", code="no_such_path"))
        session = self.sessions.find(page, client_of(request.state.visit).name)
        write = transcript.as_json if kind == "json" else transcript.as_markdown
        headers: Mapping[str, str] = {**_POLICY, "content-disposition": f'attachment; filename="chat.{kind}"'}
        media = "application/json" if kind == "json" else "text/markdown; charset=utf-8"
        return Response(write(session.tree, session.models, session.system), media_type=media, headers=headers)
