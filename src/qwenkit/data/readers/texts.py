"""Text that a vocabulary is compared or extended by: a corpus, JSONL, or whatever the readers can read."""

from __future__ import annotations

from pathlib import Path

from qwenkit.compression import unpacked_name
from qwenkit.data.documents import DOCUMENTS, iter_documents
from qwenkit.data.readers.documents import read_documents
from qwenkit.data.readers.sources import Source
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row


def read_texts(path: Path) -> list[Row]:
    """Documents of a corpus artifact or of JSONL; otherwise whatever the readers can read."""
    if any(path.glob(DOCUMENTS)) or unpacked_name(path).suffix == ".jsonl":
        return list(iter_documents(path))
    quarantine = Quarantine()
    rows = [{"id": d.id, **d.fields, "text": d.body} for d in read_documents(Source("text", path), quarantine)]
    if len(quarantine) or not all(isinstance(row["text"], str) for row in rows):
        first = quarantine.rows[0] if len(quarantine) else {"reason": "pages are not text"}
        raise UserError(
            f"{len(quarantine)} records cannot be read as text, the first: {first['reason']}",
            where=str(first.get("file", path)),
            hint="`qwenkit corpus` reads pages and damaged files; name its artifact here",
        )
    return rows
