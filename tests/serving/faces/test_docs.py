"""The page about the APIs names every field that they take, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwenkit.serving.faces import chat_completions, completions, embeddings, messages, responses, tokenize
from qwenkit.serving.fields import Table

PAGE = Path(__file__).parents[3] / "docs" / "apis.md"
TABLES = {
    "chat_completions": chat_completions.FIELDS, "completions": completions.FIELDS, "responses": responses.FIELDS,
    "messages": messages.FIELDS, "count_tokens": messages.COUNT_FIELDS, "embeddings": embeddings.FIELDS,
    "tokenize": tokenize.FIELDS, "detokenize": tokenize.DETOKENIZE,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_field_is_on_the_page(name: str) -> None:
    words = set(re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")))
    table: Table = TABLES[name]
    assert not {*table.known, *table.ignored} - words


@pytest.mark.parametrize("name", TABLES)
def test_the_schema_of_a_body_has_its_fields_and_no_others(name: str) -> None:
    schema = TABLES[name].schema()
    assert set(schema["properties"]) == {*TABLES[name].known, *TABLES[name].ignored}
    assert schema["additionalProperties"] is False and schema["required"] == sorted(TABLES[name].required)
