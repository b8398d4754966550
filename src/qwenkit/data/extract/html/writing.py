"""Blocks as text: paragraphs apart, items and rows on lines of their own, cells in columns, code verbatim."""

from __future__ import annotations

import itertools

from qwenkit.data.extract.html.names import CELLS
from qwenkit.data.extract.html.walk import Block, Walk

_TERMS = frozenset(("dt", "dd"))
_WIDEST = 200  # columns of a row that are written though they are empty
_PARAGRAPH = 300  # characters of a cell that is a paragraph rather than an entry


def write(blocks: list[Block], walk: Walk) -> str:
    """Return the text of the chosen blocks."""
    pieces: list[str] = []
    before, was_row = None, False
    wide: set[int] = set()  # tables with a row of several cells that hold text
    for row, group in itertools.groupby(blocks, key=lambda block: _row(block, walk)):
        members = list(group)
        is_row = row >= 0 and _is_line(members, walk)
        if is_row:
            table = walk.parents[row]
            if len(members) > 1:
                wide.add(table)
            lines = [(_line(members, row, walk) if table in wide else members[0].prefix + members[0].text, members[0])]
        else:
            lines = [(block.prefix + block.text, block) for block in members]
        for text, block in lines:
            if before is not None:
                pieces.append("\n" if (was_row and is_row) or _is_close(before, block) else "\n\n")
            pieces.append(text)
            before, was_row = block, is_row
    return "".join(pieces)


def _row(block: Block, walk: Walk) -> int:
    """Return the row of a table that a block lies in; -1 without one, or for code."""
    cell = walk.cells[block.owner]
    return walk.parents[cell] if cell >= 0 and not block.pre else -1


def _is_line(row: list[Block], walk: Walk) -> bool:
    """Return whether a row is written as a line: one entry to a cell. Other tables are layout."""
    if len({walk.cells[block.owner] for block in row}) < len(row):
        return False
    return all(block.kind in CELLS for block in row) or sum(len(block.text) > _PARAGRAPH for block in row) < 2


def _line(row: list[Block], number: int, walk: Walk) -> str:
    """Return a row of a table, with its empty cells."""
    cells = [""] * min(_WIDEST, walk.items[number])
    for block in row:
        column = walk.columns[walk.cells[block.owner]]
        cells[column : column + 1] = [block.prefix + " ".join(block.text.split("\n"))]
    return " | ".join(cells)


def _is_close(before: Block, block: Block) -> bool:
    """Return whether two blocks are on adjacent lines: items, terms and their meanings, lines of code."""
    if before.pre and before.pre == block.pre:
        return True
    return bool(before.prefix and block.prefix) or (before.kind in _TERMS and block.kind in _TERMS)
