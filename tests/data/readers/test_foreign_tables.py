"""Tables of an artifact that may come from anywhere: what cannot be read in them is told in words; filters too."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenkit.data.filters.classifier import QualityClassifier
from qwenkit.data.parquet_io import LEDGER
from qwenkit.data.tokens.provenance import fates
from qwenkit.data.tokens.shards import Index
from qwenkit.errors import UserError
from tests.errors.desk import call


def parquet(**columns: list[object]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


BYTES = {
    "nothing": b"", "cut": b"PAR1", "text": b"{}", "other columns": parquet(a=[1]),
    "an id alone": parquet(id=["a"]), "numbers for texts": parquet(**{name: [1] for name in LEDGER.names}),
}  # fmt: skip


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_a_damaged_ledger_or_index_is_told(tmp_path: Path, data: bytes) -> None:
    for name, read in (("ledger.parquet", lambda path: fates(path.parent, "a")), ("tokens.parquet", Index)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            read(tmp_path / name)


class Program:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("victim"),)  # type: ignore[return-value]


def npz(**arrays: object) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **{"bias": np.float64(0), "form": np.int64(3), **arrays})  # type: ignore[arg-type]
    return data.getvalue()


FILTERS = {
    "a pickle": pickle.dumps(Program()),
    "objects": npz(weights=np.array([Program()], dtype=object)),
    "other weights": npz(weights=np.zeros(7)),
    "no numbers": npz(weights=np.full(2**16, np.nan)),
    "enormous": npz(weights=np.zeros(2**24)),
    "cut": npz(weights=np.zeros(2**16))[:100],
    "nothing": b"",
}


@pytest.mark.parametrize("data", FILTERS.values(), ids=FILTERS)
def test_what_is_no_filter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path("filter.npz").write_bytes(data)
    with pytest.raises(UserError, match="no filter"):
        QualityClassifier.load("filter.npz")
    assert not Path("victim").exists()


def test_train_filter_tells_what_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, word in (("good", "river"), ("bad", "cheap")):
        rows = [json.dumps({"text": f"{word} {n} {word}"}) for n in range(20)]
        Path(f"{name}.jsonl").write_text("\n".join([*rows, *(["{broken"] * 3 if name == "good" else [])]))
    code, out, err = call("train-filter --positive good.jsonl --negative bad.jsonl --out f.npz --json")
    assert code == 0 and json.loads(out)["quarantined"] == {"good": {"broken JSON": 3}, "bad": {}}
    assert "good.jsonl: 3 quarantined" in err and "line 21" in err
    Path("old.npz").write_bytes(b"old")
    assert call("train-filter --positive good.jsonl --negative bad.jsonl --out nowhere/f.npz")[0] == 2
