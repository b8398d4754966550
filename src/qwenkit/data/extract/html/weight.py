"""Find where the mass of a page lies: its sentences, by element.

A block of sentences has *mass*, its characters outside links. Parts whose names hint at something else than content
(`names`) are dropped unless they hold much of the page or are sections of its text; hidden ones are kept where a click
shows them, such as the panels of tabs. From the body the walk goes down as long as one child holds most of the mass;
the last element is the root. Parts in it that are named as the text itself replace it: one of them, or all of several
similar ones (the posts of a thread).
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from qwenkit.data import sentences
from qwenkit.data.extract.html.names import BODY, BY_ID, COMMENTS, HEADINGS, HIDDEN, LINKABLE, NOISE
from qwenkit.data.extract.html.walk import Block, Walk

Subject = list[tuple[str, re.Pattern[str] | None]]
_SENTENCE = re.compile(
    rf"[{sentences.ENDS}{sentences.PAUSES}](?:\s|[{sentences.CLOSING}]|$)|[{sentences.WIDE}，、\u0964\u06d4]"
)
_UNMARKED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{15}")  # Thai, Lao, Myanmar, Khmer
WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")
_WIDE_RUN, _WORD = re.compile(f"{WIDE.pattern}+"), re.compile(r"[^\W\d_]{4,}")
_STEM, _MOST_SHARED = 6, 3  # letters of a stem; stems of the title that count
_LEAST = 45  # characters of a sentence
_PANEL = re.compile(
    r"(?:^|[\s_-])(?:tabs?|tab-?(?:pane|panel|content)s?|panels?|panes?|collaps\w*|accordion\w*|spoiler\w*"
    r"|toggle\w*|expand\w*|(?:read-?)?more(?:-?text)?|full-?(?:text|story|content)|answers?)(?:$|[\s_-])",
    re.I,
)
_NOT_LETTERS, _DIGITS = re.compile(r"[\W_]+"), re.compile(r"\d")
_NAMED = NOISE | COMMENTS
_NOISE_SHARE, _TAG_SHARE, _COMMENTS_SHARE = 0.4, 0.7, 0.9  # of the mass: of a part with more no name is believed
_FIRM = frozenset(("footer", "nav"))  # tags that say more than a name
_NEARLY_ALL = 0.8  # of the mass: what holds as much is the page, hidden or not


def weigh_blocks(blocks: list[Block], title: str) -> None:
    """Set the mass of each block."""
    subject = _subject(title)
    for block in blocks:
        size = len(block.text)
        if 2 * block.links < size >= _LEAST // 3 and block.kind not in HEADINGS:
            block.mass = _mass(block.text, size - block.links, block.kind == "li", subject)


def _mass(text: str, unlinked: int, is_item: bool, subject: Subject) -> float:
    """Return the characters outside links of a block of sentences, Han ones threefold; more of them on the subject of
    the title, less in items and teasers; 0 where there are no sentences."""
    size = len(text)
    wide = 0 if text.isascii() else len(WIDE.findall(text))
    if size + 2 * wide < _LEAST or not is_sentence(text):
        return 0.0
    mass = unlinked * (1 + 2 * wide / size)
    if is_item or text.endswith(("...", "…")):
        mass *= 0.5
    return mass * (1 + _shared(text, subject)) if subject else mass


def _subject(title: str) -> Subject:
    """Return the subject of a title: each stem with the pattern of words that begin with it, and pairs of Han
    characters."""
    return [(stem, None if WIDE.match(stem) else _word(stem)) for stem in stems(title)]


@lru_cache(maxsize=2000)
def _word(stem: str) -> re.Pattern[str]:
    end = "" if len(stem) == _STEM else r"(?![^\W\d_])"
    return re.compile(rf"(?<![^\W\d_]){re.escape(stem)}{end}")


def _shared(text: str, subject: Subject) -> int:
    """Return how much of a subject a text is about: the stems in it, at most three."""
    text, count = text.casefold(), 0
    for stem, word in subject:
        if stem in text and (word is None or word.search(text)):
            count += 1
            if count == _MOST_SHARED:
                break
    return count


def is_sentence(text: str) -> bool:
    """Return whether a text has the punctuation of sentences; in scripts without such marks, whether it is long
    enough."""
    return bool(_SENTENCE.search(text)) or (not text.isascii() and bool(_UNMARKED.search(text)))


def stems(text: str) -> frozenset[str]:
    """Return the beginnings of words, and pairs of Han characters."""
    text = text.casefold()
    result = {word[:_STEM] for word in _WORD.findall(text)}
    if not text.isascii():
        result.update(a + b for run in _WIDE_RUN.findall(text) for a, b in itertools.pairwise(run))
    return frozenset(result)


def seen(walk: Walk) -> list[Block]:
    """Return the blocks without those that stay hidden."""
    if not any(hints & HIDDEN for hints in walk.hints):
        return walk.blocks
    hidden = _outermost(walk)
    mass: dict[int, float] = {}
    for block in walk.blocks:
        mass[hidden[block.owner]] = mass.get(hidden[block.owner], 0.0) + block.mass
    total, shown = sum(mass.values()), {block.text for block in walk.blocks if hidden[block.owner] < 0}
    most = {n for n, share in mass.items() if share > _NEARLY_ALL * total}
    kept = {n for n, share in mass.items() if n in most or (share and _is_panel(walk, n))}
    return [
        block
        for block in walk.blocks
        if (n := hidden[block.owner]) < 0 or n in most or (n in kept and block.text not in shown)
    ]


def _outermost(walk: Walk) -> list[int]:
    """Return the outermost hidden element around each element, or -1."""
    result = [-1]
    for number in range(1, len(walk.tags)):
        above = result[walk.parents[number]]
        result.append(number if above < 0 and walk.hints[number] & HIDDEN else above)
    return result


def _is_panel(walk: Walk, number: int) -> bool:
    """Return whether a hidden element is shown by a click on the page."""
    if number < 0 or walk.hints[number] & _NAMED:
        return False
    return bool(_PANEL.search(" ".join(walk.names.get(number, ()))))


class Weights(NamedTuple):
    """The mass, the size and the links of each element, summed over everything inside it."""

    mass: list[float]
    size: list[int]
    links: list[int]


def add_up(walk: Walk, blocks: list[Block]) -> Weights:
    """Return the sums of the blocks along the tree of elements."""
    count, parents = len(walk.tags), walk.parents
    mass, size, links = [0.0] * count, [0] * count, [0] * count
    for block in blocks:
        owner, length = block.owner, len(block.text)
        mass[owner] += block.mass
        size[owner] += length
        links[owner] += min(length, block.links)
    for number in range(count - 1, 0, -1):
        if size[number]:
            parent = parents[number]
            mass[parent] += mass[number]
            size[parent] += size[number]
            links[parent] += links[number]
    return Weights(mass, size, links)


def dropped(walk: Walk, blocks: list[Block], mass: list[float]) -> list[bool]:
    """Return which elements lie in a part whose name says that it is not content.

    The name is ignored where the part holds most of the page, and where it is a section named like its heading."""
    sections = _sections(walk, blocks)
    out = [False]
    for number in range(1, len(walk.tags)):
        gone, hints = out[walk.parents[number]], walk.hints[number]
        if not gone and hints & _NAMED:
            limit = _COMMENTS_SHARE if hints & COMMENTS else _TAG_SHARE if walk.tags[number] in _FIRM else _NOISE_SHARE
            gone = mass[number] <= limit * mass[0] and number not in sections
        out.append(gone)
    return out


def _sections(walk: Walk, blocks: list[Block]) -> set[int]:
    """Return elements that are named after the heading with which they begin, as others beside them are: such a name is
    a topic and not a hint."""
    if not any(hints & BY_ID for hints in walk.hints):
        return set()
    same: dict[int, list[int]] = {}  # by parent
    headed: set[int] = set()
    for block in blocks:
        section = walk.parents[block.owner]
        if block.kind in HEADINGS and section > 0 and section not in headed:
            headed.add(section)
            if _letters(walk.names.get(section, ("", ""))[1]) == _letters(block.text) != "":
                same.setdefault(walk.parents[section], []).append(section)
    return {n for beside in same.values() if len(beside) > 1 for n in beside if walk.hints[n] & BY_ID}


def _letters(text: str) -> str:
    return _NOT_LETTERS.sub("", text.casefold())


def roots(walk: Walk, blocks: list[Block], out: list[bool]) -> list[int]:
    """Return the smallest element that holds most of the mass that is not dropped, or those in it that are named as the
    text."""
    count, parents = len(walk.tags), walk.parents
    mass = [0.0] * count
    for block in blocks:
        if not out[block.owner]:
            mass[block.owner] += block.mass
    best = [0] * count  # the heaviest child
    for number in range(count - 1, 0, -1):
        parent = parents[number]
        mass[parent] += mass[number]
        if not best[parent] or mass[number] > mass[best[parent]]:
            best[parent] = number
    root = 0
    while best[root] and best[best[root]] and mass[best[root]] >= 0.8 * mass[root]:
        root = best[root]
    marked = [n for n in range(root, count) if walk.hints[n] & BODY and not out[n]]
    most = max((mass[n] for n in marked), default=0.0)
    if not most or most < 0.3 * mass[root]:
        return [root]
    first = next(n for n in marked if mass[n] >= 0.3 * most)
    return _row(walk, blocks, first, [n for n in marked if mass[n]])


def _row(walk: Walk, blocks: list[Block], first: int, marked: list[int]) -> list[int]:
    """Return the parts like the first one, where they are parts of one page: below its one heading, or on its
    subject."""
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
    return like if _is_one_page(before, parts, _subject(walk.title)) else [first]


def _is_one_page(before: list[Block], parts: list[list[Block]], subject: Subject) -> bool:
    """Return whether parts belong to one page and are not pages of their own, by the place of its heading and by its
    subject."""
    own = sum(part[0].kind in HEADINGS for part in parts if part)
    if own == len(parts) or any(block.kind == "h1" for part in parts[1:] for block in part):
        return False
    if any(block.kind == "h1" for block in before):
        return True
    return not subject or any(_shared(block.text, subject) for part in parts[1:] for block in part)


def _stop(walk: Walk, number: int) -> int:
    """Return the first element after those inside this one."""
    stop = number + 1
    while stop < len(walk.parents) and walk.parents[stop] >= number:
        stop += 1
    return stop


def _kind(walk: Walk, number: int) -> str:
    """Return what parts of one kind have in common: the tag and the first word of the class."""
    kind = walk.names.get(number, ("", ""))[0].split()
    return walk.tags[number] + (" " + _DIGITS.sub("", kind[0]) if kind else "")


def inside(walk: Walk, weights: Weights, out: list[bool], tops: Iterable[int]) -> list[bool]:
    """Return which elements lie in the roots, in no dropped part and in no small part that is mostly links."""
    mass, size, links = weights
    chosen = set(tops)
    least = 0.2 * sum(mass[top] for top in chosen)
    result = [0 in chosen]
    for number in range(1, len(walk.tags)):
        if number in chosen:
            result.append(not out[number])
        elif not result[walk.parents[number]] or out[number]:
            result.append(False)
        else:
            few = links[number] > 0.6 * size[number] and mass[number] < least
            result.append(not (few and walk.tags[number] in LINKABLE))
    return result
