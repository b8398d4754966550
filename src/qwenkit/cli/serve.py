"""The command that serves models over HTTP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenkit.cli.app import accepting_names, app, as_folder, as_reference, say
from qwenkit.cli.models import Accept
from qwenkit.errors import UserError

if TYPE_CHECKING:
    from qwenkit.serving.keys import Keyring
    from qwenkit.serving.models import Entry
    from qwenkit.serving.served_model import ServedModel
    from qwenkit.serving.settings import ServerSettings

KEY_VARIABLE = "QWENKIT_API_KEY"
_WHO, _LIMITS, _MODEL = "Who may ask", "Limits", "Models and engine"


@app.command(
    epilog="Example:  qwenkit serve runs/nano/chat-rlhf --port 8000\n\n"
    "Then:  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' "
    """-d '{"messages": [{"role": "user", "content": "What is 27+58?"}]}'"""
)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="model folders, GGUF files, or org/name of the Hub", parser=as_reference, metavar="MODEL"),
    ],
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 is all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one", min=0, max=65535)] = 8000,
    unix_socket: Annotated[
        Path | None, typer.Option(help="a socket in the file system instead", parser=as_folder, metavar="PATH")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="a name for a model, or one more model", metavar="NAME=MODEL", rich_help_panel=_MODEL),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="an adapter of the first model, asked by its name", metavar="NAME=FOLDER", rich_help_panel=_MODEL
        ),
    ] = None,
    adapters_from: Annotated[
        Path | None,
        typer.Option(
            help="let keys with `load_adapters` load adapters out of this folder",
            parser=as_folder,
            metavar="FOLDER",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    max_adapters: Annotated[
        int, typer.Option(help="adapters of a model in memory at a time", min=1, rich_help_panel=_MODEL)
    ] = 16,
    max_adapter_rank: Annotated[
        int, typer.Option(help="the highest rank of an adapter", min=1, rich_help_panel=_MODEL)
    ] = 128,
    kv_tokens: Annotated[
        int | None,
        typer.Option(help="tokens that a model's cache holds; as many as memory allows", min=1, rich_help_panel=_MODEL),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(help="answers that are computed at a time", min=1, rich_help_panel=_MODEL)
    ] = 128,
    max_loaded: Annotated[
        int | None, typer.Option(help="models in memory at a time; as many as fit", min=1, rich_help_panel=_MODEL)
    ] = None,
    threads: Annotated[int, typer.Option(help="0: all free cores", min=0, rich_help_panel=_MODEL)] = 0,
    accept_unknown: Accept = "",
    allow_failed_certificate: Annotated[
        bool,
        typer.Option(
            "--allow-failed-certificate", help="serve a model that its certificate contradicts", rich_help_panel=_MODEL
        ),
    ] = False,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="keys with names and limits, in TOML", parser=as_folder, metavar="FILE", rich_help_panel=_WHO
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"one key; others on this machine may see it here, so better {KEY_VARIABLE}", rich_help_panel=_WHO
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="pages of other sites that may ask from a browser; *: all", metavar="ORIGIN", rich_help_panel=_WHO
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="a name that the server is asked by; *: any", metavar="NAME", rich_help_panel=_WHO),
    ] = None,
    allow_public_without_key: Annotated[
        bool, typer.Option("--allow-public-without-key", help="let everybody on the network ask", rich_help_panel=_WHO)
    ] = False,
    allow_readable_key_file: Annotated[
        bool,
        typer.Option("--allow-readable-key-file", help="accept a key file that others can read", rich_help_panel=_WHO),
    ] = False,
    max_queue: Annotated[
        int, typer.Option(help="requests that wait for their first token", min=1, rich_help_panel=_LIMITS)
    ] = 256,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="of one prompt; as the model allows", min=1, rich_help_panel=_LIMITS)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="of one answer; as the model allows", min=1, rich_help_panel=_LIMITS)
    ] = None,
    open_requests: Annotated[int, typer.Option(help="at a time, for each key", min=1, rich_help_panel=_LIMITS)] = 256,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="for each key that says nothing else", min=1, rich_help_panel=_LIMITS)
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="for each key that says nothing else", min=1, rich_help_panel=_LIMITS)
    ] = None,
    max_body_mb: Annotated[int, typer.Option(help="size of a request's body", min=1, rich_help_panel=_LIMITS)] = 8,
    request_timeout: Annotated[
        float, typer.Option(help="seconds of one request", min=1, rich_help_panel=_LIMITS)
    ] = 600,
    idle_timeout: Annotated[
        float, typer.Option(help="seconds that a connection may be idle", min=1, rich_help_panel=_LIMITS)
    ] = 75,
    drain_timeout: Annotated[
        float, typer.Option(help="seconds that open requests have at the end", min=1, rich_help_panel=_LIMITS)
    ] = 30,
    log: Annotated[
        str | None, typer.Option(help="file of the log, or `none`; JSON lines on standard error", metavar="FILE")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="also serve a chat page, at /ui/ (extra `ui`)")] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="write prompts and answers into the log")] = False,
) -> None:
    """Serve models over HTTP: the APIs of OpenAI (chat completions, completions, responses) and of Anthropic
    (messages), with keys, limits, figures for Prometheus and a log."""
    _need_extra(ui)
    from qwenkit.platform import free_cores
    from qwenkit.serving.keys import Allowance
    from qwenkit.serving.models import entries_of
    from qwenkit.serving.settings import MEGABYTE, Limits, ServerSettings

    allowance = Allowance(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        open_requests=open_requests,
        prompt_tokens=max_prompt_tokens,
        max_tokens=max_tokens,
    )
    limits = Limits(body_bytes=max_body_mb * MEGABYTE, all_body_bytes=max(64, 2 * max_body_mb) * MEGABYTE,
                    max_queue=max_queue, request_seconds=request_timeout, idle_seconds=idle_timeout,
                    drain_seconds=drain_timeout)  # fmt: skip
    settings = ServerSettings(
        host=host, port=port, unix_socket=unix_socket,
        keyring=_keyring(api_key_file, api_key, allowance, allow_readable_key_file),
        origins=tuple(allow_origin or ()), hosts=tuple(allow_host or ()),
        allow_public_without_key=allow_public_without_key, allow_failed_certificate=allow_failed_certificate,
        adapters_from=adapters_from, page=ui, log_texts=log_texts, limits=limits,
    )  # fmt: skip
    with accepting_names(accept_unknown):
        entries = entries_of(
            models, _named(alias or (), "--alias", "MODEL"), _named(adapter or (), "--adapter", "FOLDER")
        )
        engine = dict(kv_tokens=kv_tokens, max_batch=max_batch, threads=threads or free_cores(),
                      max_adapters=max_adapters, max_adapter_rank=max_adapter_rank)  # fmt: skip
        _run(entries, settings, engine, max_loaded, log)


def _run(
    entries: Sequence[Entry], settings: ServerSettings, engine: dict[str, Any], max_loaded: int | None, log: str | None
) -> None:
    """Make the catalog and the application, and serve until a signal comes."""
    from qwenkit.serving import server
    from qwenkit.serving.app import make_app
    from qwenkit.serving.guard import check_exposure
    from qwenkit.serving.log import RequestLog
    from qwenkit.serving.models import ModelCatalog
    from qwenkit.serving.served_model import loader

    check_exposure(settings)
    for entry in entries:
        _check_there(entry.reference)
    load = loader(
        **engine, max_waiting=settings.limits.max_queue, stall_seconds=max(600.0, settings.limits.request_seconds),
        check_certificates=not settings.allow_failed_certificate,
    )  # fmt: skip
    catalog = ModelCatalog(entries, load, max_loaded=max_loaded)
    with _log_stream(log) as stream:
        made = make_app(catalog, settings, RequestLog(stream, settings.log_texts))
        code = server.run(
            made,
            catalog,
            settings,
            partial(_show_ready, settings.page),
            lambda address: say(f"{address}  loading {entries[0].name} ..."),
        )
    if catalog.unfinished:
        _leave(catalog.unfinished, code)
    say("stopped")


def _leave(unfinished: Sequence[str], code: int) -> None:
    """End the process while models are still being loaded: their threads cannot be stopped, and waiting for them, as
    the interpreter would, takes as long as the load."""
    say(f"stopped while {' and '.join(unfinished)} was being loaded")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _show_ready(has_page: bool, model: ServedModel, address: str) -> None:
    """Print the start screen: what is served, where, and how to ask."""
    say(start_screen(model.name, str(model.folder), model.max_length, address, has_page))


def start_screen(name: str, folder: str, max_length: int, address: str, has_page: bool = False) -> str:
    """Return the lines that a server prints when it is ready."""
    base, option = address, ""
    if address.startswith("unix:"):
        base, option = "http://localhost", f"--unix-socket {address.removeprefix('unix:')} "
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]})
    page = f"page     {address}/ui/\n" if has_page and not option else ""
    return (
        f"serving  {name}  ({folder}, {max_length:,} tokens)\nat       {address}/v1   (Ctrl-C ends it)\n{page}\n"
        f"  curl {option}{base}/v1/chat/completions -H 'Content-Type: application/json' \\\n    -d '{body}'\n"
    )


def _keyring(file: Path | None, key: str | None, allowance: Any, allow_readable: bool) -> Keyring:
    """Return the keys that the command line, the environment or a file gives."""
    from qwenkit.serving.keys import Client, Key, Keyring, read_key_file

    key = key if key is not None else os.environ.get(KEY_VARIABLE) or None
    if file is not None and key is not None:
        raise UserError("a key and a key file", where="qwenkit serve", expected="one of them",
                        hint=f"put the key of --api-key or {KEY_VARIABLE} into the file")  # fmt: skip
    if file is not None:
        return read_key_file(file, allowance, allow_readable)
    owner = Client("default", allowance, load_adapters=True)
    return Keyring([] if key is None else [Key.of(owner, key)], allowance)


def _named(given: Sequence[str], option: str, what: str) -> dict[str, str]:
    """Return names and what they name, of `--alias` and `--adapter`."""
    named: dict[str, str] = {}
    for text in given:
        name, sign, reference = text.partition("=")
        if not (sign and name and reference) or name in named:
            raise UserError(f"{option} {text}", expected=f"NAME={what}, each name once",
                            hint=f"{option} small=runs/nano/chat")  # fmt: skip
        named[name] = reference
    return named


def _check_there(reference: str) -> None:
    """Raise a `UserError` for a model that is neither here nor one of the Hub's names."""
    from qwenkit.hub import parse

    if not Path(reference).exists() and parse(reference) is None:
        raise UserError(
            "no such folder", where=reference, expected="a folder of a model, a GGUF file, or org/name of the Hub"
        )


def _log_stream(log: str | None) -> Any:
    """Return a context that gives the stream of the log, or None."""
    import contextlib

    from qwenkit.serving.log import LogFile

    if log is None or log == "none":
        return contextlib.nullcontext(sys.stderr if log is None else None)
    try:
        return LogFile(Path(log))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"the log cannot be written ({reason})", where=f"--log {log}") from error


def _need_extra(ui: bool = False) -> None:
    """Raise a `UserError` where what a server, or its page, needs is not installed."""
    import importlib.util

    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed", where="qwenkit serve", expected="the extra `serve`",
                        hint="pip install 'qwenkit[serve]'")  # fmt: skip
    if ui and importlib.util.find_spec("gradio") is None:
        raise UserError("gradio not installed", where="qwenkit serve --ui", expected="the extra `ui`",
                        hint="pip install 'qwenkit[ui]'")  # fmt: skip
