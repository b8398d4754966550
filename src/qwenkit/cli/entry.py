"""Entry point: run the command line, turn errors into messages and exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, NoReturn

from qwenkit.cli import runs, models, hubbing, tokens, inspecting, inspect_data, corpora, verbs  # noqa: F401  # isort: skip (as the help page shows them)
from qwenkit.cli.app import app
from qwenkit.errors import INTERRUPTED, MISTAKE, QwenkitError, UserError


def main() -> None:
    """Entry point: run the command line and turn errors into messages and exit codes."""
    _make_writable()
    verbs.register(sys.argv[1:])
    try:
        code = app(standalone_mode=False, prog_name="qwenkit")
    except QwenkitError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(MISTAKE)
    except OSError as error:
        mend = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None
        _fail(UserError(error.strerror or str(error), where=error.filename and str(error.filename), mend=mend))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(_misused(error))
    if code:
        sys.exit(code)


def _make_writable() -> None:
    """Where an output was closed (`>&-`), write to nowhere; what its encoding cannot say is written as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it is open as long as we are)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(error: QwenkitError) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {error.text()}", file=sys.stderr)
    sys.exit(error.exit_code)


def _misused(error: Any) -> UserError:
    """A wrong command line in our words: what, and how the command is used."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "qwenkit"
    usage = context.get_usage().removeprefix("Usage:").strip() if context else None
    return UserError(error.format_message().rstrip("."), where=command, expected=usage, mend=f"{command} --help")
