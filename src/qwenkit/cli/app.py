"""What all commands share: the application, its option types, and how answers are printed."""

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

from qwenkit import __version__
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


def _show_version(asked: bool) -> None:
    if asked:
        say(f"qwenkit {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def as_folder(text: str) -> Path:
    """Return a path of the command line; an empty one is an error (an unset variable), not the working directory."""
    if not text:
        raise typer.BadParameter("an empty path")
    return Path(text)


def as_reference(text: str) -> str:
    """Return a folder or a model of the Hub as written: `./a/b` is a folder, `a/b` may be either."""
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
    """Return the console of answers for people: text is wrapped at the window, but never in a pipe."""
    return _Screen(
        soft_wrap=not (sys.stderr if stderr else sys.stdout).isatty(), stderr=stderr,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip


def say(text: str) -> None:
    """Print a plain answer for people."""
    print(visible(text), flush=True)


def print_json(value: object) -> None:
    """Print an answer for programs. Terminal control characters are JSON escapes in it; the value is the same."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, indent=1)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # the stream would write Python's escapes, which are not JSON
        text = json.dumps(json.loads(text), indent=1)
    print(visible(text, lambda sign: f"\\u{ord(sign):04x}"))


def _finite(value: Any) -> Any:
    """Return a value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_stdin() -> str:
    """Return all of standard input; raises a `UserError` where it is closed, not text, or too long."""
    if sys.stdin is None:
        raise UserError("standard input is closed", expected="text")
    text = sys.stdin.read(CONFIG_BYTES + 1)
    if len(text) > CONFIG_BYTES:
        raise UserError(f"standard input does not end within {CONFIG_BYTES // MEGABYTE} MB", expected="a smaller text")
    if any("\udc80" <= sign <= "\udcff" for sign in text):  # the bytes that `entry` lets pass
        raise UserError(f"standard input is not {sys.stdin.encoding.upper()}", expected="text in that encoding")
    return text


def write_text(path: Path, text: str) -> None:
    """Write a file completely, or raise a `UserError` and leave what was there."""
    with written(path):
        write_bytes(real(path), text.encode(errors="replace"))


def real(path: Path) -> Path:
    """Return where a file that the user names is written: the target of a link, as that belongs to the user."""
    return path.resolve() if path.resolve().is_file() and path.parent != Path("/dev") else path


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Raise a `UserError` that names the file, inside the `with` block, where it cannot be written."""
    try:
        yield
    except OSError as error:
        hint = "free some space; what stood there before is left" if is_disk_full(error) else None
        raise UserError(f"the file cannot be written ({error.strerror})", where=str(path), hint=hint) from error


def tell_quarantined(name: Path, quarantine: Quarantine) -> None:
    """Print a line to standard error about the records of a file or folder that could not be read."""
    if quarantine:
        terminal(stderr=True).print(f"{name}: {quarantine.words()}")


def minutes_text(value: float | None) -> str:
    """Return the cell of a table for some minutes; "" where they are unknown."""
    return "" if value is None else f"{value:.1f}"


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function that moves a progress bar with the remaining time; it does nothing without a terminal."""
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
    """Return names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def accepting_names(text: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which these unknown keys of config.json are accepted, separated by commas."""
    from qwenkit.model.formats.keys import accepting

    return accepting(as_names(text))


def need(package: str, command: str, extra: str) -> None:
    """Raise a `UserError` where a package that one command needs is not installed."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed", where=command, expected=f"the extra `{extra}`",
                        hint=f"pip install 'qwenkit[{extra}]'")  # fmt: skip
