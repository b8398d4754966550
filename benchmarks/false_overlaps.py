"""How many documents does decontamination drop that hold no test? A sample of the matches, to be read by a person.

    python benchmarks/false_overlaps.py --sample 100 > matches.txt       # then judge each: benchmarks/results

Tests: the questions of the evaluation sets in QWENKIT_TEST_DATA. Documents: the training sets, web pages, books and
encyclopedia there, none of them made from those tests. Printed are how many documents of each set match, and of a
random sample of them the longest match with what stands around it, beside the test's text.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_quality import DATA, lines, load, members, strings
from qwenkit.data.decontamination import TestIndex

TESTS = ("gsm8k/test", "math/", "math_small_evals", "math23k_math401", "humaneval/", "mbpp", "cruxeval", "bbh/bbh",
         "mmlu/test", "ceval/val", "cmmlu/test", "agieval/", "gaokao_bench", "commonsense_icl", "piqa/", "hellaswag_2k",
         "nq_open", "ifeval", "mt_bench/", "arena_hard", "belle_eval")  # fmt: skip
DOCUMENTS = ("alpaca_zh", "llamafactory_demos", "t0_p3_sample", "flan_cot/aqua", "flan_cot/creak",
             "flan_cot/qasc", "flan_cot/strategyqa", "code_alpaca", "sharegpt_zh_1k", "dolly_hhrlhf_small", "fireact",
             "quality_dclm/majority", "pretrain_samples", "zh_wiki_qa", "gutenberg", "chinese_novels",
             "classical_modern_zh", "wikitext2", "dedup_minhash_articles/articles_1000")  # fmt: skip
QUESTION = (
    "question",
    "problem",
    "prompt",
    "text",
    "goal",
    "context",
    "input",
    "passage",
    "ctx",
    "query",
    "original_text",
)
PIECE = 4000


def files(name: str) -> Iterator[Path]:
    folder, _, start = name.partition("/")
    known = (".jsonl", ".json", ".gz", ".xz", ".txt", ".csv", ".tsv")
    yield from (
        path for path in sorted((DATA / folder).rglob("*")) if path.suffix in known and path.name.startswith(start)
    )


def records(path: Path) -> Iterator[object]:
    """The rows of a file, JSON or text."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".tar.xz"):
        for inner, text in members(path):
            if inner.endswith(".csv"):
                yield from csv.reader(io.StringIO(text))
            elif inner.endswith(".json"):
                found = json.loads(text)
                yield from found.get("examples", [found]) if isinstance(found, dict) else found
            else:
                yield text
    elif name.endswith(".jsonl"):
        yield from map(json.loads, lines(path))
    elif name.endswith(".json"):
        try:
            found = load(path)
        except json.JSONDecodeError:  # rows after all
            found = list(map(json.loads, lines(path)))
        yield from found.get("example", [found]) if isinstance(found, dict) else found
    else:
        yield from ("\n".join(lines(path)[at : at + 40]) for at in range(0, len(lines(path)), 40))


def questions(row: object) -> Iterator[str]:
    """What a test asks: of a row of columns the first, of an object its question."""
    if isinstance(row, list):
        yield str(row[0]) if not str(row[0]).isdigit() else str(row[1])
    elif isinstance(row, dict):
        yield from (row[key] for key in QUESTION if isinstance(row.get(key), str))


def pieces(name: str) -> Iterator[str]:
    for path in files(name):
        for row in records(path):
            text = "\n".join(strings(row))
            yield from (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--most-documents", type=int, default=0, help="grams in more documents than this do not count")
    args = parser.parse_args()
    tests = [(name, text) for name in TESTS for path in files(name) for row in records(path) for text in questions(row)]
    print(f"{len(tests)} texts of tests: {dict(Counter(name for name, _ in tests))}")
    index = TestIndex(text for _, text in tests)
    if args.most_documents:
        spread = Counter(gram for name in DOCUMENTS for text in pieces(name) for gram in index.grams_in(text).tolist())
        common = np.array([gram for gram, count in spread.items() if count > args.most_documents], dtype=np.uint64)
        index = TestIndex((text for _, text in tests), common=common)
    found, read = [], Counter[str]()
    for name in DOCUMENTS:
        for text in pieces(name):
            read[name] += 1
            if matches := index.matches(text):
                found.append((name, text, max(matches, key=lambda match: match.stop - match.start)))
    hits = Counter(name for name, _, _ in found)
    print("\n".join(f"{name}: {hits[name]} of {read[name]}" for name in DOCUMENTS))
    draw = np.random.default_rng(0).permutation(len(found))[: args.sample]
    for number, at in enumerate(draw.tolist(), 1):
        name, text, match = found[at]
        before, after = text[max(0, match.start - 150) : match.start], text[match.stop :][:150]
        around = f"{before}⟦{text[match.start : match.stop]}⟧{after}"
        test, question = tests[match.test]
        print(f"\n== {number} {name}: {around!r}\n-- {test}: {question[:600]!r}")


if __name__ == "__main__":
    main()
