"""The data engine on gold: language, duplicates, editions, quality labels, decontamination, each with its interval.

    python benchmarks/data_quality.py [--json out.json]

Gold is found in QWENKIT_TEST_DATA, by default ../shared/data; without it this prints so and ends. Nothing is fitted to
it: the learned filter is trained on one half of the labelled pages and judged on the other, both ways. The published
filter beside is datatrove's Gopher + C4 + FineWeb rules, if a Python that has datatrove is named in PEERS_PYTHON.
Extraction has its own script, `extraction.py`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwenkit import statistics
from qwenkit.data import detect_language, near_duplicates
from qwenkit.data.decontamination import TestIndex
from qwenkit.data.dedup.minhash import jaccard, shingle
from qwenkit.data.filters.c4 import C4_RULES
from qwenkit.data.filters.classifier import QualityClassifier
from qwenkit.data.filters.default import DEFAULT_RULES
from qwenkit.data.filters.fineweb import FINEWEB_RULES
from qwenkit.data.filters.gopher import GOPHER_RULES
from qwenkit.data.filters.pii import scrub
from qwenkit.data.filters.rule_sets import prose_rules
from qwenkit.data.filters.rules import Rule, TextView, first_broken, measures
from qwenkit.data.filters.word_list import WordLists, read_lists
from qwenkit.data.text_units import units

DATA = Path(os.environ.get("QWENKIT_TEST_DATA", "../shared/data"))
LARGE = "ar bg cs de el en es fr he hi it ja ko nl pl pt ru zh".split()


def wilson(right: int, total: int) -> str:
    """A share with its 95 % interval."""
    share, low, high, _ = statistics.wilson(right, total)
    return f"{100 * share:.1f} % ({100 * (low or 0):.1f}-{100 * (high or 0):.1f}, n={total})"


def lines(path: Path) -> list[str]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [line for line in raw.decode("utf-8", "replace").split("\n") if line.strip()]


def rows(name: str) -> list[dict[str, Any]]:
    if ".json." in name:
        return load(DATA / name)["example"]
    return [json.loads(line) for line in lines(DATA / name)]


def members(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read().decode("utf-8", "replace")


def language() -> dict[str, str]:
    """lingua's sentences, word pairs and single words of 18 large languages."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, text in members(DATA / "langid_lingua" / "testdata.tar.xz"):
        code, kind = name.split("/")[-2:]
        if code in LARGE:
            for line in text.splitlines():
                for key in (kind.removesuffix(".txt"), f"{kind.removesuffix('.txt')} {code}"):
                    total[key] += 1
                    right[key] += detect_language(line)[0] == code
    wanted = ("sentences", "word-pairs", "single-words", "sentences en", "sentences zh", "single-words zh")
    return {key: wilson(right[key], total[key]) for key in wanted}


def planted_articles() -> dict[str, str]:
    """News articles with planted pairs: how many are found, and how many others."""
    found = {}
    for size in (100, 1000):
        folder = DATA / "dedup_minhash_articles"
        texts = dict(line.split(" ", 1) for line in lines(folder / f"articles_{size}.train.gz") if " " in line)
        truth = {frozenset(line.split()) for line in lines(folder / f"articles_{size}.truth")}
        names = list(texts)
        pairs = {frozenset(names[i] for i in cluster) for cluster in near_duplicates(list(texts.values()))}
        found[f"{size} articles"] = f"{len(pairs & truth)} of {len(truth)} planted pairs, {len(pairs - truth)} others"
    return found


def editions() -> dict[str, str]:
    """Editions of the same book: clusters found against clusters true."""
    truth = json.loads((DATA / "dedup_book_editions" / "clusters.json").read_text())
    found = ((Path(name).name, text) for name, text in members(DATA / "dedup_book_editions" / "editions.tar.xz"))
    texts = {name: text for name, text in found if name in truth}
    names = list(texts)
    clusters = [sorted(names[i] for i in cluster) for cluster in near_duplicates(list(texts.values()))]
    wanted: dict[str, list[str]] = {}
    for name in sorted(names):
        wanted.setdefault(truth[name], []).append(name)
    sets = {name: shingle(text) for name, text in texts.items()}
    close = {
        book: min(max(jaccard(sets[a], sets[b]) for b in group if b != a) for a in group)
        for book, group in wanted.items()
    }
    whole = sum(group in clusters for group in wanted.values())
    mixed = sum(len({truth[name] for name in cluster}) > 1 for cluster in clusters)
    return {
        "books whole": f"{whole} of {len(wanted)}, clusters with two books: {mixed}",
        "similarity of the loneliest edition to its nearest": ", ".join(f"{b} {s:.2f}" for b, s in close.items()),
    }


def plagiarism() -> dict[str, str]:
    """Short answers copied, lightly and heavily changed: graded, so what is found falls with the grade."""
    folder = DATA / "dedup_plagiarism_short"
    with (folder / "file_information.csv").open() as file:
        grade = {row["File"]: (row["Task"], row["Category"]) for row in csv.DictReader(file)}
    texts = {Path(name).name: text for name, text in members(folder / "texts.tar.xz")}
    original = {grade[name][0]: shingle(text) for name, text in texts.items() if grade.get(name, ("", ""))[1] == "orig"}
    means = {}
    for category in ("cut", "light", "heavy", "non"):
        scores = [
            jaccard(shingle(text), original[grade[name][0]])
            for name, text in texts.items()
            if name in grade and grade[name][1] == category and grade[name][0] in original
        ]
        means[category] = f"mean Jaccard {np.mean(scores):.2f}, {sum(s >= 0.8 for s in scores)} of {len(scores)} at 0.8"
    return means


def quality() -> dict[str, str]:
    """Human labels of web pages: what the rules drop of each side, the learned filter's AUC, a published filter; and
    what a list of bad words drops of them and of an encyclopedia."""
    pages = rows("quality_dclm/majority_data.jsonl.gz")
    good, bad = ([row["text"] for row in pages if str(row["label"]) == label] for label in "10")
    found = {"our rules": told([breaking(DEFAULT_RULES, side) for side in (good, bad)], good, bad)}
    published_here = prose_rules(("gopher", "c4", "fineweb"))
    found["Gopher, C4 and FineWeb, ours"] = told([breaking(published_here, side) for side in (good, bad)], good, bad)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(DATA / "badwords" / "lists.tar.xz") as archive:
        archive.extractall(folder, filter="data")
        lists = WordLists(read_lists(Path(folder)))
    hits = [sum(bool(lists.counts(text, "en")) for text in side) for side in (good, bad)]
    found["C4's words"] = told(hits, good, bad)
    wiki = pages_of("zh")
    found["C4's words, zh Wikipedia"] = wilson(sum(bool(lists.counts(text, "zh")) for text in wiki), len(wiki))
    scores, labels = [], []
    for half in (0, 1):
        scorer = QualityClassifier.train(good[half::2], bad[half::2])
        for side, label in ((good, 1), (bad, 0)):
            scores += list(scorer.scores(side[1 - half :: 2]))
            labels += [label] * len(side[1 - half :: 2])
    found["learned filter, other half"] = auc(np.array(scores), np.array(labels))
    peer = os.environ.get("PEERS_PYTHON")
    if peer:
        found |= published(peer, good, bad)
    return found


def breaking(rules: tuple[Rule, ...], texts: list[str]) -> int:
    return sum(bool(first_broken(measures(TextView(text, detect_language(text)[0]), rules), rules)) for text in texts)


def told(dropped: list[int], good: list[str], bad: list[str]) -> str:
    return f"drop good {wilson(dropped[0], len(good))}, bad {wilson(dropped[1], len(bad))}"


def auc(scores: np.ndarray, labels: np.ndarray) -> str:
    """Area under the curve with its bootstrap interval, and accuracy at the best single threshold's middle."""
    rng = np.random.default_rng(0)

    def area(s: np.ndarray, y: np.ndarray) -> float:
        order = np.argsort(np.argsort(s)) + 1
        n = y.sum()
        return float((order[y == 1].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))

    drawn = [area(scores[i], labels[i]) for i in (rng.integers(0, len(labels), len(labels)) for _ in range(500))]
    low, high = np.percentile(drawn, [2.5, 97.5])
    right = int(((scores > np.median(scores)) == (labels == 1)).sum())
    return f"AUC {area(scores, labels):.3f} ({low:.3f}-{high:.3f}), agreement {wilson(right, len(labels))}"


PEER = """
import json, sys
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
c4 = C4QualityFilter(min_num_sentences=3, min_words_per_line=5)  # as in the authors' code
filters = [GopherQualityFilter(), GopherRepetitionFilter(), c4, FineWebQualityFilter()]
def drops(one, text):
    answer = one.filter(Document(text=text, id="0"))
    return (answer[0] if isinstance(answer, tuple) else answer) is not True
print(json.dumps([[drops(one, text) for one in filters] for text in json.load(sys.stdin)]))
"""


def published(python: str, good: list[str], bad: list[str]) -> dict[str, str]:
    """datatrove's filters on the same pages, and on how many ours of the same source say the same."""
    answer = subprocess.run([python, "-c", PEER], input=json.dumps([*good, *bad]), capture_output=True, text=True)
    if answer.returncode:
        return {"datatrove": f"did not run: {answer.stderr.strip().splitlines()[-1][:200]}"}
    theirs = json.loads(answer.stdout.splitlines()[-1])
    dropped = [sum(any(each) for each in side) for side in (theirs[: len(good)], theirs[len(good) :])]
    found = {"Gopher, C4 and FineWeb, datatrove's": told(dropped, good, bad)}
    repetition = tuple(rule for rule in GOPHER_RULES if "repeated" in rule.name or "top" in rule.name)
    other = tuple(rule for rule in GOPHER_RULES if rule not in repetition)
    sets = {"Gopher's quality": other, "Gopher's repetition": repetition, "C4": C4_RULES, "FineWeb": FINEWEB_RULES}
    for number, (name, rules) in enumerate(sets.items()):
        same = sum(bool(breaking(rules, [text])) == said[number] for text, said in zip([*good, *bad], theirs))
        found[f"{name}: ours says what datatrove's says"] = f"on {same} of {len(theirs)} pages"
    return found


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


OVERLAPS = (  # test set, training set that holds its questions, what joins two rows
    ("humaneval/HumanEval.jsonl.gz", "humaneval_x/humaneval_python.jsonl.gz", "prompt"),
    ("humaneval/HumanEval.jsonl.gz", "humanevalpack/humanevalpack_python.jsonl.gz", "prompt"),
    ("piqa/valid.jsonl.gz", "commonsense_icl/piqa.jsonl.gz", "goal"),
    ("math/test.jsonl.gz", "agieval/math.jsonl.gz", "problem"),
    ("quality_dclm/majority_data.jsonl.gz", "quality_dclm/agreement_data.jsonl.gz", "text"),
    ("gsm8k/train.jsonl.gz", "flan_cot/gsm8k_train.tsv.gz", "question"),
    *(("mbpp/mbpp.jsonl.gz", f"mbxp_mathqax/mbxp/{name}", "text") for name in (
        "mbcpp_release_v1.2.jsonl.gz", "mbgp_release_v1.1.jsonl.gz", "mbjp_release_v1.2.jsonl.gz",
        "mbjsp_release_v1.2.jsonl.gz", "mbtsp_release_v1.2.jsonl.gz")),
    *((f"gaokao_bench/Objective_Questions/2010-2022_{name}.json.gz", f"agieval/gaokao-{subject}.jsonl.gz", "question")
      for name, subject in (("Biology_MCQs", "biology"), ("Chemistry_MCQs", "chemistry"), ("Math_I_MCQs", "mathqa"))),
)  # fmt: skip


def known_overlaps() -> dict[str, str]:
    """The overlaps that INDEX.md names: of the training rows that hold a test's question word for word, how many are
    found, and how many more are (shared openings, quoted passages: to be read)."""
    found = {}
    for test, training, key in OVERLAPS:
        questions = [row.get(key) or next(strings(row)) for row in rows(test)]
        index = TestIndex(questions)
        texts = lines(DATA / training) if ".tsv" in training else [" ".join(strings(row)) for row in rows(training)]
        texts = [text.replace("\\n", "\n") for text in texts]
        plain = [squash(text) for text in texts]
        wanted = [squash(q) for q in questions]
        long = [w for w in wanted if len(w.split()) >= 8]
        true = {n for n, text in enumerate(plain) if any(w[:200] in text for w in long)}
        hit = {n for n, text in enumerate(texts) if index.matches(text)}
        found[f"{test.split('/')[0]} in {training.split('.')[0]}"] = (
            f"{len(true & hit)} of {len(true)} known overlaps found; {len(hit - true)} others of {len(texts)} rows"
        )
    return found


def squash(text: str) -> str:
    return " ".join(unit.casefold() for unit in units(text))


def planted_tests() -> dict[str, str]:
    """Test questions planted in real documents, English and Chinese, and those documents without them."""
    found = {}
    for name, tests, texts in (
        ("English", [row["question"] for row in rows("gsm8k/test.jsonl.gz")], pages_of("dclm")),
        ("Chinese", [row["question"] for row in chinese_questions()], pages_of("zh")),
    ):
        tests = [test for test in tests if len(units(test)) >= 13]
        index = TestIndex(tests)
        clean = [text for text in texts if not index.matches(text)]
        planted = [f"{clean[n % len(clean)]}\n{test}\n{clean[(n + 1) % len(clean)]}" for n, test in enumerate(tests)]
        hit = sum(bool(index.matches(text)) for text in planted)
        lost = wilson(len(texts) - len(clean), len(texts))
        found[name] = f"planted found {wilson(hit, len(planted))}; clean documents dropped {lost}"
    return found


def load(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def chinese_questions() -> list[dict[str, Any]]:
    return [
        {"question": row["question"]}
        for path in sorted((DATA / "gaokao_bench" / "Objective_Questions").glob("*"))
        for row in load(path)["example"]
    ]


def pages_of(what: str) -> list[str]:
    if what == "dclm":
        return [row["text"] for row in rows("quality_dclm/majority_data.jsonl.gz")]
    found = (text for path in sorted((DATA / "zh_wiki_qa").rglob("*.json*")) for text in strings(load(path)))
    return sorted({text for text in found if len(text) > 200})


def personal_data() -> dict[str, str]:
    """What is masked of texts, of which most hold none."""
    found = {}
    standard_library = sorted(Path(json.__file__).parents[1].rglob("*.py"))[::4]
    for name, texts in (
        ("web pages", pages_of("dclm")),
        ("zh Wikipedia", pages_of("zh")),
        ("gsm8k", [" ".join(strings(row)) for row in rows("gsm8k/train.jsonl.gz")]),
        ("Python's library", [path.read_text(encoding="utf-8", errors="replace") for path in standard_library]),
    ):
        counts = sum((scrub(text)[1] for text in texts), Counter())
        found[name] = f"{dict(sorted(counts.items()))} in {sum(map(len, texts)) / 1e6:.1f} million characters"
    return found


PARTS = {
    "language": language,
    "planted articles": planted_articles,
    "editions": editions,
    "plagiarism, graded": plagiarism,
    "quality": quality,
    "known overlaps": known_overlaps,
    "planted tests": planted_tests,
    "personal data": personal_data,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--only", choices=list(PARTS), help="one part")
    args = parser.parse_args()
    if not DATA.is_dir():
        print("no gold (set QWENKIT_TEST_DATA)")
        return
    figures = {}
    for name, part in PARTS.items():
        if args.only in (None, name):
            figures[name] = part()
            print(f"{name}", *(f"  {key}: {value}" for key, value in figures[name].items()), sep="\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
