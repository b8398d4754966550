"""What tags, roles, classes and ids hint at. They are hints: what holds much of a page's text is kept (`weight`).

Names are cut into words at white space, hyphens, underscores and humps ("relatedStories"), and a word says the same on
every page; so what a name says is found once. One number holds all of it, a bit for each thing.
"""

from __future__ import annotations

import re
from functools import lru_cache

SKIP = frozenset(
    "script style noscript template title math iframe object embed svg canvas video audio button select option "
    "textarea input map area dialog datalist progress meter figcaption applet frameset rt rp rtc".split()
)
BLOCK = frozenset(
    "address article aside blockquote center dd details div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 "
    "header hgroup hr legend li listing main menu nav ol p pre section summary table tbody td tfoot th thead tr ul "
    "caption xmp".split()
)
LINKABLE = frozenset("ul ol table div section p dl".split())
PLAIN = frozenset("p td th pre li dt dd".split())
ABOVE = frozenset("h2 h3 h4 h5 h6 td th li dt dd".split())
HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
HEADED = HEADINGS | {"dt", "summary", "legend"}  # where a button is a heading
PREFORMATTED = frozenset("pre listing xmp".split())
CELLS = frozenset("td th".split())
_CONTAINERS = frozenset("div section article main td span".split())
_NOISE_TAGS = frozenset("nav footer aside menu form".split())
_NOISE_ROLES = frozenset(
    "navigation complementary contentinfo banner search dialog menu menubar toolbar tablist alert".split()
)

NOISE, COMMENTS, BODY, HIDDEN, BY_ID = 1, 2, 4, 8, 16
LINE_NUMBERS, CODE_LINE, UNSEEN, FORMULA, BUTTON, NOTE = 32, 64, 128, 256, 512, 1024
BARE = {**dict.fromkeys(_NOISE_TAGS, NOISE), "article": BODY}  # what a tag says without attributes
_LONGEST_NAME = 500  # characters of a class or an id that are looked at


def _names(words: str) -> re.Pattern[str]:
    """A pattern for names of classes and ids that hold one of these words between spaces, hyphens or underscores."""
    return re.compile(rf"(?:^|[_-])(?:{'|'.join(words.split())})(?:$|[_-])")


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
_OTHERS = (
    (LINE_NUMBERS, _names(r"line-?n(?:os?|r|ums?|umbers?) linenos? lineno\w* linenr gutter blob-num ln lnt lntd")),
    (CODE_LINE, _names(r"blob-code ln-code line-code code-line linecode js-file-line line-content diff-code")),
    (
        UNSEEN,
        _names(
            r"""sr-only screen-?reader(?:-?\w+)* visually-?hidden assistive-?text offscreen element-invisible
            mw-editsection edit-?section headerlink hash-link anchorjs-link copybtn noprint math-?jax[-_]preview"""
        ),
    ),
    (FORMULA, _names(r"katex math-?jax mjx-container mwe-math-element math-element latex tex mwe-math\w* equation")),
    (BUTTON, _names(r"accordion\w* faq\w* collaps\w* question\w* toggle-?title disclosure\w*")),
    (NOTE, _names(r"notes? tip tips hint warning caution important danger admonition\w* callout\w*")),
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_INVISIBLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_KEPT_SPACE = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)", re.I)


def is_hidden(attributes: dict[str, str]) -> bool:
    """Return whether the attributes of an element hide it."""
    return "hidden" in attributes or ("style" in attributes and bool(_INVISIBLE.search(attributes["style"])))


def keeps_space(attributes: dict[str, str]) -> bool:
    """Return whether the style of an element keeps its white space."""
    return "style" in attributes and bool(_KEPT_SPACE.search(attributes["style"]))


@lru_cache(maxsize=20_000)
def meaning(names: str) -> int:
    """Return what a class or an id says, as bits."""
    bits = 0
    for word in names[:_LONGEST_NAME].split():
        bits |= _meaning(word)
    return bits


@lru_cache(maxsize=50_000)
def _meaning(word: str) -> int:
    word = _CAMEL.sub("-", word).lower()
    bits = COMMENTS if _COMMENTS.search(word) else NOISE if _NOISE.search(word) else 0
    if _BODY.search(word):
        bits |= BODY
    for bit, pattern in _OTHERS:
        if pattern.search(word):
            bits |= bit
    return bits


def hints(tag: str, attributes: dict[str, str]) -> int:
    """Return what an element's tag, role, class, id and style say it is."""
    kind = attributes.get("class", "")
    if len(attributes) == 1 and kind:
        return by_class(tag, kind)
    get = attributes.get
    bits = _hints(tag, kind, get("id", ""), get("role", ""), get("itemprop", ""))
    if ("style" in attributes and is_hidden(attributes)) or "hidden" in attributes or get("aria-hidden") == "true":
        return bits | HIDDEN
    return bits


@lru_cache(maxsize=20_000)
def by_class(tag: str, kind: str) -> int:
    """Return the same of an element that has a class only, as most have."""
    return _hints(tag, kind, "", "", "")


@lru_cache(maxsize=20_000)
def _hints(tag: str, kind: str, name: str, role: str, itemprop: str) -> int:
    by_class = meaning(kind)
    named = by_class & (NOISE | COMMENTS)
    if tag in _NOISE_TAGS or role in _NOISE_ROLES:
        return by_class & ~BODY if by_class & NOTE and not named else NOISE
    bits = by_class
    if name and tag not in HEADINGS:
        by_id = meaning(name)
        bits |= by_id | (BY_ID if by_id & (NOISE | COMMENTS) and not named else 0)
    if tag not in _CONTAINERS:
        bits &= ~BODY
    elif tag == "article" or itemprop == "articleBody":
        bits |= BODY
    if bits & COMMENTS or bits & BODY:
        bits &= ~NOISE
    return bits
