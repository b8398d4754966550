"""Adapters on the command line: merged with a certificate, or asked beside their model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qwenkit.chat import load_tokenizer
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.adapter_folder import save_adapter, tensors_digest
from qwenkit.model.gptq import quantize
from qwenkit.model.lora import LoRALinear, add_adapter
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear
from qwenkit.model.trainable import trainable_state
from qwenkit.records import read_object, write_json
from qwenkit.tokenizer import save_tokenizer, train_bpe
from tests.errors.desk import call, texts


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in bf16 with a tokenizer, and two adapters of it."""
    monkeypatch.chdir(tmp_path)
    tok = train_bpe([row["text"] for row in texts()], 320)
    config = ModelConfig(vocab_size=tok.vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=128, eos_token_id=tok.eot_id)  # fmt: skip
    save_model(init_weights(Transformer(config), seed=4, std=0.2).bfloat16(), "base")
    save_tokenizer(tok, "base")
    for seed, name in enumerate(("a", "b")):
        adapter("base", name, seed)
    return tmp_path


def adapter(base: str, name: str, seed: int) -> None:
    model = load_model(Path(base))
    digest = tensors_digest(model)
    model = add_adapter(model, LoRAConfig(rank=4), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_state(model).values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.02
    save_adapter(model, Path(name), f"../{Path(base).name}", digest=digest)


def run(command: str) -> str:
    code, out, err = call(command)
    assert code == 0, err
    return out


def refused(command: str) -> str:
    code, _, err = call(command)
    assert code == 2
    return err


def test_a_merged_model_says_what_the_two_said_and_carries_a_certificate(place: Path) -> None:
    row = json.loads(run("merge base a --out merged --json"))
    assert row["dtype"] == "bfloat16" and 0 < row["max_dlogp"] < 0.2 and row["greedy_agreement"] > 0.5
    model, source = load_model(Path("merged")), load_model(Path("base"))
    assert not any(isinstance(part, LoRALinear) for part in model.modules())
    q_proj = load_model(Path("a"), dtype="float32").model.layers[0].self_attn.q_proj
    wanted = q_proj.base.weight + q_proj.lora.scale * q_proj.lora.B @ q_proj.lora.A
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, wanted.bfloat16())
    assert torch.equal(model.model.norm.weight, source.model.norm.weight)
    assert load_tokenizer("merged").encode("hello 你好") == load_tokenizer("base").encode("hello 你好")
    certificate = read_object(Path("merged/certificate.json"))
    assert certificate["form"] == "merged" and certificate["parity"]["max_dlogp"] == row["max_dlogp"]
    rows = json.loads(run("parity merged a --json"))
    assert rows[0]["certificate"]["holds"] and rows[1]["parity"]["max_dlogp"] == pytest.approx(row["max_dlogp"], 0.5)


def test_what_cannot_be_merged_is_refused(place: Path) -> None:
    run("merge base a --out merged")
    assert refused("merge base b --out merged") == (
        "error: merged: there is something already\n  expected: a new folder, or an empty one\n"
    )
    assert refused("merge merged a --out twice") == (
        "error: merged: this adapter is merged into the model already\n"
        "  expected: the model that the adapter was trained on\n  hint: it was base\n"
    )
    assert refused("merge merged b --out both").startswith(
        "error: b: this is the adapter of another model: the tensors"
    )
    assert refused("merge base merged --out m") == (
        "error: merged: no adapter is here\n  expected: a folder with adapter_config.json and "
        "adapter_model.safetensors\n"
    )
    assert refused("merge a b --out m").startswith("error: a: an adapter on top of an adapter\n")
    assert not Path("twice").exists() and not Path("both").exists() and not Path("m").exists()


def test_over_a_quantized_model_it_is_merged_only_when_asked(place: Path) -> None:
    model = load_model(Path("base"), dtype="float32")
    quantize(model, QuantConfig(8, 32), None)
    save_model(model, "small")
    save_tokenizer(load_tokenizer("base"), "small")
    adapter("small", "on-small", 2)
    assert refused("merge small on-small --out merged") == (
        "error: model.layers.0.self_attn.q_proj is quantized to 8 bits, and has no room for an adapter\n"
        "  expected: an adapter over weights in 16 or 32 bits\n"
        "  hint: --dequantize merges it into weights of 16 bits\n"
    )
    run("merge small on-small --out merged --dequantize")
    assert not any(isinstance(part, QuantizedLinear) for part in load_model(Path("merged")).modules())
    assert json.loads(run("parity merged on-small --json"))[1]["parity"]["max_dlogp"] < 0.2


def test_an_adapter_is_asked_beside_its_model_or_alone(place: Path) -> None:
    write_json(Path("a/generation_config.json"), {"max_new_tokens": 3, "do_sample": False})
    answers = [run(f"chat {command} -p hello --max-tokens 12") for command in ("base --adapter a", "a", "base")]
    assert answers[0] == answers[1] != answers[2]
    both = run("chat base --adapter one=a --adapter two=b -p hello --temperature 0 --max-tokens 8")
    assert "one" in both and "two" in both
    engine = Engine(Path("base"), load_tokenizer("base"), adapter="a")
    assert len(engine.generate(["hello"], SamplingParams(ignore_eos=True))[0].ids) == 3


def test_adapters_of_one_name_and_for_several_models_are_refused(place: Path) -> None:
    assert refused("chat base --adapter a --adapter a=b -p hi") == (
        "error: --adapter: two adapters are called a\n  expected: a name for each\n  hint: --adapter OTHER=b\n"
    )
    assert refused("chat base base --adapter a -p hi") == (
        "error: 2 models, and --adapter\n  expected: one model for all adapters\n"
        "  hint: an adapter's own folder also stands for its model with it\n"
    )
    assert refused("chat base --adapter base -p hi") == (
        "error: --adapter base: no adapter is here\n  expected: a folder with adapter_config.json and "
        "adapter_model.safetensors\n"
    )
