"""The sources of a corpus as a recipe names them: the files of a world, and texts of one's own.

    names = source_names(world=True, extra=2)          # pages, text, instructions, stdlib, extra, extra1
    check_sources(names, settings)                     # what a recipe says is about sources that there are
    sources = make_sources(world_files, extra_paths, settings)

A setting of a source that does not exist is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenkit.data.readers.sources import AUTO, KINDS, Source
from qwenkit.errors import UserError, refuse_unnamed
from qwenkit.settings import setting

MOST_COPIES = 1000
WORLD = (  # file, kind, licence
    ("pages.warc.gz", "html", "CC0-1.0"),
    ("text.jsonl", "text", "CC0-1.0"),
    ("instructions.jsonl", "instruction", "CC0-1.0"),
    ("stdlib.jsonl", "code", "PSF-2.0"),
)


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """What a recipe says of single sources, by their names. Each is a key of `corpus`."""

    kinds: dict[str, str] = setting(
        {},
        doc='html, web, text, code or instruction, by source: {extra = "web"}; none: what each file of it holds',
        before="allow_licences",
    )
    text_keys: dict[str, tuple[str, ...]] = setting(
        {},
        doc='columns that make the text of a source, if not `text`: {extra = ["question", "answer"]}',
        before="allow_licences",
    )
    licences: dict[str, str] = setting(
        {}, doc='licence of a source whose rows name none: {extra = "CC-BY-4.0"}', before="allow_licences"
    )
    upsample: dict[str, float] = setting({}, doc="copies of each document of a source: {code = 2}")


def numbered(name: str, count: int) -> list[str]:
    """Return the names of the values of a list: `extra`, `extra1`, ..."""
    return [f"{name}{number or ''}" for number in range(count)]


def source_names(world: bool, extra: int) -> list[str]:
    """Return the names of all sources: the files of a world, where there is one, and texts of one's own."""
    return [*(name.split(".")[0] for name, _, _ in WORLD if world), *numbered("extra", extra)]


def check_sources(names: Sequence[str], settings: SourceSettings) -> None:
    """Refuse settings of sources that do not exist, kinds that do not, and numbers of copies that cannot be.

    Raises a `UserError`, also where there is no source at all.
    """
    if not names:
        raise UserError("no sources: neither `world` nor `extra`")
    for key in ("upsample", "kinds", "text_keys", "licences"):
        for name in getattr(settings, key):
            if name not in names:
                raise UserError(f"`{key}` names no source: {name}; there are {', '.join(names)}")
    for name, copies in settings.upsample.items():
        if not 0 < copies <= MOST_COPIES:
            raise UserError(f"`upsample` wants {copies:g} copies of {name}; from above 0 to {MOST_COPIES} can be")
    refuse_unnamed("kind of source", settings.kinds.values(), KINDS)


def make_sources(world: Sequence[Path], extra: Sequence[Path], settings: SourceSettings) -> list[Source]:
    """Return the sources of a corpus: a world's files (those of `WORLD`, or none), then texts of one's own.

    What a world's files are is known; of the others the settings say it, or each file is taken for what it holds.
    """
    names = source_names(bool(world), len(extra))
    copies = [settings.upsample.get(name, 1.0) for name in names]
    sources = [
        Source(name, path, kind, weight, licence)
        for name, path, weight, (_, kind, licence) in zip(names, world, copies, WORLD)
    ]
    for name, path, weight in zip(names[len(world) :], extra, copies[len(world) :], strict=True):
        kind, licence = settings.kinds.get(name, AUTO), settings.licences.get(name, "unknown")
        sources.append(Source(name, path, kind, weight, licence, settings.text_keys.get(name, ())))
    return sources
