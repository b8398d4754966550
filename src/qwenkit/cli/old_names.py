"""Words of the command line that have another name now: they work for one release more, with a warning.

`upgrade(arguments)` writes them as they are called today, before anything is parsed.
"""

from __future__ import annotations

from qwenkit.errors import UserError, notice
from qwenkit.schema import renamed_keys
from qwenkit.stages import KINDS


def upgrade(arguments: list[str]) -> list[str]:
    """The arguments in today's words; an option under both of its names is a `UserError`."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    options = {_option(old): _option(new) for old, new in renamed_keys(verb).items()} if verb in KINDS else {}
    given = {argument.partition("=")[0] for argument in arguments}
    for old, new in options.items():
        if old in given and new in given:
            raise UserError(f"{old} and {new} are two names of one option", where=f"qwenkit {verb}", expected=new)
    return [_renamed(argument, options, f"qwenkit {verb}") for argument in arguments]


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _renamed(argument: str, options: dict[str, str], where: str) -> str:
    """One argument, `--row=8` or `--row`, under today's name."""
    name, sign, value = argument.partition("=")
    if name not in options:
        return argument
    notice(f"an old name, read for one release more: {name} is now {options[name]}", where)
    return options[name] + sign + value
