"""Each alarm fires on exactly its fault, and none on a healthy run."""

import math

import numpy as np
import pytest
import torch

from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.errors import Stopped, UserError
from qwenkit.training import (
    ALARMS,
    AlarmError,
    Batches,
    Sentinel,
    StepBatch,
    build_schedule,
    lm_objective,
    run,
    train_update,
)  # fmt: skip
from tests.training.conftest import VOCAB, Run

noise = np.random.default_rng(0)


def healthy(step):
    """Metrics of a run that goes well: falling, noisy loss; warm-up; spiky but finite gradients."""
    fresh = np.random.default_rng(step)
    loss = 1 + 3 * math.exp(-step / 100) + 0.1 * fresh.standard_normal()
    return {
        "loss": loss,
        "grad_norm": float(np.exp(0.5 * fresh.standard_normal())),
        "lr": 0.01 * min(1.0, (step + 1) / 30),
        "batch": step,
        "tokens_per_second": 1000 * (1 + 0.2 * fresh.random()),
        "kl": 2 * fresh.random(),
        "entropy": 0.5 + fresh.random(),
        "response_tokens": 20 + 5 * fresh.random(),
        "policy_loss": 0.05 * fresh.standard_normal(),
        "policy_grad_norm": 0.3 * float(np.exp(0.5 * fresh.standard_normal())),
        "value_loss": (0.1 + math.exp(-step / 30)) * float(np.exp(0.7 * fresh.standard_normal())),
        "value_grad_norm": (1 + 20 * math.exp(-step / 30)) * float(np.exp(0.7 * fresh.standard_normal())),
        "ptx_loss": 2 + 0.1 * fresh.standard_normal(),
    }


def observe(fault, start=150, steps=400, **options):
    """The ids of the alarms of a healthy run into which `fault(step)` is mixed from step `start` on."""
    sentinel = Sentinel(VOCAB, **options)
    raised = []
    for step in range(steps):
        changes = fault(step) if step >= start else {}
        raised += [(alarm.alarm.id, step) for alarm in sentinel.observe(step, {**healthy(step), **changes})]
    return raised


FAULTS = {
    "loss-spike": lambda step: {"loss": 4.0} if step < 200 else {},
    "gradient-explosion": lambda step: {"grad_norm": 100.0} if step < 200 else {},
    "dead-learning-rate": lambda step: {"lr": 0.0},
    "repeated-batch": lambda step: {"batch": 149} if step == 155 else {},
    "throughput-stall": lambda step: {"tokens_per_second": 100.0} if step < 170 else {},
    "policy-explosion": lambda step: {"policy_grad_norm": 3000.0} if step < 200 else {},
    "value-explosion": lambda step: {"value_grad_norm": 10_000.0} if step < 200 else {},
    "policy-loss-spike": lambda step: {"policy_loss": 500.0} if step < 200 else {},
    "value-loss-explosion": lambda step: {"value_loss": 1000.0} if step < 200 else {},
    "ptx-loss-spike": lambda step: {"ptx_loss": 5.0} if step < 200 else {},
    "kl-high": lambda step: {"kl": 30.0},
    "entropy-collapse": lambda step: {"entropy": 0.001},
    "length-runaway": lambda step: {"response_tokens": 20 + 0.5 * (step - 150)},
    "sampling-mismatch": lambda step: {"sampling_logp_difference": 0.2},
}


def test_a_healthy_run_is_silent():
    assert observe(lambda step: {}, steps=3000) == []


@pytest.mark.parametrize("id", FAULTS)
def test_the_alarm_fires_once_and_alone(id):
    assert [name for name, _ in observe(FAULTS[id])] == [id]


@pytest.mark.parametrize("id", ["loss-spike", "gradient-explosion", "kl-high", "throughput-stall"])
def test_a_passing_fault_is_borne(id):
    short = ALARMS[id].patience - 1
    assert observe(lambda step: FAULTS[id](step) if step < 150 + short else {}) == []


def test_not_learning():
    assert observe(lambda step: {"loss": math.log(VOCAB) + 0.1}, start=0) == [("not-learning", 200)]
    assert [
        name for name, _ in observe(lambda step: {"loss": math.log(VOCAB) + 0.1}, 0, disabled=["not-learning"])
    ] == []
    assert Sentinel().observe(0, {"loss": 100.0}) == []


def test_every_alarm_of_the_table_is_tested_here():
    injected = {"not-learning", "nonfinite-loss", "nonfinite-gradient", "nonfinite-reward", "no-content"}
    assert FAULTS.keys() | injected == ALARMS.keys()
    for row in ALARMS.values():
        assert row.action in ("stop", "warn") and row.cause and row.hint and row.condition


def test_limits_can_be_moved_and_alarms_switched_off():
    fault = FAULTS["kl-high"]
    assert observe(fault, overrides={"kl-high": {"threshold": 50.0}}) == [] == observe(fault, disabled=["kl-high"])
    with pytest.raises(UserError, match="nearest: kl-high"):
        Sentinel(overrides={"kl-hihg": {"threshold": 1.0}})


def test_a_resumed_sentinel_is_the_same():
    whole, part = Sentinel(VOCAB), Sentinel(VOCAB)
    stream = [{**healthy(step), **(FAULTS["loss-spike"](step) if 100 <= step < 110 else {})} for step in range(120)]
    expected = [[raised.fields() for raised in whole.observe(step, row)] for step, row in enumerate(stream)]
    found = [[raised.fields() for raised in part.observe(step, row)] for step, row in enumerate(stream[:102])]
    second = Sentinel(VOCAB)
    second.load_state_dict(part.state_dict())
    found += [[raised.fields() for raised in second.observe(step, stream[step])] for step in range(102, 120)]
    assert found == expected and any(expected)


def poisoned(training, where):
    """An objective that breaks step 3: its loss, or only its gradient."""

    class BrokenGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    def objective(model, batch):
        loss, sums = lm_objective(model, batch)
        if training.state.step == 3:
            loss = loss * float("nan") if where == "loss" else BrokenGradient.apply(loss)
        return loss, sums

    return objective


@pytest.mark.parametrize("where, id", [("loss", "nonfinite-loss"), ("gradient", "nonfinite-gradient")])
def test_not_a_number_stops_before_the_update_and_names_the_rows(tmp_path, where, id):
    training = Run()
    schedule = build_schedule("constant", 12)
    update = train_update(
        training.model, training.optimizer, training.batches, schedule, objective=poisoned(training, where)
    )
    before = []

    def watched(state, step):
        before.append(training.weights)
        return update(state, step)

    with pytest.raises(AlarmError, match=id) as caught:
        run(watched, training.state, 12, log=training.log, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert torch.equal(training.weights, before[-1]) and len(before) == 4
    assert all(param.grad is None for param in training.model.parameters())
    document = training.store.ids[training.order.trace(3, 4)[0]]
    assert "rows" in str(caught.value) and document in training.named("alarm")[0]["where"]
    assert isinstance(caught.value, Stopped) and sorted(p.name for p in tmp_path.iterdir())[-1] == "step-00000003"


@pytest.mark.parametrize("weights, content", [([0, 0, 0], None), ([1, 1, 1], [False] * 3)])
def test_a_lost_mask_stops_the_run(weights, content):
    """Weights on the marks of user turns alone are no supervision."""
    training = Run()
    store = InMemoryTokenDataset(Example(f"x{n}", [1, 2, 3], weights, content) for n in range(40))
    batches = Batches(store, EpochOrder(store.digest, 0, store.lengths, 8, split_documents=False), 4)
    update = train_update(training.model, training.optimizer, batches, build_schedule("constant", 9))
    before = training.weights
    with pytest.raises(AlarmError, match="no-content"):
        run(update, training.state, 9, log=training.log)
    assert torch.equal(before, training.weights) and training.named("alarm")[0]["id"] == "no-content"


def mixed(content, replayed=2):
    """Steps of two chats, whose marks are all supervised, and documents that are replayed among them."""
    chats = [Example(f"chat{n}", [1, 2, 3], [1, 1, 1], content) for n in range(2)]
    return InMemoryTokenDataset([*chats, *(Example(f"replay{n}", [4, 5, 6], [1, 1, 1]) for n in range(replayed))])


def test_replay_does_not_hide_a_lost_mask():
    """Plain text has no turns: it makes up for no answer, and a step of it alone is healthy."""
    for store, alarm in ((mixed([False] * 3), True), (mixed([False, False, True]), False)):
        training = Run()
        batches = Batches(
            store, EpochOrder(store.digest, 0, store.lengths, 3, split_documents=False), 4, micro_batch_size=1
        )
        update = train_update(training.model, training.optimizer, batches, build_schedule("constant", 3))
        if alarm:
            with pytest.raises(AlarmError, match="no-content"):
                run(update, training.state, 3, log=training.log)
        else:
            alone = [StepBatch.of([batch for batch in batches(0).micro_batches if batch.content is None])]
            assert len(alone[0].micro_batches) == 2 and alone[0].content is None
            update(training.state, 0)
            train_update(training.model, training.optimizer, alone.__getitem__, build_schedule("constant", 3))(
                training.state, 0
            )


def test_a_stop_alarm_saves_nothing_after_the_fault(tmp_path):
    training = Run()

    def dead(state, step):
        return {"loss": 1.0, "lr": 0.0 if step > 4 else 1.0}

    with pytest.raises(AlarmError, match="dead-learning-rate"):
        run(dead, training.state, 20, log=training.log, checkpoint_dir=tmp_path)
    assert training.state.step == 8 and list(tmp_path.iterdir()) == []


def test_a_warning_is_an_event_and_the_run_goes_on():
    training = Run()
    run(lambda state, step: {"loss": 1.0, "batch": 1}, training.state, 5, log=training.log)
    assert training.state.step == 5 and [row["id"] for row in training.named("alarm")] == ["repeated-batch"]


def test_a_real_run_is_silent():
    training = Run(total=150, dropout=0.0)
    run(training.update, training.state, 150, log=training.log, sentinel=Sentinel(VOCAB, disabled=["throughput-stall"]))
    assert training.named("alarm") == []
