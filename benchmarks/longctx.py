"""Table 3 in small: a model trained at a short length, read at up to eight times that length, under every trick.

    python benchmarks/longctx.py --out FOLDER --text FOLDER_OF_BOOKS [--seq-length 128] [--tokens 4e6]

Makes corpus, tokenizer and base model by the recipe below, then runs `qwenkit long-context` twice: all combinations,
and a grid of windows under NTK and LogN. The base model has a million parameters, so its perplexities compare with
themselves only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

RECIPE = """\
title = "longctx"
seed = 1
threads = {threads}
out = "{out}/run"

[corpus]
extra = [{text}]

[tokenizer]
corpus = "corpus"
vocab_size = 2048

[base]
kind = "pretrain"
corpus = "corpus"
tokenizer = "tokenizer"
tokens = {tokens}
seq_length = {row}
batch_size = 16
micro_batch_size = 16
hidden_size = 128
num_hidden_layers = 4
num_attention_heads = 4
intermediate_size = 352
optimizer = "muon"
lr = 3e-3
warmup_steps = 50
compile = true
validation_share = 0.05
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", nargs="+", required=True, help="what is learnt")
    parser.add_argument("--read", required=True, help="what is read afterwards, not among it")
    parser.add_argument("--seq-length", type=int, default=128)
    parser.add_argument("--tokens", type=float, default=4e6)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = given.out / "longctx.toml"
    text = ", ".join(f'"{Path(path).resolve()}"' for path in given.text)
    recipe.write_text(RECIPE.format(out=given.out.resolve(), text=text, tokens=given.tokens, row=given.row,
                                    threads=given.threads))  # fmt: skip
    qwenkit = [sys.executable, "-m", "qwenkit.cli"]
    subprocess.run([*qwenkit, "run", str(recipe)], check=True)
    lengths = ",".join(str(given.row << doubling) for doubling in range(4))
    for name, more in (("tricks", []), ("windows", ["--windows", "grid"])):
        command = [*qwenkit, "long-context", str(given.out / "run/base"), "--text", given.read, "--lengths", lengths,
                   "--limit", "40000", "--plot", str(given.out / f"longctx-{name}.svg"), *more]  # fmt: skip
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
