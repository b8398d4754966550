"""Documents to shards in chunks: any cut, any number of workers, any kill, any runner: the same tokens."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenkit.chat import load_tokenizer
from qwenkit.data.documents import corpus_splits, iter_documents, read_corpus_split, train_validation_split
from qwenkit.data.readers.file_splits import FileSplit
from qwenkit.data.tokens import tokenize as tokens
from qwenkit.data.tokens.shards import Shards
from qwenkit.data.tokens.tokenize import MAX_VALIDATION_DOCUMENTS, TokenizedCorpus, encode_documents, tokenize
from qwenkit.errors import UserError
from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.data.tokens.integrity import is_intact
from tests.kills import kill_often
from tests.stages.conftest import TEXTS

PART, SHARE, SEED = 3000, 0.2, 7


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, and a plain file whose rows have ids or none, with lines of spaces between them."""
    folder = tmp_path_factory.mktemp("tokens")
    save_tokenizer(train_bpe(TEXTS, 300, extras=1, multiple=8), folder / "tokenizer")
    luck = random.Random(1)
    rows = [{"text": " ".join(luck.choices(TEXTS, k=luck.randrange(1, 9)))} for _ in range(300)]
    for number, row in enumerate(rows):
        row |= {"id": f"d{number}"} if number % 3 else {}
        row |= {"source": "web", "licence": "MIT"} if number % 2 else {}
    lines = [json.dumps(row) + "\n" + "  \n" * (number % 5 == 0) for number, row in enumerate(rows)]
    (folder / "text.jsonl").write_text("".join(lines))
    return folder


def work(
    desk: Path, folder: Path, corpus: str = "text.jsonl", workers: int = 1, runner: str = "local"
) -> TokenizedCorpus:
    given = Input("corpus", desk / corpus, "1"), Input("tokenizer", desk / "tokenizer", "2")
    return tokenize(*given, SHARE, SEED, folder, workers=workers, runner=runner)


def digest(folder: Path) -> str:
    """Over every file of the phase."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "corpus_splits", lambda corpus: corpus_splits(corpus, PART))


@pytest.fixture
def expected(desk: Path, tmp_path: Path, small_parts: None) -> tuple[TokenizedCorpus, str]:
    return work(desk, tmp_path / "expected"), digest(tmp_path / "expected")


def test_parts_of_any_size_hold_the_same_documents(desk: Path, tmp_path: Path) -> None:
    whole = list(iter_documents(desk / "text.jsonl"))
    assert len(whole) == 300 and whole[0]["id"] == "text-0" and whole[3]["place"] == "text.jsonl:5"
    pq.write_table(pa.Table.from_pylist(whole), tmp_path / "text.parquet", row_group_size=7)
    for name in (desk / "text.jsonl", tmp_path / "text.parquet"):
        for size in (1, 1000, 1 << 30):
            found = list(corpus_splits(name, size))
            assert len(found) > {1: 40, 1000: 20}.get(size, 0)
            rows = [row for part in found for row in read_corpus_split(part)]
            assert [(row["id"], row["text"]) for row in rows] == [(row["id"], row["text"]) for row in whole]
    lines = (desk / "text.jsonl").read_text().splitlines()
    for part in corpus_splits(desk / "text.jsonl", 1000):
        for row in read_corpus_split(part):
            assert json.loads(lines[int(row["place"].split(":")[1]) - 1])["text"] == row["text"]


def test_a_bad_row_is_named_by_its_number_in_the_file(desk: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*({"text": "right"} for _ in range(20)), {"txt": "wrong"}])
    with pytest.raises(UserError, match="missing key `text`") as caught:
        for part in corpus_splits(tmp_path / "a.jsonl", 50):
            list(read_corpus_split(part))
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}, row 21"
    (tmp_path / "none.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match="no documents in this file"):
        list(iter_documents(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no documents in this file"):
        tokenize(Input("c", tmp_path / "none.jsonl", ""), Input("t", desk / "tokenizer", ""), 0, 1, tmp_path / "out")


def test_shards_hold_what_is_learnt_and_from_where(desk: Path, expected: tuple[TokenizedCorpus, str]) -> None:
    store, validation, counted = expected[0]
    kept, held = train_validation_split(list(iter_documents(desk / "text.jsonl")), SHARE, SEED)
    tok = load_tokenizer(desk / "tokenizer")
    assert [*store.ids] == [row["id"] for row in kept] and len(list(store.path.glob("0*"))) > 10
    assert [row["id"] for row in validation] == [row["id"] for row in held]
    for number, row in enumerate(kept):
        assert store.tokens(number, 0, 1 << 30).tolist() == [*tok.encode(row["text"]), tok.eot_id]
    origins = store.origins(range(len(kept)))
    assert [row["place"] for row in origins] == [row["place"] for row in kept]
    assert {(row["source"], row["licence"]) for row in origins} == {("web", "MIT"), ("text", "unknown")}
    assert sum(row["tokens"] for row in counted["licence"].values()) == store.lengths.sum()
    mine = [row["length"] for row in origins if row["licence"] == "MIT"]
    assert counted["licence"]["MIT"] == counted["source"]["web"] == {"documents": len(mine), "tokens": sum(mine)}


def test_the_cut_into_chunks_changes_no_token(
    desk: Path, tmp_path: Path, expected: tuple[TokenizedCorpus, str]
) -> None:
    tokens.corpus_splits = lambda corpus: corpus_splits(corpus, 1 << 30)  # the fixture's patch puts it back
    store, validation, counted = work(desk, tmp_path / "one")
    assert len(list(store.path.glob("0*"))) == 1
    assert (store.digest, validation, counted) == (expected[0].dataset.digest, *expected[0][1:])
    assert is_intact(store)


def test_any_number_of_workers_makes_the_same_bytes(
    desk: Path, tmp_path: Path, expected: tuple[TokenizedCorpus, str]
) -> None:
    work(desk, tmp_path / "two", workers=2)
    assert digest(tmp_path / "two") == expected[1]


def test_the_first_validation_documents_of_each_source_are_measured(desk: Path, tmp_path: Path) -> None:
    """However many there are, and however they lie in chunks."""
    rows = [{"id": str(n), "text": "river", "source": "ab"[n % 5 == 0]} for n in range(1000)]
    write_jsonl(tmp_path / "many.jsonl", rows)
    given = Input("corpus", tmp_path / "many.jsonl", ""), Input("tokenizer", desk / "tokenizer", "")
    validation = tokenize(*given, 0.45, 1, tmp_path / "out").validation
    held = train_validation_split(rows, 0.45, 1)[1]
    for source in "ab":
        mine = [row["id"] for row in held if row["source"] == source][:MAX_VALIDATION_DOCUMENTS]
        assert [row["id"] for row in validation if row["source"] == source] == mine
    assert len(validation) > MAX_VALIDATION_DOCUMENTS


def test_another_tokenizer_or_share_makes_them_anew(desk: Path, tmp_path: Path, small_parts: None) -> None:
    given = Input("corpus", desk / "text.jsonl", "1"), Input("tokenizer", desk / "tokenizer", "2")
    first = len(tokenize(*given, 0.2, SEED, tmp_path).dataset.ids)
    assert len(tokenize(*given, 0.0, SEED, tmp_path).dataset.ids) == 300 > first


BUILD = """
import json, sys
from pathlib import Path
from qwenkit.data.tokens import tokenize as tokens
from qwenkit.stages.base import Input
from qwenkit.data.documents import corpus_splits
if __name__ == "__main__":
    desk, folder, workers, runner, size, share, seed = json.loads(sys.argv[1])
    tokens.corpus_splits = lambda corpus: corpus_splits(corpus, size)
    given = Input("corpus", Path(desk, "text.jsonl"), "1"), Input("tokenizer", Path(desk, "tokenizer"), "2")
    tokens.tokenize(*given, share, seed, Path(folder), workers=workers, runner=runner)
"""
MARKS = f"tokens/{'[0-9]' * 5}/mark.json"


def build(desk: Path, folder: Path, workers: int, runner: str = "local") -> subprocess.Popen[bytes]:
    script = folder.parent / "build.py"
    script.write_text(BUILD)
    given = [str(desk), str(folder), workers, runner, PART, SHARE, SEED]
    return subprocess.Popen([sys.executable, str(script), json.dumps(given)], start_new_session=True)


@pytest.mark.parametrize(("kills", "workers"), [(2, 1), pytest.param(20, 2, marks=pytest.mark.soak)])
def test_kills_lose_no_more_than_a_chunk(
    desk: Path, tmp_path: Path, expected: tuple[TokenizedCorpus, str], kills: int, workers: int
) -> None:
    """SIGKILL to the whole group at a random moment after some more chunks are done; those are not touched again."""
    folder, luck = tmp_path / "work", random.Random(workers)
    killed = kill_often(folder, MARKS, kills, lambda: build(desk, folder, workers), lambda: luck.random() / 500)
    assert killed
    work(desk, folder)
    assert digest(folder) == expected[1] and is_intact(Shards(folder / "tokens"))


def test_ray_makes_the_same_bytes(desk: Path, tmp_path: Path, expected: tuple[TokenizedCorpus, str]) -> None:
    pytest.importorskip("ray")
    assert build(desk, tmp_path / "work", 2, "ray").wait() == 0
    assert digest(tmp_path / "work") == expected[1]


def test_a_kill_before_the_index_is_whole_joins_again(
    desk: Path, tmp_path: Path, expected: tuple[TokenizedCorpus, str]
) -> None:
    index = tmp_path / "expected/tokens/index.parquet"
    index.with_name("index.parquet.tmp").write_bytes(index.read_bytes()[:50])
    index.unlink()
    work(desk, tmp_path / "expected")
    assert digest(tmp_path / "expected") == expected[1]


def test_a_tokenizer_without_texts_to_read(desk: Path, tmp_path: Path) -> None:
    """A file split that is all in the validation split, or that has no rows, is a shard without tokens."""
    (tmp_path / "empty.jsonl").write_text("")
    out = tmp_path / "00000"
    out.mkdir()
    assert encode_documents(out, FileSplit(tmp_path / "empty.jsonl"), desk / "tokenizer", 0.0, 1) == {
        "read": 0,
        "counts": [],
    }
    assert (out / "tokens.bin").read_bytes() == b""
