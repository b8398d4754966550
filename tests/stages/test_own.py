"""The recipes for one's own data, on real texts and chats: two commands, then a first answer."""

from __future__ import annotations

import gzip
import json
import zipfile
from itertools import islice
from pathlib import Path

import pytest

from qwenkit.records import read_object
from tests.errors.desk import call

SMALL = ("base.compile=false", "chat.compile=false", "threads=1",
         "corpus.extra=texts", "chat.data=chats.json", "tokenizer.vocab_size=600", "base.tokens=20000",
         "base.hidden_size=32", "base.num_attention_heads=2", "base.num_hidden_layers=1", "base.intermediate_size=48",
         "base.warmup_steps=2",
         "base.seq_length=256", "chat.seq_length=1024", "chat.batch_size=2", "chat.epochs=0.1")  # fmt: skip


@pytest.fixture
def own(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fifty speeches and two hundred ShareGPT chats as people have them."""
    (tmp_path / "texts").mkdir()
    with zipfile.ZipFile(real_data / "speeches_nltk" / "inaugural.zip") as archive:
        for name in [name for name in archive.namelist() if name.endswith(".txt")][:50]:
            (tmp_path / "texts" / Path(name).name).write_bytes(archive.read(name))
    with gzip.open(real_data / "sharegpt_zh_1k" / "sharegpt_zh_1K_format.jsonl.gz", "rt", encoding="utf-8") as lines:
        chats = [json.loads(line) for line in islice(lines, 200)]
    (tmp_path / "chats.json").write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(*changes: str) -> str:
    return " ".join(f"--set {change}" for change in changes)


def test_texts_and_chats_become_a_model_that_answers_and_is_taught_further(own: Path) -> None:
    """`own` first; then `finetune` on the chat model that it made, as on a published one."""
    code, _, err = call(f"init my.toml --from own {options(*SMALL)}")
    assert code == 0, err
    code, out, err = call("run my.toml -q")
    assert code == 0, out + err
    metrics = read_object(own / "runs" / "my" / "chat" / "manifest.json")["metrics"]
    books = ("quarantined", "dropped_test_overlap", "held_out", "dropped_too_long", "chats")
    assert metrics["read"] == sum(metrics[name] for name in books) == 200
    assert metrics["chats"] > 100 and metrics["cut"] > 10
    code, out, err = call("chat runs/my/chat -p 你好 --max-tokens 8")
    assert code == 0 and out.strip(), err
    tuned = (
        "threads=1",
        "chat.model=runs/my/chat",
        "chat.data=chats.json",
        "chat.seq_length=512",
        "chat.batch_size=2",
        "chat.epochs=0.02",
    )
    code, _, err = call(f"init tuned.toml --from finetune {options(*tuned)}")
    assert code == 0, err
    code, out, err = call("run tuned.toml -q")
    assert code == 0, out + err
    assert read_object(own / "runs/tuned/chat/adapter_config.json")["base_model_name_or_path"] == str(
        own / "runs/my/chat"
    )
    code, out, err = call("chat runs/tuned/chat -p 你好 --max-tokens 8")
    assert code == 0 and out.strip(), err
