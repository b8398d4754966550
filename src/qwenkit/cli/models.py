"""Commands about models: talk to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwenkit.cli.app import app


@app.command(epilog="Example:  qwenkit chat runs/nano/chat-rlhf")
def chat(
    model: Annotated[Path, typer.Argument(help="a model folder")],
    system: Annotated[str | None, typer.Option(help="a system prompt")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="ask one thing and stop")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy", min=0.0)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="longest answer", min=1)] = None,
    seed: Annotated[int, typer.Option(help="seed of the draws")] = 0,
) -> None:
    """Talk to a chat model in the terminal. /clear forgets, /quit leaves."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.chat.session import talk
    from qwenkit.inference import Engine, SamplingParams

    tok = load_tokenizer(model)
    engine = Engine(str(model), tok)
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
    talk(engine, tok, params, system, prompt)
