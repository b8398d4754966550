"""Commands about corpora: what became of a document, the review page, a filter of your own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenkit.cli.app import (
    Json,
    app,
    as_folder,
    inspect_app,
    print_json,
    real,
    say,
    tell_quarantined,
    terminal,
    write_text,
    written,
)
from qwenkit.errors import UserError


@app.command("trace", epilog="Example:  qwenkit trace text-000012 --run runs/nano")
def trace_document(
    document: Annotated[str | None, typer.Argument(help="a document's id", metavar="DOC")] = None,
    run: Annotated[Path, typer.Option(help="a run folder", parser=as_folder, metavar="RUN")] = Path("runs/nano"),
    node: Annotated[str, typer.Option(help="a corpus, or a pretraining whose steps are wanted too")] = "corpus",
    step: Annotated[int | None, typer.Option(help="the documents that this step saw", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Tell what became of a document and which steps saw it; or which documents a step saw."""
    from qwenkit.artifacts import read_manifest
    from qwenkit.data.tokens import provenance as ledger
    from qwenkit.lineage.trace import corpus_of, keeps_order, trace

    if (document is None) == (step is None):
        raise UserError("a document or --step is wanted, and not both", where="qwenkit trace")
    if document is None:
        assert step is not None
        traced = trace(run, node)
        if step >= traced.steps:
            raise UserError(f"`{node}` has no step {step}", where=str(run), expected=f"0 to {traced.steps - 1}")
        rows = ledger.seen_in(traced.order, traced.index, step, traced.batch_size)
        if as_json:
            print_json(rows)
        else:
            _tell(map(_segment_line, rows))
        return
    fates, shown = ledger.fates(corpus_of(run, node), document), None
    if keeps_order(read_manifest(run / node).kind):
        traced = trace(run, node)
        numbers = traced.index.find(document)
        steps = ledger.steps_of(traced.order, numbers, traced.batch_size, traced.steps)
        shown = [{**row, "steps": steps[n]} for n, row in zip(numbers, traced.index.origins(numbers))]
    if as_json:
        print_json({"fates": fates, "tokens": shown})
    else:
        _tell([*map(_fate_line, fates), *map(_token_line, shown or [])])
        if shown == []:
            _tell([f"`{node}` did not learn it: it was not kept, or is held out to measure the loss"])


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        terminal().print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)


def _fate_line(row: dict[str, Any]) -> str:
    times = "" if row["copies"] == 1 else f", {row['copies']} times"
    fate = f"kept{times}" if row["step"] == "kept" else f"dropped by {row['step']} {row['rule']}"
    return f"{row['id']} ({row['source']}, {row['place']}): {fate} {row['seen']}"


def _origin(row: dict[str, Any]) -> str:
    copy = f", copy {row['copy']}" if row["copy"] else ""
    return f"{row['id']}{copy} ({row['source']}, {row['place']}, {row['licence']})"


def _token_line(row: dict[str, Any]) -> str:
    steps = ", ".join(map(str, row["steps"])) or "none: it was not reached"
    place = f"tokens {row['start']} to {row['start'] + row['length']} of shard {row['shard']}"
    return f"{_origin(row)}: {place}; steps {steps}"


def _segment_line(row: dict[str, Any]) -> str:
    pieces = ", ".join(f"{start} to {stop}" for start, stop in row["pieces"])
    return f"{_origin(row)}: tokens {pieces} of its {row['length']}; shard {row['shard']} from {row['start']}"


@inspect_app.command("corpus", epilog="Example:  qwenkit inspect corpus runs/nano/corpus --html review.html")
def inspect_corpus(
    corpus: Annotated[Path, typer.Argument(help="a corpus", parser=as_folder, metavar="CORPUS")],
    html: Annotated[Path, typer.Option(help="write the page here")] = Path("review.html"),
    serve: Annotated[bool, typer.Option("--serve", help="show it on this machine and save judgements")] = False,
    saved: Annotated[Path, typer.Option(help="where judgements are saved")] = Path("review.jsonl"),
    summary: Annotated[bool, typer.Option("--summary", help="only sum up the saved judgements")] = False,
    port: Annotated[int, typer.Option(help="0: a free one", min=0, max=65_535)] = 0,
) -> None:
    """Show a corpus's funnel, curves and samples of every rule, kept beside dropped, to be judged by people."""
    from qwenkit.data.review import page as review

    if summary:
        print_json(review.summary(saved))
    elif serve:
        from qwenkit.data.review.server import serve as serve_page

        with serve_page(corpus, saved, port) as server:
            say(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends; judgements go to {saved})")
            server.serve_forever()
    else:
        write_text(html, review.page(corpus))
        say(f"wrote {html}")


@app.command(
    "train-filter", epilog="Example:  qwenkit train-filter --positive books --negative spam.jsonl --out filter.npz"
)
def train_filter(
    positive: Annotated[Path, typer.Option(help="text that is wanted: a file or folder", metavar="PATH")],
    negative: Annotated[Path, typer.Option(help="text that is not", metavar="PATH")],
    out: Annotated[Path, typer.Option(help="the filter")],
    limit: Annotated[int, typer.Option(help="documents of each side at most", min=20)] = 20_000,
    as_json: Json = False,
) -> None:
    """Learn a filter of quality for `corpus.filter` from text that is good and text that is not."""
    from itertools import islice

    from qwenkit.data.filters.classifier import QualityClassifier, agreement
    from qwenkit.data.pipeline.steps import text_of
    from qwenkit.data.readers.documents import Source, read_documents
    from qwenkit.records import Quarantine

    if positive.resolve() == negative.resolve():
        raise UserError(
            "both sides are the same text", where=str(positive), expected="text that is wanted, and text that is not"
        )
    sides, lost = [], {}
    for name, path in (("good", positive), ("bad", negative)):
        source, lost[name] = Source(name, path), Quarantine()
        texts = [text_of(source, document) for document in islice(read_documents(source, lost[name]), limit)]
        tell_quarantined(path, lost[name])
        if len(texts) < 20:
            raise UserError(f"{len(texts)} documents cannot teach a filter", where=str(path), expected="at least 20")
        sides.append(texts)
    accuracy = agreement(*sides)
    with written(out):
        QualityClassifier.train(*sides).save(real(out))
    if as_json:
        counts = {name: dict(quarantine.counts) for name, quarantine in lost.items()}
        print_json({"good": len(sides[0]), "bad": len(sides[1]), "agreement": accuracy, "quarantined": counts})
    else:
        say(f"wrote {out}: {len(sides[0])} good, {len(sides[1])} bad, correct on {accuracy:.1%} of a fifth held out")
