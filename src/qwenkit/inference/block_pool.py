"""The blocks of the KV cache: which are free, whose they are, and which hold beginnings that can be found again.

    pool = BlockPool(num_blocks=512)
    table = BlockTable(salt=())                          # the blocks of one sequence, in the order of its tokens
    found = pool.match(table, ids, limit=len(ids) - 1)   # takes over full blocks that hold these tokens; their number
    pool.reserve(table, 40)                              # room for 40 tokens, or False where there is none
    pool.register(table, ids, computed)                  # full blocks that are computed: from now on they are found
    pool.release(table)

Nothing is stored here: a block is a number, and what it holds is the cache's affair (`paged_cache.py`). Block 0 is
nobody's: it fills tables up to the width of a batch.

**Finding beginnings** (nano-vllm's and vLLM's automatic prefix caching). What a full block holds is a function of the
tokens up to its end, of the weights, and of what the `salt` of a sequence names: the alpha of dynamic NTK, the digests
of its media, a caller's own salt. So a block is found by (what was before it, its tokens): the first block behind the
salt, each other one behind the very block that was found before it. Tokens are compared, not only their hashes. A block
that nobody uses any more keeps what it holds until its place is needed; the least recently used go first, and of one
sequence the last ones. New weights empty all of it (`forget_all`).

A block whose numbers nobody has found to be finite is suspect: when it is given out again it is in `dirty` until
whoever owns the tensors has cleared it, since a hidden slot has the weight 0, and 0 times NaN is NaN.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

BLOCK = 16
"""Tokens of a block."""

Key = tuple[Hashable, tuple[int, ...]]
"""What was before a block (the salt, or the entry number of the block before), and its tokens."""


@dataclass(eq=False)
class BlockTable:
    """The blocks of one sequence, in the order of its tokens."""

    salt: Hashable = ()
    """What the blocks depend on besides the tokens; None: nothing is looked for, and nothing can be found."""
    blocks: list[int] = field(default_factory=list)
    chain: list[int] = field(default_factory=list)
    """The entry numbers of the first blocks: those that can be found, or whose twins can."""

    @property
    def capacity(self) -> int:
        """Return the number of tokens that the blocks have room for."""
        return len(self.blocks) * BLOCK


def blocks_for(length: int) -> int:
    """Return how many blocks so many tokens take."""
    return -(-length // BLOCK)


class BlockPool:
    """All blocks of a cache but block 0."""

    def __init__(self, num_blocks: int) -> None:
        """Make `num_blocks` blocks, all of them free, besides block 0."""
        self.num_blocks = num_blocks
        self._references = [0] * (num_blocks + 1)
        self._free = list(range(num_blocks, 0, -1))  # a stack: what was used last is used first
        self._unused: OrderedDict[int, None] = OrderedDict()  # found by their tokens, in nobody's table
        self._found: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._entries: dict[int, int] = {}  # a block's entry number: that of what it holds, not of its place
        self._next_entry = 0
        self._suspect: set[int] = set()
        self.dirty: list[int] = []
        """Blocks that were given out and must be cleared before they are written."""

    @property
    def num_free(self) -> int:
        """Return how many blocks can be taken."""
        return len(self._free) + len(self._unused)

    @property
    def num_used(self) -> int:
        """Return how many blocks belong to sequences."""
        return self.num_blocks - self.num_free

    # ---- places -----------------------------------------------------------------------------------------------------

    def reserve(self, table: BlockTable, length: int) -> bool:
        """Give a table blocks for so many tokens; return False, and change nothing, where there are too few."""
        missing = blocks_for(length) - len(table.blocks)
        if missing > self.num_free:
            return False
        for _ in range(missing):
            block = self._take()
            self._references[block] = 1
            table.blocks.append(block)
        return True

    def release(self, table: BlockTable, suspect: bool = False) -> None:
        """Take the blocks of a table back. `suspect` says that nobody has found its numbers to be finite."""
        blocks, table.blocks, table.chain = table.blocks, [], []
        if suspect:
            self._suspect.update(blocks)
        for block in reversed(blocks):  # so that beginnings stay longer than what followed them
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._keys:
                    self._unused[block] = None
                else:
                    self._free.append(block)

    def rebuild(self, tables: Iterable[BlockTable]) -> None:
        """Count anew what these tables hold, after an interrupt in the middle of anything: no block is lost."""
        whole = [(block, key) for block, key in self._keys.items() if block in self._entries]
        self._found = {key: block for block, key in whole}
        self._keys = {block: key for key, block in self._found.items()}
        self._entries = {block: self._entries[block] for block in self._keys}
        references = [0] * (self.num_blocks + 1)
        for table in tables:
            for block in table.blocks:
                references[block] += 1
        self._references = references
        idle = [block for block in range(self.num_blocks, 0, -1) if not references[block]]
        kept = [block for block in (*self._unused, *idle) if not references[block] and block in self._keys]
        self._unused = OrderedDict.fromkeys(kept)
        self._free = [block for block in idle if block not in self._unused]
        self._suspect.update(self._free)

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._unused.popitem(last=False)
            self._forget(block)
        if block in self._suspect:
            self._suspect.discard(block)
            self.dirty.append(block)
        return block

    # ---- beginnings -------------------------------------------------------------------------------------------------

    def match(self, table: BlockTable, ids: Seq[int], limit: int) -> int:
        """Let an empty table take over the blocks that hold the beginning of `ids`, up to `limit` tokens; return the
        number of tokens."""
        for _ in range(limit // BLOCK):
            key = self.next_key(table, ids)
            block = None if key is None else self._found.get(key)
            if block is None:
                break
            self._unused.pop(block, None)
            self._references[block] += 1
            table.blocks.append(block)
            table.chain.append(self._entries[block])
        return table.capacity

    def next_key(self, table: BlockTable, ids: Seq[int]) -> Key | None:
        """Return what the first block of `ids` that is not registered would be found by; None where it is not full, or
        is never found."""
        start = len(table.chain) * BLOCK
        if table.salt is None or start + BLOCK > len(ids):
            return None
        before: Hashable = table.chain[-1] if table.chain else ("salt", table.salt)
        return before, tuple(ids[start : start + BLOCK])

    def register(self, table: BlockTable, ids: Seq[int], computed: int) -> None:
        """Let the full blocks among the first `computed` tokens be found. Where an equal one is found already, that one
        stays."""
        while (len(table.chain) + 1) * BLOCK <= computed:
            key = self.next_key(table, ids)
            if key is None:
                return
            block = table.blocks[len(table.chain)]
            if key not in self._found:
                self._entries[block], self._next_entry = self._next_entry, self._next_entry + 1
                self._keys[block] = key
                self._found[key] = block
            table.chain.append(self._entries[self._found[key]])

    def forget(self, table: BlockTable) -> None:
        """Let the blocks of a table be found no more: they hold numbers that are not finite."""
        for block in table.blocks:
            self._forget(block)

    def forget_all(self) -> None:
        """Let nothing be found any more: the weights are others."""
        for block in list(self._keys):
            self._forget(block)
        unused, self._unused = self._unused, OrderedDict()
        self._free.extend(unused)

    def _forget(self, block: int) -> None:
        key = self._keys.pop(block, None)
        if key is not None:
            del self._found[key], self._entries[block]
