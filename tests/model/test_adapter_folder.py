"""Folders of adapters that are another's, cut, pickled, or not what they say: each with its message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwenkit.adapter_files import BASE, CONFIG, PICKLED, WEIGHTS
from qwenkit.errors import Notice, UserError
from qwenkit.model import Transformer, init_weights, load_model, load_scalar, save_model
from qwenkit.model.adapter_folder import save_adapter, tensors_digest
from qwenkit.model.lora import add_adapter
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.trainable import trainable_state
from tests.model.conftest import tiny

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and an adapter beside it."""
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "base", seed=1)
    write(tmp_path / "base", tmp_path / "mine")
    return tmp_path


def made(folder: Path, seed: int, **changes: object) -> None:
    save_model(init_weights(Transformer(tiny(**changes)), seed), folder)


def write(base: Path, out: Path, **settings: Any) -> None:
    model = load_model(base)
    digest = tensors_digest(model)
    model = add_adapter(model, LoRAConfig(**{"rank": 2, "targets": ("q_proj",), **settings}), seed=2)
    with torch.no_grad():
        for parameter in trainable_state(model).values():
            parameter += 0.02
    save_adapter(model, out, f"../{base.name}", digest=digest)


def settings_of(change: dict[str, Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**settings, **change}))

    return edit


def tensors_of(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return edit


def other_base(**changes: object) -> Callable[[Path], None]:
    return lambda folder: made(folder.parent / "base", 3, **changes)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / PICKLED)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "another kind": (settings_of({"peft_type": "IA3"}), """\
mine/adapter_config.json: an adapter of the kind 'IA3' is not supported
  expected: peft_type "LORA\""""),
    "rank 0": (settings_of({"r": 0}), """\
mine/adapter_config.json, adapter: rank = 0
  expected: an integer from 1 to 4096"""),
    "other settings": (settings_of({"use_qalora": True, "bias": "all", "init_lora_weights": "pissa"}), """\
mine/adapter_config.json: not supported here: use_qalora = true, bias = "all", init_lora_weights = "pissa"
  expected: LoRA, rsLoRA or DoRA
  hint: merge it with the program that made it, and load the model"""),
    "an unknown setting": (settings_of({"new_trick": 1}), """\
mine/adapter_config.json: not supported here: new_trick = 1
  expected: LoRA, rsLoRA or DoRA
  hint: merge it with the program that made it, and load the model"""),
    "no base": (settings_of({"base_model_name_or_path": None}), """\
mine/adapter_config.json: the adapter does not say which model it is of
  hint: name the model too: qwenkit chat MODEL --adapter ADAPTER"""),
    "a base that is gone": (settings_of({"base_model_name_or_path": "../gone"}), """\
mine/adapter_config.json: the model of this adapter is not here: ../gone
  hint: name the model too: qwenkit chat MODEL --adapter ADAPTER"""),
    "another rank": (settings_of({"r": 3}), """\
mine/adapter_model.safetensors: model.layers.0.self_attn.q_proj has rank 2, and adapter_config.json says 3"""),
    "no norms": (settings_of({"use_dora": True}), """\
mine/adapter_model.safetensors: model.layers.0.self_attn.q_proj has no norms of DoRA, and adapter_config.json says \
use_dora = true"""),
    "a scorer": (settings_of({"task_type": "SEQ_CLS"}), """\
mine: this is an adapter of one that scores, not of one that writes"""),
    "pickled": (pickled, """\
mine: a pickled adapter: adapter_model.bin alone
  expected: adapter_model.safetensors
  hint: a pickle may run anything: where you trust it, load it with peft and save it again"""),
    "missing": (lambda folder: (folder / WEIGHTS).unlink(), """\
mine: the adapter's tensors are missing
  expected: adapter_model.safetensors"""),
    "cut": (cut, """\
mine/adapter_model.safetensors: not a file of tensors, or cut
  hint: get it again"""),
    "no B": (tensors_of(lambda t: t.pop(f"{LAYER}.lora_B.weight")), """\
mine/adapter_model.safetensors: model.layers.0.self_attn.q_proj has no lora_B
  expected: A and B of each"""),
    "B of another rank": (tensors_of(lambda t: t.update({f"{LAYER}.lora_B.weight": torch.ones(32, 3)})), """\
mine/adapter_model.safetensors: model.layers.0.self_attn.q_proj: lora_A is [2, 32], lora_B [32, 3]
  expected: [R, K] and [N, R], R from 1 on"""),
    "NaN": (tensors_of(lambda t: t[f"{LAYER}.lora_A.weight"].fill_(float("nan"))), f"""\
mine/adapter_model.safetensors: {LAYER}.lora_A.weight holds NaN or infinite values
  expected: finite floating point numbers"""),
    "integers": (tensors_of(lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(2, 32, dtype=torch.int32)})), f"""\
mine/adapter_model.safetensors: {LAYER}.lora_A.weight holds torch.int32
  expected: finite floating point numbers"""),
    "other names": (tensors_of(lambda t: t.update({"q_proj.lora_A.weight": torch.ones(2, 32)})), """\
mine/adapter_model.safetensors: q_proj.lora_A.weight is not a name that peft writes
  expected: base_model.model...."""),
    "an embedding's": (tensors_of(lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A":
                                                     torch.ones(2, 96)})), """\
mine/adapter_model.safetensors: model.embed_tokens.lora_embedding_A is not supported
  expected: LoRA of linear layers"""),
    "nothing": (tensors_of(dict.clear), """\
mine/adapter_model.safetensors: no tensor of LoRA is in it
  expected: lora_A and lora_B of some layer"""),
    "other layers": (other_base(num_hidden_layers=1), """\
mine: this is the adapter of another model: no layer model.layers.1.self_attn.q_proj
  expected: an adapter of this one; it names ../base"""),
    "other shapes": (other_base(hidden_size=48), """\
mine: this is the adapter of another model: model.layers.0.self_attn.q_proj is [48, 48] there, [32, 32] in the \
adapter, model.layers.1.self_attn.q_proj is [48, 48] there, [32, 32] in the adapter
  expected: an adapter of this one; it names ../base"""),
    "other weights": (other_base(), """\
mine: this is the adapter of another model: the tensors differ from those that it was trained on
  expected: the model that it names, ../base
  hint: to put it on this one all the same, take adapter_base.json away"""),
    "a saved module of another shape": (
        tensors_of(lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.ones(95, 32)})), """\
mine: this is the adapter of another model: model.embed_tokens.weight is [96, 32] there, [95, 32] in the adapter
  expected: an adapter of this one; it names ../base"""),
    "a module that is not there": (
        tensors_of(lambda t: t.update({"base_model.model.model.extra.weight": torch.ones(2)})), """\
mine: this is the adapter of another model: no tensor model.extra.weight
  expected: an adapter of this one; it names ../base"""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_is_refused(name: str, place: Path) -> None:
    change, message = BAD[name]
    change(place / "mine")
    with pytest.raises(UserError) as caught:
        load_model(Path("mine"))
    assert str(caught.value) == message


def test_an_adapter_finds_its_model_and_says_so(place: Path) -> None:
    with pytest.warns(Notice, match="mine: an adapter: its model is base"):
        model = load_model(Path("mine"))
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids), load_model(Path("base"), adapter=Path("mine"))(ids))
    assert not torch.equal(model(ids), load_model(Path("base"))(ids))


def test_a_digest_does_not_depend_on_how_a_model_is_stored(place: Path) -> None:
    """Shards, dtype of the computation, another family's form: it is the same model."""
    model = load_model(Path("base"), dtype="bfloat16")
    save_model(model, "sixteen", shard_bytes=9_000)
    known = tensors_digest(model)
    assert known == tensors_digest(load_model(Path("sixteen"), dtype="float32"))
    assert known == tensors_digest(load_model(Path("base"), dtype="float32"))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.1)
    assert known != tensors_digest(model)


def test_an_adapter_on_top_of_an_adapter_and_two_in_one_folder_are_refused(place: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_model(Path("mine"), adapter=Path("mine"))
    assert str(caught.value) == (
        "mine: an adapter on top of an adapter\n  expected: a model, and one adapter\n"
        "  hint: merge the first one: qwenkit merge MODEL ADAPTER --out FOLDER"
    )
    for name in (CONFIG, WEIGHTS):
        (place / "base" / name).write_bytes((place / "mine" / name).read_bytes())
    with pytest.raises(UserError) as caught:
        load_model(Path("base"))
    assert str(caught.value) == (
        "base: a model and an adapter in one folder: LORA of ../base\n  expected: one of them\n"
        "  hint: take adapter_config.json and adapter_model.safetensors away where they are merged already; else move "
        "them to a folder of their own"
    )
    (place / "base" / WEIGHTS).unlink()
    load_model(Path("base"))  # settings that a merge left behind


def test_an_adapter_that_writes_does_not_score(place: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_scalar(Path("mine"))
    assert str(caught.value) == "mine: this is an adapter of one that writes, not of one that scores"


def test_without_a_digest_names_and_shapes_decide(place: Path) -> None:
    other_base()(place / "mine")
    (place / "mine" / BASE).unlink()
    load_model(Path("mine"))
