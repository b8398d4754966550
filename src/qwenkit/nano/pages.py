"""The world as web pages, with planted faults, so that every step of the corpus can be evaluated.

    for row in pages(facts, seed, 6000): row["url"], row["content_type"], row["body"], row["truth"]

`truth` says what extraction should find, in which language, and what was planted: exact and near duplicates (with the
id of the page they copy), spam, garbled text, offensive text. One page in eight lies about its encoding: GBK or
Latin-1 bytes under a header that says UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from qwenkit.nano.facts import LANGUAGES, RELATIONS, Facts
from qwenkit.nano.items import make
from qwenkit.nano.layouts import LAYOUTS, Article
from qwenkit.nano.row_rng import RowRng, rows
from qwenkit.records import Row

RATES = {"exact_duplicate": 0.04, "near_duplicate": 0.04, "spam": 0.04, "garbled": 0.03, "offensive": 0.02}
WRONG_HEADER = 1 / 8
_LINKS = {
    "en": [
        "After that much happened.",
        "The market opens early in the morning.",
        "People there like to talk about the old days.",
        "In the evening the streets of the town are quiet.",
        "A small café stands near the bridge.",
        "It was a long and cold winter.",
        "The children of the town know this story well.",
        "Nobody was in a hurry that day.",
    ],
    "zh": [
        "后来发生了许多事情。",
        "早上的集市开得很早。",
        "那里的人们喜欢谈论过去的日子。",
        "到了晚上,城里的街道十分安静。",
        "桥边有一家小小的茶馆。",
        "那是一个漫长而寒冷的冬天。",
        "城里的孩子们都熟悉这个故事。",
        "那一天谁也不着急。",
    ],
}
_TITLE = {"en": "Stories from {c}", "zh": "{c}的故事"}
_SPAM = {
    "en": [
        "Buy cheap pills now",
        "Click here to win",
        "Best casino bonus",
        "Free money today",
        "Hot offer limited time",
    ],
    "zh": ["点击这里领取大奖", "最低价格马上购买", "澳门赌场注册送钱", "免费赚钱快来加入", "限时优惠不要错过"],
}
_ABUSE = {
    "en": [
        "You fucking idiot.",
        "What a piece of shit.",
        "He is a moron and a bastard.",
        "Complete bullshit, you asshole.",
    ],
    "zh": ["你这个傻逼。", "他妈的混蛋。", "滚你妈的蛋,王八蛋。", "操你妈的贱人。"],
}


def pages(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Yield pages in an order of their own; a duplicate comes after the page that it copies."""
    articles: list[tuple[str, Article]] = []
    for number, draw in enumerate(rows(seed, "pages", count)):
        id = f"page-{number:05d}"
        planted, article, original = _article(draw, facts, articles)
        if planted is None:
            articles.append((id, article))
        layout = draw.pick(list(LAYOUTS))
        content_type, body = _encoded(LAYOUTS[layout](article, draw), article.language, draw)
        truth = {
            "id": id, "text": article.text, "language": article.language, "planted": planted, "of": original,
            "layout": layout,
        }  # fmt: skip
        url = f"https://nano.example/{layout}/{id}.html"
        yield {"url": url, "content_type": content_type, "body": body, "truth": truth}


def _article(draw: RowRng, facts: Facts, articles: list[tuple[str, Article]]) -> tuple[str | None, Article, str | None]:
    """Return what was planted (if anything), the article, and the id of the page that it copies (if any)."""
    planted = _planted(draw)
    if planted in ("exact_duplicate", "near_duplicate"):
        if articles:
            original, article = draw.pick(articles)
            return planted, article if planted == "exact_duplicate" else _nearly(article, draw), original
        planted = None
    language = draw.pick(LANGUAGES)
    article = _story(draw, facts, language)
    return planted, _FAULTS[planted](article, draw) if planted else article, None


def _planted(draw: RowRng) -> str | None:
    at = draw.unit()
    for name, rate in RATES.items():
        at -= rate
        if at < 0:
            return name
    return None


def _story(draw: RowRng, facts: Facts, language: str) -> Article:
    """Return paragraphs about a city and several people; sometimes a table of facts or a piece of code."""
    space = " " if language == "en" else ""
    city = draw.pick(facts.cities)
    opening = [facts.sentence(draw, city, language) for _ in range(2)]
    paragraphs = [space.join([*opening, draw.pick(_LINKS[language])])]
    for person in draw.some(facts.people, draw.integer(3, 5)):
        sentences = [facts.fact(draw, person, relation, language) for relation in draw.some(RELATIONS, 3)]
        sentences += [facts.sentence(draw, person, language) for _ in range(2)]
        sentences.insert(draw.integer(0, len(sentences)), draw.pick(_LINKS[language]))
        paragraphs.append(space.join(sentences))
    title = _TITLE[language].format(c=city.name(language))
    code = _code(draw, facts) if draw.chance(0.1) else ""
    return Article(language, title, paragraphs, code, _table(draw, facts, language) if draw.chance(0.15) else ())


def _table(draw: RowRng, facts: Facts, language: str) -> tuple[tuple[str, str], ...]:
    return tuple((person.name(language), facts.value(person, "job", language)) for person in draw.some(facts.people, 4))


def _code(draw: RowRng, facts: Facts) -> str:
    """Return a sum as a program, or a list."""
    item = make("list", draw, facts, "en")
    names = [line.split(". ")[1] for line in item.short.splitlines()]
    return f"words = {names!r}\nfor number, word in enumerate(words, 1):\n    print(number, word)"


def _nearly(article: Article, draw: RowRng) -> Article:
    """Return the same article with one more sentence: still over 0.8 of its 5-shingles in common."""
    return replace(article, paragraphs=[*article.paragraphs, draw.pick(_LINKS[article.language])])


def _spam(article: Article, draw: RowRng) -> Article:
    lines = [(draw.pick(_SPAM[article.language]) + "! ") * draw.integer(3, 8) for _ in range(6)]
    return Article(article.language, draw.pick(_SPAM[article.language]), lines)


def _garbled(article: Article, draw: RowRng) -> Article:
    """Read in the wrong encoding once, and saved so: Chinese as Latin-1, English with lost characters."""
    if article.language == "zh":
        return replace(article, paragraphs=[text.encode().decode("latin-1") for text in article.paragraphs], table=())
    lost = ["".join("\ufffd" if draw.chance(0.15) else char for char in text) for text in article.paragraphs]
    return replace(article, paragraphs=lost)


def _offensive(article: Article, draw: RowRng) -> Article:
    space = " " if article.language == "en" else ""
    abuse = _ABUSE[article.language]
    return replace(article, paragraphs=[text + space + draw.pick(abuse) for text in article.paragraphs])


_FAULTS: dict[str, Callable[[Article, RowRng], Article]] = {"spam": _spam, "garbled": _garbled, "offensive": _offensive}


def _encoded(html: str, language: str, draw: RowRng) -> tuple[str, bytes]:
    """Return the page's header and bytes; some headers are wrong."""
    encoding = "gbk" if language == "zh" else "latin-1"
    if draw.chance(WRONG_HEADER) and html == html.encode(encoding, "ignore").decode(encoding):
        return "text/html; charset=utf-8", html.encode(encoding)
    return draw.pick(["text/html; charset=utf-8", "text/html"]), html.encode()
