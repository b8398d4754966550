"""Old names of the command line: they work for one more release, each with a warning.

`upgrade(arguments)` replaces them by their present names, before anything is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping

from qwenkit.errors import UserError, notice
from qwenkit.schema import renamed_keys
from qwenkit.stages import KINDS

COMMANDS = {"compression": "tokenizer-stats", "longctx": "long-context", "explain": "trace"}
"""Commands by their old names."""
INSPECT = {"mask": "loss-mask"}
"""Commands of `qwenkit inspect` by their old names."""
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "run": {"--allow-drift": "--allow-env-change"},
    "train-filter": {"--good": "--positive", "--bad": "--negative"},
}
"""Options by their old names, for each command; those of the stages are renamed keys of recipes (`qwenkit.schema`)."""


def upgrade(arguments: list[str]) -> list[str]:
    """Return the arguments under their present names; raises a `UserError` for an option that is given under both."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, rest = _upgraded_commands(arguments[:end]), arguments[end:]
    command = next((word for word in words if not word.startswith("-")), "")
    renamed = _renamed_options(command)
    given = {word.partition("=")[0] for word in words}
    for old, new in renamed.items():
        if old in given and new in given:
            raise UserError(f"{old} and {new} are two names of one option", where=f"qwenkit {command}", expected=new)
    return [*(_upgraded_option(word, renamed, f"qwenkit {command}") for word in words), *rest]


def _upgraded_commands(words: list[str]) -> list[str]:
    """Return the words with the command, and that of `inspect`, under its present name."""
    places = [at for at, word in enumerate(words) if not word.startswith("-")][:2]
    tables = [COMMANDS, INSPECT if places and words[places[0]] == "inspect" else {}]
    for at, names in zip(places, tables):
        if words[at] in names:
            before = "qwenkit inspect" if names is INSPECT else "qwenkit"
            _tell(f"{before} {words[at]}", f"{before} {names[words[at]]}")
            words = [*words[:at], names[words[at]], *words[at + 1 :]]
    return words


def _renamed_options(command: str) -> Mapping[str, str]:
    if command in KINDS:
        return {_option(old): _option(new) for old, new in renamed_keys(command).items()}
    return OPTIONS.get(command, {})


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _upgraded_option(word: str, renamed: Mapping[str, str], where: str) -> str:
    """Return one argument, `--row=8` or `--row`, under its present name."""
    name, sign, value = word.partition("=")
    if name not in renamed:
        return word
    _tell(name, renamed[name], where)
    return renamed[name] + sign + value


def _tell(old: str, new: str, where: str | None = None) -> None:
    notice(f"an old name, read for one release more: {old} is now {new}", where)
