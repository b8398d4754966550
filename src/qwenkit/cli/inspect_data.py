"""`qwenkit inspect data`: what a file or folder of chats is, and how training would read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from qwenkit.cli.app import Json, as_folder, as_reference, inspect_app, print_json, terminal
from qwenkit.errors import visible
from qwenkit.records import Row

if TYPE_CHECKING:
    from rich.table import Table

    from qwenkit.chat import ChatTokenizer
    from qwenkit.chat.render import Rendered
    from qwenkit.data.chats.summary import Summary

MOST = 20
"""The most files and keys that are listed."""


@inspect_app.command("data", epilog="Example:  qwenkit inspect data my-chats --tokenizer runs/nano/tokenizer")
def inspect_data(
    source: Annotated[
        list[Path], typer.Argument(help="files or folders: JSON, CSV, Parquet", parser=as_folder, metavar="PATH...")
    ],
    kind: Annotated[
        Literal["chats", "pairs", "prompts"] | None,
        typer.Option("--as", help="read as chats, pairs (comparisons) or prompts; else as most of the first rows are"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="count tokens and show the first row: a folder, or org/name", parser=as_reference,
                     metavar="MODEL"),
    ] = None,
    mask: Annotated[str, typer.Option(help="qwen (the authors') or assistant")] = "qwen",
    style: Annotated[str, typer.Option(help="chat style: own (the folder's), or a name such as chatml")] = "own",
    limit: Annotated[int | None, typer.Option(help="read no more than so many rows", min=1)] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Say what data is: files and splits, forms, roles, lengths, which rows are quarantined and why, and what is not
    read."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.data.chats import describe

    tok = load_tokenizer(tokenizer) if tokenizer is not None else None
    named = None if style == "own" else style

    def render(row: Row) -> Rendered:
        assert tok is not None
        waits = row["messages"][-1]["role"] != "assistant"
        return tok.render(row["messages"], tools=row.get("tools"), add_generation_prompt=waits, mask=mask, style=named)

    described = describe(source, kind, limit, None, None if tok is None else lambda row: len(render(row).ids))
    shown = render(described.first) if tok is not None and described.first is not None else None
    if as_json:
        print_json(
            described.plain() | ({"first_row": _tokens(shown, tok)} if shown is not None and tok is not None else {})
        )
        return
    for line in lines(described):
        terminal().print(line)
    for table in (lengths(described), put_aside(described)):
        if table is not None:
            terminal().print(table)
    for note in described.notes():
        terminal().print(Text.assemble(("note:", "yellow"), f" {visible(note)}"))
    if shown is not None and tok is not None:
        _print_first(shown, tok)


def _tokens(shown: Rendered, tok: ChatTokenizer) -> list[Row]:
    from qwenkit.chat.inspect import weighted_groups

    return [group._asdict() for group in weighted_groups(shown, tok)]


def _print_first(shown: Rendered, tok: ChatTokenizer) -> None:
    from qwenkit.chat.inspect import mask_ansi, mask_text

    console = terminal()
    print("the first row, with what is trained in it:")
    print((mask_ansi if console.color_system and not console.no_color else mask_text)(shown, tok))


def lines(described: Summary) -> Iterator[str]:
    """Yield the description of the source, one line for each aspect."""
    words = {"chats": "chats", "pairs": "comparisons", "prompts": "prompts"}[described.kind]
    more = "" if described.complete else ", and there are more"
    bad = len(described.quarantine)
    yield f"{words}: {described.read} rows read{more}; {described.kept} would be used, {bad} put aside"
    if described.files.split or len(described.files.splits) > 1:
        splits = [f"{name or 'no name'} ({len(files)} files)" for name, files in described.files.splits.items()]
        yield f"splits: {'; '.join(splits)}; taken: {described.files.split or 'no name'}"
    for name, form in list(described.formats.items())[:MOST]:
        forms = ", ".join(f"{form} ({count})" for form, count in described.forms.get(name, {}).items()) or "no form"
        yield f"  {name}: {form}; {forms}"
    if len(described.formats) > MOST:
        yield f"  and {len(described.formats) - MOST} more files"
    roles = ", ".join(f"{role} {count}" for role, count in described.roles.most_common())
    yield f"roles: {roles or 'none'}; {described.tools} rows with tools; {described.untrained} answers not trained"
    if described.keys:
        yield "keys that are not read: " + ", ".join(f"{key} ({n})" for key, n in described.keys.most_common(MOST))


def lengths(described: Summary) -> Table | None:
    """Return a table of quantiles of turns, characters and tokens, or None where there are no rows."""
    from rich.table import Table

    rows = {"turns": described.turns, "characters": described.characters, "tokens": described.tokens}
    given = {name: sample.quantiles() for name, sample in rows.items() if sample.count}
    if not given:
        return None
    table = Table("a row's", *next(iter(given.values())), "all", box=None, pad_edge=False)
    for name, quantiles in given.items():
        table.add_row(name, *map(str, quantiles.values()), str(rows[name].total))
    return table


def put_aside(described: Summary) -> Table | None:
    """Return a table of the reasons why rows are quarantined, each with its first row, or None."""
    from rich.table import Table

    if not described.quarantine.counts:
        return None
    table = Table("put aside", "rows", "first", "begins", box=None, pad_edge=False)
    for reason, count in described.quarantine.counts.most_common():
        row = next((row for row in described.quarantine.rows if row["reason"] == reason), {"file": "", "sample": ""})
        place = f"{row['file']}:{row['line']}" if "line" in row else row["file"]
        table.add_row(reason, str(count), place, row["sample"][:60])
    return table
