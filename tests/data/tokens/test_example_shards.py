"""Examples on disk are the examples in memory: the same digest, order and batches, wherever the shards are cut."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.example_shards import WEIGHTS, ExampleShards, ExampleWriter, join_examples
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.data.tokens.shards import shard_folder
from qwenkit.errors import UserError
from qwenkit.training import Batches
from tests.data.tokens.integrity import is_intact


def examples(count: int = 40) -> list[Example]:
    """Chats with few or many weights, and plain texts between them."""
    luck = random.Random(3)
    found = []
    for number in range(count):
        length = luck.randrange(2, 60)
        weights = [luck.choice([0.0, 1.0, 0.1, 0.25, number / 7]) for _ in range(length)]
        content = None if number % 5 == 0 else [luck.random() < 0.5 for _ in range(length)]
        found.append(Example(f"chat-{number}", [luck.randrange(2**32) for _ in range(length)], weights, content))
    return found


def stored(folder: Path, rows: list[Example], *cuts: int) -> ExampleShards:
    edges = [0, *cuts, len(rows)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        with ExampleWriter(shard_folder(folder, number)) as shard:
            for row in rows[start:stop]:
                assert shard.add_example(row, place=f"chats.jsonl:{number}") == len(row.ids)
    join_examples(folder, len(edges) - 1)
    return ExampleShards(folder)


@pytest.mark.parametrize("cuts", [(), (1, 17), (0, 5, 5, 40)])
def test_on_disk_as_in_memory(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    rows = examples()
    memory, disk = InMemoryTokenDataset(rows), stored(tmp_path, rows, *cuts)
    assert disk.digest == memory.digest and is_intact(disk)
    assert [*disk.ids] == memory.ids and disk.lengths.tolist() == memory.lengths.tolist()
    for number, row in enumerate(rows):
        for start, stop in ((0, len(row.ids)), (1, len(row.ids) + 1), (len(row.ids) - 1, len(row.ids))):
            for read in ("tokens", "weights", "content"):
                here, there = (getattr(store, read)(number, start, stop) for store in (disk, memory))
                assert (here is None) == (there is None)
                assert here is None or (here.dtype == there.dtype and here.tolist() == there.tolist())
    assert disk.origins([0])[0]["place"] == "chats.jsonl:0" or cuts[0] == 0


def test_batches_take_either(tmp_path: Path) -> None:
    rows = [row._replace(ids=[n % 50 for n in row.ids]) for row in examples()]

    def batches(store: Any) -> list[Any]:
        order = EpochOrder(store.digest, 1, store.lengths, 64, split_documents=False)
        return [Batches(store, order, 4, 2)(step) for step in range(4)]

    for one, two in zip(batches(InMemoryTokenDataset(rows)), batches(stored(tmp_path, rows, 9))):
        assert (one.fingerprint, one.weight, one.content, one.tokens) == (
            two.fingerprint, two.weight, two.content, two.tokens)  # fmt: skip
        for here, there in zip(one.micro_batches, two.micro_batches, strict=True):
            assert (here.names, here.content) == (there.names, there.content)
            for name in ("ids_BT", "targets_BT", "weights_BT", "documents_BT"):
                assert (getattr(here, name) == getattr(there, name)).all()


def test_as_many_weights_in_one_chat_as_a_byte_tells_apart(tmp_path: Path) -> None:
    def chat(count: int) -> Example:
        return Example("a", range(count), [n / 128 for n in range(count)], [n % 2 == 0 for n in range(count)])

    store = stored(tmp_path, [chat(128)])
    assert store.weights(0, 0, 128).tolist() == [n / 128 for n in range(128)]
    with pytest.raises(UserError, match="129 different loss weights"):
        stored(tmp_path / "b", [chat(129)])
    with pytest.raises(UserError, match="differ in length"):
        stored(tmp_path / "c", [Example("a", [1, 2], [1.0])])


def test_cut_and_changed_weights_are_noticed(tmp_path: Path) -> None:
    stored(tmp_path, examples())
    path = tmp_path / "00000" / WEIGHTS
    data = np.fromfile(path, np.uint8)
    (data ^ 0x80).tofile(path)
    assert is_intact(ExampleShards(tmp_path))  # content is no part of the digest, as in memory
    data[3] ^= 1
    data.tofile(path)
    assert not is_intact(ExampleShards(tmp_path))
    data[:-1].tofile(path)
    with pytest.raises(UserError, match="its index says"):
        ExampleShards(tmp_path)
