"""`qwenkit inspect ...`: look at what a model will really read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwenkit.cli.app import Json, as_reference, inspect_app, print_json, read_stdin, say, terminal, write_text


@inspect_app.command(
    "loss-mask", epilog="Example:  qwenkit inspect loss-mask runs/nano/world/chat.jsonl --tokenizer runs/nano/tokenizer"
)
def inspect_loss_mask(
    file: Annotated[Path, typer.Argument(help="chats in any common form: JSON, CSV, Parquet, or a folder")],
    tokenizer: Annotated[
        str, typer.Option(help="a model or tokenizer folder, or org/name", parser=as_reference, metavar="MODEL")
    ],
    mask: Annotated[str, typer.Option(help="qwen (the authors') or assistant")] = "qwen",
    style: Annotated[str, typer.Option(help="chat style: own (the folder's), or a name such as chatml")] = "own",
    limit: Annotated[int, typer.Option(help="how many chats", min=1)] = 5,
    html: Annotated[Path | None, typer.Option(help="write an HTML page instead")] = None,
    as_json: Json = False,
) -> None:
    """Show which tokens are trained: every token coloured by its loss weight."""
    from itertools import islice

    from qwenkit.chat import load_tokenizer
    from qwenkit.chat.inspect import mask_ansi, mask_html, mask_text, weighted_groups
    from qwenkit.data.chats.datasets import rows as rows_of

    tok = load_tokenizer(tokenizer)
    named = None if style == "own" else style
    rows = list(islice(rows_of(file, "chats"), limit))
    rendered = [tok.render(row["messages"], tools=row.get("tools"), mask=mask, style=named) for row in rows]
    if html is not None:
        write_text(html, mask_html(rendered, tok))
        say(f"wrote {html}")
        return
    if as_json:
        shown = ([group._asdict() for group in weighted_groups(item, tok)] for item in rendered)
        print_json([{"id": row["id"], "tokens": tokens} for row, tokens in zip(rows, shown)])
        return
    console = terminal()
    show = mask_ansi if console.color_system and not console.no_color else mask_text
    for item in rendered:
        print(show(item, tok), end="\n\n")


@inspect_app.command(
    "tokens", epilog='Example:  qwenkit inspect tokens "你好, world 2023" --tokenizer runs/nano/tokenizer'
)
def inspect_tokens(
    text: Annotated[str, typer.Argument(help="the text; - reads standard input")],
    tokenizer: Annotated[
        str, typer.Option(help="a folder, a vocabulary file, or org/name", parser=as_reference, metavar="MODEL")
    ],
    special: Annotated[
        bool, typer.Option("--special", help="names of special tokens in the text are those tokens")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="write an HTML page instead")] = None,
    as_json: Json = False,
) -> None:
    """Show how a text is cut: every token in another colour."""
    from qwenkit.hub import resolve
    from qwenkit.tokenizer import load, show

    tok, allowed = load(resolve(tokenizer, None, "tokenizer")), "all" if special else ()
    text = read_stdin() if text == "-" else text
    if html is not None:
        write_text(html, show.tokens_html(tok, [text], allowed))
        say(f"wrote {html}")
    elif as_json:
        print_json(show.tokens_plain(tok, text, allowed))
    else:
        console = terminal()
        draw = show.tokens_ansi if console.color_system and not console.no_color else show.tokens_text
        print(draw(tok, text, allowed))
