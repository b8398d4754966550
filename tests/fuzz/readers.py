"""Who reads what: for every reader a healthy folder, the file in it that is changed, and what is then called."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenkit.records import Quarantine, read_object, read_parquet
from tests.fuzz import mutate

CHATS = [
    {"id": f"c{i}", "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"ask {i}"},
                                 {"role": "assistant", "content": "an answer"}]}
    for i in range(3)
]  # fmt: skip
PAIRS = [{"prompt": f"question {i}", "chosen": "good", "rejected": "bad"} for i in range(3)]
RECIPE = """title = "small"
seed = 3
threads = 1
out = "runs/small"

[corpus]
extra = ["text.jsonl"]
planned_minutes = 0.5

[tokenizer]
corpus = "corpus"
vocab_size = 300

[base]
kind = "pretrain"
corpus = "corpus"
tokenizer = "tokenizer"
tokens = 2e5
num_hidden_layers = 2
hidden_size = 64
num_attention_heads = 2
"""
Call = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """`make` fills a folder with what is healthy; `file` in it is changed; `call` reads it; `command` does so for a
    user, with `{}` for the folder."""

    make: Callable[[Path], object]
    file: str
    change: mutate.Mutate
    call: Call
    command: str = ""


def _lines(rows: list[Any]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows) + b"\n"


def write(name: str, data: bytes | str) -> Callable[[Path], object]:
    """Fill a folder with one file."""
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def model(folder: Path) -> None:
    """A tiny model with its tokenizer, as it is published."""
    from qwenkit.model import Transformer, init_weights, save_model
    from qwenkit.tokenizer import Tokenizer, save_tokenizer
    from qwenkit.tokenizer.patterns import special_names
    from tests.model.conftest import tiny

    ranks = {bytes([b]): b for b in range(256)}
    tok = Tokenizer(ranks, {name: 256 + i for i, name in enumerate(special_names(0))})
    config = tiny(vocab_size=tok.vocab_size)
    save_model(init_weights(Transformer(config), seed=0), folder)
    save_tokenizer(tok, folder)
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [258, 256], "max_new_tokens": 3, "do_sample": true, "temperature": 0.7, "top_p": 0.9}'
    )


def _engine(folder: Path) -> object:
    from qwenkit.chat import load_tokenizer
    from qwenkit.inference import Engine, SamplingParams

    engine = Engine(folder, load_tokenizer(folder))
    return engine.generate(["a"], SamplingParams(max_tokens=1, temperature=0))


def _load_model(folder: Path) -> object:
    from qwenkit.model import load_model

    return load_model(folder)


def _gguf_made(folder: Path) -> None:
    from tests.tiny_gguf import write_tiny

    write_tiny(folder / "m.gguf", "llama", "Q4_0", intermediate_size=32, num_hidden_layers=1)


def _gguf(folder: Path) -> object:
    from qwenkit.chat import load_tokenizer
    from qwenkit.model import load_model

    tok = load_tokenizer(folder / "m.gguf")
    return tok.decode(tok.encode("Hello 12 世界")), load_model(folder / "m.gguf")


def _mutated_header(rng: random.Random, data: bytes) -> bytes:
    """A GGUF file whose header is changed; the numbers behind it may be anything."""
    size = 10_000
    return mutate.mutated_bytes(rng, data[:size]) + data[size:]


def _tokenizer(folder: Path) -> object:
    from qwenkit.chat import load_tokenizer

    tok = load_tokenizer(folder)
    return tok.decode(tok.encode("Hello 12 世界"))


def _template(folder: Path) -> object:
    from qwenkit import templates

    given = {"messages": CHATS[0]["messages"], "tools": None, "add_generation_prompt": True}
    return templates.render((folder / "chat_template.jinja").read_bytes().decode("utf-8", "replace"), given)


def artifact(folder: Path) -> None:
    """A published artifact in a run."""
    from qwenkit.artifacts import finish

    (folder / "run.json").write_text(json.dumps({"schema": 1, "recipe": "r", "nodes": {"n": {"kind": "corpus"}}}))
    (folder / "n").mkdir()
    (folder / "n" / "data.jsonl").write_bytes(_lines(PAIRS))
    given: dict[str, Any] = {
        "node": "n", "kind": "corpus", "version": 1, "key": "0" * 64, "seed": 1, "config": {"extra": ["a"]},
        "inputs": {"of": {"node": "m", "digest": "1" * 64}}, "metrics": {"loss": 1.5}, "headline": "fine",
    }  # fmt: skip
    finish(folder / "n", given, {"schema": 1, "started": 1.0, "seconds": 2.0, "attempts": 1, "peak_mb": 3})


def run_folder(folder: Path) -> None:
    """The same with an event log."""
    artifact(folder)
    (folder / "events.jsonl").write_bytes(_lines([
        {"event": "run_start", "time": 1.0, "attempt": 1, "nodes": ["n", "m"]},
        {"event": "node_start", "time": 1.0, "attempt": 1, "node": "m"},
        {"event": "step", "time": 1.0, "attempt": 1, "node": "m", "step": 1, "loss": 2.5},
        {"event": "checkpoint", "time": 1.0, "attempt": 1, "node": "m", "step": 1, "until": 9},
        {"event": "alarm", "time": 1.0, "attempt": 1, "node": "m", "step": 1, "id": "loss-nan", "cause": "x"},
        {"event": "node_failed", "time": 1.0, "attempt": 1, "node": "m", "reason": "it fell"},
    ]))  # fmt: skip


def _manifest(folder: Path) -> object:
    from qwenkit.artifacts import damage
    from qwenkit.lineage.status import read_status, verify

    return damage(folder / "n"), verify(folder), read_status(folder).plain()


def _status(folder: Path) -> object:
    from qwenkit.lineage.status import read_status

    return json.dumps(read_status(folder).plain())


def _recipe(folder: Path) -> object:
    from qwenkit.lineage.recipe import load_recipe

    return load_recipe(str(folder / "r.toml"))


def _documents(name: str) -> Call:
    def call(folder: Path) -> object:
        from qwenkit.data.readers.documents import Source, read_documents

        return list(read_documents(Source("s", folder / name), Quarantine()))

    return call


def _chats(folder: Path) -> object:
    from qwenkit.data.chats.datasets import read_chats

    return list(read_chats(folder / "chats.jsonl"))


def _pairs(folder: Path) -> object:
    from qwenkit.data.chats.datasets import read_pairs

    return list(read_pairs(folder / "pairs.jsonl", "pairs"))


def _certificate(folder: Path) -> object:
    from qwenkit.evaluation.parity import checked

    return checked(read_object(folder / "parity.json"), "parity.json")


def _judgements(folder: Path) -> object:
    from qwenkit.data.review.page import summary

    return summary(folder / "review.jsonl")


def _tiktoken(folder: Path) -> object:
    from qwenkit.tokenizer import load

    return load(folder / "qwen.tiktoken").encode("Hello 12")


def _ranks() -> bytes:
    import base64

    return b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))


def _filter(folder: Path) -> object:
    from qwenkit.data.filters.classifier import QualityClassifier

    return QualityClassifier.load(folder / "f.npz")


def _filter_made(folder: Path) -> None:
    from qwenkit.data.filters.classifier import QualityClassifier

    QualityClassifier.train(["good text here"] * 4, ["bad words there"] * 4).save(folder / "f.npz")


def _checkpoint_made(folder: Path) -> None:
    import torch

    from qwenkit.training.checkpoint import save_checkpoint

    save_checkpoint({"step": 3, "weights": {"w": torch.zeros(4, 3)}, "lr": 0.1}, folder, 3)


def _checkpoint(folder: Path) -> object:
    from qwenkit.training.checkpoint import latest_checkpoint, load_checkpoint

    found = latest_checkpoint(folder)
    return found and load_checkpoint(found)


def _parquet() -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["some text here", "more of it"]}), held)
    return held.getvalue()


def _warc() -> bytes:
    page = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body><p>" + b"words of a page " * 20 + b"</p></html>"
    )
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
    head += b"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
    return (head + b"Content-Length: %d\r\n\r\n" % len(page) + page + b"\r\n\r\n") * 3


CERTIFICATE = {
    "schema": 1, "prompts": [[1, 2], [3]], "greedy": [[1], [2]],
    "top": [{"ids": [[1, 2]], "logprobs": [[-0.1, -2.0]]}, {"ids": [[3, 4]], "logprobs": [[-0.5, -1.0]]}],
}  # fmt: skip
JUDGED = [
    {"id": f"d{i}", "rule": "short", "kept": True, "judgement": "right", "by": "a", "time": 1.0} for i in range(4)
]

READERS: dict[str, Reader] = {
    "config": Reader(model, "config.json", mutate.mutated_json, _load_model, "chat {} -p hi --max-tokens 1"),
    "generation_config": Reader(model, "generation_config.json", mutate.mutated_json, _engine,
                                "chat {} -p hi --max-tokens 1"),
    "tokenizer": Reader(model, "tokenizer.json", mutate.mutated_json, _tokenizer, "inspect tokens hi --tokenizer {}"),
    "tokenizer_config": Reader(model, "tokenizer_config.json", mutate.mutated_json, _tokenizer,
                               "chat {} -p hi --max-tokens 1"),
    "safetensors": Reader(model, "model.safetensors", mutate.mutated_bytes, _load_model,
                          "chat {} -p hi --max-tokens 1"),
    "template": Reader(model, "chat_template.jinja", mutate.mutated_template, _template,
                       "chat {} -p hi --max-tokens 1"),
    "tiktoken": Reader(write("qwen.tiktoken", _ranks()), "qwen.tiktoken", mutate.mutated_bytes, _tiktoken,
                       "inspect tokens hi --tokenizer {}/qwen.tiktoken"),
    "gguf": Reader(_gguf_made, "m.gguf", _mutated_header, _gguf, "chat {}/m.gguf -p hi --max-tokens 1"),
    "manifest": Reader(artifact, "n/manifest.json", mutate.mutated_json, _manifest, "verify {}"),
    "run": Reader(run_folder, "run.json", mutate.mutated_json, _status, "status {}"),
    "events": Reader(run_folder, "events.jsonl", mutate.mutated_lines, _status, "status {}"),
    "recipe": Reader(write("r.toml", RECIPE), "r.toml", mutate.mutated_toml, _recipe, "run {}/r.toml --dry-run"),
    "review": Reader(write("review.jsonl", _lines(JUDGED)), "review.jsonl", mutate.mutated_lines, _judgements),
    "chats": Reader(write("chats.jsonl", _lines(CHATS)), "chats.jsonl", mutate.mutated_lines, _chats),
    "pairs": Reader(write("pairs.jsonl", _lines(PAIRS)), "pairs.jsonl", mutate.mutated_lines, _pairs),
    "certificate": Reader(write("parity.json", json.dumps(CERTIFICATE)), "parity.json", mutate.mutated_json,
                          _certificate),
    "parquet": Reader(write("a.parquet", _parquet()), "a.parquet", mutate.mutated_bytes,
                      lambda folder: list(read_parquet(folder / "a.parquet"))),
    "parquet of a corpus": Reader(write("a.parquet", _parquet()), "a.parquet", mutate.mutated_bytes,
                                  _documents("a.parquet")),
    "jsonl": Reader(write("a.jsonl", _lines([{"id": i, "text": "some text"} for i in range(5)])), "a.jsonl",
                    mutate.mutated_lines, _documents("a.jsonl")),
    "warc": Reader(write("a.warc", _warc()), "a.warc", mutate.mutated_bytes, _documents("a.warc")),
    "warc.gz": Reader(write("a.warc.gz", gzip.compress(_warc(), mtime=0)), "a.warc.gz", mutate.mutated_bytes,
                      _documents("a.warc.gz")),
    "filter": Reader(_filter_made, "f.npz", mutate.mutated_bytes, _filter),
    "checkpoint": Reader(_checkpoint_made, "step-00000003/complete.json", mutate.mutated_json, _checkpoint),
}  # fmt: skip
