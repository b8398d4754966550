"""Functions of a user's own that a recipe names: found without running their code, and loaded where they are called.

    function_file = find_function("my_module:score", "reward", "(rows, trajectories)")
    score = load_function(function_file, "reward")

The name is `module:function` (a module in the working directory, or an installed one) or `folder/file.py:function`. The
SHA-256 of the file is part of what is found, and of the identity of the node that uses it; what the file imports is not
checked. `what` is the word for the function in messages: "step", "reward".
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from qwenkit.errors import UserError, nearest

FORM = "`module:function` or `file.py:function`"


class FunctionFile(NamedTuple):
    """A function of the user's: its name in the recipe, its file and function, and the SHA-256 of the file."""

    name: str
    path: str
    function: str
    digest: str


def find_function(name: str, what: str, arguments: str) -> FunctionFile:
    """Return a function by its name, without running any of its code; `arguments` shows what it is called with.

    Raises a `UserError` for a malformed name, a missing file or function, and a file that is not Python."""
    module, colon, function = name.rpartition(":")
    if not colon or not module or not function.isidentifier():
        raise UserError(f"not the name of a {what}: {name!r}", expected=FORM)
    path = _file_of(module, f"{what} {name}")
    data = path.read_bytes()
    try:
        tree = ast.parse(data, str(path))
        defined = _defined_names(tree)
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"not a Python file: {error}", where=f"{what} {name}: {path}{line}") from error
    if any(isinstance(node, ast.AsyncFunctionDef) and node.name == function for node in tree.body):
        raise UserError(f"`{function}` is an `async def`, which nobody would await", where=f"{what} {name}: {path}",
                        expected=f"def {function}{arguments}: ...")  # fmt: skip
    if function not in defined:
        raise UserError(
            f"no `{function}` in this file", where=f"{what} {name}: {path}", nearest=nearest(function, defined),
            expected=f"def {function}{arguments}: ...",
        )  # fmt: skip
    return FunctionFile(name, str(path.resolve()), function, hashlib.sha256(data).hexdigest())


def _file_of(module: str, where: str) -> Path:
    if module.endswith(".py"):
        path = Path(module)
    else:
        path = Path(*module.split(".")).with_suffix(".py")
        if not path.is_file():
            path = _installed(module) or path
    if not path.is_file():
        looked = (
            "a path is relative to the working directory"
            if module.endswith(".py")
            else "looked for in the working directory, and for an installed module with a source file"
        )
        raise UserError("no such file", where=f"{where}: {path}", expected=FORM, hint=f"{looked} ({Path.cwd()})")
    return path


def _installed(module: str) -> Path | None:
    """Return the source file of an installed module; packages around it are imported, the module is not."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _defined_names(tree: ast.Module) -> list[str]:
    """Return the names that a module defines, assigns or imports at its top level."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names


@lru_cache(maxsize=32)
def load_function(function_file: FunctionFile, what: str) -> Callable[..., Any]:
    """Return a function; its file is run once in each process.

    Raises a `UserError` for a file that has changed since it was found, that fails, or that lacks the function."""
    path = Path(function_file.path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != function_file.digest:
        hint = "the same command begins again with what is there now"
        place = f"{what} {function_file.name}: {path}"
        raise UserError(f"the file of this {what} changed while it was used", where=place, hint=hint)
    spec = importlib.util.spec_from_file_location(f"qwenkit_{what}_{function_file.digest[:16]}", path)
    if spec is None or spec.loader is None:
        raise UserError(
            "this file cannot be loaded", where=f"{what} {function_file.name}: {path}", expected="a Python file"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise failure(function_file, what, error) from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, function_file.function)
    if not callable(function):
        raise UserError(f"`{function_file.function}` is not a function", where=f"{what} {function_file.name}: {path}")
    return cast("Callable[..., Any]", function)


def failure(function_file: FunctionFile, what: str, error: BaseException, place: str = "") -> UserError:
    """Return the error of a function that failed at a place in its data, with the last line of its file that was
    reached."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == Path(function_file.path)
    ]
    line = f":{frames[-1].lineno}" if frames else ""
    reason = traceback.format_exception_only(error)[-1].strip()
    where = f"{what} {function_file.name}: {function_file.path}{line}" + (f", {place}" if place else "")
    return UserError(f"the {what} failed: {reason}", where=where)
