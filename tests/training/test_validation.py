"""The validation sets of a training."""

from __future__ import annotations

from qwenkit.training import validation_sets


class Letters:
    """A tokenizer of one id a letter."""

    eot_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_documents_without_a_source_are_measured() -> None:
    rows = [
        {"id": "a", "text": "one"},
        {"id": "b", "text": "two", "source": None},
        {"id": "c", "text": "x", "source": "web"},
    ]
    found = validation_sets(Letters(), rows, seq_length=16)
    assert {name: sum(batch.tokens for batch in batches) for name, batches in found.items()} == {"text": 8, "web": 2}
