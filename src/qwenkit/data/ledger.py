"""What became of a document, and where it is: from its file to the tokens of a step, and back.

fates(corpus, "page-00012")           -> rows of the ledger with this id, or of copies that were dropped for it
steps_of(order, store, "page-00012")  -> the steps of an epoch that show it
documents_of(order, store, 17, rows)  -> the documents of a step
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qwenkit.data.order import Order
from qwenkit.data.shards import Store
from qwenkit.errors import UserError, nearest


def fates(corpus: Path, name: str) -> list[dict[str, Any]]:
    """The ledger's rows of a document (a copy's id, `a~1`, is its original's), and of the copies dropped for it."""
    path = corpus / "ledger.parquet"
    if not path.exists():
        raise UserError("no ledger here", where=str(corpus), expected="a corpus artifact with ledger.parquet")
    original = name.rpartition("~")[0] if name.rpartition("~")[2].isdigit() and "~" in name else name
    rows = pq.read_table(str(path), filters=[("id", "in", [name, original])]).to_pylist()
    if not rows:
        known = pq.read_table(str(path), columns=["id"])["id"].slice(0, 100_000).to_pylist()
        raise UserError(f"no document {name!r} in this corpus", where=str(path), nearest=nearest(name, known))
    return rows + pq.read_table(str(path), filters=[("of", "=", original)]).to_pylist()


def steps_of(order: Order, store: Store, name: str, batch_rows: int) -> list[int]:
    """The steps of the first epoch that show a document or its copies."""
    numbers = [n for n, known in enumerate(store.ids) if known == name or known.rpartition("~")[0] == name]
    return sorted({step for number in numbers for step in order.find(number, batch_rows)})


def documents_of(order: Order, store: Store, step: int, batch_rows: int) -> list[str]:
    """The documents of a step."""
    return [store.ids[number] for number in order.trace(step, batch_rows)]
