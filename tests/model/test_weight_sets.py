"""What lies in a model's folder: two sets of weights, shards that are missing, adapters, names of wrappers, pointers of
git-lfs. Loaded where it can only mean one thing, refused in a few words where not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenkit.errors import Notice, UserError, listed
from qwenkit.model import ScalarModel, Transformer, init_weights, load_model, load_scalar, save_model, save_scalar
from tests.model.conftest import tiny

HEAD, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    save_model(init_weights(Transformer(tiny()), seed=0), tmp_path / "m")
    return tmp_path / "m"


def renamed(folder: Path, change: Callable[[str], str]) -> Path:
    tensors = {change(name): tensor for name, tensor in load_file(folder / HEAD).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, folder / HEAD)
    return folder


def equal(folder: Path, wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, wanted[name]) for name, tensor in load_model(folder).state_dict().items())


WRAPPERS: dict[str, Callable[[str], str]] = {
    "a wrapped peft model": lambda name: f"base_model.model.{name}",
    "data parallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled layers": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "sharded": lambda name: "_forward_module." + name.replace("0.mlp", "0._checkpoint_wrapped_module.mlp"),
    "a part of a larger model": lambda name: f"language_model.{name}",
    "a part of a larger model, newer": lambda name: name.replace("model.", "model.language_model.", 1),
    "without its first name": lambda name: name.removeprefix("model."),
    "several at once": lambda name: f"module._orig_mod.base_model.model.{name}",
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPERS)
def test_names_of_a_wrapper_are_read_where_there_is_one_trunk(case: str, folder: Path) -> None:
    wanted = load_model(folder).state_dict()
    with pytest.warns(Notice, match="is read as"):
        assert equal(renamed(folder, WRAPPERS[case]), wanted)


def test_a_scoring_head_keeps_its_name_under_a_wrapper(tmp_path: Path) -> None:
    model = ScalarModel(init_weights(Transformer(tiny()), seed=0), seed=1)
    save_scalar(model, tmp_path)
    with pytest.warns(Notice):
        again = load_scalar(renamed(tmp_path, lambda name: f"module.{name}"))
    assert torch.equal(again.score_head.weight, model.score_head.weight)


@pytest.mark.filterwarnings("ignore::qwenkit.errors.Notice")
def test_a_trunk_that_is_tied_needs_no_head_and_another_does(tmp_path: Path) -> None:
    """As AutoModel saves it, and as the released embedding models are."""
    for tied in (True, False):
        folder = tmp_path / str(tied)
        save_model(init_weights(Transformer(tiny(tie_word_embeddings=tied)), seed=0), folder)
        renamed(folder, lambda name: "" if name == "lm_head.weight" else name.removeprefix("model."))
    load_model(tmp_path / "True")
    with pytest.raises(UserError, match=r"missing: lm_head\.weight") as refused:
        load_model(tmp_path / "False")
    assert "a trunk without a head cannot write" in refused.value.text()


def test_what_does_not_fit_is_named_in_some_lines(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_model(init_weights(Transformer(tiny(num_hidden_layers=24)), seed=0), folder)
    renamed(folder, lambda name: f"{name}.{'x' * 300}")
    with pytest.raises(UserError, match="and 286 more") as refused:
        load_model(folder)
    assert len(refused.value.text()) < 2000
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more" and listed([]) == ""


def test_two_trunks_and_adapters_that_are_not_merged_are_refused(folder: Path) -> None:
    tensors = load_file(folder / HEAD)
    twice = {f"{place}.{name}": tensor.clone() for place in ("policy", "reference") for name, tensor in tensors.items()}
    save_file(twice, folder / HEAD)
    with pytest.raises(UserError, match="several trunks"):
        load_model(folder)
    inside = {name.replace("q_proj.", "q_proj.base_layer."): tensor for name, tensor in tensors.items()}
    save_file({**inside, "model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(2)}, folder / HEAD)
    with pytest.raises(UserError, match="an adapter that was not merged"):
        load_model(folder)


def test_of_two_sets_none_is_chosen_silently(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_model(init_weights(Transformer(tiny()), seed=5), other, shard_bytes=20_000)
    for file in other.glob("model*"):
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"two sets of weights: the shards, and model\.safetensors"):
        load_model(folder)
    (folder / HEAD).unlink()
    assert equal(folder, load_model(other).state_dict())
    for shard in list(folder.glob("model-*"))[1:]:
        shard.unlink()
    with pytest.raises(UserError, match="weights are missing: model-"):
        load_model(folder)
    (folder / INDEX).unlink()
    with pytest.raises(UserError, match="no index says") as refused:
        load_model(folder)
    assert "weights are missing" in refused.value.text()


def test_an_index_may_name_the_only_file(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / HEAD), HEAD)
    wanted = load_model(folder).state_dict()
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    assert equal(folder, wanted)


def test_what_is_left_of_pickles_does_not_matter(folder: Path) -> None:
    wanted = load_model(folder).state_dict()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}')
    assert equal(folder, wanted)


def test_safetensors_go_before_pickles_and_it_is_told(folder: Path) -> None:
    wanted = load_model(folder).state_dict()
    torch.save({name: torch.zeros_like(tensor) for name, tensor in load_file(folder / HEAD).items()}, folder / PICKLE)
    with pytest.warns(Notice, match=r"pytorch_model\.bin are passed over"):
        assert equal(folder, wanted)


@pytest.mark.parametrize("name", ["config.json", HEAD, INDEX, PICKLE])
def test_a_pointer_of_git_lfs_is_called_one(name: str, folder: Path) -> None:
    if name != "config.json":
        (folder / HEAD).unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(UserError, match="git-lfs pointer") as refused:
        load_model(folder)
    assert "git lfs pull" in refused.value.text()


def test_what_is_no_folder_or_holds_other_forms_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match="name the folder, not a file in it"):
        load_model(folder / HEAD)
    (folder / HEAD).rename(folder / "model.gguf")
    with pytest.raises(UserError, match=r"model\.gguf cannot be read"):
        load_model(folder)


def test_a_pipe_in_place_of_weights_is_not_waited_for(folder: Path) -> None:
    (folder / HEAD).unlink()
    os.mkfifo(folder / HEAD)
    with pytest.raises(UserError, match="weights are missing"):
        load_model(folder)
