"""What every stage that trains does alike: in float32 from any folder, measured on what is really held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit import platform
from qwenkit.model import load_model, load_scalar
from qwenkit.stages import ppo, preference, reward, sft
from qwenkit.training import loop
from tests.stages.conftest import Desk, chat_rows, pair_rows

SMALL: dict[str, Any] = {"seq_length": 64, "warmup_steps": 0, "batch_size": 4, "validation_share": 0.2}
PPO: dict[str, Any] = {
    "steps": 5, "value_warmup_steps": 0, "prompts_per_step": 4, "max_tokens": 6, "seq_length": 64, "minibatches": 2,
    "ptx_coef": 0.0, "policy_lr": 2e-6, "value_lr": 2e-6, "validation_share": 0.2,
}  # fmt: skip


def prompts(count: int = 8) -> list[dict[str, Any]]:
    return [{"messages": row["messages"][:1]} for row in chat_rows()[:count]]


def run_sft(desk: Desk, folder: Callable[..., Path], dtype: torch.dtype, **keys: Any) -> Any:
    edges = {"model": folder(dtype=dtype), "data": desk.rows("chat.jsonl", chat_rows())}
    return desk.run(sft, edges, **{**SMALL, "steps": 5, "lr": 2e-6, "dropout": 0.0, **keys})


def run_preference(desk: Desk, folder: Callable[..., Path], dtype: torch.dtype, **keys: Any) -> Any:
    edges = {"model": folder(dtype=dtype), "data": desk.rows("pairs.jsonl", pair_rows())}
    return desk.run(preference, edges, **{**SMALL, "lr": 2e-6, **keys})


def run_reward(desk: Desk, folder: Callable[..., Path], dtype: torch.dtype, **keys: Any) -> Any:
    edges = {"model": folder(dtype=dtype, scalar=True), "data": desk.rows("pairs.jsonl", pair_rows())}
    return desk.run(reward, edges, **{**SMALL, "lr": 2e-6, **keys})


def run_ppo(desk: Desk, folder: Callable[..., Path], dtype: torch.dtype, **keys: Any) -> Any:
    edges = {
        "model": folder("chat", dtype=dtype), "reward_model": folder("reward", dtype=dtype, scalar=True),
        "prompts": desk.rows("prompts.jsonl", prompts()),
    }  # fmt: skip
    return desk.run(ppo, edges, **{**PPO, **keys})


RUNS = {"sft": run_sft, "preference": run_preference, "reward": run_reward, "ppo": run_ppo}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """The matrices of every trained module, before and after its training."""
    found: dict[str, Any] = {}
    usual = loop.run

    def matrices(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in module.named_parameters() if "proj.weight" in name}

    def run(update: Any, state: Any, *rest: Any, **given: Any) -> Any:
        before = {name: matrices(module) for name, module in state.modules.items()}
        last = usual(update, state, *rest, **given)
        found.update({name: (before[name], matrices(module)) for name, module in state.modules.items()})
        return last

    monkeypatch.setattr(loop, "run", run)
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("stage", RUNS)
def test_every_weight_moves_whatever_dtype_the_folder_has(
    stage: str, dtype: torch.dtype, desk: Desk, folder: Callable[..., Path], trained: dict[str, Any]
) -> None:
    """A rate of 2e-6 is below what 16 bits resolve: held in them, almost no weight would move, and nothing say so."""
    done = RUNS[stage](desk, folder, dtype)
    assert trained
    for name, (before, after) in trained.items():
        assert {x.dtype for x in after.values()} == {torch.float32}
        moved = sum(int((after[key] != before[key]).sum()) for key in before)
        assert moved > 0.9 * sum(x.numel() for x in before.values()), name
    assert json.loads((done.out / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")
    load = load_model if stage in ("sft", "ppo") else load_scalar
    stored = dict(load(done.out).named_parameters())
    _, after = trained.get("model") or trained["policy"]
    assert all(torch.equal(stored[name], after[name].to(dtype)) for name in after)


def test_what_is_measured_is_the_model_as_it_is_stored(
    desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source of 16 bits is published in 16 bits: loss and accuracy of its artifact are those of the rounded model."""
    from qwenkit import training
    from qwenkit.alignment import ranking

    rounded: list[bool] = []

    def watch(owner: Any, name: str) -> None:
        usual = getattr(owner, name)

        def measure(model: torch.nn.Module, *rest: Any) -> Any:
            rounded.append(all(torch.equal(p, p.to(torch.bfloat16).to(p.dtype)) for p in model.parameters()))
            return usual(model, *rest)

        monkeypatch.setattr(owner, name, measure)

    watch(training, "validation_losses")
    run_sft(desk, folder, torch.bfloat16, validation_share=0.4)
    assert rounded[-1] and not all(rounded)  # the loss on the way is that of the float32 weights
    rounded.clear()
    watch(ranking, "margin_rows")
    run_preference(desk, folder, torch.bfloat16, validation_share=0.4)
    assert rounded == [True]


def test_answers_end_by_the_rule_of_a_served_chat(
    desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graded answers and rollouts alike: the end of the turn, the start of another and the end of the text."""
    from qwenkit import Engine, SamplingParams, alignment, load_tokenizer
    from qwenkit.chat import stop_token_ids
    from qwenkit.evaluation.chat_answers import answers

    tok = load_tokenizer(folder("chat"))
    stops = set(stop_token_ids(tok))
    assert {tok.special[name] for name in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")} <= stops
    engine = Engine(load_model(folder("chat")), tok)
    for stop in stops:
        params = SamplingParams.plain(temperature=0, max_tokens=4, logit_bias={stop: 100.0})
        (output,) = answers(engine, prompts(1), params)
        assert (output.finish_reason, output.ids) == ("stop", [stop])
    given: dict[str, Any] = {}
    usual = alignment.SingleTurn
    monkeypatch.setattr(alignment, "SingleTurn", lambda **rest: given.update(rest) or usual(**rest))
    run_ppo(desk, folder, torch.float32, steps=1)
    assert set(given["stop_token_ids"]) == stops


def test_pairs_of_a_prompt_are_on_one_side(desk: Desk, folder: Callable[..., Path]) -> None:
    """Three pairs of each prompt: none is learnt from where another measures."""
    done = run_preference(desk, folder, torch.float32, validation_share=0.4)
    items = [json.loads(line) for line in (done.out / "margins.jsonl").read_text().splitlines()]
    names = [item["id"].partition("/")[0] for item in items]
    assert 0 < len(set(names)) < 8 and all(names.count(name) == 3 for name in names)
    assert done.metrics["pairs"] == 24 - len(items)


def test_every_pair_is_seen_in_an_epoch(desk: Desk, folder: Callable[..., Path]) -> None:
    done = run_preference(desk, folder, torch.float32, validation_share=0.0, batch_size=10)
    assert done.metrics["steps"] == 3  # 24 pairs: two steps would leave four of them out


def test_pairs_are_watched_while_they_are_learnt(desk: Desk, folder: Callable[..., Path]) -> None:
    run_preference(desk, folder, torch.float32, evaluate_every=2, epochs=1.0)
    evals = [event for event in desk.events if event["event"] == "eval"]
    assert [event["step"] for event in evals] == [0, 2, 4, 5]
    assert all(0 <= event["accuracy"] <= 1 and event["comparisons"] > 0 for event in evals)


def test_micro_rows_bound_the_pairs_of_a_forward_pass(
    desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwenkit.alignment import PairwiseObjective

    seen: list[float] = []
    usual = PairwiseObjective.__call__
    monkeypatch.setattr(
        PairwiseObjective, "__call__", lambda self, model, batch: seen.append(batch.weight) or usual(self, model, batch)
    )
    run_preference(desk, folder, torch.float32, micro_batch_size=3)
    assert set(seen) == {3, 1}


def test_prompts_need_neither_an_id_nor_a_rubric(desk: Desk, folder: Callable[..., Path]) -> None:
    """Then no true rubric is reported, and no prompt is kept aside for it."""
    done = run_ppo(desk, folder, torch.float32, steps=2)
    assert (done.metrics["prompts"], done.metrics["rubric_before"], done.metrics["rubric_after"]) == (8, {}, {})
    steps = [event for event in desk.events if event["event"] == "step"]
    assert steps and not any(name.startswith("rubric") for event in steps for name in event)
    assert "rubric" not in done.summary and "nan" not in done.summary


def test_a_rubric_is_measured_on_the_prompts_that_have_one(desk: Desk, folder: Callable[..., Path]) -> None:
    rubric = {"language": None, "right": {"kind": "exact", "value": "river"}, "parts": [], "limit": 5,
              "manners": "plain", "system": None}  # fmt: skip
    rows = [{**row, **({"rubric": rubric} if n % 2 else {})} for n, row in enumerate(prompts())]
    edges = {"model": folder("chat"), "reward_model": folder("reward", scalar=True),
             "prompts": desk.rows("prompts.jsonl", rows)}  # fmt: skip
    done = desk.run(ppo, edges, **{**PPO, "steps": 1, "validation_share": 0.6})
    assert 4 <= done.metrics["prompts"] < 8 and done.metrics["rubric_before"]["right"] == 0
    assert any("rubric_right" in event for event in desk.events)


def test_ppo_hands_its_keys_on(desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from qwenkit import alignment

    seen: list[Any] = []
    usual = alignment.PPO
    monkeypatch.setattr(alignment, "PPO", lambda *given, **rest: seen.append(given[5]) or usual(*given, **rest))
    monkeypatch.setattr(platform, "has_bf16", lambda device: True)  # slow where it is emulated, and still the key's
    keys = {"whiten_advantages": False, "weight_decay": 0.5, "max_grad_norm": 0.25, "recompute_logprobs": True,
            "precision": "bf16"}  # fmt: skip
    run_ppo(desk, folder, torch.float32, steps=1, **keys)
    assert {name: getattr(seen[0], name) for name in keys} == keys
    assert seen[0].alarm_limits == {"sampling-mismatch": {"threshold": 1.0}}


def test_watching_changes_no_byte(desk: Desk, folder: Callable[..., Path]) -> None:
    one, two = (run_preference(desk, folder, torch.bfloat16, evaluate_every=every) for every in (0, 1))
    assert (one.out / "model.safetensors").read_bytes() == (two.out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_used_where_the_hardware_has_it(
    native: bool, desk: Desk, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated it would be ten times slower; what is done instead is told."""
    from qwenkit.alignment import PairwiseObjective

    seen: set[bool] = set()
    usual = PairwiseObjective.__call__
    monkeypatch.setattr(
        PairwiseObjective, "__call__",
        lambda self, model, batch: seen.add(torch.is_autocast_enabled("cpu")) or usual(self, model, batch),
    )  # fmt: skip
    monkeypatch.setattr(platform, "has_bf16", lambda device: native)
    done = run_preference(desk, folder, torch.float32)
    assert seen == {native} and len(done.warnings) == (not native)
    assert all("no instructions for bf16" in warning for warning in done.warnings)
