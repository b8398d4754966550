"""Entry point: run the command line, turn errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import Any

from qwenkit.cli import runs, chat, models, adapters, serve, bench, doctor, hub  # noqa: F401  # isort: skip (as the help page shows them)
from qwenkit.cli import tokens, inspect, inspect_data, corpus, verbs  # noqa: F401  # isort: skip
from qwenkit.cli import old_names
from qwenkit.cli.app import app
from qwenkit.errors import INTERRUPTED, MISTAKE, Notice, QwenkitError, UserError, visible
from qwenkit.files import is_disk_full


def main() -> None:
    """Run the command line, and turn errors into messages and exit codes."""
    _make_writable()
    _show_notices()
    try:
        code = _answer()
        sys.stdout.flush()  # now: at exit the interpreter would report a full disk in its own words
    except BrokenPipeError:  # the reader closed its end of the pipe
        code = MISTAKE
    except OSError as error:
        code = _tell(_unwritable(error))
    _forget_outputs()
    if code:
        sys.exit(code)


def _refuse_not_utf8(arguments: list[str]) -> None:
    """Raise a `UserError` for arguments that are not UTF-8: names and texts go into manifests, ids and pages."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            what = f"an argument that is not UTF-8: {argument!a}"
            raise UserError(what, where="qwenkit", hint="rename the file, or give its folder") from None


def _answer() -> int:
    """Run the command and tell what went wrong; the exit code."""
    try:
        _refuse_not_utf8(sys.argv[1:])
        sys.argv[1:] = old_names.upgrade(sys.argv[1:])
        verbs.register(sys.argv[1:])
        return app(standalone_mode=False, prog_name="qwenkit") or 0
    except QwenkitError as error:
        return _tell(error)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            sys.stdout.flush()  # raises again where standard output is at fault
        return _tell(_of_the_system(error))
    except MemoryError:
        return _tell(UserError("there is not enough memory for this", hint="free some, or ask for less at once"))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # the help page has just been printed
            return MISTAKE
        return _tell(_misused(error))


def _of_the_system(error: OSError) -> UserError:
    hint = "free some space" if is_disk_full(error) else None
    return UserError(error.strerror or str(error), where=error.filename and str(error.filename), hint=hint)


def _unwritable(error: OSError) -> UserError:
    return UserError(f"standard output cannot be written ({error.strerror})")


def _make_writable() -> None:
    """Make the standard streams usable: a closed output (`>&-`) writes to nowhere, characters that an encoding lacks
    become escapes, and invalid bytes of the input pass, to be reported where they are read."""
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor, which a model's file would get otherwise
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it is open as long as we are)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _show_notices() -> None:
    """Print a notice as one line; other warnings keep their form."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            print(f"note: {visible(str(message))}", file=sys.stderr)
        else:
            shown(message, category, *place, **more)

    if shown.__module__ != __name__:
        warnings.showwarning = show


def _tell(error: QwenkitError) -> int:
    """Print an error behind what was answered before it; its exit code."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(f"error: {error.text()}", file=sys.stderr, flush=True)
    return error.exit_code


def _forget_outputs() -> None:
    """Discard what could not be written: the interpreter flushes once more at its end, and would complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
                stream.flush()
            os.close(nowhere)


def _misused(error: Any) -> UserError:
    """Return the error of a wrong command line: what is wrong, and how the command is used."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "qwenkit"
    usage = context.get_usage().removeprefix("Usage:").strip() if context else None
    return UserError(error.format_message().rstrip("."), where=command, expected=usage, hint=f"{command} --help")
