"""What became of a document, which steps showed it, and what a step showed."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.data.parquet_io import LEDGER, Writer
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.data.tokens.provenance import fates, seen_in, steps_of
from qwenkit.data.tokens.shards import Shards, ShardWriter, join_shards
from qwenkit.errors import UserError


def test_fates_both_ways(tmp_path: Path) -> None:
    """By the whole id: `user~5` is no copy of `user`."""
    row = {"source": "s", "place": "x.jsonl:1", "step": "kept", "rule": "", "copies": 2}
    with Writer(tmp_path / "ledger.parquet", LEDGER) as ledger:
        for name in ("user", "user~5"):
            ledger.add({**row, "id": name})
        ledger.add({**row, "id": "b", "step": "near_duplicates", "rule": "near_copy", "of": "user", "copies": 0})
    assert [found["id"] for found in fates(tmp_path, "user")] == ["user", "b"]
    assert [found["id"] for found in fates(tmp_path, "user~5")] == ["user~5"]
    with pytest.raises(UserError, match="no document 'usr'") as caught:
        fates(tmp_path, "usr")
    assert caught.value.nearest == "user"
    with pytest.raises(UserError, match="no ledger here"):
        fates(tmp_path / "none", "user")


def test_steps_and_documents_of_all_epochs(tmp_path: Path) -> None:
    """What a step shows is what the documents' steps say, over two and a half epochs whose ends lie within a batch."""
    with ShardWriter(tmp_path / "00000", 0) as shard:
        for number in range(23):
            for copy in range(1 + number % 2):
                shard.add({"id": f"d{number}", "copy": copy, "place": f"x.jsonl:{number}"}, [1] * (3 + number))
    join_shards(tmp_path, 1)
    store = Shards(tmp_path)
    order = EpochOrder(store.digest, 1, store.lengths, 16, split_documents=True)
    batch_size = next(n for n in (3, 4, 5) if order.sequences_per_epoch % n)
    steps = order.steps(2.5, batch_size)
    shown = [seen_in(order, store, step, batch_size) for step in range(steps)]
    for number in range(23):
        copies = store.find(f"d{number}")
        assert len(copies) == 1 + number % 2
        found = steps_of(order, copies, batch_size, steps)
        for copy, document in enumerate(copies):
            name = (f"d{number}", copy)
            seen = [step for step, rows in enumerate(shown) for row in rows if (row["id"], row["copy"]) == name]
            assert found[document] == seen and len(seen) >= 2
    pieces = [piece for rows in shown for row in rows if row["id"] == "d22" for piece in row["pieces"]]
    assert sum(stop - start for start, stop in pieces) in range(2 * 26, 3 * 26 + 1)
    assert shown[0][0]["place"].startswith("x.jsonl:")
    assert steps_of(order, [], batch_size, steps) == {}
