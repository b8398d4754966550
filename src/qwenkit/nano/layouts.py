"""Twelve layouts of web pages, from tidy articles to tag soup.

    html = LAYOUTS["forum"](article, draw)

Each layout holds the article's paragraphs and much that is not the article: menus, comments, scripts, footers. The
page's own text is known, so extraction can be evaluated. Encodings and wrong headers are the business of `pages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from qwenkit.nano.row_rng import RowRng

_MENU = {
    "en": [
        "Home",
        "News",
        "Sport",
        "Contact",
        "About us",
        "Login",
        "Shop",
        "Travel",
        "Weather",
        "Archive",
        "Jobs",
        "Help",
    ],
    "zh": ["首页", "新闻", "体育", "联系我们", "关于", "登录", "商城", "旅游", "天气", "归档", "招聘", "帮助"],
}
_COMMENTS = {
    "en": [
        "Nice post!",
        "I do not agree at all.",
        "First!",
        "Can you write more?",
        "Thanks for sharing.",
        "Who wrote this?",
    ],
    "zh": ["写得好!", "我完全不同意。", "沙发!", "能多写一点吗?", "谢谢分享。", "这是谁写的?"],
}
_FOOTER = {"en": "Copyright 2023. All rights reserved. Terms of use.", "zh": "版权所有 2023。使用条款。"}


@dataclass(frozen=True)
class Article:
    """The content of a page: a title, paragraphs, perhaps a line of code or a table of facts."""

    language: str
    title: str
    paragraphs: list[str]
    code: str = ""
    table: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """Return the page's main text, as a perfect extraction gives it (without the title)."""
        rows = ["\t".join(row) for row in self.table]
        return "\n".join([*self.paragraphs, *([self.code] if self.code else []), *rows])


Layout = Callable[[Article, RowRng], str]


def _body(article: Article, tag: str = "p") -> str:
    """Return the paragraphs, the code and the table in ordinary HTML."""
    parts = [f"<{tag}>{escape(text)}</{tag}>" for text in article.paragraphs]
    if article.code:
        parts.append(f"<pre><code>{escape(article.code)}</code></pre>")
    if article.table:
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in article.table)
        parts.append(f"<table>{rows}</table>")
    return "\n".join(parts)


def _headline(article: Article) -> str:
    return f"<h1>{escape(article.title)}</h1>"


def _menu(article: Article, draw: RowRng, count: int) -> str:
    names = [draw.pick(_MENU[article.language]) for _ in range(count)]
    return "<ul>" + "".join(f'<li><a href="/{i}">{name}</a></li>' for i, name in enumerate(names)) + "</ul>"


def _comments(article: Article, draw: RowRng, count: int) -> str:
    texts = [draw.pick(_COMMENTS[article.language]) for _ in range(count)]
    return "".join(f'<div class="comment"><b>user{draw.integer(1, 999)}</b><p>{text}</p></div>' for text in texts)


def _page(article: Article, body: str, head: str = "") -> str:
    lang = {"en": "en", "zh": "zh-CN"}[article.language]
    title = escape(article.title)
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}"><head><title>{title}</title>{head}</head>\n<body>{body}</body></html>\n'
    )


def _footer(article: Article) -> str:
    return f"<footer><p>{_FOOTER[article.language]}</p></footer>"


def plain(article: Article, draw: RowRng) -> str:
    """Return a page with a heading and text, and nothing else."""
    return _page(article, f"{_headline(article)}{_body(article)}")


def semantic(article: Article, draw: RowRng) -> str:
    """Return a page of HTML5: header, navigation, main, article, footer."""
    nav = f"<header><nav>{_menu(article, draw, 6)}</nav></header>"
    main = f"<main><article>{_headline(article)}{_body(article)}</article></main>"
    return _page(article, f"{nav}{main}{_footer(article)}")


def unclosed(article: Article, draw: RowRng) -> str:
    """Return a page as written by hand in 1996: no tag is ever closed."""
    return f"<html><title>{escape(article.title)}<body>{_headline(article)}\n<p>" + "\n<p>".join(
        [*map(escape, article.paragraphs), *([f"<pre>{escape(article.code)}</pre>"] if article.code else [])]
    ) + "".join(f"\n<p>{escape(a)} {escape(b)}" for a, b in article.table)  # fmt: skip


def endless_menu(article: Article, draw: RowRng) -> str:
    """Return a page whose menu is longer than its text."""
    menu = f'<div id="menu" class="nav">{_menu(article, draw, 60)}</div>'
    content = f'<div class="content"><h2>{escape(article.title)}</h2>{_body(article)}</div>'
    return _page(article, f"{menu}{content}{_footer(article)}")


def comments(article: Article, draw: RowRng) -> str:
    """Return a page with a thread that is longer than the article."""
    thread = f'<section id="comments" class="comments">{_comments(article, draw, 25)}</section>'
    return _page(article, f"<article>{_headline(article)}{_body(article)}</article>{thread}")


def blog(article: Article, draw: RowRng) -> str:
    """Return a blog post with a sidebar and comments."""
    side = f'<aside class="sidebar"><h3>Tags</h3>{_menu(article, draw, 10)}</aside>'
    post = f'<div class="post"><h2>{escape(article.title)}</h2><div class="entry">{_body(article)}</div></div>'
    return _page(article, f"{side}{post}{_comments(article, draw, 2)}{_footer(article)}")


def scripts(article: Article, draw: RowRng) -> str:
    """Return a page of a news site: more script and style than text."""
    code = "<script>var ads=[" + ",".join(str(draw.integer(0, 99)) for _ in range(40)) + "];track(ads);</script>"
    head = "<style>.a{color:red}" + "".join(f".c{i}{{margin:{i}px}}" for i in range(30)) + f"</style>{code}"
    cookies = '<div class="cookie-banner"><button>OK</button></div>'
    return _page(article, f"{cookies}<article>{_headline(article)}{_body(article)}</article>{code}", head)


def tables(article: Article, draw: RowRng) -> str:
    """Return a page laid out by tables, as before style sheets."""
    menu = f'<td width="150">{_menu(article, draw, 8)}</td>'
    cell = f'<td><font size="3"><b>{escape(article.title)}</b>{_body(article)}</font></td>'
    return _page(article, f'<table border="0"><tr>{menu}{cell}</tr></table>')


def soup(article: Article, draw: RowRng) -> str:
    """Return a page of nested blocks without meaning."""
    inner = "".join(f'<div><div class="x{i}">{escape(text)}</div></div>' for i, text in enumerate(article.paragraphs))
    rest = _body(Article(article.language, "", [], article.code, article.table))
    return _page(article, f'<div><div><div class="w"><div>{escape(article.title)}</div>{inner}{rest}</div></div></div>')


def breaks(article: Article, draw: RowRng) -> str:
    """Return a page of one block, its lines separated by breaks."""
    text = "<br><br>".join(map(escape, article.paragraphs))
    rest = _body(Article(article.language, "", [], article.code, article.table))
    return _page(article, f'<div id="content">{_headline(article)}<div>{text}</div>{rest}</div>{_footer(article)}')


def forum(article: Article, draw: RowRng) -> str:
    """Return a forum thread whose first post is the article; short replies follow."""
    post = f'<div class="post first"><span class="author">admin</span><div class="body">{_body(article)}</div></div>'
    crumbs = f'<div class="breadcrumb">{_menu(article, draw, 4)}</div>'
    return _page(article, f"{crumbs}{_headline(article)}{post}{_comments(article, draw, 5)}")


def xhtml(article: Article, draw: RowRng) -> str:
    """Return a page of strict XHTML."""
    dtd = '"-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd"'
    top = f'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC {dtd}>\n<html xmlns="http://www.w3.org/1999/xhtml">'
    main = f'<div id="main">{_headline(article)}{_body(article)}</div><hr/>'
    nav = f'<div id="nav">{_menu(article, draw, 12)}</div>'
    return f"{top}<head><title>{escape(article.title)}</title></head><body>{main}{nav}</body></html>"


LAYOUTS: dict[str, Layout] = {
    "plain": plain, "semantic": semantic, "unclosed": unclosed, "endless_menu": endless_menu, "comments": comments,
    "blog": blog, "scripts": scripts, "tables": tables, "soup": soup, "breaks": breaks, "forum": forum, "xhtml": xhtml,
}  # fmt: skip
