"""Commands about adapters: `qwenkit merge`, and how other commands name them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from qwenkit.cli.app import ACCEPT, Json, accepting_names, app, as_folder, as_reference, print_json, say
from qwenkit.errors import UserError


@app.command(epilog="Example:  qwenkit merge runs/nano/base runs/mine/sft --out merged")
def merge(
    model: Annotated[
        str,
        typer.Argument(help="a model folder, a GGUF file, or org/name", parser=as_reference, metavar="MODEL"),
    ],
    adapter: Annotated[
        str, typer.Argument(help="an adapter's folder, or org/name", parser=as_reference, metavar="ADAPTER")
    ],
    out: Annotated[Path, typer.Option(help="the folder of the merged model", parser=as_folder, metavar="FOLDER")],
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="merge into a quantized model, which becomes one of 16 bits")
    ] = False,
    accept_unknown: Annotated[str, typer.Option("--accept-unknown", help=ACCEPT, metavar="KEY,...")] = "",
    as_json: Json = False,
) -> None:
    """Add an adapter to the weights of its model: a plain folder, with a certificate of what the two said before."""
    from qwenkit.evaluation.merge import merge as merge_folders
    from qwenkit.hub import resolve

    with accepting_names(accept_unknown):
        row = merge_folders(resolve(model), resolve(adapter), out, dequantize)
    if as_json:
        print_json({"folder": str(out), **row})
        return
    say(f"{out}: {row['dtype']}, max |dlogp| {row['max_dlogp']:.2g}, greedy {row['greedy_agreement']:.0%} equal")


def named_adapters(given: Sequence[str]) -> dict[str, Path]:
    """Return the folders of adapters by name: of each `NAME=ADAPTER`, or `ADAPTER`, whose name is its folder's.

    Raises a `UserError` for two of one name, and for a folder that is none."""
    from qwenkit.adapter_files import refuse_no_adapter
    from qwenkit.hub import resolve

    named: dict[str, Path] = {}
    for text in given:
        name, sign, reference = text.partition("=")
        reference = reference if sign else text
        folder = resolve(reference)
        name = name if sign else Path(reference).name
        refuse_no_adapter(folder, f"--adapter {text}")
        if name in named:
            raise UserError(f"two adapters are called {name}", where="--adapter", expected="a name for each",
                            hint=f"--adapter OTHER={reference}")  # fmt: skip
        named[name] = folder
    return named
