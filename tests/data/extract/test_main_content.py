"""The main content of a page: what is left out by its name, its links and its place; what stays."""

from __future__ import annotations

import pytest

from qwenkit.data.extract.main_content import main_content

RIVER = "The river rises in the hills above the town, and it runs for forty miles to the sea without a single bridge."
FISH = "Trout and salmon are found in the upper part, where the water is cold, clear and quick all the year round."
OTHER = "A new town hall was opened by the mayor on Monday, in the presence of three hundred guests and a brass band."


def page(body: str, title: str = "The river Aln and its fish") -> str:
    return f"<html><head><title>{title}</title></head><body>{body}</body></html>"


def test_named_parts_are_left_out() -> None:
    noise = "".join(
        f'<div class="{name}"><p>{OTHER}</p></div>' for name in ("sidebar-right", "relatedStories", "comment-list")
    )
    text, share, _ = main_content(page(f"<nav><p>{OTHER}</p></nav><div><p>{RIVER}<p>{FISH}</div>{noise}"))
    assert text == f"{RIVER}\n\n{FISH}" and 0.3 < share < 1


def test_a_name_is_not_believed_of_most_of_the_page() -> None:
    assert RIVER in main_content(page(f'<div class="has-sidebar"><p>{RIVER}<p>{FISH}</div>'))[0]


def test_only_the_first_of_several_articles_is_the_page() -> None:
    text = main_content(page("".join(f"<article><p>{p}<p>{p[::-1]}</article>" for p in (RIVER, OTHER, OTHER)))).text
    assert RIVER in text and OTHER not in text


def test_the_title_tells_the_subject() -> None:
    body = f"<div><div><p>{OTHER}</div><div><p>{RIVER}<p>{FISH}</div></div>"
    text = main_content(page(body, "Where trout and salmon are found in the river that runs to the sea")).text
    assert RIVER in text and OTHER not in text


def test_lead_beside_the_root_is_kept_and_menus_of_links_are_not() -> None:
    menu = "<ul>" + "".join(f'<li><a href="/{n}">Another story of the day, number {n}</a>' for n in range(9)) + "</ul>"
    body = f"<header><h1>Aln</h1><p>{FISH}</p></header>{menu}<div class=article-body>" + f"<p>{RIVER}" * 6 + "</div>"
    text = main_content(page(body)).text
    assert text.startswith(FISH) and "Another story" not in text


def test_formulas_and_numbered_items() -> None:
    tex = '<math><semantics><mi>x</mi><annotation encoding="application/x-tex">x^2</annotation></semantics></math>'
    text = main_content(page(f"<p>{RIVER} Its length is {tex} miles.<ol><li>{FISH}<li>{FISH}</ol>")).text
    assert "length is $x^2$ miles" in text and f"1. {FISH}\n2. {FISH}" in text


def test_chinese() -> None:
    river = "这条河从小镇北面的山上流下来，经过四十里路，最后流入大海，人们在这里钓鱼已经有几百年了。"
    menu = "<div class=menu><a href=/>首页</a> <a href=/news>新闻</a></div>"
    assert main_content(page(f"{menu}<td>{river}</td>", "河流"))[0] == river


def test_a_page_without_sentences_gives_what_is_no_menu() -> None:
    assert (
        main_content(page("<nav>Home</nav><h1>Aln</h1><p>Forty miles</p><p><a href=/>Next</a>")).text
        == "Aln\n\nForty miles"
    )


def test_deep_text_is_found() -> None:
    found = main_content(page("<div><b>" * 50_000 + f"<p>{RIVER}"))
    assert found.text == RIVER and not found.simple


ENDS = """Comments (3)|Leave a comment|12 comments|Latest news|Related stories|相关阅读|Комментарии:
Другие новости раздела
Wybrane komentarze|Τελευταία Νέα|Kommentare|© 2012 The Aln Post|All rights reserved.|Все права защищены.|版权所有"""


@pytest.mark.parametrize("end", ENDS.replace("\n", "|").split("|"))
def test_the_text_ends_where_other_things_begin(end: str) -> None:
    found = main_content(page(f"<h1>Aln</h1><p>{RIVER}<p>{FISH}<h3>{end}</h3><p>{OTHER}")).text
    assert found == f"{RIVER}\n\n{FISH}"


@pytest.mark.parametrize(
    "line", ["Comments on the river", "© Reuters", "More than a river", "Related by blood, they say so"]
)
def test_lines_that_only_look_like_an_end(line: str) -> None:
    found = main_content(page(f"<h1>Aln</h1><p>{RIVER}<p>{FISH}<h3>{line}</h3><p>{OTHER}")).text
    assert found.endswith(OTHER)


def test_an_end_above_the_heading_is_none() -> None:
    assert main_content(page(f"<p>{OTHER}<h3>Comments</h3><h1>Aln</h1><p>{RIVER}<p>{FISH}")).text.endswith(FISH)


def test_forms_and_blocks_in_links_are_no_prose() -> None:
    link = f'<a href="/next"><div><p>{OTHER}</p></div></a>'
    found = main_content(page(f"<div><p>{RIVER}<p>{FISH}{link}<form><p>{OTHER[::-1]}</form></div>")).text
    assert found == f"{RIVER}\n\n{FISH}"


def test_headings_and_cells_right_above_the_first_sentence_stay() -> None:
    body = f"<h1>Aln</h1><h2>Things</h2><table><tr><td>Rod<td>2 metres</table><p>{RIVER}<p>{FISH}"
    assert main_content(page(body)).text.startswith("Things\n\nRod | 2 metres\n\n")
