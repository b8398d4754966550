"""What the card of a data set of the Hub says of its files: `configs` and their `data_files` in `README.md`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError


def train_files(folder: Path, files: Sequence[Path]) -> list[Path] | None:
    """Return the files of the training split as the card names them; None where no card does."""
    configs = _configs(folder / "README.md")
    usable = [config for config in configs if isinstance(config, dict) and config.get("data_files")]
    if not usable:
        return None
    default = [c for c in usable if c.get("default") is True] or [
        c for c in usable if c.get("config_name") == "default"
    ]
    if len(usable) > 1 and not default:
        names = ", ".join(str(config.get("config_name")) for config in usable)
        raise UserError(f"the card of this data set names several configurations: {names}",
                        where=str(folder / "README.md"), hint="name the files of one, separated by commas")  # fmt: skip
    patterns = _patterns((default or usable)[0]["data_files"])
    matching = [file for file in files if any(_meant(file.relative_to(folder), pattern) for pattern in patterns)]
    return matching or None


def _configs(card: Path) -> list[Any]:
    """The list `configs` of a card's first lines; a card that says nothing readable says nothing."""
    import yaml

    try:
        with card.open(encoding="utf-8") as file:
            text = file.read(1 << 20)
        head = text.split("---", 2)[1] if text.startswith("---") else ""
        header = yaml.safe_load(head)
    except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError):
        return []
    configs = header.get("configs") if isinstance(header, dict) else None
    return configs if isinstance(configs, list) else []


def _patterns(data_files: Any) -> list[str]:
    """The paths of the training split in any of the forms that a card may have."""
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return _texts(data_files.get("train"))
    if not isinstance(data_files, list):
        return []
    entries = [entry for entry in data_files if isinstance(entry, dict)]
    if not entries:
        return _texts(data_files)
    return [text for e in entries if str(e.get("split", "")).startswith("train") for text in _texts(e.get("path"))]


def _texts(value: Any) -> list[str]:
    return (
        [value]
        if isinstance(value, str)
        else [v for v in value if isinstance(v, str)]
        if isinstance(value, list)
        else []
    )


def _meant(file: Path, pattern: str) -> bool:
    return fnmatch(file.as_posix(), pattern.removeprefix("./").replace("**/", "*"))
