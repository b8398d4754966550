"""The page as gradio draws it: its parts, and what happens when somebody uses them.

    blocks = make_blocks(PageServices(app, services, sessions))

Everything that thinks is in the modules beside this one, which know nothing of gradio. Here are the components, and for
each event a coroutine that changes the page's `Session` and returns what is to be drawn anew.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from qwenkit.errors import UserError
from qwenkit.serving.answering import Services
from qwenkit.serving.keys import Client
from qwenkit.serving.page.asked_settings import MOST_MODELS, PageSettings, read_settings
from qwenkit.serving.page.asking import App
from qwenkit.serving.page.attached import MOST_CHARACTERS, MOST_FILES, read_files
from qwenkit.serving.page.key_form import key_of
from qwenkit.serving.page.model_line import model_line, size_of
from qwenkit.serving.page.plain_markdown import shown, unshown
from qwenkit.serving.page.sessions import Session, Sessions
from qwenkit.serving.page.texts import TEXTS, Language, language_of, text
from qwenkit.serving.page.view import chat_rows, figures_line, focus_of, version_line
from qwenkit.serving.page.writing import write
from qwenkit.serving.refusals import Refused
from qwenkit.serving.visit import PAGE

LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\[", "right": r"\]", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
]
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei",
         "sans-serif"]  # fmt: skip
MONO = ["ui-monospace", "SFMono-Regular", "Consolas", "DejaVu Sans Mono", "Noto Sans Mono CJK SC", "monospace"]
_SETTINGS = ("models", "system", "own", "temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed",
             "thinking", "tools")  # fmt: skip
_NUMBERS = {"temperature": (0, 2, 0.05, 0.7), "top_p": (0.05, 1, 0.05, 0.8), "top_k": (0, 200, 1, 20),
            "repetition_penalty": (0.5, 2, 0.05, 1.0)}  # fmt: skip
Drawn = dict[Any, Any]
"""What is to be drawn anew: components, and what becomes of them."""


@dataclass(frozen=True)
class PageServices:
    """What the page stands on."""

    app: App
    """The complete application, its front included: models are asked through it."""
    services: Services
    sessions: Sessions


def theme() -> gr.themes.Base:
    """Return the page's theme, whose fonts are those of the machine that shows it."""
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=MONO, radius_size="md")


def make_blocks(services: PageServices) -> gr.Blocks:
    """Return the page."""
    return _Page(services).blocks


class _Page:
    """The components by their names, and the events."""

    def __init__(self, page: PageServices) -> None:
        self._page = page
        self.parts: dict[str, Any] = {}
        with gr.Blocks(title="qwenkit", fill_height=True, analytics_enabled=False) as self.blocks:
            self._draw()
            self._listen()

    # ---- components -------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        names = self._page.services.catalog.names
        parts, en = self.parts, self._labels("en")
        with gr.Sidebar(open=False, width=340, elem_id="side"):
            self._draw_settings(en)
        with gr.Row(elem_id="top"):
            parts["models"] = gr.Dropdown(names, value=names[:1], multiselect=True, max_choices=MOST_MODELS,
                                          elem_id="models", container=False, scale=4, **en["models"])  # fmt: skip
            parts["language"] = gr.Radio([("EN", "en"), ("中文", "zh")], value="en", scale=0, min_width=150,
                                         elem_id="language", container=False, **en["language"])  # fmt: skip
        parts["line"] = gr.Markdown(elem_id="line")
        with gr.Row(elem_id="chats", equal_height=True):
            for number in range(MOST_MODELS):
                parts[f"chat{number}"] = gr.Chatbot(
                    latex_delimiters=LATEX, editable="user", allow_tags=False, buttons=[], show_label=number > 0,
                    label="", layout="bubble", elem_id=f"chat{number}", visible=number == 0, height="100%",
                    allow_file_downloads=False, feedback_options=None, min_width=260,
                )  # fmt: skip
        with gr.Row(elem_id="tools"):
            parts["before"] = gr.Button("‹", size="sm", min_width=40, scale=0, visible=False, elem_id="before")
            parts["version"] = gr.Markdown(elem_id="version", visible=False)
            parts["after"] = gr.Button("›", size="sm", min_width=40, scale=0, visible=False, elem_id="after")
            parts["regenerate"] = gr.Button(**en["regenerate"], size="sm", scale=0, min_width=110, elem_id="regenerate")
            parts["new"] = gr.Button(**en["new"], size="sm", scale=0, min_width=110, elem_id="new")
            parts["download"] = gr.Markdown(elem_id="download")
        with gr.Row(elem_id="ask", equal_height=False):
            parts["question"] = gr.Textbox(lines=1, max_lines=8, show_label=False, scale=8, autofocus=True,
                                           container=False, elem_id="question", **en["question"])  # fmt: skip
            parts["send"] = gr.Button(**en["send"], variant="primary", scale=0, min_width=90, elem_id="send")
            parts["stop"] = gr.Button(**en["stop"], variant="stop", scale=0, min_width=90, visible=False,
                                      elem_id="stop")  # fmt: skip
        parts["figures"] = gr.Markdown(elem_id="figures")
        parts["words"] = gr.Textbox(elem_id="words", visible="hidden", show_label=False, container=False)
        parts["files"] = gr.Textbox(elem_id="files", visible="hidden", show_label=False, container=False)

    def _draw_settings(self, en: dict[str, dict[str, Any]]) -> None:
        parts = self.parts
        parts["settings"] = gr.Markdown(elem_id="settings-title")
        parts["system"] = gr.Textbox(lines=3, max_lines=10, elem_id="system", **en["system"])
        parts["own"] = gr.Checkbox(value=True, elem_id="own", **en["own"])
        for name, (low, high, step, value) in _NUMBERS.items():
            parts[name] = gr.Slider(low, high, value=value, step=step, elem_id=name, visible=False, **en[name])
        parts["max_tokens"] = gr.Textbox(value="", elem_id="max_tokens", **en["max_tokens"])
        parts["seed"] = gr.Textbox(value="", elem_id="seed", **en["seed"])
        parts["thinking"] = gr.Radio(_thinking("en"), value="auto", elem_id="thinking", **en["thinking"])
        parts["tools"] = gr.Textbox(lines=3, max_lines=12, elem_id="tools-json", **en["tools"])

    @staticmethod
    def _labels(language: Language) -> dict[str, dict[str, Any]]:
        """Return what each component is called."""
        labels: dict[str, dict[str, Any]] = {name: {"label": text(name, language)} for name in (*_SETTINGS, "language")}
        labels |= {name: {"value": text(name, language)} for name in ("send", "stop", "regenerate", "new")}
        labels["question"] = {"placeholder": text("placeholder", language)}
        return labels

    # ---- events -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        parts = self.parts
        settings = [parts[name] for name in _SETTINGS]
        asked = {parts["question"], parts["files"], parts["language"], *settings}
        chats = [parts[f"chat{number}"] for number in range(MOST_MODELS)]
        drawn = [*chats, *(parts[name] for name in ("question", "files", "send", "stop", "before", "version", "after",
                                                    "figures", "line", "regenerate"))]  # fmt: skip
        more: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None,
            "trigger_mode": "multiple",
        }  # fmt: skip
        for event in (parts["question"].submit, parts["send"].click):
            event(self.send, asked, drawn, **more)
        parts["regenerate"].click(self.regenerate, asked, drawn, **more)
        parts["stop"].click(self.stop, None, None, **more)
        parts["before"].click(self._stepping(-1), asked, drawn, **more)
        parts["after"].click(self._stepping(1), asked, drawn, **more)
        parts["new"].click(self.begin_anew, asked, drawn, **more)
        parts["models"].change(self.choose_models, asked, [*drawn, parts["download"]], **more)
        parts["own"].change(self.show_sampling, parts["own"], [parts[name] for name in _NUMBERS], **more)
        for number, chat in enumerate(chats):
            chat.edit(self._editing(number), asked, drawn, **more)
            chat.clear(self.begin_anew, asked, drawn, **more)
            chat.retry(self.regenerate, asked, drawn, **more)
            chat.select(self._selecting(number), asked, drawn, **more)
        every = [part for name, part in parts.items()]
        self.blocks.load(self.load, asked, every, **more)
        parts["language"].change(self.change_language, asked, every, **more)
        self.blocks.unload(lambda: None)  # has the page hold a connection by which the server knows that it is open

    async def send(self, given: dict[Any, Any], request: gr.Request) -> AsyncIterator[Drawn]:
        """Ask a question."""
        language = self._language(given)

        def ask(session: Session) -> None:
            files = read_files(given[self.parts["files"]], language)
            session.tree.ask(str(given[self.parts["question"]] or "").strip(), files)

        question = self.parts["question"]
        async for drawn in self._answer(ask, given, request, {question: "", self.parts["files"]: ""}):
            yield drawn

    async def regenerate(self, given: dict[Any, Any], request: gr.Request) -> AsyncIterator[Drawn]:
        """Ask the last question again: a new version of its turn."""
        async for drawn in self._answer(lambda session: session.tree.regenerate(len(session.tree.turns) - 1), given,
                                        request):  # fmt: skip
            yield drawn

    def _editing(self, number: int) -> Callable[..., AsyncIterator[Drawn]]:
        async def edit(given: dict[Any, Any], event: gr.EditData, request: gr.Request) -> AsyncIterator[Drawn]:
            def change(session: Session) -> None:
                row = self._row(session, given, number, event.index)
                if row is None or not row.is_question:
                    raise UserError(text("only_questions", self._language(given)))
                session.tree.edit(row.turn, unshown(_plain_text(event.value)).strip())

            async for drawn in self._answer(change, given, request):
                yield drawn

        return edit

    def _selecting(self, number: int) -> Callable[..., Any]:
        async def select(given: dict[Any, Any], event: gr.SelectData, request: gr.Request) -> Drawn:
            session = self._session(request)
            row = self._row(session, given, number, event.index)
            session.focus = None if row is None else row.turn
            return self._versions(session, self._language(given))

        return select

    def _stepping(self, by: int) -> Callable[..., Any]:
        async def step(given: dict[Any, Any], request: gr.Request) -> Drawn:
            session = self._session(request)
            focus = focus_of(session.tree, session.focus)
            if focus is not None and not session.busy:
                session.tree.step(focus, by)
                session.focus = focus
            return self._drawn(session, given)

        return step

    async def begin_anew(self, given: dict[Any, Any], request: gr.Request) -> Drawn:
        """Forget the conversation."""
        session = self._session(request)
        session.stop()
        session.begin_anew()
        return self._drawn(session, given)

    async def stop(self, request: gr.Request) -> None:
        """End the answers that are being written."""
        self._session(request).stop()

    async def choose_models(self, given: dict[Any, Any], request: gr.Request) -> Drawn:
        """Show the conversations of other models."""
        session = self._session(request)
        session.models = self._models(given)
        return self._drawn(session, given)

    async def show_sampling(self, own: Any) -> list[Any]:
        """Show the sampling settings where the model's own are not used."""
        return [gr.update(visible=not own) for _ in _NUMBERS]

    async def load(self, given: dict[Any, Any], request: gr.Request) -> Drawn:
        """Greet in the browser's language, with the models that this key may ask."""
        language = language_of(request.headers.get("accept-language"))
        allowed = self._client(request).models
        names = [name for name in self._page.services.catalog.names if allowed is None or name in allowed]
        given = {**given, self.parts["language"]: language, self.parts["models"]: names[:1]}
        drawn = self._in_language(self._session(request), given)
        models = gr.update(choices=names, value=names[:1], label=text("models", language))
        return {**drawn, self.parts["language"]: gr.update(value=language), self.parts["models"]: models}

    async def change_language(self, given: dict[Any, Any], request: gr.Request) -> Drawn:
        """Say everything in the other language."""
        return self._in_language(self._session(request), given)

    # ---- what is drawn ----------------------------------------------------------------------------------------------

    async def _answer(self, change: Callable[[Session], Any], given: dict[Any, Any], request: gr.Request,
                      first: Drawn | None = None) -> AsyncIterator[Drawn]:  # fmt: skip
        """Change the conversation, then show the answers to its last turn as they are written."""
        session, language = self._session(request), self._language(given)
        try:
            if session.busy:
                raise UserError(text("busy", language))
            settings = self._settings(given, language)
            change(session)
        except UserError as error:
            gr.Warning(error.what if error.hint is None else f"{error.what}; {error.hint}", title="")
            yield self._drawn(session, given)
            return
        session.models, session.system, session.focus = settings.models, settings.system, None
        writing = write(session, settings, self._page.app, key_of(request.headers.get("cookie")))
        yield {**self._drawn(session, given, writing=True), **(first or {})}
        try:
            async for _ in writing:
                yield self._chats(session, given) if session.busy else self._drawn(session, given)
        finally:
            await writing.aclose()

    def _drawn(self, session: Session, given: dict[Any, Any], writing: bool = False) -> Drawn:
        """Return everything that depends on the conversation."""
        parts, language = self.parts, self._language(given)
        calls = session.open_calls
        placeholder = text("placeholder_result" if calls else "placeholder", language, names=", ".join(calls))
        return {
            **self._chats(session, given),
            **self._versions(session, language),
            parts["send"]: gr.update(visible=not writing), parts["stop"]: gr.update(visible=writing),
            parts["question"]: gr.update(placeholder=placeholder),
            parts["regenerate"]: gr.update(interactive=bool(session.tree.turns) and not writing),
            parts["figures"]: shown(figures_line(session.tree, self._models(given), language)),
            parts["line"]: self._line(given, language),
        }  # fmt: skip

    def _chats(self, session: Session, given: dict[Any, Any]) -> Drawn:
        """Return the conversations of all models that are chosen."""
        models, language = self._models(given), self._language(given)
        drawn: Drawn = {}
        for number in range(MOST_MODELS):
            chat = self.parts[f"chat{number}"]
            if number >= len(models):
                drawn[chat] = gr.update(visible=number == 0, value=[])
                continue
            rows = chat_rows(session.tree, models[number], language)
            drawn[chat] = gr.update(visible=True, value=[row.message for row in rows], label=models[number],
                                    show_label=len(models) > 1)  # fmt: skip
        return drawn

    def _versions(self, session: Session, language: Language) -> Drawn:
        focus = focus_of(session.tree, session.focus)
        line = version_line(session.tree, focus, language)
        number, count = session.tree.versions(focus) if focus is not None else (0, 0)
        free = not session.busy
        return {
            self.parts["before"]: gr.update(visible=bool(line), interactive=free and number > 1),
            self.parts["version"]: gr.update(visible=bool(line), value=line),
            self.parts["after"]: gr.update(visible=bool(line), interactive=free and number < count),
        }

    def _line(self, given: dict[Any, Any], language: Language) -> str:
        catalog = self._page.services.catalog
        lines = [model_line(name, size_of(catalog.find(name)), language) for name in self._models(given)]
        return "\n\n".join(map(shown, lines))

    def _in_language(self, session: Session, given: dict[Any, Any]) -> Drawn:
        """Return everything, in the language that is chosen."""
        parts, language = self.parts, self._language(given)
        drawn = self._drawn(session, given, writing=session.busy)
        for name, label in self._labels(language).items():
            drawn[parts[name]] = {**gr.update(**label), **drawn.get(parts[name], {})}
        drawn[parts["thinking"]] = gr.update(choices=_thinking(language), label=text("thinking", language))
        drawn[parts["settings"]] = f"### {text('settings', language)}"
        drawn[parts["download"]] = download_links(session.name, language)
        drawn[parts["words"]] = words(language, has_key=not self._page.services.settings.keyring.is_open)
        welcome = text("welcome", language, models=", ".join(self._models(given)))
        for number in range(MOST_MODELS):
            drawn[parts[f"chat{number}"]]["placeholder"] = shown(welcome)
        return drawn

    # ---- what is given ----------------------------------------------------------------------------------------------

    def _settings(self, given: dict[Any, Any], language: Language) -> PageSettings:
        values = {name: given[self.parts[name]] for name in _SETTINGS}
        return read_settings({**values, "models": list(self._models(given))}, language)

    def _language(self, given: dict[Any, Any]) -> Language:
        return "zh" if given[self.parts["language"]] == "zh" else "en"

    def _models(self, given: dict[Any, Any]) -> tuple[str, ...]:
        """Return the chosen models that are there."""
        names = given[self.parts["models"]]
        known = set(self._page.services.catalog.names)
        return tuple(name for name in names if name in known)[:MOST_MODELS] if isinstance(names, list) else ()

    def _row(self, session: Session, given: dict[Any, Any], number: int, index: Any) -> Any:
        """Return the message of a chatbot that somebody has touched, None for one that is not there."""
        models = self._models(given)
        rows = chat_rows(session.tree, models[number], self._language(given)) if number < len(models) else []
        place = index[0] if isinstance(index, (list, tuple)) and index else index
        return rows[place] if isinstance(place, int) and 0 <= place < len(rows) else None

    def _client(self, request: gr.Request) -> Client:
        client = self._page.services.settings.keyring.identify(key_of(request.headers.get("cookie")))
        assert client is not None, "the front lets nobody pass without"
        return client

    def _session(self, request: gr.Request) -> Session:
        try:
            return self._page.sessions.of(str(request.session_hash), self._client(request).name)
        except Refused as error:
            raise gr.Error(error.refusal.message, print_exception=False) from None


def _thinking(language: Language) -> list[tuple[str, str]]:
    return [(text(f"thinking_{value}", language), value) for value in ("auto", "on", "off")]


def _plain_text(value: Any) -> str:
    """Return the text of an edited message, which gradio gives as such or in parts."""
    if isinstance(value, list):
        return "".join(_plain_text(part) for part in value)
    return str(value.get("text", "")) if isinstance(value, dict) else str(value)


def download_links(session: str, language: Language) -> str:
    """Return the links by which a chat is saved."""
    links = (f"[{name}]({PAGE}/export/{session}.{kind})" for kind, name in (("json", "JSON"), ("md", "Markdown")))
    return f"{text('download', language)}: {' · '.join(links)}"


def words(language: Language, has_key: bool) -> str:
    """Return what the page's own script says, as JSON of a field that is not shown."""
    names = ("attach", "dark", "bad_file", "large_file", "many_files", "remove", "keyboard", "leave")
    values: dict[str, object] = {name: TEXTS[name][language == "zh"] for name in names}
    values |= {"most_files": MOST_FILES, "most_characters": MOST_CHARACTERS, "has_key": has_key}
    values["language"] = "zh-CN" if language == "zh" else "en"
    return json.dumps(values, ensure_ascii=False)
