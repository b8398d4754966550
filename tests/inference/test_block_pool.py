"""Blocks come and go, full ones are found again, and none is lost."""

from __future__ import annotations

import random

import pytest

from qwenkit.inference.block_pool import BLOCK, BlockPool, BlockTable


def fill(pool: BlockPool, ids: list[int], salt: object = ()) -> BlockTable:
    """What a sequence of these tokens does: find, reserve, compute, register."""
    table = BlockTable(salt)
    pool.match(table, ids, len(ids) - 1)
    assert pool.reserve(table, len(ids))
    pool.register(table, ids, len(ids))
    return table


def found(pool: BlockPool, ids: list[int], salt: object = ()) -> int:
    """How many tokens are found, looked up without keeping them."""
    table = BlockTable(salt)
    count = pool.match(table, ids, len(ids))
    pool.release(table)
    return count


def test_full_blocks_are_found_while_they_are_used_and_after() -> None:
    pool, ids = BlockPool(10), list(range(40))
    first = fill(pool, ids)
    second = BlockTable()
    assert pool.match(second, [*ids[:35], 7, 7, 7, 7, 7], 39) == 32 and second.blocks == first.blocks[:2]
    assert pool.num_used == 3
    pool.release(first)
    pool.release(second)
    assert pool.num_used == 0 and found(pool, ids) == 32, "the third block was never full"
    assert found(pool, ids[:31]) == 16 and found(pool, [1, *ids]) == 0
    assert found(pool, ids, salt=("other",)) == 0


def test_a_limit_leaves_a_token_to_compute() -> None:
    pool, ids = BlockPool(10), list(range(32))
    pool.release(fill(pool, ids))
    table = BlockTable()
    assert pool.match(table, ids, len(ids) - 1) == 16


def test_without_a_salt_nothing_is_found() -> None:
    pool, ids = BlockPool(10), list(range(32))
    pool.release(fill(pool, ids, salt=None))
    assert found(pool, ids) == found(pool, ids, salt=None) == 0


def test_the_same_tokens_behind_others_are_another_block() -> None:
    """[a, a] holds a twice: the second is not the first, since it saw the first."""
    pool, a = BlockPool(10), [5] * BLOCK
    one = fill(pool, [*a, 1])
    assert found(pool, a + a) == BLOCK
    two = fill(pool, a + a)
    assert found(pool, a + a) == 2 * BLOCK and one.blocks[0] == two.blocks[0] != two.blocks[1]


def test_equal_hashes_are_no_match() -> None:
    """Tokens are compared: ids that are made to hash alike stand for themselves."""

    class Same(int):
        def __hash__(self) -> int:
            return 1

    pool = BlockPool(10)
    first, second = [Same(i) for i in range(BLOCK)], [Same(i + 1) for i in range(BLOCK)]
    assert hash(tuple(first)) == hash(tuple(second))
    fill(pool, first)
    assert found(pool, second) == 0 and found(pool, first) == BLOCK


def test_the_least_recently_used_go_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(4)
    old, new = [1] * 32, [2] * 32
    pool.release(fill(pool, old))
    pool.release(fill(pool, new))
    assert found(pool, old) == 32  # and so it was used again
    other = BlockTable()
    assert pool.reserve(other, BLOCK)
    assert found(pool, new) == 16 and found(pool, old) == 32
    assert pool.reserve(other, 2 * BLOCK) and found(pool, new) == 0 and found(pool, old) == 32
    assert not pool.reserve(other, 5 * BLOCK) and len(other.blocks) == 2, "too few: nothing is given"


def test_what_is_not_finite_is_cleared_and_never_found() -> None:
    pool, ids = BlockPool(3), list(range(32))
    table = fill(pool, ids)
    broken = list(table.blocks)
    pool.forget(table)
    pool.release(table, suspect=True)
    assert found(pool, ids) == 0
    again = BlockTable()
    assert pool.reserve(again, 3 * BLOCK) and sorted(pool.dirty) == sorted(broken)
    pool.dirty = []
    pool.release(again)
    assert pool.reserve(again, 3 * BLOCK) and pool.dirty == [], "cleared once"


def test_new_weights_empty_it() -> None:
    pool, ids = BlockPool(3), list(range(40))
    table = fill(pool, ids)
    pool.release(table)
    pool.forget_all()
    assert found(pool, ids) == 0 and pool.num_free == 3


@pytest.mark.parametrize("seed", range(5))
def test_random_use_loses_nothing(seed: int) -> None:
    """Every block is free, or unused, or in as many tables as its count says; also after a count that was lost."""
    draw, pool = random.Random(seed), BlockPool(20)
    tables: list[tuple[BlockTable, list[int]]] = []
    for _ in range(400):
        ids = [draw.randrange(2) for _ in range(draw.randrange(1, 80))]
        table = BlockTable()
        pool.match(table, ids, len(ids) - 1)
        if pool.reserve(table, len(ids)):
            pool.register(table, ids, draw.randrange(len(ids) + 1))
            tables.append((table, ids))
        else:
            pool.release(table)
        while tables and (draw.random() < 0.4 or pool.num_free < 4):
            pool.release(tables.pop(draw.randrange(len(tables)))[0], suspect=draw.random() < 0.2)
        if draw.random() < 0.05:
            pool.rebuild(table for table, _ in tables)
        used = {block for table, _ in tables for block in table.blocks}
        assert pool.num_used == len(used) and 0 not in used and used <= set(range(1, 21))
        for table, ids in tables:
            assert len(table.blocks) == -(-len(ids) // BLOCK)
    for table, _ in tables:
        pool.release(table)
    assert pool.num_free == 20
