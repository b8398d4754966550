"""What is no error: bad records are put aside and counted, damage is repaired, marks of other editors are read over."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from qwenkit.artifacts import damage, read_manifest
from qwenkit.records import Quarantine, read_jsonl, write_jsonl
from tests.errors.cases.case import PAIRS
from tests.errors.desk import Desk, call, chats, texts

TOKENIZER = 'threads = 1\n[tokenizer]\ncorpus = "text.jsonl"\nvocab_size = 300\n'


def test_a_corpus_with_broken_lines_adds_up(desk: Desk) -> None:
    good = [json.dumps(row).encode() for row in texts()]
    desk.write("text.jsonl", b"\n".join([*good, b'{"a"', b"\xff\xfe", b"[1]", b'{"txt": "no text"}']) + b"\n")
    desk.recipe('[corpus]\nextra = "text.jsonl"\n')
    code, _, err = call("run my.toml -q")
    assert (code, err) == (0, "")
    books = read_manifest(desk.tmp / "runs/my/corpus").metrics
    assert books["quarantined"] == 4
    assert "4 quarantined" in read_manifest(desk.tmp / "runs/my/corpus").headline
    assert books["read"] == len(good) + 4 == books["kept"] + books["dropped"] + books["quarantined"]
    bad = [(row["line"], row["reason"]) for row in read_jsonl(desk.tmp / "runs/my/corpus/quarantine.jsonl")]
    assert bad == [(41, "broken JSON"), (42, "invalid UTF-8"), (43, "a list where an object was expected"),
                   (44, "no key 'text', but a text in 'txt' (name it in `text_keys`)")]  # fmt: skip


@pytest.mark.parametrize("fault", ["cut", "flipped"])
def test_a_damaged_gzip_gives_its_whole_lines(desk: Desk, fault: str) -> None:
    path = desk.tmp / "text.jsonl.gz"
    write_jsonl(path, [{"n": n, "text": f"{n * 7919 % 1000:04d}" * 50} for n in range(20000)])
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    path.write_bytes(data[:half] if fault == "cut" else data[:half] + bytes([255] * 64) + data[half + 64 :])
    quarantine = Quarantine()
    kept = [row["n"] for row in read_jsonl(path, quarantine)]
    assert 0 < len(kept) < 20000 and kept == list(range(len(kept)))
    assert set(quarantine.counts) <= {"truncated file", "damaged file", "broken JSON", "invalid UTF-8"}
    assert len(quarantine) >= 1


def test_a_run_makes_a_damaged_artifact_again(desk: Desk) -> None:
    desk.family()
    weights = desk.tmp / "runs/family/base/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    _, plan, _ = call("run family.toml --dry-run --json")
    assert [row["why"] for row in json.loads(plan) if row["node"] == "base"] == [
        "its artifact is corrupted: model.safetensors: its bytes changed"
    ]
    assert call("run family.toml -q")[0] == 0
    assert weights.read_bytes() == whole and not damage(weights.parent)


def test_equal_bytes_under_a_new_time_are_no_damage(desk: Desk) -> None:
    """A copy that lost its times is hashed, and believed."""
    desk.family()
    weights = desk.tmp / "runs/family/base/model.safetensors"
    weights.write_bytes(weights.read_bytes())
    _, plan, _ = call("run family.toml --dry-run --json")
    assert {row["state"] for row in json.loads(plan)} == {"done"}


def test_a_rewritten_corpus_is_read_again(desk: Desk) -> None:
    """Within one process, a file is never taken for what it was."""
    desk.rows("text.jsonl", *texts()).write("my.toml", TOKENIZER)
    assert call("run my.toml -q")[0] == 0
    first = read_manifest(desk.tmp / "runs/my/tokenizer").digest
    desk.rows("text.jsonl", *({**row, "text": row["text"] * 2 + " 森林 forest forest"} for row in texts()))
    assert call("run my.toml -q")[0] == 0
    assert read_manifest(desk.tmp / "runs/my/tokenizer").digest != first


def test_byte_order_marks_are_read_over(desk: Desk) -> None:
    desk.write("my.toml", "\ufeff" + TOKENIZER)
    desk.write("text.jsonl", "\ufeff" + "\n".join(json.dumps(row) for row in texts()))
    assert call("run my.toml -q")[0] == 0


def test_numbers_for_ids_are_taken(desk: Desk) -> None:
    desk.rows("text.jsonl", *({**row, "id": n} for n, row in enumerate(texts()))).write("my.toml", TOKENIZER)
    assert call("run my.toml -q")[2] == ""


def test_a_finished_but_damaged_out_is_not_published(desk: Desk) -> None:
    """A kill, then a bad disk: what stands in the scratch is made again."""
    desk.family()
    base = desk.tmp / "runs/family/base"
    scratch = desk.tmp / f"runs/family/.work/base-{read_manifest(base).key[:12]}"
    scratch.mkdir(parents=True)
    base.rename(scratch / "out")
    (scratch / "out/config.json").write_text("{}")
    assert call("run family.toml -q")[0] == 0
    assert not damage(base)


def test_hidden_files_in_an_artifact_are_left_alone(desk: Desk) -> None:
    """By a run and by `verify` alike: desktops leave them everywhere, and nothing reads them."""
    desk.family().write("runs/family/base/.DS_Store", "x")
    _, plan, _ = call("run family.toml --dry-run --json")
    assert {row["state"] for row in json.loads(plan)} == {"done"}
    assert call("verify runs/family")[0] == 0


def test_gzip_of_chats_is_read(desk: Desk, tmp_path: Path) -> None:
    desk.family().write("c.jsonl.gz", gzip.compress("\n".join(json.dumps(row) for row in chats()).encode()))
    assert call("inspect loss-mask c.jsonl.gz --tokenizer runs/family/base --limit 1")[0] == 0


def test_every_comparison_stands_in_the_books(desk: Desk) -> None:
    """Those that measure too, and those of them that are too long."""
    asked = [[{"role": "user", "content": f"so {n}?"}] for n in range(80)]  # a prompt's pairs are held out together
    rows = [{"messages": asked[n], "chosen": "yes" * (n % 40), "rejected": "no"} for n in range(80)]
    rows += [{**rows[n], "chosen": "no"} for n in range(20)]
    desk.family().rows("mine.jsonl", *rows, {**rows[1], "id": 7}).rows("tests/pairs.jsonl", *rows[:40])
    assert call(f"{PAIRS.replace('bad.jsonl', 'mine.jsonl')} --validation-share 0.4 --tests tests -q")[2] == ""
    books = read_manifest(desk.tmp / "runs/o/preference").metrics
    aside = books["measured"]["held out"]
    assert aside["too_long"] > 0 and aside["same_text"] > 0
    assert books["pairs"] + books["too_long"] + books["same_text"] + sum(aside.values()) == len(rows) + 1
    assert sum(books["measured"]["unseen policies"].values()) == 40
    measured = [row["set"] for row in read_jsonl(desk.tmp / "runs/o/preference/margins.jsonl")]
    assert measured.count("held out") == aside["kept"]
