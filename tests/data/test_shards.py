"""Token stores give back what was written, and notice damage."""

import numpy as np
import pytest

from qwenkit.data.shards import Example, Examples, Shards, write_shards
from qwenkit.errors import UserError

EOT = 2
DOCUMENTS = [("a", [5, 6, 7]), ("b", []), ("zh", [4_000_000_000, EOT]), ("c", list(range(3, 20)))]


@pytest.mark.parametrize("shard_tokens", [1, 8, 1000])
def test_documents_come_back_closed_by_the_end_of_text(tmp_path, shard_tokens):
    metrics = write_shards(iter(DOCUMENTS), tmp_path, EOT, shard_tokens)
    store = Shards(tmp_path)
    assert store.ids == [name for name, _ in DOCUMENTS]
    assert [ids.tolist() for _, ids in store.documents()] == [[5, 6, 7, 2], [2], [4_000_000_000, 2], [*range(3, 20), 2]]
    assert store.tokens(3, 1, 4).tolist() == [4, 5, 6] and store.tokens(0, 3, 9).tolist() == [2]
    assert metrics["tokens"] == 25 == store.lengths.sum() and metrics["digest"] == store.digest
    assert store.verify() and metrics["shards"] == {1: 4, 8: 2, 1000: 1}[shard_tokens]


def test_the_digest_depends_on_tokens_and_borders_not_on_the_cut_into_files(tmp_path):
    def digest(name, documents, **options):
        return write_shards(documents, tmp_path / name, EOT, **options)["digest"]

    base = digest("base", DOCUMENTS)
    assert digest("small", DOCUMENTS, shard_tokens=4) == base
    assert digest("order", DOCUMENTS[::-1]) != base
    assert digest("joined", [("x", [5, EOT, 6])]) != digest("parted", [("x", [5]), ("y", [6])])


def test_a_cut_file_and_a_flipped_byte_are_noticed(tmp_path):
    write_shards(DOCUMENTS, tmp_path, EOT)
    path = tmp_path / "tokens-00000.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert not Shards(tmp_path).verify()
    path.write_bytes(data[:-4])
    with pytest.raises(UserError, match="96 bytes, its index says 100"):
        Shards(tmp_path)


def test_what_is_no_folder_of_shards_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of token shards"):
        Shards(tmp_path)
    with pytest.raises(UserError, match="32 bits"):
        write_shards([("a", [-1])], tmp_path, EOT)


def test_examples_carry_weights_and_content():
    store = Examples([Example("a", [1, 2, 3], [0, 1, 1], [False, False, True]), Example("b", [4, 5], [0, 0.5])])
    assert store.lengths.tolist() == [3, 2] and store.tokens(1, 0, 9).tolist() == [4, 5]
    assert store.weights(0, 1, 3).tolist() == [1, 1] and store.weights(1, 1, 2).tolist() == [0.5]
    assert store.content(0, 0, 3).tolist() == [False, False, True] and store.content(1, 0, 2) is None
    assert store.without_content() == []
    assert Examples([Example("a", [1, 2], [1, 0], [False, True])]).without_content() == ["a"]


def test_examples_digest_covers_weights():
    digests = {Examples([Example("a", [1, 2], weights)]).digest for weights in ([0, 1], [1, 1])}
    assert len(digests) == 2
    with pytest.raises(UserError, match="differ in length"):
        Examples([Example("a", [1, 2], np.ones(3))])
