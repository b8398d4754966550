"""A page as elements and blocks, in document order: what lxml's parser tells of, tag by tag.

Without a tree there is not a limit of depth, and a tag of ever so many attributes takes no more than its length. Here a
page spends most of its time, so what happens at every tag is kept short: tags inside a line are only counted, unless
they are *watched* for what is made of them at their end (powers, marks of footnotes, numbers of lines, formulas).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import lxml.etree

from qwenkit.data.extract.html import marks
from qwenkit.data.extract.html.formulas import Aside, image_text
from qwenkit.data.extract.html.names import (
    BARE,
    BLOCK,
    BUTTON,
    CELLS,
    CODE_LINE,
    FORMULA,
    HEADED,
    HEADINGS,
    LINE_NUMBERS,
    PREFORMATTED,
    SKIP,
    UNSEEN,
    hints,
    is_hidden,
    keeps_space,
    meaning,
)

BREAK = "\x1e"  # a line's end that the page asks for
_MEANT = frozenset("br img a sup sub q".split()) | SKIP  # tags inside a line that mean something
_COUNTED = frozenset(("li", "ol")) | CELLS | PREFORMATTED
_MOST_ELEMENTS = 1_000_000  # beyond them tags are taken for inline ones: the text stays, and memory is bounded
_WIDEST, _TALLEST = 50, 1000  # columns and rows that a cell is believed to span
_COPIED = 45  # characters of a box of text, from which it holds text to read or to copy


@dataclass(slots=True)
class Block:
    """A run of text with no block inside; `owner` is the element it lies in, `pre` the piece of code it is part of."""

    owner: int
    kind: str
    text: str
    links: int
    prefix: str = ""
    pre: int = 0
    mass: float = 0.0


class _Watch(NamedTuple):
    """An open element that something is made of at its end: where it is, what it is, and where its text begins."""

    depth: int
    what: str
    blocks: int
    parts: int
    links: int
    href: str = ""


class Walk:
    """The target of the parser. Elements that are blocks have numbers, and lists hold what is known of each: that is
    quicker by half than an object for each. Those of an element's inside are the numbers that follow its own."""

    def __init__(self) -> None:
        self.parents, self.tags, self.hints = [-1], ["body"], [0]
        self.cells = [-1]  # the cell of a table that an element is, or lies in
        self.items = [0]  # items of a list and columns of a row so far
        self.columns: dict[int, int] = {}  # the column that a cell stands in
        self.names: dict[int, tuple[str, str]] = {}  # class and id of elements that have hints or an id
        self.blocks: list[Block] = []
        self.title = ""
        self.deepest = self.attributes = 0
        self._depth = 0
        self._owner, self._depths = 0, [-1]  # the innermost open element, and how deep each element is
        self._innermost = -1  # depth of that
        self._aside: Aside | None = None
        self._watched: list[_Watch] = []
        self._parts: list[str] = []
        self._links = 0
        self._link = self._pre = 0  # depth of the open link, of the outermost preformatted element
        self._code = 0  # the piece of code that the text is part of
        self._prefix = ""
        self._formula = (-1, -1, "")  # the last one: number of blocks and parts before it, its TeX
        self._rendered: _Watch | None = None  # the last formula drawn in letters, whose TeX may follow
        self._hanging: dict[int, dict[int, int]] = {}  # of a table: columns that cells above reach down into

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Open an element: called by the parser at each start tag."""
        self._depth = depth = self._depth + 1
        if depth > self.deepest:
            self.deepest = depth
        if self._aside is not None:
            self._aside.start(tag, attributes)
        elif tag in BLOCK and len(self.tags) < _MOST_ELEMENTS:
            self._block(tag, attributes)
        elif tag in _MEANT:
            self._meant(tag, attributes)
        elif "class" in attributes or "style" in attributes or "hidden" in attributes:
            self._named(tag, attributes)
        if len(attributes) > self.attributes:
            self.attributes = len(attributes)

    def end(self, tag: str) -> None:
        """Close an element: called by the parser at each end tag."""
        depth = self._depth
        self._depth = depth - 1
        if self._aside is not None:
            if self._aside.end(tag):
                self._back(self._aside)
            return
        if depth == self._innermost:
            self._leave(depth)
        if self._watched and self._watched[-1].depth == depth:
            self._notice(self._watched.pop())
        if depth == self._link:
            self._link = 0

    def data(self, text: str) -> None:
        """Take text: called by the parser between tags."""
        if self._aside is not None:
            self._aside.data(text)
        elif self._parts or self._pre or not text.isspace():
            self._parts.append(text)
            if self._link:
                self._links += len(text.strip())

    def close(self) -> Walk:
        """Return the end of the page."""
        while self._depth > 0:
            self.end("")
        self._flush()
        return self

    def _block(self, tag: str, attributes: dict[str, str]) -> None:
        """An element that is a block begins."""
        if self._parts:
            self._flush()
        parent, number = self._owner, len(self.tags)
        self._owner, self._innermost = number, self._depth
        self._depths.append(self._depth)
        self.parents.append(parent)
        self.tags.append(tag)
        self.items.append(0)
        self.cells.append(self.cells[parent])
        if attributes:
            bits = hints(tag, attributes)
            self.hints.append(bits)
            if bits or "id" in attributes:
                self._hinted(number, bits, attributes)
            if not self._pre and "style" in attributes and keeps_space(attributes):
                self._pre, self._code = self._depth, number
        else:
            self.hints.append(BARE.get(tag, 0))
        if tag in _COUNTED:
            self._counted(tag, number, attributes)

    def _hinted(self, number: int, bits: int, attributes: dict[str, str]) -> None:
        """An element whose names say something begins."""
        self.names[number] = (attributes.get("class", ""), attributes.get("id", ""))
        if bits & CODE_LINE and self.tags[number] in CELLS:
            if not self._pre:
                self._pre, self._code = self._depth, self.parents[self.parents[number]]
        elif bits & LINE_NUMBERS:
            self._watch("numbers")

    def _counted(self, tag: str, number: int, attributes: dict[str, str]) -> None:
        """An item, a list, a cell or a piece of code begins."""
        parent = self.parents[number]
        if tag == "li":
            self.items[parent] += 1
            if not self._pre:
                self._prefix = f"{self.items[parent]}. " if self.tags[parent] == "ol" else "- "
        elif tag in CELLS:
            self.cells[number] = number
            self._place(number, attributes)
        elif tag == "ol":
            start = attributes.get("start", "")
            self.items[number] = int(start[:9]) - 1 if start.isdecimal() else 0
        elif not self._pre:
            self._pre, self._code = self._depth, number

    def _place(self, number: int, attributes: dict[str, str]) -> None:
        """Find the column of a cell, past those that cells above reach down into."""
        row = self.parents[number]
        column = self.items[row]
        hanging = self._hanging.get(self.parents[row]) if self._hanging else None
        while hanging and hanging.get(column, 0) > 0:
            hanging[column] -= 1
            column += 1
        wide = _span(attributes, "colspan", _WIDEST) if "colspan" in attributes else 1
        tall = _span(attributes, "rowspan", _TALLEST) if "rowspan" in attributes else 1
        if tall > 1:
            hanging = self._hanging.setdefault(self.parents[row], {})
            hanging.update(dict.fromkeys(range(column, column + wide), tall - 1))
        self.columns[number], self.items[row] = column, column + wide

    def _leave(self, depth: int) -> None:
        """The innermost block ends."""
        if self._parts:
            self._flush()
        if self._prefix and self.tags[self._owner] == "li":
            self._prefix = ""
        self._owner = owner = self.parents[self._owner]
        self._innermost = self._depths[owner]
        if depth <= self._pre:
            self._pre = self._code = 0

    def _meant(self, tag: str, attributes: dict[str, str]) -> None:
        """A tag that means something inside a line, or whose text is none of the line's."""
        if tag == "a":
            self._a(attributes)
        elif tag == "br":
            self._parts.append("\n" if self._pre else BREAK)
        elif tag == "img":
            if text := image_text(attributes):
                self._write_formula(text)
        elif tag == "q":
            self._watch("quote")
            self._parts.append("“")
        elif tag in ("sup", "sub"):
            if not self._pre:
                self._watch(tag)
        elif tag != "button" or not self._is_heading(attributes):
            self._aside = Aside(tag, attributes)

    def _is_heading(self, attributes: dict[str, str]) -> bool:
        """Whether a button opens the part that it names, so that it is the heading of it."""
        if self.tags[self._owner] in HEADED or meaning(attributes.get("class", "")) & BUTTON:
            return True
        return "collapse" in (attributes.get("data-toggle"), attributes.get("data-bs-toggle"))

    def _a(self, attributes: dict[str, str]) -> None:
        """A link or an anchor. What leads to another place of the page is looked at again, when its text is known."""
        if "class" in attributes or "style" in attributes:
            self._named("a", attributes)
            if self._aside is not None:
                return
        href = attributes.get("href")
        if href is None or self._link:
            return
        if href[:1] == "#":
            self._watch("a", attributes.get("role", "") or href)
            if self.tags[self._owner] in HEADINGS:
                return
        self._link = self._depth

    def _named(self, tag: str, attributes: dict[str, str]) -> None:
        """A tag inside a line whose names may say that it is not to be seen, or is not text."""
        bits = meaning(attributes["class"]) if "class" in attributes else 0
        hidden = ("style" in attributes or "hidden" in attributes) and is_hidden(attributes)
        if hidden or bits & UNSEEN:
            self._aside = Aside(tag, attributes)
        elif not bits:
            return
        elif bits & FORMULA:
            self._watch("formula")
        elif bits & LINE_NUMBERS and self._pre:
            self._watch("numbers")

    def _watch(self, what: str, href: str = "") -> None:
        self._watched.append(_Watch(self._depth, what, len(self.blocks), len(self._parts), self._links, href))

    def _notice(self, watch: _Watch) -> None:
        """A watched element ends: what is made of its text."""
        blocks, parts = self.blocks, self._parts
        if watch.what == "quote":
            parts.append("”")
        elif watch.what == "numbers":
            if len(blocks) > watch.blocks and not parts and marks.are_numbers([b.text for b in blocks[watch.blocks :]]):
                del blocks[watch.blocks :]
            elif len(blocks) == watch.blocks and marks.are_numbers(parts[watch.parts :]):
                self._replace(watch, "")
        elif len(blocks) > watch.blocks or len(parts) <= watch.parts:
            return
        elif watch.what == "formula":
            if self._formula[0] == watch.blocks and self._formula[1] >= watch.parts:
                self._replace(watch, self._formula[2])
                self._formula = (watch.blocks, watch.parts, self._formula[2])
            else:
                self._rendered = watch
        else:
            text = "".join(parts[watch.parts :])
            before = "".join(parts[max(0, watch.parts - 3) : watch.parts])
            linked = bool(self._link) or self._links > watch.links
            made = marks.made(watch.what, text, before, linked=linked, href=watch.href)
            if made != text:
                self._replace(watch, made)

    def _replace(self, watch: _Watch, text: str) -> None:
        """Put a text in the place of what came since the watch began."""
        self._parts[watch.parts :] = [text] if text else []
        self._links = min(self._links, watch.links + len(text))

    def _back(self, aside: Aside) -> None:
        """What is made of an element that was put aside."""
        self._aside = None
        if aside.tag == "title":
            self.title = self.title or aside.text()
        elif aside.tag == "textarea":
            self._copied(aside)
        elif formula := aside.formula():
            drawn = self._rendered
            if aside.tag == "script" and drawn is not None and drawn.blocks == len(self.blocks):
                self._replace(drawn, "")
            self._write_formula(formula)

    def _copied(self, aside: Aside) -> None:
        """A box of text is part of the page where it holds text to read or to copy, and no markup."""
        text = aside.text().strip("\n")
        if text[:1] != "<" and "://" not in text[:9] and (aside.fixed or len(text) >= _COPIED) and text.strip():
            self._flush()
            self.blocks.append(Block(self._owner, "pre", text, 0, pre=-len(self.blocks) - 1))

    def _write_formula(self, text: str) -> None:
        """Add a formula, unless the page has just given it, as it does for readers of several kinds."""
        blocks, parts, before = self._formula
        if (blocks, parts + 1) == (len(self.blocks), len(self._parts)) and text == before:
            return
        tail = self._parts[-1][-1:] if self._parts else ""
        self._formula = (len(self.blocks), len(self._parts), text)
        self.data(f" {text}" if tail.isalnum() and text[0] == "$" else text)

    def _flush(self) -> None:
        """Close the open block: what was gathered belongs to the innermost element."""
        text = "".join(self._parts)
        if self._pre:
            kind, text = "pre", text.replace(BREAK, "\n").strip("\n")
        else:
            kind, text = self.tags[self._owner], squeeze(text) if BREAK in text else " ".join(text.split())
        if text and (kind != "pre" or not text.isspace()):
            self.blocks.append(Block(self._owner, kind, text, self._links, self._prefix, self._code))
            self._prefix = ""
        self._parts, self._links = [], 0


def squeeze(text: str) -> str:
    """Runs of white space as one space; lines end where the page ends them."""
    return "\n".join(line for line in (" ".join(part.split()) for part in text.split(BREAK)) if line)


def _span(attributes: dict[str, str], name: str, most: int) -> int:
    value = attributes.get(name, "1")
    return min(most, max(1, int(value))) if value.isdecimal() and len(value) < 9 else 1


def walk(page: str) -> Walk | None:
    """Return the page, walked through; None where there is none."""
    parser = lxml.etree.HTMLParser(encoding="utf-8", target=Walk(), huge_tree=True)
    try:
        return cast("Walk", lxml.etree.fromstring(page.encode("utf-8", "replace"), parser))
    except (lxml.etree.LxmlError, ValueError):
        return None
