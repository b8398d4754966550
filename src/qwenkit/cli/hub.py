"""`qwenkit push`: publish a model on the Hub, the counterpart of reading one from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwenkit.cli.app import Json, app, as_folder, print_json, terminal
from qwenkit.errors import UserError


@app.command(epilog="Example:  qwenkit push runs/nano/chat me/nano-chat --private --license apache-2.0")
def push(
    folder: Annotated[Path, typer.Argument(help="a model's folder", parser=as_folder, metavar="FOLDER")],
    name: Annotated[str, typer.Argument(help="org/name on the Hub", metavar="NAME")],
    private: Annotated[bool, typer.Option("--private", help="seen only by you, where it is new")] = False,
    revision: Annotated[str | None, typer.Option(help="the branch; made where it is missing", metavar="BRANCH")] = None,
    message: Annotated[str | None, typer.Option(help="message of the commit")] = None,
    license: Annotated[str | None, typer.Option(help="the model's licence, for its card")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show files and sizes, ask nobody")] = False,
    as_json: Json = False,
) -> None:
    """Put a complete model on the Hub: weights, tokenizer, and a model card where there is none."""
    from qwenkit import hub
    from qwenkit.artifacts import CARD
    from qwenkit.lineage.model_card import card_to_give, refuse_unfinished

    repo = hub.plain_name(name)
    refuse_unfinished(folder)
    files: dict[str, Path | bytes] = {**hub.publishable(folder)}
    card = card_to_give(folder, repo, license)
    if card is not None:
        files[CARD] = card.encode()
    elif license:
        raise UserError(
            "the folder has a card of its own, which --license does not change",
            where=str(folder / CARD),
            hint="write the licence there, and leave --license out",
        )
    left = sorted(path.name for path in folder.iterdir() if path.name not in files)
    address = ""
    if not dry_run:
        address = hub.upload(files, repo, private=private, revision=revision, message=message or f"{repo} from qwenkit",
                             keep=[CARD] if card is not None else [])  # fmt: skip
    sizes = {
        file_name: len(file) if isinstance(file, bytes) else file.stat().st_size for file_name, file in files.items()
    }
    if as_json:
        print_json({"name": repo, "commit": address, "files": sizes, "left_out": left})
        return
    _show(sizes, left, CARD if card is not None else "")
    terminal().print(address or f"nothing was sent; without --dry-run this becomes {repo}", highlight=False)


def _show(sizes: dict[str, int], left: list[str], made: str) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("file", "size", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, size in sizes.items():
        table.add_row(name, decimal(size), "written from the manifests" if name == made else "")
    table.add_row("", decimal(sum(sizes.values())), "")
    terminal().print(table)
    if left:
        terminal().print("left out: " + ", ".join(left), markup=False)
