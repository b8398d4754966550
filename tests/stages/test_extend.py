"""`extend`: the folder it writes, what it measures, and a model whose tables grow along."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwenkit.artifacts import read_manifest
from qwenkit.chat import ChatTokenizer, load_tokenizer
from qwenkit.cli import main
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.resize_token_embeddings import resize_token_embeddings
from qwenkit.records import read_json, write_json, write_jsonl
from qwenkit.tokenizer import save_tokenizer, train_bpe
from qwenkit.tokenizer.compare import bytes_per_token

ENGLISH = ["It is the question of the model, and the model answers it.\n", "语言模型回答问题，也写代码。\n"] * 4
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer, a model with it, and text in a new and in a known language."""
    tok = ChatTokenizer(train_bpe(ENGLISH, 300, multiple=16))
    tok.save(tmp_path / "tokenizer")
    shape = ModelConfig(
        vocab_size=tok.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tok.eot_id,
        eos_token_id=tok.eot_id,
    )
    save_model(init_weights(Transformer(shape), 1), tmp_path / "model")
    tok.save(tmp_path / "model")
    defaults = {"eos_token_id": [tok.im_end_id, tok.eot_id], "top_p": 0.8}
    write_json(tmp_path / "model" / "generation_config.json", defaults)
    write_jsonl(tmp_path / "new.jsonl", [{"text": GREEK * 2, "language": "el", "id": f"d{n}"} for n in range(40)])
    write_jsonl(tmp_path / "old.jsonl", [{"text": text, "language": "en"} for text in [*ENGLISH, GREEK]])
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["qwenkit", "extend", "--corpus", "new.jsonl", "--out", "run", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def metrics(folder: Path) -> dict[str, Any]:
    return read_manifest(folder / "run" / "extend").metrics


def test_a_vocabulary_is_extended_and_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (
        "--tokenizer",
        "tokenizer",
        "--keep",
        "old.jsonl",
        "--merges",
        "30",
        "--validation-share",
        "0.2",
        "--quiet",
    )
    assert run(monkeypatch, folder, *options) == 0
    old, new = load_tokenizer("tokenizer"), load_tokenizer("run/extend")
    assert (new.n_tokens, new.vocab_size, new.style) == (old.n_tokens + 30, 384, "chatml")
    found = metrics(folder)
    assert (found["vocab_size"], found["rows"], found["first_id"]) == (new.n_tokens, 384, old.n_tokens)
    assert found["bytes_per_token"]["el"]["after"] > 1.5 * found["bytes_per_token"]["el"]["before"]
    (kept,) = found["changed"].values()
    assert (kept["documents"], kept["changed"], kept["moved"]) == (9, 1, 0)
    assert kept["tokens_after"] < kept["tokens_before"]
    for text in ENGLISH:
        assert new.encode(text) == old.encode(text)


def test_the_new_tokens_alone_are_the_authors_extra_vocabulary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, folder, "--tokenizer", "tokenizer", "--merges", "20", "--quiet") == 0
    old, new = load_tokenizer("tokenizer"), load_tokenizer("run/extend")
    save_tokenizer(old, folder / "file", form="tiktoken")
    again = load_tokenizer(folder / "file", extra_vocab=folder / "run" / "extend" / "extra.tiktoken")
    assert again.ranks == new.ranks


def test_a_models_tables_grow_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, folder, "--model", "model", "--merges", "30", "--quiet") == 0
    before, after = load_model("model", device="cpu"), load_model("run/extend", device="cpu")
    old, new = load_tokenizer("model"), load_tokenizer("run/extend")
    assert after.config.vocab_size == new.vocab_size == 384
    for name, tensor in before.state_dict().items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            wide = after.state_dict()[name]
            assert torch.equal(wide[: old.n_tokens], tensor[: old.n_tokens])
            for token, i in new.ranks.items():
                if i >= old.n_tokens:
                    assert torch.allclose(wide[i], tensor[old.encode_piece(token)].mean(0), atol=1e-6)
            assert torch.allclose(wide[new.n_tokens :], tensor[old.n_tokens :].mean(0), atol=1e-6)
        else:
            assert torch.equal(after.state_dict()[name], tensor)
    ids = torch.tensor([old.encode(ENGLISH[0])])
    assert torch.equal(after(ids)[..., : old.n_tokens], before(ids)[..., : old.n_tokens])
    assert read_json(folder / "run/extend/generation_config.json")["top_p"] == 0.8


def test_transformers_opens_the_grown_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, folder, "--model", "model", "--merges", "30", "--quiet") == 0
    theirs = AutoModelForCausalLM.from_pretrained("run/extend", dtype=torch.float32)
    tok, new = AutoTokenizer.from_pretrained("run/extend"), load_tokenizer("run/extend")
    ids = new.encode(GREEK)
    assert tok(GREEK)["input_ids"] == ids and max(ids) >= new.n_tokens - 30
    ours = load_model("run/extend", device="cpu")(torch.tensor([ids]))
    assert torch.allclose(theirs(torch.tensor([ids])).logits, ours, atol=1e-4)


def test_a_tied_table_grows_once() -> None:
    shape = ModelConfig(vocab_size=10, hidden_size=4, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                        tie_word_embeddings=True)  # fmt: skip
    model = init_weights(Transformer(shape), 0)
    wide = resize_token_embeddings(model, 10, [[1, 2], [3, 3, 9]], 16)
    table, old = wide.model.embed_tokens.weight, model.model.embed_tokens.weight
    assert torch.allclose(table[10], (old[1] + old[2]) / 2) and torch.allclose(table[11], (2 * old[3] + old[9]) / 3)
    assert torch.allclose(table[12:], old.mean(0).expand(4, -1)) and wide(torch.tensor([[1, 11]])).shape == (1, 2, 16)


def test_mistakes_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, folder, "--merges", "30") == 2
    assert "nothing to extend" in capsys.readouterr().err
    assert run(monkeypatch, folder, "--tokenizer", "tokenizer", "--merges", "30000") == 2
    assert "hold only" in capsys.readouterr().err
    (folder / "bad").mkdir()
    (folder / "bad" / "x.txt").write_bytes(b"\xff\xfe\x00")
    assert run(monkeypatch, folder, "--tokenizer", "tokenizer", "--corpus", "bad") == 2
    assert "cannot be read as text" in capsys.readouterr().err


def test_texts_that_are_empty_have_no_compression() -> None:
    tok = train_bpe(["ab ab"], 257)
    assert bytes_per_token(tok, []) is bytes_per_token(tok, ["", ""]) is None
    assert bytes_per_token(tok, ["", "ab"]) == 2
