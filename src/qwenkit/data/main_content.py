"""The main content of a page by the weight of its sentences (section 2.1, step 1): the fast tier of `extract`.

    found = main_content(page)      # a `Content`: the text, and how far to trust it

One walk, along with lxml's parser, cuts the page into blocks (paragraphs, items, cells, headings, code); a block of
sentences has *mass*, its characters outside links. From the body we go down as long as one child holds most of the
mass: that is the root. Parts whose tag, role or class names them (navigation, shares, related stories, comments) are
left out unless they hold most of the page. In the root, blocks that are mostly links go, and so do short ones outside
the first and last sentence. Lists, tables, code and TeX are written so that they can be read. Time and memory are
linear in the page, whatever is in it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast

import lxml.etree

from qwenkit.data.sentences import CLOSING, ENDS, PAUSES, WIDE

_SKIP = frozenset(
    "script style noscript template title math iframe object embed svg canvas video audio button select option "
    "textarea input map area dialog datalist progress meter figcaption applet frameset".split()
)
_BLOCK = frozenset(
    "address article aside blockquote center dd details div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 "
    "header hgroup hr legend li main menu nav ol p pre section summary table tbody td tfoot th thead tr ul "
    "caption".split()
)
_LINKABLE = frozenset("ul ol table div section p dl".split())
_PLAIN = frozenset("p td th pre li dd".split())
_ABOVE = frozenset("h2 h3 h4 h5 h6 td th li".split())
_CONTAINERS = frozenset("div section article main td span".split())
_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
_NOISE_TAGS = frozenset("nav footer aside menu form".split())
_NOISE_ROLES = frozenset(
    "navigation complementary contentinfo banner search dialog menu menubar toolbar tablist alert".split()
)


_Open = tuple[int, str, bool, bool]
"""Where the walk stands: in which element, in which block (no name: inside a line), in code, in a link."""


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
_SENTENCE = re.compile(rf"[{ENDS}{PAUSES}](?:\s|[{CLOSING}]|$)|[{WIDE}，、]")
_AFTER = re.compile(
    r"""\W*(?:
    (?:(?:\d+|add|all|leave|post|read|reader|your|show|view|a|no|the|user)\W+)*(?:comments?|reply)\b(?!\s(?:on|from|by|of)\b)
    | (?:the\ )?(?:latest|other|more|top|related|recent|similar|popular)\s(?:\w+\s)?(?:news|stories|articles|posts)\b
    | most\s(?:read|popular|viewed|commented) | you\s(?:may|might)\salso\slike | share\sthis\b
    | 相[关關][新阅文报链推专聞閱報鏈專] | 推荐阅读 | 热门 | 最新(?:新闻|文章|评论) | (?:网友|发表|我要)评论 | 更多新闻
    | 延伸阅读
    | (?:все|другие|последние|похожие|новые|интересные|популярные)\s(?:\w+\s)?(?:новости|материалы|статьи|публикации)
    | (?:(?:добавить|оставить|ваш|все|написать)\s)?(?:комментари[ийяев]+|отзывы)\b | обсуждение | обсудить
    | читают\sсейчас | самое\s(?:читаемое|популярное) | новости\sпартн
    | (?:(?:dodaj|wybrane|wasze|twój|wszystkie)\s)?(?:komentarze?|opinie)\b | skomentuj | najczęściej\sczytane
    | (?:najnowsze|inne|pozostałe|podobne|powiązane)\s(?:wiadomości|artykuły|newsy|tematy)
    | (?:τελευταία|άλλα|σχετικά|περισσότερα|πρόσφατα)\s(?:νέα|άρθρα|θέματα) | σχόλια | σχετικά\b | δημοφιλή
    | (?:kommentare?|commentaires?|comentarios?|commenti|comentários?|yorumlar)\b
    | (?:ähnliche|weitere|verwandte|neueste)\s(?:artikel|themen|beiträge|nachrichten)
    | articles\s(?:similaires|liés) | noticias\srelacionadas
    ).{0,30}$""",
    re.I | re.X,
)  # short lines that head what follows a page's text
_RIGHTS = re.compile(
    r"""\W*(?:(?:©|\(c\)|copyright)\D{0,12}(?:19|20)\d\d | all\srights\sreserved | все\sправа\sзащищены
    | wszelkie\sprawa | 版权(?:所有|声明) | με\sεπιφύλαξη | tous\sdroits | alle\srechte | todos\slos\sderechos)""",
    re.I | re.X,
)
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_SOME = 0.25  # of a page's sentences, that must stand above what follows its text
NONE, NOISE, COMMENTS = 0, 1, 2
_LONGEST_NAME = 500  # characters of a class or an id that are looked at
_MOST_ELEMENTS = 1_000_000  # beyond them tags are taken for inline ones: the text stays, and memory is bounded
MOST_TAGS, MOST_DEEP, MOST_ATTRIBUTES = 20_000, 1000, 1000  # of a simple page


class Content(NamedTuple):
    """`text`: the main content; `share`: of the page's sentences that it holds (0 where there are none); `simple`:
    whether the page is one that other parsers end with, some being quadratic in depth or in attributes."""

    text: str
    share: float
    simple: bool


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
    items: int = 0


@dataclass(slots=True)
class _Block:
    """A run of text with no block inside; `owner` is the element it lies in."""

    owner: int
    kind: str
    text: str
    links: int
    prefix: str = ""
    mass: float = 0.0


class _Walk:
    """The page as elements and blocks, in document order: what the parser tells of, tag by tag.

    Without a tree there is no limit of depth, and a tag of ever so many attributes takes no more than its length.
    """

    def __init__(self) -> None:
        self.elements = [_Element(-1, "body", NONE, False)]
        self.blocks: list[_Block] = []
        self.title = ""
        self.tags = self.deepest = self.attributes = 0
        self._open: list[_Open] = []
        self._here: _Open = (0, "", False, False)
        self._aside: _Aside | None = None
        self._parts: list[str] = []
        self._links = 0
        self._prefix = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.tags += 1
        if len(attributes) > self.attributes:
            self.attributes = len(attributes)
        if self._aside is not None:
            self._aside.start(tag, attributes)
            return
        block = tag in _BLOCK and len(self.elements) < _MOST_ELEMENTS
        if tag in _SKIP or (block and attributes and _is_hidden(attributes)):
            self._aside = _Aside(tag, attributes)
            return
        owner, _, in_pre, in_link = self._here
        self._open.append(self._here)
        if len(self._open) > self.deepest:
            self.deepest = len(self._open)
        if block:
            self._here = (self._element(tag, attributes), tag, in_pre or tag == "pre", in_link)
        elif tag == "br":
            self._parts.append("\n")
            self._here = (owner, "", in_pre, in_link)
        else:
            self._here = (owner, "", in_pre, in_link or (tag == "a" and "href" in attributes))

    def end(self, tag: str) -> None:
        if self._aside is not None:
            if self._aside.end():
                self._back(self._aside)
            return
        owner, block, in_pre, _ = self._here
        if block:
            self._flush(owner, "pre" if in_pre else block)
        self._here = self._open.pop()

    def data(self, text: str) -> None:
        if self._aside is not None:
            self._aside.data(text)
        elif self._parts or not text.isspace():
            _, _, in_pre, in_link = self._here
            self._parts.append(text if in_pre else text.replace("\n", " "))
            if in_link:
                self._links += len(text.strip())

    def close(self) -> _Walk:
        """The end of the page."""
        while self._open:
            self.end("")
        self._flush(0, "body")
        return self

    def _element(self, tag: str, attributes: dict[str, str]) -> int:
        """Note a block element; its number."""
        parent = self._here[0]
        self._flush(parent)
        self.elements.append(_Element(parent, tag, *_named(tag, attributes)))
        if tag == "li":
            above = self.elements[parent]
            above.items += 1
            self._prefix = f"{above.items}. " if above.tag == "ol" else "- "
        return len(self.elements) - 1

    def _back(self, aside: _Aside) -> None:
        """What is made of an element that was put aside."""
        self._aside = None
        if aside.tag == "title":
            self.title = self.title or aside.text()
        elif formula := aside.formula():
            self.data(formula)

    def _flush(self, owner: int, tag: str | None = None) -> None:
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


class _Aside:
    """An element whose text is none of the page's: titles and formulas are taken from it, the rest is let go."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self._depth = tag, 1
        self._math = tag == "math" or (tag == "script" and attributes.get("type", "").startswith("math/tex"))
        self._alt = attributes.get("alttext", "")
        self._note = 0  # the depth of a note that gives the formula in TeX
        self._parts: list[str] = []
        self._tex: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._math and tag == "annotation" and "tex" in attributes.get("encoding", "").lower():
            self._note = self._note or self._depth

    def end(self) -> bool:
        """One element less is open; whether that was the last."""
        if self._note == self._depth:
            self._note = 0
        self._depth -= 1
        return not self._depth

    def data(self, text: str) -> None:
        if self._math or self.tag == "title":
            (self._tex if self._note else self._parts).append(text)

    def text(self) -> str:
        return "".join(self._parts)

    def formula(self) -> str:
        """Its TeX where the page has it, else its characters; "" if it is no formula."""
        tex = "".join(self._tex).strip() or (self.text() if self.tag == "script" else "")
        return f" ${tex}$ " if tex else self._alt or self.text()


def main_content(page: str) -> Content:
    """The main content of a page."""
    walk = _parse(page)
    if walk is None:
        return Content("", 0.0, True)
    elements, blocks = walk.elements, walk.blocks
    _weigh(elements, blocks, _stems(walk.title))
    simple = walk.tags <= MOST_TAGS and walk.deepest <= MOST_DEEP and walk.attributes <= MOST_ATTRIBUTES
    total = elements[0].mass
    dropped = _dropped(elements, total)
    if not total:
        rest = [block for block in blocks if not dropped[block.owner] and 2 * block.links < len(block.text)]
        return Content(_write(rest, elements), 0.0, simple)
    inside = _inside(elements, dropped, _root(elements, dropped))
    chosen = _trim([block for block in blocks if inside[block.owner]])
    chosen = _lead(blocks, chosen, dropped) + chosen
    return Content(_write(chosen, elements), sum(block.mass for block in chosen) / total, simple)


def _parse(page: str) -> _Walk | None:
    """The page, walked through; None where there is none."""
    parser = lxml.etree.HTMLParser(encoding="utf-8", target=_Walk(), huge_tree=True)
    try:
        return cast("_Walk", lxml.etree.fromstring(page.encode("utf-8", "replace"), parser))
    except (lxml.etree.LxmlError, ValueError):
        return None


def _is_hidden(attributes: dict[str, str]) -> bool:
    return "hidden" in attributes or bool(_HIDDEN.search(attributes.get("style", "")))


def _named(tag: str, attributes: dict[str, str]) -> tuple[int, bool]:
    """What an element's tag, role, class and id say it is."""
    if not attributes:
        return (NOISE if tag in _NOISE_TAGS else NONE), tag == "article"
    if tag in _NOISE_TAGS or attributes.get("role") in _NOISE_ROLES or attributes.get("aria-hidden") == "true":
        return NOISE, False
    noise, body = _by_name(attributes.get("class", "")[:_LONGEST_NAME], attributes.get("id", "")[:_LONGEST_NAME])
    body = tag in _CONTAINERS and (body or tag == "article" or attributes.get("itemprop") == "articleBody")
    return (NONE if body and noise == NOISE else noise), body


@lru_cache(maxsize=20_000)
def _by_name(kind: str, name: str) -> tuple[int, bool]:
    names = _CAMEL.sub("-", f"{kind} {name}".strip())
    noise = COMMENTS if _COMMENTS.search(names) else NOISE if _NOISE.search(names) else NONE
    return noise, bool(_BODY.search(names))


def _squeeze(text: str) -> str:
    if "\n" not in text:
        return " ".join(text.split())
    return "\n".join(line for line in (" ".join(part.split()) for part in text.split("\n")) if line)


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


def _inside(elements: list[_Element], dropped: list[bool], root: int) -> list[bool]:
    """Which elements lie in the root, in no dropped part and in no small part that is mostly links."""
    inside: list[bool] = []
    least = 0.2 * elements[root].mass
    for index, element in enumerate(elements):
        links = element.tag in _LINKABLE and element.links > 0.6 * element.size and element.mass < least
        above = element.parent >= 0 and inside[element.parent]
        inside.append(not dropped[index] and (index == root or (above and not links)))
    return inside


def _trim(blocks: list[_Block]) -> list[_Block]:
    """From the first block of sentences, with the headings, items and cells right above it, to the last, with the
    tables, code and short lines without links below it; but nothing of what follows the page's text: other stories,
    comments, rights."""
    blocks = blocks[: _end(blocks)]
    heavy = [n for n, block in enumerate(blocks) if block.mass]
    if not heavy:
        return []
    first, last = heavy[0], heavy[-1] + 1
    while first > 0 and blocks[first - 1].kind in _ABOVE and not blocks[first - 1].links:
        first -= 1
    while last < len(blocks) and blocks[last].kind in _PLAIN and not blocks[last].links:
        last += 1
    return blocks[first:last]


def _end(blocks: list[_Block]) -> int:
    """Where a heading such as "Comments" or a line of rights ends the text: below the page's own heading, and after
    some of its sentences."""
    top = max((n for n, block in enumerate(blocks) if block.kind == "h1"), default=0)
    least, before = _SOME * sum(block.mass for block in blocks[top:]), 0.0
    for number, block in enumerate(blocks[top:], top):
        if before > least and ((len(block.text) <= 60 and _AFTER.match(block.text)) or _RIGHTS.match(block.text)):
            return number
        before += block.mass
    return len(blocks)


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
