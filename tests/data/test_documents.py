"""Documents, and which of them are in the validation split."""

from __future__ import annotations

from qwenkit.data.documents import train_validation_split


def test_copies_of_a_document_are_held_out_together() -> None:
    """What `upsample` makes of a document has its id; another id is another document, whatever signs are in it."""
    rows = [{"id": f"doc-{n}", "copy": copy} for n in range(100) for copy in range(3)]
    kept, aside = train_validation_split(rows, 0.3, 1)
    assert 0 < len(aside) < 300 and not {row["id"] for row in kept} & {row["id"] for row in aside}
    assert all(train_validation_split([{"id": f"user~{n}"} for n in range(100)], 0.3, 1))
