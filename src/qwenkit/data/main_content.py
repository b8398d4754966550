"""The main content of a page by the weight of its sentences (section 2.1, step 1): the fast tier of `extract`.

    text, share = main_content(page)      # share: how much of the page's prose the answer holds; low: doubtful

One walk cuts the page into blocks (paragraphs, items, cells, headings, code); a block of sentences has *mass*, its
characters outside links. From the body we go down as long as one child holds most of the mass: that is the root. Parts
whose tag, role or class names them (navigation, shares, related stories, comments) are left out unless they hold most
of the page. In the root, blocks that are mostly links go, and so do short ones outside the first and last sentence.
Lists, tables, code and TeX are written so that they can be read. lxml parses; nothing else of it is used.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import lxml.etree

_SKIP = frozenset(
    "script style noscript template head iframe object embed svg canvas video audio button select option textarea "
    "input map area dialog datalist progress meter figcaption applet frameset".split()
)
_BLOCK = frozenset(
    "address article aside blockquote body center dd details div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 "
    "header hgroup hr html legend li main menu nav ol p pre section summary table tbody td tfoot th thead tr ul "
    "caption".split()
)
_LINKABLE = frozenset("ul ol table div section p dl".split())
_PLAIN = frozenset("p td th pre li dd".split())
_CONTAINERS = frozenset("div section article main td span".split())
_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
_NOISE_TAGS = frozenset("nav footer aside menu".split())
_NOISE_ROLES = frozenset(
    "navigation complementary contentinfo banner search dialog menu menubar toolbar tablist alert".split()
)


def _names(words: str) -> re.Pattern[str]:
    """A pattern for names of classes and ids that hold one of these words between spaces, hyphens or underscores."""
    return re.compile(rf"(?:^|[\s_-])(?:{'|'.join(words.split())})(?:$|[\s_-])", re.I)


_NOISE = _names(
    r"""nav navi navbar navigation (?:main|top|sub|side)?-?menu footer foot sidebar side-?bar rail breadcrumbs? crumbs?
    share sharing shares sharedaddy social addthis related relate recommend\w* recirc\w* read-?(?:more|next|also)
    more-?(?:from|stories|news|on) see-?also trending popular most-?(?:read|viewed|popular) latest newsletter subscri\w*
    signup sign-?up login register cookies? consent gdpr popup modal overlay banner promo\w* adverti\w* ads? adsense dfp
    sponsor\w* outbrain taboola tags? tagcloud keywords by-?line author-?(?:box|bio|info|card) about-?(?:the-)?author
    bio post-?(?:meta|tags|nav) entry-?(?:meta|footer|utility) pagination pager paging toolbar tools rating vote search
    copyright skip print caption credit gallery carousel slideshow slider widget timestamp dateline pub-?date
    hidden screen-?reader\w* sr-only visually-?hidden toc feedback donat\w* disclaimer correction infobox navbox hatnote
    reflist references mw-editsection noprint"""
)
_COMMENTS = _names(
    "comments? comment-?(?:list|s|area|section|respond) disqus respond replies reactions talkback livefyre fb-comments"
)
_BODY = _names(
    r"""(?:article|post|entry|story|news|page|blog|main|body|single)-?(?:body|content|text|entry|main|detail|copy)
    articlebody content-?(?:body|text|main) storytext entry"""
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SENTENCE = re.compile(r"[.!?;:,،؟。！？；，：、…](?:\s|[\"'”’」』)\]]|$)|[。！？，、]")
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_PARSER = lxml.etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
NONE, NOISE, COMMENTS = 0, 1, 2
_MOST_NUMBERED = 1000


@dataclass(slots=True)
class _Element:
    """What the walk notes of an element that is a block."""

    parent: int
    tag: str
    noise: int
    body: bool
    mass: float = 0.0
    size: int = 0
    links: int = 0


@dataclass(slots=True)
class _Block:
    """A run of text with no block inside; `owner` is the element it lies in."""

    owner: int
    kind: str
    text: str
    links: int
    prefix: str = ""
    mass: float = 0.0


@dataclass(slots=True)
class _Walk:
    """The page as elements and blocks, in document order."""

    elements: list[_Element] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _links: int = 0
    _prefix: str = ""

    def element(self, node: Any, parent: int, tag: str, in_pre: bool) -> None:
        """Note a block element and walk what it holds."""
        index = len(self.elements)
        noise, body = _named(node, tag)
        self.elements.append(_Element(parent, tag, noise, body))
        self.flush(parent)
        if tag == "li":
            self._prefix = _bullet(node)
        in_pre = in_pre or tag == "pre"
        self.add(node.text, in_pre, 0)
        self.children(node, index, in_pre, 0)
        self.flush(index, "pre" if in_pre else tag)

    def children(self, node: Any, owner: int, in_pre: bool, link: int) -> None:
        for child in node:
            tag = child.tag
            if not isinstance(tag, str):
                pass
            elif tag in _SKIP:
                if tag == "script" and (child.get("type") or "").startswith("math/tex"):
                    self.add(f" ${child.text}$ ", in_pre, link)
            elif tag in _BLOCK:
                style = child.get("style")
                if child.get("hidden") is None and not (style and _HIDDEN.search(style)):
                    self.element(child, owner, tag, in_pre)
            else:
                self.inline(child, tag, owner, in_pre, link)
            self.add(child.tail, in_pre, link)

    def inline(self, node: Any, tag: str, owner: int, in_pre: bool, link: int) -> None:
        if tag == "br":
            self._parts.append("\n")
        elif tag == "math":
            self.add(_tex(node), in_pre, link)
        else:
            link = 1 if tag == "a" and node.get("href") is not None else link
            self.add(node.text, in_pre, link)
            self.children(node, owner, in_pre, link)

    def add(self, text: str | None, in_pre: bool, link: int) -> None:
        if text and (self._parts or not text.isspace()):
            self._parts.append(text if in_pre else text.replace("\n", " "))
            if link:
                self._links += len(text.strip())

    def flush(self, owner: int, tag: str | None = None) -> None:
        """Close the open block: what was gathered belongs to `owner`."""
        if not self._parts:
            return
        kind = tag or self.elements[owner].tag
        joined = "".join(self._parts)
        text = joined.strip("\n") if kind == "pre" else _squeeze(joined)
        if text.strip():
            self.blocks.append(_Block(owner, kind, text, self._links, self._prefix))
            self._prefix = ""
        self._parts, self._links = [], 0


def main_content(page: str) -> tuple[str, float]:
    """The main content as text, and the share of the page's sentences that it holds (0 where there are none)."""
    body = _parse(page)
    if body is None:
        return "", 0.0
    walk = _Walk()
    try:
        walk.element(body, -1, "body", False)
    except RecursionError:  # nested thousands deep: no page that people wrote
        return "", 0.0
    elements, blocks = walk.elements, walk.blocks
    _weigh(elements, blocks, _title(body))
    total = elements[0].mass
    if not total:
        return "", 0.0
    dropped = _dropped(elements, total)
    root = _root(elements, dropped)
    chosen = _trim([block for block in blocks if _kept(block, elements, dropped, root)])
    chosen = _lead(blocks, chosen, dropped) + chosen
    return _write(chosen, elements), sum(block.mass for block in chosen) / total


def _parse(page: str) -> Any:
    """The page's body as lxml sees it, or None."""
    try:
        tree = lxml.etree.fromstring(page.encode("utf-8", "replace"), _PARSER)
    except (lxml.etree.LxmlError, ValueError):
        return None
    return tree.find("body") if tree is not None and tree.tag == "html" else tree


def _named(node: Any, tag: str) -> tuple[int, bool]:
    """What an element's tag, role, class and id say it is."""
    if tag in _NOISE_TAGS or node.get("role") in _NOISE_ROLES or node.get("aria-hidden") == "true":
        return NOISE, False
    noise, body = _by_name(node.get("class") or "", node.get("id") or "")
    body = tag in _CONTAINERS and (body or tag == "article" or node.get("itemprop") == "articleBody")
    return (NONE if body and noise == NOISE else noise), body


@lru_cache(maxsize=20_000)
def _by_name(kind: str, name: str) -> tuple[int, bool]:
    names = _CAMEL.sub("-", f"{kind} {name}".strip())
    noise = COMMENTS if _COMMENTS.search(names) else NOISE if _NOISE.search(names) else NONE
    return noise, bool(_BODY.search(names))


def _bullet(node: Any) -> str:
    parent = node.getparent()
    if parent is None or parent.tag != "ol":
        return "- "
    number = 1 + sum(1 for _ in itertools.islice(node.itersiblings("li", preceding=True), _MOST_NUMBERED))
    return f"{number}. " if number <= _MOST_NUMBERED else "- "  # counting from the first would be quadratic


def _tex(node: Any) -> str:
    """A formula: its TeX where the page has it, else its characters."""
    for note in node.iter("annotation"):
        if "tex" in (note.get("encoding") or "").lower() and note.text:
            return f" ${note.text.strip()}$ "
    return node.get("alttext") or "".join(node.itertext())


def _squeeze(text: str) -> str:
    if "\n" not in text:
        return " ".join(text.split())
    return "\n".join(line for line in (" ".join(part.split()) for part in text.split("\n")) if line)


def _title(body: Any) -> frozenset[str]:
    """The stems of the page's title: sentences that share them are what the page is about."""
    page = body.getparent()
    title = page.find("head/title") if page is not None else None
    return _stems("".join(title.itertext())) if title is not None else frozenset()


def _stems(text: str) -> frozenset[str]:
    text = text.casefold()
    stems = {word[:6] for word in re.findall(r"[^\W\d_]{4,}", text)}
    return frozenset(
        stems.union(a + b for run in re.findall(f"{_WIDE.pattern}+", text) for a, b in itertools.pairwise(run))
    )


def _weigh(elements: list[_Element], blocks: list[_Block], title: frozenset[str]) -> None:
    """The mass of each block, summed up the tree."""
    for block in blocks:
        block.mass = _mass(block, title)
        element = elements[block.owner]
        element.mass += block.mass
        element.size += len(block.text)
        element.links += min(len(block.text), block.links)
    for element in reversed(elements[1:]):
        parent = elements[element.parent]
        parent.mass += element.mass
        parent.size += element.size
        parent.links += element.links


def _mass(block: _Block, title: frozenset[str]) -> float:
    """Characters outside links of a block of sentences, Han ones threefold; more of it on the subject of the title,
    less in items and teasers. 0: not sentences."""
    size = len(block.text)
    wide = 0 if block.text.isascii() else len(_WIDE.findall(block.text))
    if block.kind in _HEADINGS or size + 2 * wide < 45 or 2 * block.links >= size or not _SENTENCE.search(block.text):
        return 0.0
    mass = (size - block.links) * (1 + 2 * wide / size)
    if block.kind == "li" or block.text.endswith(("...", "…")):
        mass *= 0.5
    return mass * (1 + min(3, len(title & _stems(block.text))))


def _dropped(elements: list[_Element], total: float) -> list[bool]:
    """Which elements lie in a part named as none of the content. A name is not believed of most of the page."""
    dropped: list[bool] = []
    for element in elements:
        above = element.parent >= 0 and dropped[element.parent]
        limit = 0.9 if element.noise == COMMENTS else 0.4
        dropped.append(above or (element.noise != NONE and element.mass <= limit * total))
    return dropped


def _root(elements: list[_Element], dropped: list[bool]) -> int:
    """The smallest element that holds most of the mass that is not in dropped parts."""
    mass = [0.0] * len(elements)
    children: dict[int, list[int]] = {}
    for index in range(len(elements) - 1, -1, -1):
        element = elements[index]
        own = element.mass - sum(elements[child].mass for child in children.get(index, ()))
        mass[index] += own if not dropped[index] else 0.0
        if element.parent >= 0:
            mass[element.parent] += mass[index]
            children.setdefault(element.parent, []).append(index)
    root = 0
    while True:
        best = max(children.get(root, ()), key=lambda child: mass[child], default=-1)
        if best < 0 or mass[best] < 0.8 * mass[root] or not children.get(best):
            break
        root = best
    marked = [i for i in range(root, len(elements)) if elements[i].body and not dropped[i]]
    most = max((mass[i] for i in marked), default=0.0)
    if not most or most < 0.3 * mass[root]:
        return root
    return next(i for i in marked if mass[i] >= 0.3 * most)


def _kept(block: _Block, elements: list[_Element], dropped: list[bool], root: int) -> bool:
    """Whether a block lies in the root, in no dropped part and in no small part that is mostly links."""
    if dropped[block.owner]:
        return False
    index = block.owner
    while index > root:
        element = elements[index]
        if element.tag in _LINKABLE and element.links > 0.6 * element.size and element.mass < 0.2 * elements[root].mass:
            return False
        index = element.parent
    return index == root


def _trim(blocks: list[_Block]) -> list[_Block]:
    """From the first block of sentences to the last, and the tables, code and short lines without links after it."""
    heavy = [n for n, block in enumerate(blocks) if block.mass]
    if not heavy:
        return []
    last = heavy[-1] + 1
    while last < len(blocks) and blocks[last].kind in _PLAIN and not blocks[last].links:
        last += 1
    return blocks[heavy[0] : last]


def _lead(blocks: list[_Block], chosen: list[_Block], dropped: list[bool]) -> list[_Block]:
    """Sentences between the page's heading and the root: the lead, which many pages set apart."""
    if not chosen:
        return []
    start = next(n for n, block in enumerate(blocks) if block is chosen[0])
    heading = max((n for n in range(start) if blocks[n].kind == "h1"), default=start)
    lead = [block for block in blocks[heading:start] if block.mass and block.kind != "li" and not dropped[block.owner]]
    return lead if 4 * sum(block.mass for block in lead) <= sum(block.mass for block in chosen) else []


def _write(blocks: list[_Block], elements: list[_Element]) -> str:
    """Blocks as paragraphs; items and rows on lines of their own."""
    lines: list[str] = []
    before: _Block | None = None
    for block in blocks:
        if before is not None and block.kind in ("td", "th") and before.kind in ("td", "th"):
            if elements[block.owner].parent == elements[before.owner].parent:
                lines[-1] += " | " + block.text
                before = block
                continue
            lines.append("\n")
        elif before is not None:
            lines.append("\n" if block.prefix and before.prefix else "\n\n")
        lines.append(block.prefix + block.text)
        before = block
    return "".join(lines)
