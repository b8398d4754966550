"""Training and encoding beside the libraries of the field: `tokenizers`, `tiktoken`, `rustbpe`.

    python benchmarks/tokenizer_vs_peers.py --texts old.jsonl --vocabulary qwen.tiktoken --peers peers/bin/python

`--texts` is JSONL with `text`, bilingual and with code; `--peers` is the Python of an environment with
benchmarks/peers.txt. Every measurement is a fresh process that reads the texts first and times only the work, all on
the same cores, in turn: ours, peer, ours, peer ... Each is run in the way its own documentation shows.

Training: a vocabulary of `--size` tokens from the first `--train-mb` megabytes, Qwen's pattern, to ranks. rustbpe has
no NFC; the others have it. Encoding: one batch of the first `--encode-mb` megabytes with the true vocabulary; ours with
NFC, raw tiktoken without. The bound of encoding is tiktoken itself, which does the merging; the table says what NFC
takes. Ratios are of medians, more than 1 is for us. The last line is the lowest of those that are promised: training
over `tokenizers`, encoding over tiktoken, encoding over `tokenizers`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMISED = {("train", "tokenizers"): 0.95, ("encode", "tiktoken"): 0.9, ("encode", "tokenizers"): 2.0}


def read(path: Path, megabytes: float) -> list[str]:
    """Texts from the head of a file."""
    texts, size = [], 0
    for line in path.open(encoding="utf-8"):
        texts.append(json.loads(line)["text"])
        size += len(texts[-1].encode())
        if size >= megabytes * 1e6:
            break
    return texts


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


# ---- one measurement, in a process of its own: (seconds, what came out) ---------------------------------------------


def train_qwenkit(texts: list[str], size: int) -> tuple[float, int]:
    from qwenkit.platform import free_cores
    from qwenkit.tokenizer import train_bpe

    seconds, tok = timed(lambda: train_bpe(texts, size, workers=free_cores()))
    return seconds, len(tok.ranks)


def train_tokenizers(texts: list[str], size: int) -> tuple[float, int]:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tok = Tokenizer(BPE())
    tok.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    batches = (texts[start : start + 1000] for start in range(0, len(texts), 1000))
    seconds, _ = timed(lambda: tok.train_from_iterator(batches, trainer))
    return seconds, tok.get_vocab_size()


def train_rustbpe(texts: list[str], size: int) -> tuple[float, int]:
    import rustbpe

    tok = rustbpe.Tokenizer()
    seconds, _ = timed(lambda: tok.train_from_iterator(iter(texts), vocab_size=size, pattern=PATTERN))
    return seconds, tok.vocab_size


def encode_qwenkit(texts: list[str], vocabulary: Path) -> tuple[float, int]:
    from qwenkit.tokenizer import load

    tok = load(vocabulary)
    tok.encode("warm")
    seconds, ids = timed(lambda: tok.encode_batch(texts))
    return seconds, sum(map(len, ids))


def encode_tiktoken(texts: list[str], vocabulary: Path) -> tuple[float, int]:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(vocabulary))
    tok = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    seconds, ids = timed(lambda: tok.encode_ordinary_batch(texts))
    return seconds, sum(map(len, ids))


def encode_tokenizers(texts: list[str], vocabulary: Path) -> tuple[float, int]:
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(vocabulary.parent / "tokenizer.json"))
    seconds, found = timed(lambda: tok.encode_batch(texts))
    return seconds, sum(len(each.ids) for each in found)


WORK = {
    ("train", "qwenkit"): train_qwenkit,
    ("train", "tokenizers"): train_tokenizers,
    ("train", "rustbpe"): train_rustbpe,
    ("encode", "qwenkit"): encode_qwenkit,
    ("encode", "tiktoken"): encode_tiktoken,
    ("encode", "tokenizers"): encode_tokenizers,
}


def one(arguments: argparse.Namespace) -> None:
    """The work of a child process."""
    task, who = arguments.one.split(":")
    texts = read(arguments.texts, arguments.train_mb if task == "train" else arguments.encode_mb)
    seconds, count = WORK[task, who](texts, arguments.size if task == "train" else arguments.vocabulary)  # type: ignore[operator]
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "count": count, "peak_mb": peak // 1000}))


# ---- all of them ----------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, task: str, who: str) -> dict[str, Any]:
    python = sys.executable if who == "qwenkit" else arguments.peers
    words = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in ("texts", "vocabulary", "size")]
    words += [f"--train-mb={arguments.train_mb}", f"--encode-mb={arguments.encode_mb}", f"--one={task}:{who}"]
    done = subprocess.run([python, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{task} with {who} did not run in {python}:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace, task: str) -> dict[str, list[dict[str, Any]]]:
    people = [who for kind, who in WORK if kind == task]
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in people}
    for repetition in range(arguments.repetitions):
        for who in people:
            found[who].append(run(arguments, task, who))
            print(
                f"{task} {repetition + 1}/{arguments.repetitions} {who}: {found[who][-1]}", file=sys.stderr, flush=True
            )
    return found


def report(task: str, megabytes: float, found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """A table of one task; the ratios of the peers' medians to ours."""
    medians = {who: statistics.median(row["seconds"] for row in rows) for who, rows in found.items()}
    ratios = {who: medians[who] / medians["qwenkit"] for who in found}
    print(f"\n| {task} | median s | lowest - highest | MB/s | peak MB | tokens | time over ours |\n|" + " --- |" * 7)
    for who, rows in found.items():
        seconds = [row["seconds"] for row in rows]
        peak = max(row["peak_mb"] for row in rows)
        print(
            f"| {who} | {medians[who]:.2f} | {min(seconds):.2f} - {max(seconds):.2f} | {megabytes / medians[who]:.1f} "
            f"| {peak} | {rows[0]['count']} | {ratios[who]:.2f} |"
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--size", type=int, default=32768)
    parser.add_argument("--train-mb", type=float, default=30)
    parser.add_argument("--encode-mb", type=float, default=50)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(arguments)
    from qwenkit import platform
    from qwenkit.tokenizer import load, save_tokenizer

    if not (arguments.vocabulary.parent / "tokenizer.json").exists():
        save_tokenizer(load(arguments.vocabulary), arguments.vocabulary.parent)
    lowest = []
    print(f"{date.today()}; {platform.machine()}; {platform.versions()}")
    for task, megabytes in (("train", arguments.train_mb), ("encode", arguments.encode_mb)):
        found = measure(arguments, task)
        ratios = report(task, megabytes, found)
        lowest += [(ratios[who], task, who, least) for (kind, who), least in PROMISED.items() if kind == task]
    texts = read(arguments.texts, arguments.encode_mb)
    nfc, _ = timed(lambda: [unicodedata.normalize("NFC", text) for text in texts])
    print(f"\nNFC of the same texts alone: {nfc:.2f} s on one core")
    for ratio, task, who, least in sorted(lowest):
        print(f"{task} over {who}: {ratio:.2f} (promised {least})")
    print(f"ratio {min(lowest)[0]:.2f}")


if __name__ == "__main__":
    main()
