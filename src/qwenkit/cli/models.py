"""Commands about models: measure how long a context one can use, compare its forms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwenkit.cli.app import (
    ACCEPT,
    Json,
    accepting_names,
    app,
    as_reference,
    bar,
    print_json,
    real,
    say,
    tell_quarantined,
    written,
)
from qwenkit.errors import Stopped, UserError
from qwenkit.records import Quarantine, write_bytes

Model = Annotated[
    str,
    typer.Argument(help="a model folder, a GGUF file, or org/name of the Hub", parser=as_reference, metavar="MODEL"),
]
Accept = Annotated[str, typer.Option("--accept-unknown", help=ACCEPT, metavar="KEY,...")]


@app.command(
    "long-context", epilog="Example:  qwenkit long-context runs/nano/base --text notes --lengths 256,512,1024,2048"
)
def long_context(
    model: Model,
    text: Annotated[Path, typer.Option(help="a folder of .txt/.md/.py, a file, JSONL or Parquet")],
    lengths: Annotated[str | None, typer.Option(help="tokens, by commas; the trained length and its doublings")] = None,
    trained: Annotated[
        int | None, typer.Option(help="tokens the model was trained at; as its folder says", min=2)
    ] = None,
    windows: Annotated[
        str | None, typer.Option(help="a window for each layer, by commas, 0 for none; or `grid`")
    ] = None,
    limit: Annotated[int, typer.Option(help="tokens of text at most", min=2)] = 200_000,
    plot: Annotated[Path | None, typer.Option(help="draw the table as SVG into this file")] = None,
    accept_unknown: Accept = "",
    as_json: Json = False,
) -> None:
    """Measure perplexity by length under each combination of dynamic NTK, LogN and window attention (Table 3 of the
    report)."""
    from qwenkit.evaluation import long_context as measures
    from qwenkit.hub import resolve
    from qwenkit.model import load_model

    if plot is not None and not plot.parent.is_dir():  # before the work, not after it
        raise UserError("no such folder", where=str(plot.parent), expected="a folder for the plot")
    folder = resolve(model)
    with accepting_names(accept_unknown):
        loaded = load_model(folder)
    config = loaded.config
    length = trained or (config.extension.seq_length if config.extension else config.max_position_embeddings)
    sizes = _numbers(lengths) if lengths else [length << doubling for doubling in range(4)]
    if windows == "grid":
        chosen = measures.grid(config, length)
    else:
        chosen = measures.combinations(
            config, length, [size or None for size in _numbers(windows)] if windows else None
        )
    ids, lost = _tokens(folder, text, limit)
    tell_quarantined(text, lost)
    if not ids:
        raise UserError("no document can be read", where=str(text), expected="text to measure by")
    with bar() as moved:
        cells = measures.measure(measures.scorers(loaded), config, ids, sizes, length, chosen, moved)
    if plot is not None:
        with written(plot):
            write_bytes(real(plot), measures.draw(cells, f"{Path(model).name}, trained at {length} tokens"))
    if as_json:
        print_json({"model": model, "trained": length, "tokens": len(ids), "quarantined": dict(lost.counts),
                    "cells": measures.plain(cells)})  # fmt: skip
        return
    say(f"perplexity by length; trained at {length} tokens, {len(ids)} tokens of text, {cells[0].perplexity.n} pieces")
    say(measures.table(cells))
    if plot is not None:
        say(f"plot: {plot}")


@app.command(epilog="Example:  qwenkit parity runs/nano/chat runs/chat-hf/export runs/chat-int8/quantize")
def parity(
    models: Annotated[
        list[str],
        typer.Argument(
            help="model folders, or org/name; the first is the reference", parser=as_reference, metavar="MODEL"
        ),
    ],
    dtype: Annotated[
        str, typer.Option(help="compute in float32, bfloat16, float16, or auto: as each folder says")
    ] = "auto",
    tolerance: Annotated[
        float | None, typer.Option(help="largest difference of a certificate's log-probabilities")
    ] = None,
    accept_unknown: Accept = "",
    as_json: Json = False,
) -> None:
    """Compare all forms of a model with the first, and each with the certificate that it carries; exit code 1 when a
    certificate does not hold."""
    from qwenkit.cli.parity import check, show
    from qwenkit.hub import resolve

    with accepting_names(accept_unknown):
        rows = check([resolve(model) for model in models], dtype, tolerance)
    if as_json:
        print_json(rows)
    else:
        say(show(rows))
    if broken := [row["model"] for row in rows if row["certificate"] and not row["certificate"]["holds"]]:
        raise Stopped(f"the certificate does not hold: {', '.join(broken)}",
                      hint="export it again, or look what has changed in the folder")  # fmt: skip


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r}", expected="integers separated by commas, such as 256,512") from None


def _tokens(model: Path, text: Path, limit: int) -> tuple[list[int], Quarantine]:
    """Return the documents of a path as ids, each followed by the end of text, and the quarantine of what cannot be
    read."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.data.readers.documents import Source, read_documents

    tok, ids, quarantine = load_tokenizer(model), [], Quarantine()
    for document in read_documents(Source("text", text), quarantine):
        body = document.body if isinstance(document.body, str) else document.body.decode("utf-8", "replace")
        ids += [*tok.encode(body), tok.eot_id]
        if len(ids) >= limit:
            break
    return ids[:limit], quarantine
