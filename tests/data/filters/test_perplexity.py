"""Texts scored by a model of one's own: bits per byte, in a range, the same with any number of workers."""

from __future__ import annotations

import json
import subprocess
import sys
from math import log2
from pathlib import Path

import pytest

from qwenkit.data import CorpusConfig, Source, build_corpus
from qwenkit.data.filters.perplexity import TOKENS, Perplexity
from qwenkit.data.parquet_io import read
from tests.stages.conftest import make_folder

TEXTS = [f"The river {n} flows past a garden of stone, and nobody knows where it ends." for n in range(12)]
TEXTS += [f"{n} qzx wvk pjq zzx qkw vxq jzq wqx kzv xqj {n} zqk vwx qjz kxw zvq" for n in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model") / "tiny")


def test_bits_are_the_models_loss_over_the_bytes_it_was_asked_for(model: Path) -> None:
    from qwenkit import Engine, load_tokenizer

    scorer, tok = Perplexity(model), load_tokenizer(model)
    ids = tok.encode("The garden 花园")
    (logprobs,) = Engine(model, tok).score([ids])
    wanted = -sum(logprobs) * log2(2.718281828459045) / len(tok.decode_bytes(ids[1:]))
    one, two, none, long = scorer.bits_per_byte(["The garden 花园", TEXTS[0], "a", "garden of stone " * 9 * TOKENS])
    assert one == pytest.approx(wanted, rel=1e-5) and none is None
    assert two is not None and long is not None and 0 < long < 20


def corpus(model: Path, folder: Path, workers: int = 1, **limits: float) -> dict[str, float | str]:
    """What became of every text: its bits where it is kept, or the rule that dropped it."""
    rows = "".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS))
    folder.mkdir()
    (folder / "web.jsonl").write_text(rows)
    source = Source("web", folder / "web.jsonl", "web", skip=("near_duplicates", "quality"))
    config = CorpusConfig(
        perplexity_model=str(model), bits_per_byte=(limits.get("low", 0.0), limits.get("high")), chunk_bytes=600
    )
    result = build_corpus([source], config=config, folder=folder / "work", workers=workers)
    ledger = [row for path in result.ledger_files for rows in read(path) for row in rows]
    bits = {row["id"]: row["bits_per_byte"] for path in result.attribute_files for rows in read(path) for row in rows}
    assert len(bits) == len(TEXTS)
    return {row["id"]: row["rule"] or bits[row["id"]] for row in ledger}


def test_what_lies_out_of_the_range_is_dropped_and_bits_are_kept(model: Path, tmp_path: Path) -> None:
    free = corpus(model, tmp_path / "a")
    assert len(set(free.values())) > 20
    low, high = sorted(map(float, free.values()))[4:20:15]
    found = corpus(model, tmp_path / "b", low=low, high=high)
    names = {"too_likely": lambda bits: bits < low, "too_unlikely": lambda bits: bits > high}
    for name, bits in free.items():
        assert found[name] == next((rule for rule, test in names.items() if test(float(bits))), bits)
    assert corpus(model, tmp_path / "c", workers=2, low=low, high=high) == found


def test_torch_is_not_loaded_unless_a_model_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0])
    program = (
        "import sys; from pathlib import Path; from qwenkit.data import *\n"
        f"build_corpus([Source('s', Path({str(tmp_path / 'a.txt')!r}), 'web')])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
