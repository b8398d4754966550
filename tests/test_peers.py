"""Each `benchmarks/peers*.txt`: its documented line makes an environment in which its benchmark runs to a figure."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.name for path in (ROOT / "benchmarks").glob("peers*.txt"))
LINE = re.compile(r"^#\s+(python3 -m venv (\S+) && \2/bin/pip install -r benchmarks/(\S+))$", re.M)

# The smallest run of the benchmark of each file; {python} is that of the peers' environment, {work} an empty folder.
RUNS = {
    "peers-chats.txt": "benchmarks/chats_growth.py --rows 500 --workers 1 --peer {python}",
    "peers-data.txt": "benchmarks/data_vs_peers.py --mb 2",
    "peers-engine.txt": "benchmarks/engine_vs_peers.py --shape tiny --runs 1 --tokens 8 --peers {python} --work {work}",
    "peers.txt": "benchmarks/tokenizer_vs_peers.py --texts {work}/texts.jsonl --vocabulary {work}/qwen.tiktoken "
    "--peers {python} --size 2000 --train-mb 0.5 --encode-mb 0.5 --repetitions 1",
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_peers_says_how_it_is_installed_and_is_tried(name: str) -> None:
    found = LINE.search((ROOT / "benchmarks" / name).read_text())
    assert found and found[3] == name and name in RUNS


@pytest.mark.soak
@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_runs_beside_its_peers_from_an_empty_environment(
    name: str, tmp_path: Path, real_data: Path
) -> None:
    line = LINE.search((ROOT / "benchmarks" / name).read_text())
    assert line
    environment = tmp_path / "peers"
    made = re.sub(rf"(?<= ){line[2]}(?= |/bin)", str(environment), line[1])
    subprocess.run(made, shell=True, check=True, cwd=ROOT)
    python = environment / "bin" / "python"
    if "qwen.tiktoken" in RUNS[name]:
        small_vocabulary(tmp_path)
    words = RUNS[name].format(python=python, work=tmp_path).split()
    env = {**os.environ, "PEERS_PYTHON": str(python), "QWENKIT_TEST_DATA": str(real_data)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    ratio = re.fullmatch(r"ratio (\S+)", done.stdout.splitlines()[-1])
    assert ratio and math.isfinite(float(ratio[1])), done.stdout[-3000:]


def small_vocabulary(folder: Path) -> None:
    """Texts of both languages and a vocabulary learnt from them."""
    from qwenkit.tokenizer import save_tiktoken, train_bpe

    draw = random.Random(5)
    words = ["".join(draw.choices("bcdfghklmnprstvwaeiou河流经过座磨坊", k=draw.randint(2, 8))) for _ in range(3000)]
    lines = [" ".join(draw.choices(words, k=60)) + "." for _ in range(3000)]
    rows = (json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines)
    (folder / "texts.jsonl").write_text("".join(rows), encoding="utf-8")
    save_tiktoken(train_bpe(lines[:200], 300), folder / "qwen.tiktoken", ranks_only=True)
