"""The data engine beside datatrove, datasketch and rensa: near duplicates per core, and the way from pages to text.

    PEERS_PYTHON=peers-data/bin/python python benchmarks/data_vs_peers.py --mb 200      # peers-data.txt

Real text, nothing of it twice: gold sets in QWENKIT_TEST_DATA (books, poems, encyclopedia, news; English and Chinese),
the sources of the running Python and of its packages, the distribution's documentation; pages: the gold pages and
documentation in HTML (`--html FOLDER` for more: unpacked packages such as python3-doc, git-doc, debian-handbook). It
is cut into five parts; every part is given to each program in turn, so the five rounds see 200 MB once. Times are of
the processor, children included, without start and imports; ours in the first part holds the making of its tables.

datatrove does what its own examples do: MinHash 5-grams, 14 bands of 8, four stages on disk. For the whole way it has
no language identification (its model must be downloaded), which favours it. The last line is the lowest ratio.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from qwenkit.data import CorpusConfig, Source, build_corpus
from qwenkit.data.readers.encoding import decode

DATA = Path(os.environ.get("QWENKIT_TEST_DATA", "../shared/data"))
TEXTS = ("gutenberg", "chinese_novels", "chinese_poetry", "classical_modern_zh", "zh_wiki_qa", "dedup_minhash_articles",
         "speeches_nltk", "wikitext2", "bible_parallel", "pretrain_samples")  # fmt: skip
PAGES = ("web_article_benchmark", "web_daniel", "web_trafilatura", "web_readability")
PARTS, PIECE = 5, 6000
Seconds = dict[str, float]  # of each stage


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, unpacked; of an archive those of each member."""
    if path.name.endswith(".tar.xz"):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield file.read()
    elif path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
    else:
        yield path.read_bytes()


def texts() -> Iterator[str]:
    """Documents of about 6,000 characters: real files cut at ends of lines."""
    files = [path for name in TEXTS for path in sorted((DATA / name).rglob("*")) if path.is_file()]
    roots = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/share/doc", "/usr/share/perl"]
    kinds = (".py", ".txt", ".rst", ".md", ".gz", ".c", ".h", ".pod", ".pm", ".pyi", ".xz", ".json", ".csv")
    found = (path for root in roots for path in sorted(Path(root).rglob("*")))
    files += [path for path in found if path.suffix in kinds and path.is_file()]
    seen: set[bytes] = set()
    for path in files:
        try:
            parts = list(contents(path))
        except (OSError, EOFError, tarfile.TarError):
            continue
        for data in parts:
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                continue
            for start in range(0, len(text), PIECE):
                piece = text[start : start + PIECE]
                key = hashlib.blake2b(piece.encode("utf-8", "replace")).digest()
                if len(piece) > 200 and key not in seen:
                    seen.add(key)
                    yield piece


def pages(more: Path | None) -> Iterator[str]:
    for name in PAGES:
        for path in sorted((DATA / name).glob("*.tar.xz")):
            for data in contents(path):
                if b"<html" in data[:5000].lower():
                    yield decode(data)
    folders = [Path("/usr/share/doc"), *([more] if more else [])]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.html"))):
        if path.is_file() and path.stat().st_size > 3000:
            yield decode(path.read_bytes())


def parts(found: Iterator[str], size: float, folder: Path, name: str) -> list[Path]:
    """Five files of rows, documents dealt out in turn, in all `size` bytes."""
    paths = [folder / f"{name}-{part}.jsonl" for part in range(PARTS)]
    files = [path.open("w", encoding="utf-8") for path in paths]
    written = 0
    for number, text in enumerate(found):
        text = text.encode("utf-8", "replace").decode()
        written += len(text.encode())
        files[number % PARTS].write(json.dumps({"id": f"{name}{number}", "text": text}, ensure_ascii=False) + "\n")
        if written >= size:
            break
    for file in files:
        file.close()
    print(f"{name}: {written / 1e6:.0f} MB in {number + 1} documents", flush=True)
    return paths


def ours(path: Path, kind: str, config: CorpusConfig, phases: dict[str, str]) -> Seconds:
    """Seconds of each stage; `phases` names the stage of the phases whose names begin so."""
    seconds = dict.fromkeys(phases.values(), 0.0)
    last = [time.process_time(), ""]

    def watch(done: int, total: int, step: str) -> None:
        now = time.process_time()
        if stage := phases.get(str(last[1])[:2]):
            seconds[stage] += now - float(last[0])
        last[:] = [now, step]

    with tempfile.TemporaryDirectory() as folder:
        build_corpus([Source("s", path, kind, text_keys=("text",))], config=config, progress=watch, folder=Path(folder))
    return seconds


def ours_near(path: Path) -> Seconds:
    """Signatures, bands, candidates verified, clusters."""
    return ours(path, "text", CorpusConfig(seed=1), {"2-": "near duplicates", "3-": "near duplicates"})


def ours_whole(path: Path) -> Seconds:
    """Text and language; near duplicates; the published rules of quality."""
    phases = {"1-": "text out of pages", "2-": "near duplicates", "3-": "near duplicates", "4-": "quality"}
    return ours(path, "html", CorpusConfig(seed=1, rules=("gopher", "c4", "fineweb")), phases)


PEER = """
import json, resource, shutil, sys, tempfile, time
kind, path = sys.argv[1:3]
rows = [json.loads(line) for line in open(path, encoding="utf-8")]

def shingles(text):
    words = text.split()
    return {" ".join(words[i:i + 5]).encode("utf-8", "replace") for i in range(max(1, len(words) - 4))}

def datasketch():
    from datasketch import MinHash, MinHashLSH
    lsh = MinHashLSH(threshold=0.8, num_perm=128)
    start = time.process_time()
    for row in rows:
        sketch = MinHash(num_perm=128)
        sketch.update_batch(list(shingles(row["text"])))
        lsh.query(sketch)
        lsh.insert(row["id"], sketch)
    return {"near duplicates": time.process_time() - start}

def rensa():
    from rensa import RMinHash, RMinHashLSH
    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    start = time.process_time()
    for number, row in enumerate(rows):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update([part.decode("utf-8", "replace") for part in shingles(row["text"])])
        lsh.query(sketch)
        lsh.insert(number, sketch)
    return {"near duplicates": time.process_time() - start}

def trove(whole):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.word_tokenizers import load_word_tokenizer
    load_word_tokenizer("eng").word_tokenize("warm")
    folder, config = tempfile.mkdtemp(), MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    source, name = path.rsplit("/", 1)
    seconds = {}
    def run(stage, *steps, tasks=1):
        start = used()
        log = f"{folder}/log-{len(seconds)}-{time.time()}"
        LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=log).run()
        seconds[stage] = seconds.get(stage, 0.0) + used() - start
    docs = lambda: JsonlReader(source, glob_pattern=name)
    if whole:
        run("text out of pages", docs(), Trafilatura(timeout=10), JsonlWriter(f"{folder}/text"))
        run("quality", JsonlReader(f"{folder}/text"), GopherRepetitionFilter(), GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter(), JsonlWriter(f"{folder}/clean"))
        docs = lambda: JsonlReader(f"{folder}/clean")
    near = "near duplicates"
    run(near, docs(), MinhashDedupSignature(f"{folder}/sig", config=config))
    run(near, MinhashDedupBuckets(f"{folder}/sig", f"{folder}/buckets", config=config), tasks=14)
    run(near, MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config))
    run(near, docs(), MinhashDedupFilter(f"{folder}/remove"), JsonlWriter(f"{folder}/out"))
    shutil.rmtree(folder)
    return seconds

def used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

work = {"datasketch": datasketch, "rensa": rensa, "near": lambda: trove(False), "whole": lambda: trove(True)}[kind]
print("SECONDS", json.dumps(work()))
"""


def peer(kind: str, path: Path) -> Seconds:
    """A peer's seconds on one part. One that does not run ends the benchmark: a ratio to nothing is no figure."""
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    done = subprocess.run([python, "-c", PEER, kind, str(path)], capture_output=True, text=True)
    found = [line.removeprefix("SECONDS ") for line in done.stdout.splitlines() if line.startswith("SECONDS ")]
    if not found:
        sys.exit(f"{kind} did not run in {python} (see benchmarks/peers-data.txt):\n{done.stderr.strip()[-2000:]}")
    return json.loads(found[0])


def table(title: str, paths: list[Path], programs: dict[str, Callable[[Path], Seconds]]) -> dict[str, float]:
    """Of each stage and of all together: median MB a second of each program over the parts, given in turn, and how many
    times as fast ours is. Returns the ratios of the whole."""
    rates: dict[tuple[str, str], list[float]] = {}
    for path in paths:
        size = sum(len(json.loads(line)["text"].encode()) for line in path.open(encoding="utf-8")) / 1e6
        for name, program in programs.items():
            seconds = program(path)
            print(f"# {path.name} {name} {json.dumps(seconds)}", file=sys.stderr, flush=True)
            for stage, value in {**seconds, "all": sum(seconds.values())}.items():
                rates.setdefault((stage, name), []).append(size / value)
    stages = dict.fromkeys(stage for stage, _ in rates)
    print(f"\n{title}\n| stage | program | MB/s a core (range) | ours is so many times as fast |")
    print("| --- | --- | --- | --- |")
    ratios: dict[str, float] = {}
    for stage, name in ((stage, name) for stage in stages if len(stages) > 2 or stage == "all" for name in programs):
        if values := rates.get((stage, name)):
            ratio = float(np.median(rates[stage, "qwenkit"]) / np.median(values))
            print(f"| {stage} | {name} | {np.median(values):.2f} ({min(values):.2f}-{max(values):.2f}) | {ratio:.1f} |")
            ratios[name] = ratio
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=200, help="of text, and of pages")
    parser.add_argument("--html", type=Path, help="a folder with more pages of documentation")
    parser.add_argument("--only", choices=("near", "whole"), help="one table")
    args = parser.parse_args()
    if not DATA.is_dir():
        print("no gold (set QWENKIT_TEST_DATA)")
        return
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "whole":
            near = parts(texts(), args.mb * 1e6, Path(folder), "texts")
            peers = {kind: partial(peer, kind) for kind in ("datasketch", "rensa")}
            programs = {"qwenkit": ours_near, **peers, "datatrove": partial(peer, "near")}
            ratios["near duplicates"] = table("Signatures, LSH, clusters", near, programs)["datatrove"], 20
        if args.only != "near":
            whole = parts(pages(args.html), args.mb * 1e6, Path(folder), "pages")
            programs = {"qwenkit": ours_whole, "datatrove": partial(peer, "whole")}
            ratios["whole way"] = table("Pages to text", whole, programs)["datatrove"], 5
    for name, (ratio, wanted) in ratios.items():
        print(f"{name}: ratio {ratio:.2f} (wanted {wanted})")
    print(f"ratio {min(ratio for ratio, _ in ratios.values()):.2f}")


if __name__ == "__main__":
    main()
