"""Does the cost of tokenizing chats and pairs grow with their number, and only that? Synthetic rows, ours and a peer.

    python benchmarks/chats_growth.py [--rows 1e4 1e5 1e6] [--kind chats|pairs] [--workers 2] [--place FOLDER]
        [--tokenizer FOLDER] [--peer peers-chats/bin/python]     (peers-chats.txt)

Chats have one to three turns of some sentences of invented words, about a kilobyte, in one file of JSON lines. Ours:
read, check, render, mask, tokenize, write shards, join them, and pack the first epoch. The peer is what TRL's
documentation shows: `datasets.load_dataset("json")` and `.map` with transformers' `apply_chat_template`, which makes
ids only: no checks, no mask, nothing packed. Each size runs in a fresh process. CPU seconds are of the process and its
workers: they say more than seconds on a busy machine. Memory is the largest sum over them, looked at ten times a
second: `resident` as the system counts it, files that are mapped into memory among it, and `own` without those.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwenkit.tokenizer import save_tokenizer, train_bpe

OURS = """
import sys
from pathlib import Path
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.alignment.pair_shards import PAIR_ROWS, open_pairs
from qwenkit.data.tokens.chat_shards import CHAT_ROWS, open_chats
from qwenkit.data.tokens.row_shards import TokenizePlan, tokenize_rows

def main(kind, source, tokenizer, folder, workers):
    plan = TokenizePlan(Path(tokenizer), "own", 2048, "drop", 0.001, 1)
    rows = CHAT_ROWS if kind == "chats" else PAIR_ROWS
    tokens = tokenize_rows(rows, Path(source), ["1", "2"], plan, Path(folder), workers=int(workers))
    if kind == "chats":
        store = open_chats(tokens)
        EpochOrder(store.digest, 1, store.lengths, 2048, split_documents=False).sequences(0, 128)
    else:
        store = open_pairs(tokens).shards
    print(tokens.counts["kept"], int(store.lengths.sum()))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""
PEER = """
import sys
from datasets import load_dataset
from transformers import AutoTokenizer

SIDES = ["chosen", "rejected"]

def main(kind, source, tokenizer, folder, workers):
    tok = AutoTokenizer.from_pretrained(tokenizer)
    rows = load_dataset("json", data_files=source, split="train", cache_dir=folder)

    def chat(row):
        return tok.apply_chat_template(row["messages"], tokenize=True, return_dict=True)

    def pair(row):
        sides = {name: [*row["messages"], {"role": "assistant", "content": row[name]}] for name in SIDES}
        return {name: tok.apply_chat_template(side, tokenize=True, return_dict=True)["input_ids"]
                for name, side in sides.items()}

    found = rows.map(chat if kind == "chats" else pair, num_proc=int(workers), remove_columns=rows.column_names)
    columns = ["input_ids"] if kind == "chats" else SIDES
    total = sum(len(ids) for batch in found.iter(1000) for name in columns for ids in batch[name])
    print(len(found), total)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def rows(count: int, kind: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Chats, or prompts with two answers."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lexicon = ["".join(draw.choice(letters, draw.integers(2, 10))) for _ in range(20_000)]
    picks = [" ".join(lexicon[i] for i in np.minimum(draw.zipf(1.3, 30), 20_000) - 1) + "." for _ in range(50_000)]

    def said(sentences: int) -> str:
        return " ".join(picks[i] for i in draw.integers(len(picks), size=sentences))

    for number in range(count):
        turns = int(draw.integers(1, 4))
        messages = [{"role": role, "content": said(length)} for _ in range(turns)
                    for role, length in (("user", 1), ("assistant", 2))]  # fmt: skip
        if kind == "pairs":
            messages, sides = messages[:-1], {"chosen": said(2), "rejected": said(2)}
        else:
            sides = {}
        yield {"id": f"row-{number}", "messages": messages, **sides}


def memory(group: int) -> tuple[float, float]:
    """MB over all processes of a process group: resident, and without pages of files."""
    resident = own = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == group:
                    _, pages, of_files, *_ = map(int, (entry / "statm").read_text().split())
                    resident, own = resident + pages, own + pages - of_files
            except (OSError, ValueError):
                continue
    return resident * os.sysconf("SC_PAGE_SIZE") / 2**20, own * os.sysconf("SC_PAGE_SIZE") / 2**20


def spent() -> float:
    """CPU seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(command: list[str]) -> tuple[float, float, float, float, str]:
    """Seconds, CPU seconds, MB resident, MB of its own, and what it printed."""
    started, used, resident, own = time.perf_counter(), spent(), 0.0, 0.0
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=quiet) as child:
        while child.poll() is None:
            here = memory(child.pid)
            resident, own = max(resident, here[0]), max(own, here[1])
            time.sleep(0.1)
        assert child.stdout is not None and child.returncode == 0
        return time.perf_counter() - started, spent() - used, resident, own, child.stdout.read().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="*", default=[1e4, 1e5, 1e6])
    parser.add_argument("--kind", choices=["chats", "pairs"], default="chats")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--place", type=Path, help="where files are put, and removed again")
    parser.add_argument("--tokenizer", type=Path, help="a folder; without one a vocabulary of 2,000 is trained")
    parser.add_argument("--peer", type=Path, help="the Python of an environment of peers-chats.txt")
    given = parser.parse_args()
    names = ["", given.kind, "MB", "tokens", "seconds", "a second", "CPU s", "resident MB", "own MB"]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    ratios = []
    for count in map(int, given.rows):
        place = Path(tempfile.mkdtemp(dir=given.place))
        try:
            ratios.append(grow(given, place, count))
        finally:
            shutil.rmtree(place)
    if given.peer:
        print(f"ratio {min(ratios):.2f}")


def grow(given: argparse.Namespace, place: Path, count: int) -> float:
    """One size: the rows, and both programs on them. Returns the peer's CPU seconds over ours."""
    with (place / "rows.jsonl").open("w") as file:
        size = sum(file.write(json.dumps(row) + "\n") for row in rows(count, given.kind))
    tokenizer = given.tokenizer or place / "tokenizer"
    if given.tokenizer is None:
        texts = [message["content"] for row in rows(500, "chats") for message in row["messages"]]
        save_tokenizer(train_bpe(texts, 2000), tokenizer)
    peer = [("peer", given.peer, PEER)] if given.peer else []
    used: dict[str, float] = {}
    for name, python, code in [("qwenkit", sys.executable, OURS), *peer]:
        script = place / f"run_{name}.py"
        script.write_text(code)
        asked = [given.kind, place / "rows.jsonl", tokenizer, place / name, given.workers]
        seconds, cpu, resident, own, said = measure([str(python), str(script), *map(str, asked)])
        kept, tokens = map(int, said.split())
        used[name] = cpu
        print(f"| {name} | {kept:,} of {count:,} | {size / 1e6:,.0f} | {tokens:,} | {seconds:.1f} | "
              f"{count / seconds:,.0f} | {cpu:.1f} | {resident:,.0f} | {own:,.0f} |", flush=True)  # fmt: skip
    return used.get("peer", 0.0) / used["qwenkit"]


if __name__ == "__main__":
    main()
