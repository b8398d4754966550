"""Folders: what we write transformers reads with equal logits, what it writes we read, and mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenkit.errors import UserError
from qwenkit.model import (
    ModelConfig,
    ScalarModel,
    Transformer,
    init_weights,
    load_model,
    load_scalar,
    save_model,
    save_scalar,
)
from tests.model.conftest import tiny

transformers = pytest.importorskip("transformers")
GOLDEN = Path(__file__).parent / "golden"


def _model(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=1, std=0.2).eval()


def _ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 96, shape, generator=torch.Generator().manual_seed(0))


def test_transformers_reads_our_folder_with_equal_logits(config: ModelConfig, tmp_path: Path) -> None:
    model, ids = _model(config), _ids(2, 30)
    save_model(model, tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_we_read_transformers_folder_with_equal_logits(tied: bool, kv_heads: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
                                      initializer_range=0.2, rope_theta=12345.0)  # fmt: skip
    theirs, ids = transformers.Qwen2ForCausalLM(config).eval(), _ids(2, 30)
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, load_model(tmp_path)(ids), atol=1e-4)


def test_scalar_model_reads_the_same_value_in_transformers(config: ModelConfig, tmp_path: Path) -> None:
    model, ids = ScalarModel(_model(config), seed=2), _ids(1, 12)
    save_scalar(model, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    again = load_scalar(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.score(ids), model.score(ids))
        assert theirs(ids).logits.item() == pytest.approx(model.score(ids)[0, -1].item(), abs=1e-4)


@pytest.mark.parametrize("case", ["qwen2_gqa_tied", "qwen2_gqa_untied"])
def test_golden_logits(case: str) -> None:
    """Vectors that transformers 5.23 and 4.57 gave alike for random weights."""
    given, wanted = (load_file(GOLDEN / case / f"{name}.safetensors") for name in ("inputs", "expected"))
    with torch.no_grad():
        logits = load_model(GOLDEN / case, dtype="float32")(given["input_ids"])
    assert torch.allclose(logits, wanted["logits"], atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saving_and_loading_keeps_every_bit(config: ModelConfig, dtype: str, tmp_path: Path) -> None:
    model = _model(config).to(getattr(torch, dtype))
    for folder, size in ((tmp_path / "one", 10**9), (tmp_path / "shards", 5000), (tmp_path / "again", 10**9)):
        save_model(model, folder, shard_bytes=size)
        read = load_model(folder, device="cpu").state_dict()
        assert read.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, read[name]) for name, tensor in model.state_dict().items())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    save_model(_model(tiny(tie_word_embeddings=True)), tmp_path)
    model = load_model(tmp_path, dropout=0.1)
    assert not model.training and model.config.dropout == 0.1
    model(_ids(1, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrong_tensors_are_named_all_at_once(tmp_path: Path) -> None:
    save_model(_model(tiny()), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.nrm.weight"] = torch.ones(32)
    tensors["lm_head.weight"] = torch.ones(95, 32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    for part in (
        "missing: model.norm.weight",
        "unexpected: model.nrm.weight",
        "lm_head.weight is [95, 32], not [96, 32]",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope type 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}}, "mscale"),
        ({"rope_scaling": [4.0]}, "rope_scaling"),
        ({"rope_theta": "big"}, "rope_theta = 'big' is not a number"),
        ({"layer_types": ["full_attention"], "use_sliding_window": True, "sliding_window": 4}, "layer_types"),
        ({"vocab_size": 10**9}, "vocab_size = 1000000000 is beyond"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000 is beyond"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"hidden_size": None}, "missing: hidden_size"),
        ({"torch_dtype": "int3"}, "unknown dtype 'int3'"),
    ],
)
def test_what_would_compute_otherwise_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    save_model(_model(tiny()), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_missing_and_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_model(tmp_path / "nowhere")
    save_model(_model(tiny()), tmp_path)
    with pytest.raises(UserError, match="not one that scores"):
        load_scalar(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights are missing: model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="broken JSON"):
        load_model(tmp_path)
