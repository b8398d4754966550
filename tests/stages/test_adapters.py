"""Adapters of every kind that trains: what is published is small, opens everywhere, and shares its weights in PPO."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit import alignment, platform
from qwenkit.adapter_files import BASE, CONFIG, WEIGHTS
from qwenkit.artifacts import read_manifest
from qwenkit.chat import load_tokenizer
from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import load_model, load_scalar, save_model
from qwenkit.model.adapted import Trunks, load_trained, load_trained_scorer
from qwenkit.model.gptq import quantize
from qwenkit.model.lora import LoRALinear, adapted_layers
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear
from qwenkit.model.trainable import trainable_state
from qwenkit.records import read_object, write_json
from qwenkit.stages import export, ppo, preference, reward, sft
from qwenkit.tokenizer import save_tokenizer
from qwenkit.training import loop
from tests.stages.conftest import Desk, chat_rows, make_folder, pair_rows
from tests.stages.test_training import PPO, RUNS, SMALL, prompts, run_sft

ADAPTER: dict[str, Any] = {"rank": 4, "lr_scale": 100.0}


def chat_model(folder: Path) -> Path:
    """The folder, whose answers end with their turn."""
    settings = folder / "generation_config.json"
    write_json(settings, {**read_object(settings), "eos_token_id": [load_tokenizer(folder).im_end_id]})
    return folder


def published(desk: Desk, found: Any, name: str) -> Path:
    """The artifact in its place beside the others of its run."""
    found.out.rename(desk.tmp / name)
    return desk.tmp / name


@pytest.mark.parametrize("stage", RUNS)
def test_the_artifact_holds_the_adapter_alone_and_opens(stage: str, desk: Desk, folder: Callable[..., Path]) -> None:
    keys: dict[str, Any] = {"policy_lr": 1e-4} if stage == "ppo" else {"lr": 1e-4}
    found = RUNS[stage](desk, folder, torch.float32, **keys, adapter={**ADAPTER, "modules_to_save": []})
    out = published(desk, found, "out")
    assert {path.name for path in out.glob("*.safetensors")} == {WEIGHTS} and not (out / "config.json").exists()
    scalar = stage in ("preference", "reward")
    model = (load_scalar if scalar else load_model)(out)
    layers = dict(adapted_layers(model))
    assert len(layers) == 14 and all(bool(layer.lora.B.any()) for layer in layers.values())
    base = {"ppo": "chat"}.get(stage, "model")
    source = (load_scalar if stage == "reward" else load_model)(desk.tmp / base)
    assert all(torch.equal(layer.base.weight, source.get_submodule(name).weight) for name, layer in layers.items())
    assert read_object(out / CONFIG)["base_model_name_or_path"] == f"../{base}"
    assert len(read_object(out / BASE)["tensors"]) == 64
    if not scalar:
        engine = Engine(out, None)
        assert len(engine.generate([[1, 2, 3]], SamplingParams(max_tokens=4, ignore_eos=True))[0].ids) == 4


def test_it_learns_and_is_measured_as_it_is_stored(desk: Desk, folder: Callable[..., Path]) -> None:
    found = run_sft(desk, folder, torch.bfloat16, adapter=ADAPTER, lr=2e-3, steps=12, batch_size=8)
    first, last = (event for event in desk.events if event["event"] == "eval")
    assert found.metrics["heldout_loss"]["chats"] < first["chats"] - 0.1
    again = load_trained(published(desk, found, "out"), Trunks("cpu"), LoRAConfig(rank=4), 0)
    table = again.model.embed_tokens.weight
    assert table.requires_grad and table.dtype == torch.float32 and torch.equal(table.bfloat16().float(), table)
    assert last["chats"] == pytest.approx(found.metrics["heldout_loss"]["chats"], abs=0.02)


def test_a_base_model_learns_the_tokens_of_a_chat_too(
    desk: Desk, folder: Callable[..., Path], recwarn: pytest.WarningsRecorder
) -> None:
    found = run_sft(desk, folder, torch.float32, adapter=ADAPTER)
    assert read_object(found.out / CONFIG)["modules_to_save"] == ["embed_tokens"]
    assert any("never read the tokens of a chat: embed_tokens are trained too" in str(w.message) for w in recwarn)
    edges = {"model": chat_model(folder("chat")), "data": desk.rows("chat.jsonl", chat_rows())}
    other = desk.run(sft, edges, **{**SMALL, "steps": 2, "adapter": ADAPTER})
    assert read_object(other.out / CONFIG)["modules_to_save"] is None
    out, chat = published(desk, other, "out"), edges["model"]
    ends = [read_object(place / "generation_config.json")["eos_token_id"] for place in (out, chat)]
    assert ends[0][0] == ends[1][0]


def test_an_adapter_goes_on_and_a_full_training_merges_it(desk: Desk, folder: Callable[..., Path]) -> None:
    edges = {"model": chat_model(folder("chat")), "data": desk.rows("chat.jsonl", chat_rows())}
    keys = {**SMALL, "steps": 2, "lr": 1e-4}
    first = published(desk, desk.run(sft, edges, **keys, adapter=ADAPTER), "first")
    second = published(desk, desk.run(sft, {**edges, "model": first}, **keys, adapter=ADAPTER), "second")
    assert read_object(second / CONFIG)["base_model_name_or_path"] == "../chat"
    assert (second / BASE).read_bytes() == (first / BASE).read_bytes()
    a = [trainable_state(load_model(place))["model.layers.0.self_attn.q_proj.lora.A"] for place in (first, second)]
    assert not torch.equal(*a) and torch.allclose(*a, atol=0.1)
    with pytest.raises(UserError) as caught:
        desk.run(sft, {**edges, "model": first}, **keys, adapter={"rank": 8, "dora": True})
    assert str(caught.value) == (
        f"{first}: the model is an adapter, which goes on, and `adapter` has another rank, alpha, dora\n"
        "  expected: the settings that it was begun with\n"
        "  hint: merge it first: qwenkit merge MODEL ADAPTER --out FOLDER"
    )
    whole = desk.run(sft, {**edges, "model": first}, **keys)
    model = load_model(whole.out)
    assert not any(isinstance(part, LoRALinear) for part in model.modules()) and model.adapter is None
    exported = desk.run(export, {"model": first}, to="hf")
    ids = torch.arange(12)[None]
    torch.testing.assert_close(load_model(exported.out)(ids), load_model(first)(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("over", ["plain", "adapters"])
def test_in_ppo_all_models_stand_on_one_copy_of_the_weights(
    over: str, desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy, reference, value and reward model: where the latter two are adapters of the policy's model, too."""
    chat = chat_model(folder("chat"))
    judge = folder("reward", scalar=True)
    edges = {"model": chat, "reward_model": judge, "prompts": desk.rows("prompts.jsonl", prompts())}
    if over == "adapters":
        pairs = {"model": chat, "data": desk.rows("pairs.jsonl", pair_rows())}
        edges["reward_model"] = published(desk, desk.run(preference, pairs, **SMALL, adapter=ADAPTER), "pmp")
        chats = {"model": chat, "data": desk.rows("chat.jsonl", chat_rows())}
        edges["model"] = published(desk, desk.run(sft, chats, **SMALL, steps=2, adapter=ADAPTER), "sft")
    models: list[Any] = []
    usual = alignment.PPO

    def watched(policy: Any, value: Any, reference: Any, rewards: Any, *given: Any, **rest: Any) -> Any:
        models.extend([policy, reference, value, rewards.parts["model"].score.model])
        return usual(policy, value, reference, rewards, *given, **rest)

    monkeypatch.setattr(alignment, "PPO", watched)
    found = desk.run(ppo, edges, **{**PPO, "policy_lr": 1e-4, "value_lr": 1e-4}, adapter=ADAPTER)
    frozen = [{p.data_ptr() for n, p in model.named_parameters() if n.endswith("proj.base.weight") or (
        n.endswith("proj.weight") and not p.requires_grad)} for model in models]  # fmt: skip
    policy, reference, value, scorer = frozen
    assert policy and policy == reference and value == scorer
    assert (policy == value) is (over == "adapters")
    assert models[0].adapter is not None and (models[1].adapter is not None) is (over == "adapters")
    ids = torch.arange(12)[None]
    start = load_model(edges["model"])
    assert torch.equal(models[1](ids), start(ids)) and not torch.equal(models[0](ids), start(ids))
    assert torch.equal(models[3](ids), load_scalar(edges["reward_model"])(ids))
    assert all(abs(event["kl"]) < 1e-6 for event in desk.events[:1] if "kl" in event)
    assert {path.name for path in found.out.glob("*.safetensors")} == {WEIGHTS}


def test_weights_that_do_not_change_stay_in_16_bits_where_products_are(desk: Desk, folder: Callable[..., Path]) -> None:
    place = folder(dtype=torch.bfloat16)
    trunks = Trunks("cpu")
    one = load_trained(place, trunks, LoRAConfig(), 0, bf16=True)
    two = load_trained_scorer(place, trunks, LoRAConfig(), 0, bf16=True)
    assert one.model.embed_tokens.weight is two.model.embed_tokens.weight
    assert one.model.embed_tokens.weight.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in trainable_state(one).values())
    for saved in ({"bf16": False}, {"bf16": True}):
        lora = LoRAConfig(modules_to_save=("embed_tokens",) if saved["bf16"] else None)
        model = load_trained(place, Trunks("cpu"), lora, 0, **saved)
        assert model.model.embed_tokens.weight.dtype == model.model.norm.weight.dtype == torch.float32


@pytest.mark.parametrize("stage", RUNS)
def test_products_in_bf16_go_through_weights_in_bf16(
    stage: str, desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on hardware that has them: what is frozen is never copied to float32."""
    monkeypatch.setattr(platform, "has_bf16", lambda _: True)
    dtypes: list[torch.dtype] = []
    usual = loop.run

    def watched(update: Any, state: Any, *given: Any, **rest: Any) -> Any:
        for module in state.modules.values():
            dtypes.extend(p.dtype for p in module.parameters() if not p.requires_grad)
        return usual(update, state, *given, **rest)

    monkeypatch.setattr(loop, "run", watched)
    keys: dict[str, Any] = {"policy_lr": 1e-4} if stage == "ppo" else {"lr": 1e-4}
    found = RUNS[stage](desk, folder, torch.bfloat16, **keys, precision="bf16",
                        adapter={**ADAPTER, "modules_to_save": []})  # fmt: skip
    assert set(dtypes) == {torch.bfloat16}
    model = (load_scalar if stage in ("preference", "reward") else load_model)(published(desk, found, "out"))
    assert any(bool(layer.lora.B.any()) for _, layer in adapted_layers(model))


def test_over_a_quantized_folder_it_trains_and_opens(desk: Desk, folder: Callable[..., Path]) -> None:
    """QLoRA (Dettmers et al., 2023): the artifact stands on the quantized folder, whose bits stay as they are."""
    model = load_model(folder())
    quantize(model, QuantConfig(4, 32), None)
    save_model(model, desk.tmp / "small")
    save_tokenizer(load_tokenizer(desk.tmp / "model"), desk.tmp / "small")
    edges = {"model": desk.tmp / "small", "data": desk.rows("chat.jsonl", chat_rows())}
    keys = {**SMALL, "steps": 12, "lr": 1e-4, "batch_size": 8, "dropout": 0.0}
    found = desk.run(sft, edges, **keys, adapter={**ADAPTER, "modules_to_save": []}, activation_checkpointing="full")
    first, _ = (event for event in desk.events if event["event"] == "eval")
    assert found.metrics["heldout_loss"]["chats"] < first["chats"] - 0.01
    trained = trainable_state(load_model(published(desk, found, "out"))).values()
    whole = sum(p.numel() for p in load_model(desk.tmp / "model").parameters())
    assert found.metrics["adapter"] == {"trained": sum(map(torch.numel, trained)), "model": whole}
    layer = load_model(desk.tmp / "out").model.layers[0].mlp.down_proj
    assert isinstance(layer.base, QuantizedLinear) and bool(layer.lora.B.any())
    with pytest.raises(UserError, match="is quantized to 4 bits, and has no room for an adapter"):
        desk.run(export, {"model": desk.tmp / "out"}, to="hf")


def test_what_is_trained_is_told_before_it_begins(
    desk: Desk, folder: Callable[..., Path], recwarn: pytest.WarningsRecorder
) -> None:
    found = run_sft(desk, folder, torch.float32, adapter={"rank": 2, "targets": ["q_proj"], "modules_to_save": []})
    assert found.metrics["adapter"] == {"trained": 2 * 2 * (32 + 32), "model": 30_560}
    told = next(str(w.message) for w in recwarn if "an adapter:" in str(w.message))
    assert "an adapter: 256 parameters are trained beside 30,560; weights 0 MB, gradients and moments 0 MB" in told


def test_a_table_that_means_nothing_is_refused_with_the_recipe(desk: Desk) -> None:
    for table, message in (({"rank": 0}, "adapter: rank = 0"), ({"rnak": 4}, "adapter: unknown key `rnak`")):
        with pytest.raises(ValueError, match=message):
            sft.Config(model="m", data="d", adapter=table)
    given = sft.Config(model="m", data="d", adapter={}).identity()
    assert given["adapter"]["rank"] == 16 and "adapter" not in sft.Config(model="m", data="d").identity()
    assert reward.Config(model="m", data="d", adapter={"rank": 8}).identity()["adapter"]["rank"] == 8


RECIPE = """\
schema = 2
title = "adapters"
seed = 1
device = "cpu"
threads = 1
out = "runs/adapters"

[chat]
kind = "sft"
model = "base"
data = "chat.jsonl"
adapter = {rank = 4, dropout = 0.1}
seq_length = 64
batch_size = 4
steps = 40
warmup_steps = 0
checkpoint_seconds = 0.05

[rlhf]
kind = "ppo"
model = "chat"
reward_model = "judge"
prompts = "prompts.jsonl"
adapter = {rank = 4, dropout = 0.1}
steps = 12
value_warmup_steps = 2
prompts_per_step = 4
minibatches = 2
max_tokens = 6
seq_length = 64
ptx_coef = 0.0
policy_lr = 1e-4
checkpoint_seconds = 0.05
"""


def test_kills_change_no_byte(desk: Desk) -> None:
    """SIGKILL in the middle of a training with adapters, of SFT and of PPO: the manifests are those of a run that was
    not killed."""
    make_folder(desk.tmp / "base")
    make_folder(desk.tmp / "judge", scalar=True)
    desk.rows("chat.jsonl", chat_rows())
    desk.rows("prompts.jsonl", prompts())
    (desk.tmp / "my.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "qwenkit.cli", "run", "my.toml", "-q", "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "runs/whole"], cwd=desk.tmp, env=env, check=True, timeout=120)
    hits = 0
    for node in ("chat", "rlhf"):
        process = subprocess.Popen([*command, "runs/killed"], cwd=desk.tmp, env=env)
        steps, deadline = desk.tmp / "runs/killed/.work", time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline:
            if any(
                path.parents[2].name.startswith(node)
                for path in steps.glob("*/checkpoints/step-????????/complete.json")
            ):
                break
            time.sleep(0.02)
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert hits == 2
    subprocess.run([*command, "runs/killed"], cwd=desk.tmp, env=env, check=True, timeout=120)
    for node in ("chat", "rlhf"):
        whole, killed = (read_manifest(desk.tmp / "runs" / run / node) for run in ("whole", "killed"))
        assert whole.digest == killed.digest and whole.metrics == killed.metrics
    events = [json.loads(line) for line in (desk.tmp / "runs/killed/events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "resumed" and "step" in event for event in events) == 2
