"""Export, quantize and parity through the command line: the same words in every form, and said where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit.chat import load_tokenizer
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.config import ContextExtension
from qwenkit.records import read_object, write_jsonl
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.errors.desk import call, texts

transformers = pytest.importorskip("transformers")
SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl("texts.jsonl", texts())
    return tmp_path


def folder(name: str, **changes: Any) -> Path:
    """A random model with a tokenizer."""
    tok = train_bpe([row["text"] for row in texts()], 320)
    config = ModelConfig(**{**SHAPE, "vocab_size": tok.vocab_size, "max_position_embeddings": 128, **changes},
                         bos_token_id=tok.eot_id, eos_token_id=tok.eot_id)  # fmt: skip
    save_model(init_weights(Transformer(config), seed=4, std=0.2), name)
    save_tokenizer(tok, name)
    return Path(name)


def run(command: str) -> str:
    code, out, err = call(command)
    assert code == 0, err
    return out


def first_qwen(name: str = "first") -> Path:
    return folder(name, extension=ContextExtension(seq_length=64, dynamic_ntk=True, logn=True))


def test_the_first_qwen_goes_to_hugging_face_and_back(place: Path) -> None:
    first_qwen()
    run("export --model first --to hf --out runs/hf -q")
    out = Path("runs/hf/export")
    found = read_object(out / "certificate.json")
    assert (found["length"], found["form"]) == (64, "hf")
    assert "dynamic NTK and LogN act beyond 64 tokens" in found["reason"]
    assert found["parity"]["max_dlogp"] == 0 and found["parity"]["greedy_agreement"] == 1
    config = read_object(out / "config.json")
    assert (config["architectures"], config["max_position_embeddings"]) == (["Qwen2ForCausalLM"], 64)
    theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(out), load_model("first")
    ids = torch.tensor([found["prompts"][-1]])
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids), atol=1e-4)
    run("export --model runs/hf/export --to qwen1 --out runs/back -q")
    back = Path("runs/back/export")
    assert read_object(back / "config.json")["model_type"] == "qwen" and (back / "qwen.tiktoken").exists()
    assert load_tokenizer(back).encode("hello 你好") == load_tokenizer("first").encode("hello 你好")
    table = json.loads(run(f"parity {out} first {back} --json"))
    assert [row["parity"] and row["parity"]["max_dlogp"] for row in table] == [None, 0, 0]
    assert [row["certificate"] is not None and row["certificate"]["holds"] for row in table] == [True, False, True]
    assert "holds" in run(f"parity {out} first")


def test_a_certificate_asks_no_more_than_the_exported_form_reads(place: Path) -> None:
    """Of 16 trained positions: prompts of 32 tokens were asked, where the two forms must differ."""
    folder("short", extension=ContextExtension(seq_length=16, dynamic_ntk=True, logn=True))
    run("export --model short --to hf --out runs/hf -q")
    found = read_object("runs/hf/export/certificate.json")
    assert max(map(len, found["prompts"])) == found["length"] == 16
    assert found["parity"]["max_dlogp"] == 0 and found["parity"]["greedy_agreement"] == 1
    assert "holds" in run("parity runs/hf/export short")


@pytest.mark.parametrize(
    "found", [{}, {"prompts": []}, {"prompts": [[1]], "top": [], "greedy": []}, {"prompts": "a", "top": 5, "greedy": 0}]
)
def test_what_is_no_certificate_is_refused(found: dict[str, Any], place: Path) -> None:
    (folder("model") / "certificate.json").write_text(json.dumps(found))
    code, _, err = call("parity model")
    assert code == 2 and "this is not a certificate" in err


def test_models_of_other_vocabularies_are_not_asked_what_they_cannot_read(place: Path) -> None:
    for name, size in (("large", 200), ("small", 96)):
        config = ModelConfig(**{**SHAPE, "vocab_size": size, "max_position_embeddings": 64})
        save_model(init_weights(Transformer(config), seed=4), name)
    code, _, err = call("parity large small")
    assert code == 2 and "it has 96 tokens" in err


def test_a_broken_certificate_is_told(place: Path) -> None:
    first_qwen()
    run("export --model first --out runs/hf -q")
    model = load_model("runs/hf/export")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    save_model(model, "runs/hf/export")
    code, out, err = call("parity runs/hf/export")
    assert code == 1 and "DOES NOT HOLD" in out and "does not hold" in err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "first"])
def test_gguf_is_read_by_transformers_with_equal_logits(family: str, dtype: str, place: Path) -> None:
    changes: dict[str, Any] = {
        "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
        "qwen3": {"qkv_bias": False, "qk_norm": True, "head_dim": 128},
        "first": {"extension": ContextExtension(seq_length=64, dynamic_ntk=True, logn=True)},
    }[family]
    source = folder(family, **changes)
    save_model(load_model(source, dtype=dtype), source)
    run(f"export --model {family} --to gguf --out runs/gguf -q")
    ids = torch.tensor([read_object("runs/gguf/export/certificate.json")["prompts"][0]])
    theirs = transformers.AutoModelForCausalLM.from_pretrained("runs/gguf/export", gguf_file="model.gguf")
    with torch.no_grad():
        wanted = load_model(source, dtype="float32")(ids)
        assert torch.allclose(theirs(ids).logits, wanted, atol=1e-3)
    tok = transformers.AutoTokenizer.from_pretrained("runs/gguf/export", gguf_file="model.gguf")
    assert tok("hello 你好 12")["input_ids"] == load_tokenizer(source).encode("hello 你好 12")


@pytest.mark.parametrize("pattern", ["qwen", "cl100k", r"\p{N}|[^\s\p{N}]+|\s+"])
def test_gguf_is_read_back_with_equal_weights_ids_and_chats(pattern: str, place: Path) -> None:
    """Also under a pattern that llama.cpp has no name for."""
    source = folder("qwen2", tie_word_embeddings=True)
    texts_ = [row["text"] for row in texts()]
    save_tokenizer(train_bpe(texts_, 300, pattern=pattern), source)
    run("export --model qwen2 --to gguf --out runs/gguf -q")
    model, back = load_model(source), load_model("runs/gguf/export")
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    tok, read = load_tokenizer(source), load_tokenizer("runs/gguf/export")
    assert (read.pattern, read.nfc, read.special, read.style) == (tok.pattern, tok.nfc, tok.special, tok.style)
    for text in [*texts_[:20], "e\u0301t\u00e9 123 \u4e16\u754c <|im_end|>"]:
        assert read.encode(text) == tok.encode(text) and read.encode(text, "all") == tok.encode(text, "all")
    command = "chat {} -p hello --temperature 0 --max-tokens 5"
    assert run(command.format("runs/gguf/export/model.gguf")) == run(command.format("qwen2"))
    (one, other) = json.loads(run("parity qwen2 runs/gguf/export --json"))
    assert one["parity"] is None and other["parity"]["max_dlogp"] == 0


def test_quantizing_tells_what_it_costs(place: Path) -> None:
    folder("m")
    run("quantize --model m --texts texts.jsonl --bits 8 --group-size -1 --samples 8 --measured 4 --out runs/int8 -q")
    found = read_object("runs/int8/quantize/manifest.json")["metrics"]
    assert found["bytes"] < found["bytes_before"] and found["loss_increase"]["n"] == 4
    assert abs(found["perplexity"] / found["perplexity_before"] - 1) < 0.05
    events = [json.loads(line) for line in Path("runs/int8/events.jsonl").read_text().splitlines()]
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    assert "tokens a second" in note and note in read_object("runs/int8/quantize/run.json")["remarks"]
    (reference, small) = json.loads(run("parity m runs/int8/quantize --dtype float32 --json"))
    assert reference["parity"] is None and small["parity"]["mean_kl"] < 0.01
    code, _, err = call("quantize --model m --texts texts.jsonl --group-size 48 --measured 4 --out runs/odd -q")
    assert code == 2 and "another group_size" in err


@pytest.mark.parametrize(
    ("changes", "to", "message"),
    [
        ({"num_key_value_heads": 2}, "qwen1", "a qwen folder cannot hold grouped queries"),
        ({"qkv_bias": False}, "gguf", "of the family llama is not supported"),
        ({"windows": (8, None)}, "gguf", "layer windows"),
    ],
)
def test_forms_that_cannot_say_it_leave_nothing(changes: dict[str, Any], to: str, message: str, place: Path) -> None:
    folder("m", **changes)
    code, _, err = call(f"export --model m --to {to} --out runs/no -q")
    assert code == 2 and message in err
    assert not Path("runs/no/export").exists()
