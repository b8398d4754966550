"""Token stores give back what was written, and notice damage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.shards import Shards, ShardWriter, join_shards
from qwenkit.errors import UserError
from tests.data.tokens.integrity import is_intact

EOT = 2
Document = tuple[str, list[int]]
DOCUMENTS: list[Document] = [("a", [5, 6, 7]), ("b", []), ("zh", [4_000_000_000, EOT]), ("c", list(range(3, 20)))]


def write(folder: Path, *shards: Sequence[Document], **origin: Any) -> dict[str, int | str]:
    """Documents in shards, joined."""
    for number, documents in enumerate(shards):
        with ShardWriter(folder / f"{number:05d}", EOT) as shard:
            for name, ids in documents:
                shard.add({"id": name, **origin}, ids)
    return join_shards(folder, len(shards))


@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (0, 2, 2, 4)])
def test_documents_come_back_closed_by_the_end_of_text(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    edges = [0, *cuts, 4]
    metrics = write(tmp_path, *(DOCUMENTS[start:stop] for start, stop in itertools.pairwise(edges)))
    store = Shards(tmp_path)
    assert [*store.ids] == [name for name, _ in DOCUMENTS] and store.ids[2] == "zh" and store.ids[1:3] == ["b", "zh"]
    assert [store.tokens(n, 0, 99).tolist() for n in range(4)] == [
        [5, 6, 7, 2],
        [2],
        [4_000_000_000, 2],
        [*range(3, 20), 2],
    ]
    assert store.tokens(3, 1, 4).tolist() == [4, 5, 6] and store.tokens(0, 3, 9).tolist() == [2]
    assert metrics == {"documents": 4, "tokens": 25, "digest": store.digest} and store.lengths.sum() == 25
    assert is_intact(store)


def test_the_digest_depends_on_tokens_and_borders_not_on_the_cut_into_shards(tmp_path: Path) -> None:
    def digest(name: str, *shards: Sequence[Document]) -> int | str:
        return write(tmp_path / name, *shards)["digest"]

    base = digest("base", DOCUMENTS)
    assert digest("small", DOCUMENTS[:1], [], DOCUMENTS[1:]) == base
    assert digest("order", DOCUMENTS[::-1]) != base
    assert digest("joined", [("x", [5, EOT, 6])]) != digest("parted", [("x", [5]), ("y", [6])])


def test_a_document_is_found_with_its_origin(tmp_path: Path) -> None:
    """By its whole name, in every copy; and where its tokens are."""
    write(tmp_path, [("a", [5]), ("a~1", [6])], [("a", [7, 8])], source="web", licence="MIT", place="web.jsonl:3")
    store = Shards(tmp_path)
    assert store.find("a") == [0, 2] and store.find("a~1") == [1] and store.find("A") == []
    row = {"id": "a", "copy": 0, "source": "web", "licence": "MIT", "place": "web.jsonl:3"}
    assert store.origins([2]) == [{**row, "shard": 1, "start": 0, "length": 3}]
    tokens = np.fromfile(tmp_path / "00000/tokens.bin", "<u4")
    (other,) = store.origins([1])
    assert tokens[other["start"] : other["start"] + other["length"]].tolist() == [6, EOT]


def test_a_cut_file_and_a_flipped_byte_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, DOCUMENTS)
    path = tmp_path / "00000/tokens.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert not is_intact(Shards(tmp_path))
    path.write_bytes(data[:-4])
    with pytest.raises(UserError, match="96 bytes, its index says 100"):
        Shards(tmp_path)


def test_what_is_no_folder_of_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder of token shards"):
        Shards(tmp_path)
    with pytest.raises(UserError, match="32 bits"):
        write(tmp_path, [("a", [-1])])


def test_examples_carry_weights_and_content() -> None:
    store = InMemoryTokenDataset(
        [Example("a", [1, 2, 3], [0, 1, 1], [False, False, True]), Example("b", [4, 5], [0, 0.5])]
    )
    assert store.lengths.tolist() == [3, 2] and store.tokens(1, 0, 9).tolist() == [4, 5]
    assert store.weights(0, 1, 3).tolist() == [1, 1] and store.weights(1, 1, 2).tolist() == [0.5]
    found = store.content(0, 0, 3)
    assert found is not None and found.tolist() == [False, False, True] and store.content(1, 0, 2) is None


def test_an_example_learns_where_content_is_supervised() -> None:
    """A lost mask still trains marks; a plain text has no content to lose."""
    assert Example("a", [1, 2], [0, 1], [False, True]).learns and Example("a", [1, 2], [1, 1]).learns
    assert not Example("a", [1, 2], [1, 0], [False, True]).learns and not Example("a", [], [], []).learns
