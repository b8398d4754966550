"""`qwenkit chat`: talk to models in the terminal, or through pipes. `chat_loop.py` is the conversation itself."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwenkit.cli.app import ACCEPT, accepting_names, app, as_reference
from qwenkit.errors import UserError
from qwenkit.records import read_object

if TYPE_CHECKING:
    from qwenkit.cli.chat_loop import Player
    from qwenkit.inference import DraftModel, Engine


def _temperature(text: str) -> float:
    """Return a temperature; raises an error of the command line for what is none."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text} is not a number, 0 or more")
    return value


@app.command(epilog="Example:  qwenkit chat runs/nano/chat-rlhf")
def chat(
    models: Annotated[
        list[str],
        typer.Argument(
            help="model folders, GGUF files, or org/name of the Hub; each answers in turn",
            parser=as_reference,
            metavar="MODEL",
        ),
    ],
    system: Annotated[str | None, typer.Option(help="a system prompt")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="ask one thing and stop")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy", parser=_temperature, metavar="NUMBER")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="longest answer", min=1)] = None,
    seed: Annotated[int, typer.Option(help="seed of the draws")] = 0,
    thinking: Annotated[
        Literal["on", "off"] | None, typer.Option(help="answers with thoughts, or without; where the model has both")
    ] = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the folder's chat template; enable_thinking=false")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="[NAME=]FOLDER of an adapter of the one MODEL; several answer in turn", metavar="ADAPTER"),
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="a small model of the family, which guesses tokens ahead", metavar="MODEL")
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option(help="tokens that the cache holds; as many as memory allows", min=1)
    ] = None,
    json_schema: Annotated[Path | None, typer.Option(help="answer in JSON that fits the schema in this file")] = None,
    regex: Annotated[str | None, typer.Option(help="answer with what this regular expression matches")] = None,
    accept_unknown: Annotated[str, typer.Option("--accept-unknown", help=ACCEPT, metavar="KEY,...")] = "",
) -> None:
    """Talk to chat models in the terminal, or through pipes. /help lists the commands, /quit leaves."""
    from qwenkit.chat.session import Session
    from qwenkit.cli import chat_loop

    variables: Mapping[str, object] = dict(map(_variable, variable or ()))
    schema = None if json_schema is None else read_object(json_schema)
    settings = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "json_schema": schema,
                "regex": regex}  # fmt: skip
    settings = {name: value for name, value in settings.items() if value is not None}
    make_engine = partial(_engine, kv_tokens=kv_tokens, draft=draft, accept_unknown=accept_unknown)
    players = _players(models, adapter or (), variables, make_engine, settings)
    thoughts = None if thinking is None else thinking == "on"
    session = Session(tuple(player.name for player in players), system, settings, thoughts)
    interactive = prompt is None and all(map(chat_loop.is_terminal, (sys.stdin, sys.stdout)))
    talk = chat_loop.Chat(session, players, chat_loop.screen(), interactive)
    talk.thinking(thoughts)  # what a folder cannot do is said before a model is loaded
    if len(players) == 1:
        _ = players[0].engine
    chat_loop.start(talk, prompt)
    if talk.exit_code:
        raise typer.Exit(talk.exit_code)


def _players(
    models: Sequence[str],
    adapters: Sequence[str],
    variables: Mapping[str, object],
    make_engine: Callable[..., Engine],
    settings: dict[str, Any],
) -> list[Player]:
    """Return the models of a chat, none of them loaded; raises a `UserError` for a folder or setting that cannot be."""
    from qwenkit.chat.publish import find_tokenizer
    from qwenkit.chat.tokenizer import load_tokenizer
    from qwenkit.cli.adapters import named_adapters
    from qwenkit.cli.chat_loop import Player
    from qwenkit.gguf_file import is_gguf
    from qwenkit.hub import resolve
    from qwenkit.inference import SamplingParams

    folders = [resolve(model) for model in models]
    for model, folder in zip(models, folders, strict=True):
        if not folder.exists() and not is_gguf(folder):
            raise UserError("no such folder", where=model, expected="a folder of a model, or org/name of the Hub")
    SamplingParams(**settings)
    named = named_adapters(adapters)
    if named and len(models) > 1:
        raise UserError(f"{len(models)} models, and --adapter", expected="one model for all adapters",
                        hint="an adapter's own folder also stands for its model with it")  # fmt: skip
    names = [Path(model).name or model for model in models]
    names = names if len(set(names)) == len(names) else list(models)
    players: list[Player] = []
    places = [(name, folders[0], adapter) for name, adapter in named.items()]
    for name, folder, on_it in places or [(name, folder, None) for name, folder in zip(names, folders, strict=True)]:
        tok = (find_tokenizer(on_it) if on_it else None) or load_tokenizer(folder)
        if variables:
            tok.check_template_kwargs(variables)
        players.append(Player(name, tok, partial(make_engine, folder, tok, on_it), variables))
    return players


def _engine(
    folder: Path, tok: Any, adapter: Path | None, *, kv_tokens: int | None, draft: str | None, accept_unknown: str
) -> Engine:
    """Load a model, with an adapter where one is named, and guesses of tokens ahead."""
    from qwenkit.hub import resolve
    from qwenkit.inference import Engine, PromptLookup

    with accepting_names(accept_unknown):
        guesses = PromptLookup() if draft is None else _draft(resolve(draft))
        return Engine(folder, tok, adapter=adapter, invariant=False, kv_tokens=kv_tokens, speculation=guesses)


def _draft(folder: Path) -> DraftModel:
    """Return the small model of a folder, which guesses."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.inference import DraftModel
    from qwenkit.model import load_model

    return DraftModel(load_model(folder), tok=load_tokenizer(folder))


def _variable(text: str) -> tuple[str, Any]:
    """Return a name and its value: JSON, or the text itself."""
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise UserError(f"--variable {text}", expected="NAME=VALUE, such as enable_thinking=false")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
