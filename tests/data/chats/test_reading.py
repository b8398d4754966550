"""Files and folders of chats: formats, packings, splits, parts; what is damaged or unclear is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from qwenkit.data.chats import chat_splits, describe, find, read, read_chat_split
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, write_jsonl

ROWS = [{"messages": [{"role": "user", "content": f"Nummer {n}?"}, {"role": "assistant", "content": f"{n}。"}]}
        for n in range(20)]  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
TEXTS = [{"messages": json.dumps(row["messages"])} for row in ROWS]
TABLE = "question,answer\n" + "".join(f'"Nummer {n}?","{n}。"\n' for n in range(20))


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue().to_pybytes()


def arrow(rows: list[dict[str, Any]]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


FILES: dict[str, Callable[[], bytes]] = {
    "lines.jsonl": lambda: LINES,
    "lines.json": lambda: LINES,
    "marked.jsonl": lambda: b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"),
    "list.json": lambda: json.dumps(ROWS, indent=2).encode(),
    "list.jsonl": lambda: json.dumps(ROWS).encode(),
    "inside.json": lambda: json.dumps({"version": 1, "data": ROWS}).encode(),
    "gzip.jsonl.gz": lambda: gzip.compress(LINES),
    "gzip-by-content.jsonl": lambda: gzip.compress(LINES),
    "bzip2.jsonl.bz2": lambda: bz2.compress(LINES),
    "xz.json.xz": lambda: lzma.compress(json.dumps(ROWS).encode()),
    "zstd.jsonl.zst": lambda: zstandard.compress(LINES[:400]) + zstandard.compress(LINES[400:]),
    "structs.parquet": lambda: parquet(ROWS),
    "texts.parquet": lambda: parquet(TEXTS),
    "stream.arrow": lambda: arrow(ROWS),
    "table.csv": lambda: TABLE.encode("utf-8-sig"),
    "table.tsv": lambda: TABLE.replace(",", "\t").encode(),
    "semicolons.csv.gz": lambda: gzip.compress(TABLE.replace(",", ";").encode()),
    "excel.csv": lambda: TABLE.replace(",", "\t").encode("utf-16"),
    "wide.jsonl": lambda: LINES.decode().encode("utf-16"),
    "unnamed": lambda: LINES,
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    quarantine = Quarantine()
    found = list(read(path, "chats", quarantine))
    assert [row["messages"] for row in found] == [row["messages"] for row in ROWS] and not quarantine.counts
    assert len({row["id"] for row in found}) == 20 and found[0]["id"] == f"chat-{'sv' in name:d}"
    for size in (1, 300, 1 << 20):  # read apart, in any parts
        assert [
            row for part in chat_splits(path, "chats", size) for row in read_chat_split(part, Quarantine())
        ] == found


ROW_BY_ROW = ("lines", "marked", "table", "excel", "inside", "wide")


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(ROW_BY_ROW)])
def test_a_file_that_was_cut_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    data = FILES[name]()
    if name in ("unnamed", "texts.parquet"):
        data = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    path.write_bytes(data[: max(60, len(data) * 2 // 3)])
    with pytest.raises(UserError, match=r"truncated|corrupted|broken|git-lfs"):
        list(read(path, "chats", Quarantine()))


def test_bad_rows_are_put_aside_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = [b'{"messages": []}\n', b"{broken\n", b'"a text"\n', b'{"messages": [{"role": "user", "content": "\xff"}]}\n']
    path.write_bytes(LINES + b"".join(bad) + LINES)
    quarantine = Quarantine()
    assert len(list(read(path, "chats", quarantine))) == 40 and len(quarantine) == 4
    assert [row["line"] for row in quarantine.rows] == [21, 22, 23, 24]
    assert {row["file"] for row in quarantine.rows} == {"a.jsonl"}
    with pytest.raises(UserError, match=r"a\.jsonl, row 21: the conversation has no messages"):
        list(read(path, "chats"))
    assert describe(path).read == 44


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(ROWS), folder / name)
        elif name.endswith(".jsonl"):
            write_jsonl(folder / name, ROWS)
        else:
            (folder / name).write_text("{}")
    return folder


FOLDERS: dict[str, tuple[list[str], list[str]]] = {
    "two files": (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
    "the Hub's": (["data/train-00000-of-00001.parquet", "README.md"], ["data/train-00000-of-00001.parquet"]),
    "splits in one word": (["trainset.jsonl", "testset.jsonl", "valsplit.csv"], ["trainset.jsonl"]),
    "splits by humps": (["trainData.jsonl", "chatTest.jsonl", "chatsDevSet.jsonl"], ["trainData.jsonl"]),
    "a benchmark": (["talk.jsonl", "talk-benchmark.jsonl", "对话评测集.jsonl"], ["talk.jsonl"]),
    "words that hold a split's": (["latest.jsonl", "contest.jsonl", "dataset.jsonl"],
                                  ["contest.jsonl", "dataset.jsonl", "latest.jsonl"]),
    "splits by file": (["train-0.parquet", "test-0.parquet", "dev.jsonl", "validation.jsonl"], ["train-0.parquet"]),
    "splits by folder": (["train/a.jsonl", "test/a.jsonl", "eval/b.jsonl"], ["train/a.jsonl"]),
    "a test beside files without a name": (["a.jsonl", "my_test.jsonl"], ["a.jsonl"]),
    "no test, though it sounds so": (["latest.jsonl", "testimonials.jsonl"], ["latest.jsonl", "testimonials.jsonl"]),
    "in Chinese": (["训练集.jsonl", "测试集.jsonl"], ["训练集.jsonl"]),
    "of several purposes": (["train_sft-00000-of-00001.parquet", "train_prefs-00000-of-00001.parquet",
                             "test_sft-00000-of-00001.parquet"], ["train_sft-00000-of-00001.parquet"]),
    "saved to disk": (["dataset_info.json", "state.json", "a.jsonl", ".cache/b.jsonl"], ["a.jsonl"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_the_files_of_a_folder(name: str, tmp_path: Path) -> None:
    names, taken = FOLDERS[name]
    found = find(lay(tmp_path, *names), "chats")
    assert [found.named(path) for path in found.taken] == taken
    assert len(found.left) == len([n for n in names if n not in taken and not n.startswith(".")]) + name.startswith(
        "saved"
    )
    rows = list(read(tmp_path, "chats", Quarantine()))
    assert len(rows) == 20 * len(taken) == len({row["id"] for row in rows})


UNCLEAR = {
    "only a test": (["test.jsonl"], "only `test` files"),
    "a training split and others": (["train.jsonl", "more.jsonl"], "files that name no split: more.jsonl"),
    "two splits in a name": (["train_and_test.jsonl"], "names two splits"),
    "one split in two formats": (["train.jsonl", "train.parquet"], "the same rows twice"),
    "nothing": (["notes.md"], "no file of rows in this folder; what lies there: notes.md"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_an_unclear_folder_is_refused(name: str, tmp_path: Path) -> None:
    names, what = UNCLEAR[name]
    with pytest.raises(UserError, match=what):
        find(lay(tmp_path, *names), "chats")


def test_the_card_names_the_files(tmp_path: Path) -> None:
    lay(tmp_path, "en/part.jsonl", "en/rest.jsonl", "zh/part.jsonl")
    files = "  - split: train\n    path: en/part*\n  - split: test\n    path: en/rest*\n"
    card = "---\nconfigs:\n- config_name: {}\n  data_files:\n" + files
    more = "- config_name: zh\n  data_files: zh/*.jsonl\n"
    (tmp_path / "README.md").write_text(card.format("default") + more + "---\n# Chats\n")
    assert [path.name for path in find(tmp_path, "chats").taken] == ["part.jsonl"]
    (tmp_path / "README.md").write_text(card.format("en") + more + "---\n")
    with pytest.raises(UserError, match="several configurations: en, zh"):
        find(tmp_path, "chats")
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    assert len(find(tmp_path, "chats").taken) == 3


def test_several_sources_are_one(tmp_path: Path) -> None:
    lay(tmp_path, "a/x.jsonl", "b/x.jsonl")
    both = [tmp_path / "a" / "x.jsonl", tmp_path / "b"]
    rows = list(read(both, "chats"))
    assert len({row["id"] for row in rows}) == 40 and rows[0]["place"] == "a/x.jsonl:1"
    with pytest.raises(UserError, match="given twice"):
        find([tmp_path / "a", tmp_path / "a" / "x.jsonl"], "chats")


def test_a_table_without_names_and_other_refusals(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("What?\tThat.\nWho?\tThey.\n")
    with pytest.raises(UserError, match="names no column that is known"):
        list(read(tmp_path / "a.tsv", "chats"))
    (tmp_path / "b.json").write_text(json.dumps({"train": ROWS, "test": ROWS}))
    with pytest.raises(UserError, match="several lists of rows: train, test"):
        list(read(tmp_path / "b.json", "chats"))
    (tmp_path / "c.csv").write_bytes("question,answer\n你好,你好\n".encode("gb18030"))
    with pytest.raises(UserError, match="invalid UTF-8"):
        list(read(tmp_path / "c.csv", "chats"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    for name, what in (("picture.png", "unknown type"), ("none.jsonl", "no such file")):
        with pytest.raises(UserError, match=what):
            list(read(tmp_path / name, "chats"))


def test_what_people_should_know(tmp_path: Path) -> None:
    rows = [{**row, "score": 1, "source": "x"} for row in ROWS]
    rows[0]["messages"] = [{**m, "mask": 1} for m in rows[0]["messages"]]
    write_jsonl(tmp_path / "train.jsonl", rows)
    lay(tmp_path, "test.jsonl")
    found = describe(tmp_path)
    assert found.kind == "chats" and found.kept == 20 and found.complete and found.roles["assistant"] == 20
    assert found.keys == {"score": 20, "source": 20, "messages.mask": 1}
    told = "\n".join(found.notes())
    assert (
        "test.jsonl" in told and "`score` stands in 20" in told and "`messages.mask`" in told and "source" not in told
    )
    assert not describe(tmp_path, None, 5).complete and describe(tmp_path, None, 5).kept == 5
