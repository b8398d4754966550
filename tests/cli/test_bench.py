"""What `qwenkit bench` prints, for people and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from qwenkit.cli import bench as command
from qwenkit.inference import bench as measures
from qwenkit.inference.bench import BenchReport, CacheFigures, Row
from qwenkit.model import ModelConfig, Transformer, init_weights, save_model
from tests.errors.desk import call
from tests.inference.conftest import SHAPE

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
ROWS = [
    Row("prefill", 512, 1103.4, 0.464, 1850.0),
    Row("decode", 1, 34.2, 0.02924, 85.6),
    Row("decode", 16, 9.0, 2, None),
]
REPORT = BenchReport(
    "A processor", 2, 134_515_008, "bfloat16", 269_060_000, 5.123e11, 23.1e9, ROWS,
    CacheFigures(12_288, 23_040, 1000, 0.95, 0.041),
)  # fmt: skip


def test_the_table() -> None:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(command.table(REPORT))
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [  # type: ignore[attr-defined]
        "                                    tokens/s       ms  bound  share",
        "prefill of 512 tokens                  1,103    464.0  1,850    60%",
        "decode, batch 1                         34.2     29.2   85.6    40%",
        "decode, batch 16                           9  2,000.0",
        "first token, 1,000 new before it                950.0",
        "first token, 1,000 known before it               41.0",
    ]
    assert command.heading(REPORT) == "135 M parameters, bfloat16, a step reads 269 MB of weights"
    assert command.remarks(REPORT) == [
        "bounds   512 GFLOP/s in a matrix product, 23.1 GB/s in a read",
        "cache    holds 12,288 tokens, 23 kB a token",
        "prefix   the first token comes 23.2 times as soon where it was read before",
    ]


def test_for_programs_and_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_QUICK_SECONDS", 0.0)
    monkeypatch.setattr(measures, "_READ_BYTES", 1_000_000)
    save_model(init_weights(Transformer(CONFIG), seed=0), tmp_path / "m")
    code, out, err = call(f"bench {tmp_path / 'm'} --quick --threads 1 --json")
    report = json.loads(out)
    assert (code, err, report["threads"], report["parameters"]) == (0, "", 1, CONFIG.parameters)
    assert [row["what"] for row in report["rows"]] == ["prefill", "decode", "decode", "decode"]
    assert all(row["share"] > 0 for row in report["rows"]) and report["cache"]["bytes_per_token"] > 0
    code, out, err = call(f"bench {tmp_path / 'm'} --quick --threads 1")
    assert (
        (code, err) == (0, "") and out.startswith("m: ") and "decode, batch 16" in out and "prefix   the first" in out
    )


def test_a_folder_that_is_not_there() -> None:
    code, out, err = call("bench nowhere")
    assert (code, out) == (2, "")
    assert err == "error: nowhere: no such folder\n  expected: a folder of a model, or org/name of the Hub\n"
