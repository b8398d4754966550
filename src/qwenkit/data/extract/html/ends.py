"""Find where the text of a page begins and ends among the blocks of its root.

It begins with its first sentences, and with what belongs to them right above. It ends with the last ones, or where a
heading such as "Comments" or a line of rights begins what follows a text; but such a line is a hint only: a section of
a manual may be about comments. Where the text continues below it, it does not end the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from qwenkit.data.extract.html.names import ABOVE, HEADINGS, PLAIN
from qwenkit.data.extract.html.walk import Block, Walk

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
_NOTICE = re.compile(r"©|\(c\)|rights\sreserved|права|prawa|版权|επιφύλαξη|droits|rechte|derechos", re.I)
_SPOKEN = re.compile(r"\W*[\"“„«»‘「『]|.*[.。,;”»」』]\W*\Z", re.S)
_ASKED, _QUESTION = frozenset(("p", "div", "button")), re.compile(r"\w[?？؟]\s*\Z")
_SOME = 0.25  # of a page's sentences, that must stand above what follows its text
_MUCH = 0.5  # of the mass above a line: where as much follows it among its like, the text goes on
_LONGEST_END, _LONGEST_RIGHTS = 60, 100
_PROSE = frozenset("p pre dd".split())
_ITEMS = frozenset("li dd dt td pre".split())
_FEWEST_ITEMS, _LONGEST_SECTION, _DEEP = 2, 200, 100
_MOST_DOUBTS = 50  # lines that look like an end and are not; a page with more of them would take too long


def trim(blocks: list[Block], walk: Walk) -> list[Block]:
    """Return the blocks from the first that holds sentences, with what belongs to it right above, to the last.

    Tables, code and short lines without links below the last are included; what follows the page's text (other stories,
    comments, copyright notices) is not."""
    blocks = blocks[: _end(blocks, walk)]
    heavy = [n for n, block in enumerate(blocks) if block.mass]
    if not heavy:
        return []
    first, last = _begin(blocks, walk, heavy[0]), heavy[-1] + 1
    while last < len(blocks) and blocks[last].kind in PLAIN and not blocks[last].links:
        last += 1
    return blocks[first:last]


def _begin(blocks: list[Block], walk: Walk, first: int) -> int:
    """Return where the text begins, given its first sentences: headings, items and cells right above belong to it, a
    salutation ("Dear all,") or a question, and sections of items, such as the ingredients of a recipe."""
    parent = walk.parents[blocks[first].owner]
    while first > 0 and not blocks[first - 1].links:
        above = blocks[first - 1]
        spoken = above.kind == "p" and walk.parents[above.owner] == parent and _SPOKEN.match(above.text)
        asked = above.kind in _ASKED and _QUESTION.search(above.text)
        if above.kind not in ABOVE and not spoken and not asked:
            break
        first -= 1
    around = set(itertools.islice(_above(walk, blocks[first].owner), _DEEP))
    best = first
    for number in range(first - 1, max(-1, first - _LONGEST_SECTION), -1):
        block = blocks[number]
        if block.kind == "h1" or 2 * block.links >= len(block.text):
            break
        if block.kind in HEADINGS and walk.parents[block.owner] in around:
            if not is_list(blocks[number + 1 : best]):
                break
            best = number
    return best


def is_list(blocks: Sequence[Block]) -> bool:
    """Return whether blocks hold enough items to be a list, and no links that lead elsewhere."""
    return sum(block.kind in _ITEMS for block in blocks) >= _FEWEST_ITEMS and not any(block.links for block in blocks)


def _above(walk: Walk, number: int) -> Iterator[int]:
    """Yield the elements around one."""
    while number >= 0:
        yield number
        number = walk.parents[number]


def _end(blocks: list[Block], walk: Walk) -> int:
    """Return where a heading such as "Comments" or a copyright line ends the text: below the page's own heading, and
    after some of its sentences."""
    top = max((n for n, block in enumerate(blocks) if block.kind == "h1"), default=0)
    least, before = _SOME * sum(block.mass for block in blocks[top:]), 0.0
    doubts = 0
    for number, block in enumerate(blocks[top:], top):
        if before > least and _is_end(block):
            if doubts >= _MOST_DOUBTS or not _goes_on(blocks, walk, number, before):
                return number
            doubts += 1
        before += block.mass
    return len(blocks)


def _is_end(block: Block) -> bool:
    """Return whether a block reads like the heading of what follows a text, or like a copyright notice."""
    text = block.text
    if len(text) <= _LONGEST_END and _AFTER.match(text):
        return not _SPOKEN.match(text)
    return bool(_RIGHTS.match(text)) and (len(text) <= _LONGEST_RIGHTS or bool(_NOTICE.search(text)))


def _goes_on(blocks: list[Block], walk: Walk, number: int, before: float) -> bool:
    """Return whether the text continues below a line that reads like its end: with much more in the same part of the
    page, with other sections of the line's rank, or because the line is the last of several."""
    block, after = blocks[number], blocks[number + 1 :]
    parent = walk.parents[block.owner]
    same = sum(b.mass for b in after if b.kind in _PROSE and walk.parents[b.owner] == parent)
    if same >= _MUCH * before:
        return True
    if block.kind not in HEADINGS:
        return False
    return _peers(block, after, walk) > 0 or (same > 0 and _peers(block, blocks[:number], walk) > 1)


def _peers(block: Block, others: Sequence[Block], walk: Walk) -> int:
    """Return how many sections with headings of the same rank, in the same part or in the one beside it, hold
    sentences; the usual sections after a text do not count."""
    count, peer = 0, False
    for other in others:
        if other.kind == block.kind:
            peer = _are_beside(block, other, walk) and not _is_end(other)
        elif peer and other.mass:
            count, peer = count + 1, False
    return count


def _are_beside(one: Block, other: Block, walk: Walk) -> bool:
    """Return whether two headings head parts of one series: in one parent, or in two of one kind with one parent."""
    a, b = walk.parents[one.owner], walk.parents[other.owner]
    return a == b or (a > 0 and b > 0 and walk.parents[a] == walk.parents[b] and walk.tags[a] == walk.tags[b])


def lead(blocks: list[Block], chosen: list[Block], out: list[bool]) -> list[Block]:
    """Return the blocks between the page's heading and the root, which many pages set apart: sentences, and sections of
    items."""
    if not chosen:
        return []
    start = next(n for n, block in enumerate(blocks) if block is chosen[0])
    heading = max((n for n in range(start) if blocks[n].kind == "h1"), default=start)
    above = [block for block in blocks[heading:start] if not out[block.owner]]
    texts = [block for block in above if block.mass and block.kind != "li"]
    if 4 * sum(block.mass for block in texts) > sum(block.mass for block in chosen):
        return []
    kept = {id(block) for block in itertools.chain(texts, *_lists(above))}
    return [block for block in above if id(block) in kept]


def _lists(blocks: list[Block]) -> Iterator[list[Block]]:
    """Yield sections of items, each with its heading."""
    starts = [n for n, block in enumerate(blocks) if block.kind in HEADINGS and block.kind != "h1"]
    for start, stop in itertools.pairwise([*starts, len(blocks)]):
        section = blocks[start:stop]
        if is_list(section[1:]) and not section[0].links:
            yield section
