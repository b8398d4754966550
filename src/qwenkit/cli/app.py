"""What all commands share: the application, its option types, and how an answer is printed."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from qwenkit.errors import UserError, visible
from qwenkit.files import CONFIG_BYTES, MEGABYTE, is_disk_full
from qwenkit.records import Quarantine, write_bytes

app = typer.Typer(
    help="The Qwen Technical Report as running software.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example:  qwenkit run nano",
)
inspect_app = typer.Typer(
    help="Look at what a model will really see.",
    no_args_is_help=True,
    epilog="Example:  qwenkit inspect loss-mask runs/nano/world/chat.jsonl --tokenizer runs/nano/tokenizer",
)
app.add_typer(inspect_app, name="inspect")


def as_folder(text: str) -> Path:
    """A path from the command line; an empty one is a slip (an unset variable) and not the working directory."""
    if not text:
        raise typer.BadParameter("an empty path")
    return Path(text)


def as_reference(text: str) -> str:
    """A folder or a model of the Hub, as it was written: `./a/b` is a folder, `a/b` may be either."""
    as_folder(text)
    return text


RunFolder = Annotated[Path, typer.Argument(help="a run folder", parser=as_folder, metavar="RUN")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="change a key: seed=2, base.lr=1e-3", metavar="KEY=VALUE")
]
Json = Annotated[bool, typer.Option("--json", help="answer as JSON, for programs")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="no bars and no lines, only the result")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="more lines: paths, keys, and why a node runs")]


class _Screen(Console):
    """A console for text of anybody's: no brackets are markup, no colons an emoji, and nothing moves the cursor. What
    is to be bold or red comes as a `rich.text.Text`."""

    def render_str(self, text: str, **given: Any) -> Text:
        return super().render_str(visible(text), **given)


def terminal(stderr: bool = False) -> Console:
    """Where answers for people go: wrapped at the window, never in a pipe."""
    return _Screen(
        soft_wrap=not (sys.stderr if stderr else sys.stdout).isatty(), stderr=stderr,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip


def say(text: str) -> None:
    """A plain answer for people."""
    print(visible(text), flush=True)


def print_json(value: object) -> None:
    """An answer for programs. What a terminal would obey stands in it as JSON's own escapes: the value is the same."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, indent=1)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # JSON's escapes: those of Python, by which such a stream helps itself, are none
        text = json.dumps(json.loads(text), indent=1)
    print(visible(text, lambda sign: f"\\u{ord(sign):04x}"))


def _finite(value: Any) -> Any:
    """A value without NaN and infinity, which JSON does not have: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_stdin() -> str:
    """All of standard input, where it is text and not endless."""
    if sys.stdin is None:
        raise UserError("standard input is closed", expected="text")
    text = sys.stdin.read(CONFIG_BYTES + 1)
    if len(text) > CONFIG_BYTES:
        raise UserError(f"standard input does not end within {CONFIG_BYTES // MEGABYTE} MB", expected="a smaller text")
    if any("\udc80" <= sign <= "\udcff" for sign in text):  # the bytes that `entry` lets pass
        raise UserError(f"standard input is not {sys.stdin.encoding.upper()}", expected="text in that encoding")
    return text


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or say why not and leave what stood there."""
    with written(path):
        write_bytes(real(path), text.encode(errors="replace"))


def real(path: Path) -> Path:
    """Where a file that the user names is written: where a link leads, which is the user's own."""
    return path.resolve() if path.resolve().is_file() and path.parent != Path("/dev") else path


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What keeps an answer from its file, in words that name the file."""
    try:
        yield
    except OSError as error:
        hint = "free some space; what stood there before is left" if is_disk_full(error) else None
        raise UserError(f"the file cannot be written ({error.strerror})", where=str(path), hint=hint) from error


def tell_quarantined(name: Path, quarantine: Quarantine) -> None:
    """A line about the records of a file or folder that could not be read, beside the answer and not in it."""
    if quarantine:
        terminal(stderr=True).print(f"{name}: {quarantine.words()}")


def minutes_text(value: float | None) -> str:
    """A cell of a table; empty where nothing is known."""
    return "" if value is None else f"{value:.1f}"


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time that is left, where there is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal()
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(28), TextColumn("left"), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total, note: bars.update(task, completed=done, total=total, description=visible(note))


ACCEPT = "keys of a model's config.json that are not known here and change nothing, by commas"


def as_names(text: str) -> list[str]:
    """Names that were given by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def accepting_names(text: str) -> contextlib.AbstractContextManager[None]:
    """What is loaded inside the block may say these keys, by commas."""
    from qwenkit.model.formats.keys import accepting

    return accepting(as_names(text))
