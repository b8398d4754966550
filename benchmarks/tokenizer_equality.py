"""The same ids from ours, from tiktoken and from transformers, over as much real text as there is.

    python benchmarks/tokenizer_equality.py --vocabulary qwen.tiktoken --texts zh-en.jsonl code.jsonl [--megabytes 200]

`--texts` are JSONL files with `text`. tiktoken gets the text in NFC (it has no normal form); transformers opens the
folder that `save_tokenizer` writes. Every document is compared; then it is decoded again and compared with its NFC. The
tables of Unicode in `tokenizers` are older than Python's: about a hundred combining marks have no class there, and
where two marks meet that it orders otherwise, transformers is given another text. Such documents are counted and
compared with tiktoken only. The text has no lone surrogates: transformers cannot take them
(tests/tokenizer/test_planes.py holds those). With `--extended` the vocabulary is first extended by so many merges of
the first documents, and all three must agree on that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import tiktoken
from tokenizers.normalizers import NFC
from transformers import AutoTokenizer

from qwenkit.tokenizer import Tokenizer, extend_bpe, load, save_tokenizer


def batches(paths: list[Path], megabytes: float) -> Iterator[list[str]]:
    """Documents, some megabytes at a time, no document twice."""
    seen: set[int] = set()
    batch: list[str] = []
    size = total = 0
    for path in paths:
        for line in path.open(encoding="utf-8"):
            text = json.loads(line)["text"]
            if hash(text) in seen or total >= megabytes * 1e6:
                continue
            seen.add(hash(text))
            batch.append(text)
            size += len(text.encode())
            if size >= 4e6:
                yield batch
                total, batch, size = total + size, [], 0
    if batch:
        yield batch


def compare(tok: Tokenizer, paths: list[Path], megabytes: float) -> Counter[str]:
    """How many documents, bytes and tokens were the same; ends at the first that differs."""
    theirs = tiktoken.Encoding("peer", pat_str=tok.regex, mergeable_ranks=tok.ranks, special_tokens=tok.special)
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tok, folder)
        hub = AutoTokenizer.from_pretrained(folder)
    older = NFC()
    count: Counter[str] = Counter()
    start = time.perf_counter()
    for batch in batches(paths, megabytes):
        ours = tok.encode_batch(batch, "all")
        plain = [unicodedata.normalize("NFC", text) for text in batch]
        raw = theirs.encode_batch(plain, allowed_special="all", disallowed_special=())
        for given, text, own, other, third in zip(batch, plain, ours, raw, hub(batch)["input_ids"], strict=True):
            same = older.normalize_str(given) == text
            count["other normal form"] += not same
            if own != other or tok.decode(own) != text or (same and own != third):
                raise SystemExit(f"differs: {text[:2000]!r}")
            count.update(documents=1, bytes=len(text.encode()), tokens=len(own))
            count["han"] += sum("\u4e00" <= c <= "\u9fff" for c in text)
        print(f"{count['bytes'] / 1e6:.0f} MB, {time.perf_counter() - start:.0f} s", flush=True)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--extended", type=int, default=0)
    arguments = parser.parse_args()
    tok = load(arguments.vocabulary)
    if arguments.extended:
        head = next(batches(arguments.texts, arguments.megabytes))
        tok = extend_bpe(tok, head, arguments.extended, workers=2)
    count = compare(tok, arguments.texts, arguments.megabytes)
    print(
        f"identical: {count['documents']} documents, {count['bytes'] / 1e6:.1f} MB, {count['han'] / 1e6:.1f} million "
        f"Chinese characters, {count['tokens']} tokens"
    )
    print(f"with another normal form in transformers: {count['other normal form']}")


if __name__ == "__main__":
    main()
