"""`qwenkit tokenizer-stats`: how well tokenizers compress, and what their vocabularies contain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwenkit.cli.app import Json, app, as_folder, as_reference, bar, print_json, say, write_text
from qwenkit.errors import UserError

FILES = ("compression.md", "compression.svg", "compression.html", "compression.json")


@app.command(
    "tokenizer-stats",
    epilog="Example:  qwenkit tokenizer-stats runs/nano/tokenizer --texts runs/nano/corpus --texts notes=notes",
)
def tokenizer_stats(
    tokenizers: Annotated[
        list[str],
        typer.Argument(
            help="folders, tokenizer.json or .tiktoken files, or org/name", parser=as_reference, metavar="TOKENIZER..."
        ),
    ],
    texts: Annotated[
        list[str], typer.Option(help="a corpus, JSONL or a folder of text; NAME=PATH to name it", metavar="[NAME=]PATH")
    ],
    baseline: Annotated[str | None, typer.Option(help="the tokenizer that counts as 1; the first")] = None,
    limit: Annotated[int, typer.Option(help="documents of a language at most", min=1)] = 2000,
    rare: Annotated[int, typer.Option(help="tokens met fewer times than this are rare", min=1)] = 3,
    out: Annotated[
        Path | None, typer.Option(help="write Markdown, SVG, HTML and JSON here", parser=as_folder, metavar="FOLDER")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare bytes per token by language with other tokenizers (Figure 3), and show scripts of the vocabulary and
    unused tokens."""
    import json

    from qwenkit.hub import resolve
    from qwenkit.tokenizer.bytes_per_token import markdown, measure
    from qwenkit.tokenizer.figure import draw, page
    from qwenkit.tokenizer.vocabulary import open_coder

    named = _named(tokenizers)
    with bar() as moved:
        coders = {name: open_coder(resolve(reference, None, "tokenizer")) for name, reference in named.items()}
        report = measure(coders, _texts(texts, limit), _baseline(baseline, named), rare, moved)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(report.plain(), ensure_ascii=False, indent=1) + "\n"
        for name, text in zip(FILES, (markdown(report), draw(report).decode(), page(report), whole)):
            write_text(out / name, text)
    if as_json:
        print_json(report.plain())
        return
    say(markdown(report))
    if out is not None:
        say(f"wrote {', '.join(str(out / name) for name in FILES)}")


def _named(references: list[str]) -> dict[str, str]:
    """Return tokenizers by their shortest different names."""
    paths = [Path(reference).resolve() for reference in references]
    short = [path.stem if path.is_file() else path.name for path in paths]
    names = short if len(set(short)) == len(short) else references
    if len(set(paths)) < len(paths):
        raise UserError("the same tokenizer twice", where=str(max(paths, key=paths.count)))
    return dict(zip(names, references))


def _baseline(given: str | None, named: dict[str, str]) -> str:
    """Return a tokenizer's name, given by that or by its path."""
    if given is None:
        return next(iter(named))
    return next((name for name, reference in named.items() if reference == given), given)


def _texts(given: list[str], limit: int) -> dict[str, list[str]]:
    """Return texts by language, at most `limit` documents of each, evenly spread."""
    from qwenkit.data.readers.texts import read_texts
    from qwenkit.tokenizer.compare import group_of

    texts: dict[str, list[str]] = {}
    for item in given:
        name, _, path = item.rpartition("=") if not Path(item).exists() else ("", "", item)
        for row in read_texts(as_folder(path)):
            group = name or group_of(row)
            texts.setdefault(Path(path).stem if group == "und" else group, []).append(row["text"])
    return {group: rows[:: max(1, -(-len(rows) // limit))] for group, rows in texts.items()}
