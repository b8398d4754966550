"""The main content of a page by the weight of its sentences (section 2.1, step 1): the fast tier of `extract.text`.

    found = main_content(page)      # a `Content`: the text, and how far to trust it

One walk, along with lxml's parser, cuts the page into blocks (paragraphs, items, cells, headings, code). Blocks of
sentences have mass, and the root is where most of it lies; in it, blocks that are mostly links are removed, and so are
short ones outside the first and last sentence. Tags and names of a part are hints, which mass and place overrule.
Lists, tables, code and formulas are written readably. The steps are in `extract.html`. Time and memory are linear in
the page, whatever is in it.
"""

from __future__ import annotations

from typing import NamedTuple

from qwenkit.data.extract.html import ends, lines, weight
from qwenkit.data.extract.html.walk import Walk, walk
from qwenkit.data.extract.html.writing import write

MOST_TAGS, MOST_DEEP, MOST_ATTRIBUTES = 20_000, 1000, 1000  # of a simple page


class Content(NamedTuple):
    """`text` is the main content, `share` the share of the page's sentences in it (0 where the page has none). `simple`
    says whether other parsers can read the page in reasonable time: some are quadratic in depth or attributes."""

    text: str
    share: float
    simple: bool


def main_content(page: str) -> Content:
    """Return the main content of a page."""
    walked = walk(page)
    if walked is None:
        return Content("", 0.0, True)
    walked.blocks = lines.joined(walked.blocks, walked.parents)
    weight.weigh_blocks(walked.blocks, walked.title)
    blocks = weight.seen(walked)
    weights = weight.add_up(walked, blocks)
    total, simple = weights.mass[0], _is_simple(page, walked)
    dropped = weight.dropped(walked, blocks, weights.mass)
    if not total:
        rest = [block for block in blocks if not dropped[block.owner] and 2 * block.links < len(block.text)]
        return Content(write(rest, walked), 0.0, simple)
    inside = weight.inside(walked, weights, dropped, weight.roots(walked, blocks, dropped))
    chosen = ends.trim([block for block in blocks if inside[block.owner]], walked)
    chosen = ends.lead(blocks, chosen, dropped) + chosen
    return Content(write(chosen, walked), sum(block.mass for block in chosen) / total, simple)


def _is_simple(page: str, walked: Walk) -> bool:
    tags = page.count("<") - page.count("</")
    return tags <= MOST_TAGS and walked.deepest <= MOST_DEEP and walked.attributes <= MOST_ATTRIBUTES
