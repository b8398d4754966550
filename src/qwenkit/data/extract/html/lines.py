"""Blocks that are lines of one text, as pages made from PDF have them: they are joined before they are weighed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from qwenkit.data.extract.html.walk import Block

_KINDS = frozenset(("div", "p"))
_LONGEST, _FEWEST = 160, 4  # characters of a line; lines of a run
_LONGEST_VERSE = 80  # characters of a line of a poem
_MEAN = 30  # characters of a line, on the average, of a text that was broken because its lines were full
_FULL = 0.7  # of the longest line: a shorter one is not full
_MOST = 0.6  # of the lines that end in no full stop
_ENDED = re.compile(r"[.!?:;。！？：；…”\"»」)]\s*\Z")
_CLAUSE = re.compile(r"\w\W{0,2}[.!?,;—–…。！？；，、]\W{0,2}\Z")
_WIDE_END, _HYPHEN = re.compile("[\u3040-\u30ff\u3400-\u9fff，、]\\Z"), re.compile(r"[^\W\d_][-\u2010\xad]\Z")


def joined(blocks: list[Block], parents: list[int]) -> list[Block]:
    """Return the blocks, with runs of lines joined into paragraphs or stanzas."""
    result: list[Block] = []
    for run in _runs(blocks, parents):
        if len(run) < _FEWEST:
            result.extend(run)
        elif _is_broken(run):
            result.extend(_paragraphs(run))
        elif _is_verse(run):
            run[0].text = "\n".join(block.text for block in run)
            result.append(run[0])
        else:
            result.extend(run)
    return result


def _is_verse(run: list[Block]) -> bool:
    """Return whether lines are those of a poem: short ones, half of which end as clauses do."""
    if run[0].kind != "div" or any(len(block.text) > _LONGEST_VERSE for block in run):
        return False
    return 2 * sum(bool(_CLAUSE.search(block.text)) for block in run) >= len(run)


def _runs(blocks: list[Block], parents: list[int]) -> Iterator[list[Block]]:
    """Yield neighbours in one parent that may be lines of one text."""
    run: list[Block] = []
    parent = -1
    for block in blocks:
        line = block.kind in _KINDS and not block.links and not block.prefix and len(block.text) <= _LONGEST
        if run and not (line and parents[block.owner] == parent and block.kind == run[0].kind):
            yield run
            run = []
        run.append(block)
        parent = parents[block.owner] if line else -1
    if run:
        yield run


def _is_broken(run: list[Block]) -> bool:
    """Return whether lines were broken because they were full: most end without a full stop, and most of these continue
    in lower case, or, in scripts without case, are as long as the longest."""
    texts = [block.text for block in run]
    if sum(map(len, texts)) < len(texts) * (_MEAN if texts[0].isascii() else _MEAN // 2):
        return False
    full = _FULL * max(map(len, texts))
    open_ends = [(a, b) for a, b in itertools.pairwise(texts) if not _ENDED.search(a)]
    going_on = sum(b[0].islower() or bool(_WIDE_END.search(a) and len(a) >= full) for a, b in open_ends)
    return len(open_ends) >= len(texts) // 2 and going_on >= max(2, _MOST * len(open_ends))


def _paragraphs(run: list[Block]) -> list[Block]:
    """Return lines joined into paragraphs; a short line that no lower-case letter follows ends one."""
    full = _FULL * max(len(block.text) for block in run)
    paragraphs, texts = [run[0]], [[run[0].text]]
    for before, block in itertools.pairwise(run):
        if len(before.text) < full and not block.text[0].islower():
            paragraphs.append(block)
            texts.append([block.text])
        else:
            texts[-1].append(block.text)
    for block, lines in zip(paragraphs, texts):
        block.text = _put_together(lines)
    return paragraphs


def _put_together(lines: list[str]) -> str:
    pieces = [lines[0]]
    for before, line in itertools.pairwise(lines):
        if _HYPHEN.search(before) and line[0].islower():
            pieces[-1] = pieces[-1][:-1]
        elif not _WIDE_END.search(before):
            pieces.append(" ")
        pieces.append(line)
    return "".join(pieces)
