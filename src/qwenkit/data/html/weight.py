"""Where the mass of a page lies.

A block of sentences has *mass*, its characters outside links. Parts whose names hint at something else than content
(`names`) are dropped unless they hold much of the page or are sections of its text; hidden ones are kept where a click
shows them, as the panels of tabs. From the body we go down as long as one child holds most of the mass: that is the
root. Parts in it that are named as the text itself take its place, one of them, or all of a row of their like (the
posts of a thread).
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable

from qwenkit.data.html.names import (
    BODY,
    BY_ID,
    COMMENTS,
    HEADINGS,
    HIDDEN,
    LINKABLE,
    NOISE,
)
from qwenkit.data.html.walk import Block, Element, Walk

_SENTENCE = re.compile(
    r"[.!?;:,،؛؟。！？；，：、…।॥۔։።၊။།](?:\s|[\"'”’»」』)\]]|$)|[。！？，、।۔]|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{15}"
)
WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")
_WIDE_RUN, _WORD = re.compile(f"{WIDE.pattern}+"), re.compile(r"[^\W\d_]{4,}")
_LEAST = 45  # characters of a sentence
_PANEL = re.compile(
    r"(?:^|[\s_-])(?:tabs?|tab-?(?:pane|panel|content)s?|panels?|panes?|collaps\w*|accordion\w*|spoiler\w*"
    r"|toggle\w*|expand\w*|(?:read-?)?more(?:-?text)?|full-?(?:text|story|content)|answers?)(?:$|[\s_-])",
    re.I,
)
_NOT_LETTERS = re.compile(r"[\W_]+")


def weigh_blocks(blocks: list[Block], title: str) -> None:
    """The mass of each block."""
    subject = stems(title)
    for block in blocks:
        block.mass = _mass(block, subject)


def _mass(block: Block, subject: frozenset[str]) -> float:
    """Characters outside links of a block of sentences, Han ones threefold; more of it on the subject of the title,
    less in items and teasers. 0: not sentences."""
    text = block.text
    size = len(text)
    wide = 0 if size < _LEAST // 3 or text.isascii() else len(WIDE.findall(text))
    if size + 2 * wide < _LEAST or 2 * block.links >= size or block.kind in HEADINGS or not _SENTENCE.search(text):
        return 0.0
    mass = (size - block.links) * (1 + 2 * wide / size)
    if block.kind == "li" or text.endswith(("...", "…")):
        mass *= 0.5
    return mass * (1 + min(3, len(subject & stems(text)))) if subject else mass


def stems(text: str) -> frozenset[str]:
    """What words begin with, and pairs of Han characters."""
    text = text.casefold()
    found = {word[:6] for word in _WORD.findall(text)}
    if not text.isascii():
        found.update(a + b for run in _WIDE_RUN.findall(text) for a, b in itertools.pairwise(run))
    return frozenset(found)


def seen(walk: Walk) -> list[Block]:
    """The blocks without those that are hidden for good."""
    elements = walk.elements
    if not any(element.hints & HIDDEN for element in elements):
        return walk.blocks
    hidden = [-1] * len(elements)  # the outermost hidden element around each
    for number, element in enumerate(elements[1:], 1):
        above = hidden[element.parent]
        hidden[number] = above if above >= 0 else number if element.hints & HIDDEN else -1
    mass: dict[int, float] = {}
    for block in walk.blocks:
        mass[hidden[block.owner]] = mass.get(hidden[block.owner], 0.0) + block.mass
    total, shown = sum(mass.values()), {block.text for block in walk.blocks if hidden[block.owner] < 0}
    kept = {n for n, held in mass.items() if n < 0 or 2 * held > total or (held and _is_panel(walk, n))}
    return [
        block
        for block in walk.blocks
        if (n := hidden[block.owner]) < 0 or (n in kept and (2 * mass[n] > total or block.text not in shown))
    ]


def _is_panel(walk: Walk, number: int) -> bool:
    """Whether a hidden element is one that a click on the page shows."""
    element = walk.elements[number]
    kind, name = walk.names.get(number, ("", ""))
    return not element.hints & (NOISE | COMMENTS) and bool(_PANEL.search(f"{kind} {name}"))


def add_up(elements: list[Element], blocks: list[Block]) -> None:
    """Sum up the mass, the size and the links of blocks along the tree."""
    for block in blocks:
        element = elements[block.owner]
        size = len(block.text)
        element.mass += block.mass
        element.size += size
        element.links += min(size, block.links)
    for element in reversed(elements[1:]):
        if element.size:
            parent = elements[element.parent]
            parent.mass += element.mass
            parent.size += element.size
            parent.links += element.links


def dropped(walk: Walk, blocks: list[Block]) -> list[bool]:
    """Which elements lie in a part named as none of the content. A name is not believed of most of the page, nor that
    of a section whose name is its heading."""
    elements = walk.elements
    total, sections = elements[0].mass, _sections(walk, blocks)
    out: list[bool] = []
    for number, element in enumerate(elements):
        hints, gone = element.hints, element.parent >= 0 and out[element.parent]
        if not gone and hints & (NOISE | COMMENTS):
            gone = element.mass <= (0.9 if hints & COMMENTS else 0.4) * total and number not in sections
        out.append(gone)
    return out


def _sections(walk: Walk, blocks: list[Block]) -> set[int]:
    """Elements that are named after the heading which they begin with, as others beside them are: what the name says is
    what they are about, and no hint at what they are."""
    elements, found = walk.elements, set[int]()
    if not any(element.hints & BY_ID for element in elements):
        return found
    first: dict[int, Block] = {}
    for block in blocks:
        if block.kind in HEADINGS:
            first.setdefault(elements[block.owner].parent, block)
    named = {n: _is_named_after(walk, n, first.get(n)) for n in range(len(elements)) if elements[n].tag != "body"}
    count: dict[int, int] = {}
    for number, same in named.items():
        if same:
            count[elements[number].parent] = count.get(elements[number].parent, 0) + 1
    return {n for n, same in named.items() if same and elements[n].hints & BY_ID and count[elements[n].parent] > 1}


def _is_named_after(walk: Walk, number: int, heading: Block | None) -> bool:
    name = walk.names.get(number, ("", ""))[1]
    return (
        bool(name)
        and heading is not None
        and _NOT_LETTERS.sub("", name.casefold()) == _NOT_LETTERS.sub("", heading.text.casefold())
    )


def roots(walk: Walk, blocks: list[Block], out: list[bool]) -> list[int]:
    """The smallest element that holds most of the mass that is not dropped; or those in it named as the text."""
    elements = walk.elements
    mass = [0.0] * len(elements)
    for block in blocks:
        if not out[block.owner]:
            mass[block.owner] += block.mass
    best = [0] * len(elements)  # the heaviest child
    for number in range(len(elements) - 1, 0, -1):
        parent = elements[number].parent
        mass[parent] += mass[number]
        if not best[parent] or mass[number] > mass[best[parent]]:
            best[parent] = number
    root = 0
    while best[root] and best[best[root]] and mass[best[root]] >= 0.8 * mass[root]:
        root = best[root]
    marked = [n for n in range(root, len(elements)) if elements[n].hints & BODY and not out[n]]
    most = max((mass[n] for n in marked), default=0.0)
    if not most or most < 0.3 * mass[root]:
        return [root]
    first = next(n for n in marked if mass[n] >= 0.3 * most)
    return _row(walk, blocks, first, [n for n in marked if mass[n]])


def _row(walk: Walk, blocks: list[Block], first: int, marked: list[int]) -> list[int]:
    """The parts like the first one, where they are parts of one page: below its one heading, or on its subject."""
    like, stops = [first], [_stop(walk, first)]
    for number in marked:
        if number >= stops[-1] and _kind(walk, number) == _kind(walk, first):
            like.append(number)
            stops.append(_stop(walk, number))
    if len(like) == 1:
        return like
    before: list[Block] = []
    parts: list[list[Block]] = [[] for _ in like]
    for block in blocks:
        place = bisect.bisect_right(like, block.owner) - 1
        if place < 0:
            before.append(block)
        elif block.owner < stops[place]:
            parts[place].append(block)
    return like if _is_one_page(before, parts, stems(walk.title)) else [first]


def _is_one_page(before: list[Block], parts: list[list[Block]], subject: frozenset[str]) -> bool:
    """Whether parts are of one page, and not pages of their own: told by where its heading is, and by its subject."""
    own = sum(part[0].kind in HEADINGS for part in parts if part)
    if own == len(parts) or any(block.kind == "h1" for part in parts[1:] for block in part):
        return False
    if any(block.kind == "h1" for block in before):
        return True
    return not subject or any(subject & stems(block.text) for part in parts[1:] for block in part)


def _stop(walk: Walk, number: int) -> int:
    """The first element after those that lie in this one."""
    elements, stop = walk.elements, number + 1
    while stop < len(elements) and elements[stop].parent >= number:
        stop += 1
    return stop


def _kind(walk: Walk, number: int) -> str:
    """What parts of one kind have in common: the tag and the first word of the class."""
    kind = walk.names.get(number, ("", ""))[0].split()
    return walk.elements[number].tag + (" " + re.sub(r"\d", "", kind[0]) if kind else "")


def inside(elements: list[Element], out: list[bool], tops: Iterable[int]) -> list[bool]:
    """Which elements lie in the roots, in no dropped part and in no small part that is mostly links."""
    found: list[bool] = []
    chosen = set(tops)
    least = 0.2 * sum(elements[top].mass for top in chosen)
    for number, element in enumerate(elements):
        links = element.tag in LINKABLE and element.links > 0.6 * element.size and element.mass < least
        above = element.parent >= 0 and found[element.parent]
        found.append(not out[number] and (number in chosen or (above and not links)))
    return found
