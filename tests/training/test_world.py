"""Processes of one training save, stop, fail and evaluate at the same step; here each is a thread."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from qwenkit import rng
from qwenkit.alignment import PairBatches, PairwiseObjective
from qwenkit.alignment.pair_encoding import Pair
from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.errors import Interrupted, Stopped, UserError
from qwenkit.model import ScalarModel
from qwenkit.training import (
    AlarmError,
    Alone,
    Batches,
    OptimizerSet,
    ProcessGroup,
    RunState,
    Sentinel,
    build_optimizer,
    build_schedule,
    data_parallel,
    latest_checkpoint,
    lm_objective,
    loop,
    run,
    train_update,
)
from qwenkit.training import sentinel as sentinel_module
from qwenkit.training import update as update_module
from qwenkit.training.data_parallel import guarded, is_sharded, sum_gradients
from qwenkit.training.loop import step_seed
from qwenkit.training.step_sums import StepSums
from qwenkit.training.world import together
from tests.training.conftest import Run, make_model
from tests.training.worlds import Echo, ThreadWorld, run_ranks


class Rank(Run):
    """A training in one process of a world. In float64, so that the order of sums hardly shows; dropout would draw from
    the one generator that threads share."""

    def __init__(self, world: Any, optimizer: str = "adamw", **options: Any) -> None:
        super().__init__(optimizer=optimizer, dropout=0.0)
        self.world = world
        self.model.double()
        self.optimizer = build_optimizer(self.model, optimizer, 0.01)
        micro_batch_size = min(2, 4 // world.size)
        self.batches = Batches(self.store, self.order, 4, micro_batch_size, world)
        self.state = RunState({"model": self.model}, {"main": self.optimizer})
        schedule = build_schedule("cosine", 12, warmup=2)
        self.update = train_update(self.model, self.optimizer, self.batches, schedule, world=world, **options)

    def train(self, until: int = 12, **options: Any) -> dict[str, Any]:
        return run(self.update, self.state, until, log=self.log, seed=7, world=self.world, **options)


# ---- the same training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_together_train_as_one_process_does(size: int, optimizer: str) -> None:
    """Only the order of sums differs. Attention is float32 on a CPU also for a float64 model, and row by row."""
    one = Rank(Alone(), optimizer)
    one.train()

    def train(world: ThreadWorld) -> Rank:
        rank = Rank(world, optimizer)
        rank.train()
        return rank

    ranks = run_ranks(train, size)
    for rank in ranks:
        assert isinstance(rank, Rank)
        assert torch.equal(rank.weights, ranks[0].weights)
        torch.testing.assert_close(rank.weights, one.weights, rtol=0, atol=1e-6)
    steps = ranks[0].named("step")
    for name in ("tokens", "supervised", "batch", "lr", "step"):
        assert [row[name] for row in steps] == [row[name] for row in one.named("step")]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in steps] == pytest.approx([row[name] for row in one.named("step")], rel=1e-6)
    assert ranks[0].state.numbers == {**one.state.numbers, "last": ranks[0].state.numbers["last"]}


def test_pairs_are_shared_and_their_metrics_summed() -> None:
    pairs = [Pair([*[1 + n % 7, 2, 3][: 1 + n % 3], 9], [4, 5 + n % 5, 9], str(n)) for n in range(20)]

    def train(world: Any) -> tuple[list[dict[str, float]], torch.Tensor]:
        model = ScalarModel(make_model(), 1).double()
        optimizer = build_optimizer(model, "adamw", 1e-3)
        batches = PairBatches(pairs, 8, seed=0, micro_pairs=3, world=world)
        update = train_update(
            model, optimizer, batches, build_schedule("constant", 5), objective=PairwiseObjective(), world=world
        )
        state = RunState({"model": model})
        rows = [update(state, step) for step in range(5)]
        return rows, torch.cat([p.detach().flatten() for p in model.parameters()])

    rows, weights = train(Alone())
    for outcome in run_ranks(train):
        assert not isinstance(outcome, BaseException), outcome
        torch.testing.assert_close(outcome[1], weights, rtol=0, atol=1e-6)
        for one, other in zip(rows, outcome[0], strict=True):
            assert other == pytest.approx(one, rel=1e-5) and other["batch"] == one["batch"]
    with pytest.raises(UserError, match="a batch of 9 cannot be divided among 2 processes"):
        PairBatches(pairs, 9, seed=0, world=Echo(0, 2))


def test_shares_that_do_not_fit_are_refused() -> None:
    training = Run()
    with pytest.raises(UserError) as caught:
        Batches(training.store, training.order, 4, world=Echo(0, 3))
    assert str(caught.value) == (
        "a batch of 4 cannot be divided among 3 processes\n  expected: batch_size that is a multiple of 3"
    )
    with pytest.raises(UserError) as caught:
        Batches(training.store, training.order, 12, 4, world=Echo(0, 2))
    assert str(caught.value) == (
        "a batch of 12, 6 for each of 2 processes, cannot be cut into micro-batches of 4\n"
        "  expected: micro_batch_size that divides 6"
    )


def test_a_parameter_that_some_or_no_rank_used_has_the_gradient_of_the_whole_batch() -> None:
    def gradients(world: ThreadWorld) -> list[Any]:
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
        params.append(torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
        params[0].grad = torch.full((2,), 1.0 + world.rank)
        if world.rank:
            params[1].grad = torch.full((2,), 5.0)
        params[3].grad = torch.full((2,), 0.5, dtype=torch.bfloat16)
        sum_gradients(world, params)
        assert all(param.grad is None or param.grad.dtype == param.dtype for param in params)
        return [None if param.grad is None else param.grad.tolist() for param in params]

    assert run_ranks(gradients) == [[[3.0, 3.0], [5.0, 5.0], None, [1.0, 1.0]]] * 2


def test_rank_0_draws_the_dropout_of_one_process_and_the_others_their_own() -> None:
    assert step_seed(7, 3, 0) == rng.derive_seed(7, "step", 3)
    assert len({step_seed(7, step, rank) for step in range(3) for rank in range(3)}) == 9

    def losses(world: Any) -> list[float]:
        training = Run(dropout=0.5)
        run(training.update, training.state, 3, log=training.log, seed=7, world=world)
        return [] if world.rank else training.losses

    def states(world: Any) -> torch.Tensor:
        training = Run(dropout=0.5)
        run(training.update, training.state, 3, seed=7, world=world)
        return training.weights

    assert losses(Alone()) == losses(Echo(0, 2)) and losses(Echo(1, 2)) == []
    assert torch.equal(states(Alone()), states(Echo(0, 2)))
    assert not torch.equal(states(Alone()), states(Echo(1, 2)))


# ---- saving ---------------------------------------------------------------------------------------------------------


def test_rank_0s_clock_decides_when_all_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the other's own clock it would save after every step."""
    clocks = threading.local()

    def monotonic() -> float:
        clocks.now = getattr(clocks, "now", 0.0) + clocks.pace
        return clocks.now

    monkeypatch.setattr(loop.time, "monotonic", monotonic)
    written: list[str] = []
    usual = loop.save_checkpoint

    def save(tree: Any, folder: Path, step: int) -> Path:
        written.append(f"{threading.current_thread().name == 'MainThread'} {step}")
        return usual(tree, folder, step)

    monkeypatch.setattr(loop, "save_checkpoint", save)

    def train(world: ThreadWorld) -> Rank:
        clocks.pace = 1000.0 if world.rank else 1.0
        rank = Rank(world)
        rank.train(8, checkpoint_dir=tmp_path, checkpoint_seconds=3.0)
        return rank

    zero, other = run_ranks(train)
    assert isinstance(zero, Rank) and isinstance(other, Rank), (zero, other)
    saved = [row["step"] for row in zero.named("checkpoint")]
    assert saved == [3, 6, 8] and written == [f"True {step}" for step in saved]
    assert other.events == [] and zero.world.calls == other.world.calls


def test_all_resume_from_the_checkpoint_that_rank_0_chose(tmp_path: Path) -> None:
    one = Rank(Alone())
    one.train(12)

    def train(world: ThreadWorld, until: int) -> Rank:
        rank = Rank(world)
        rank.train(until, checkpoint_dir=tmp_path)
        return rank

    run_ranks(lambda world: train(world, 5))
    ranks = run_ranks(lambda world: train(world, 12))
    assert isinstance(ranks[0], Rank) and isinstance(ranks[1], Rank), ranks
    assert ranks[0].named("resumed") == [{"event": "resumed", "step": 5}] and ranks[1].events == []
    assert ranks[0].state.step == ranks[1].state.step == 12
    assert torch.equal(ranks[0].weights, ranks[1].weights)
    torch.testing.assert_close(ranks[0].weights, one.weights, rtol=0, atol=1e-6)


def test_what_fails_while_rank_0_saves_fails_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(loop, "save_checkpoint", full)
    zero, other = run_ranks(lambda world: Rank(world).train(3, checkpoint_dir=tmp_path))
    assert isinstance(zero, OSError) and zero.errno == 28
    assert isinstance(other, Stopped)
    assert str(other) == f"the process of rank 0 failed: [Errno 28] No space left on device: '{tmp_path}'"


def test_a_checkpoint_that_one_rank_cannot_read_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ranks(lambda world: Rank(world).train(2, checkpoint_dir=tmp_path))

    def unreadable(path: Path) -> None:
        raise UserError("it is not there", where=path.name)

    monkeypatch.setattr(loop, "load_checkpoint", unreadable)  # rank 0 reads by `load_latest`
    outcomes = run_ranks(lambda world: Rank(world).train(4, checkpoint_dir=tmp_path))
    assert [str(error) for error in outcomes] == ["step-00000002: it is not there"] * 2


# ---- alarms ---------------------------------------------------------------------------------------------------------


def test_an_alarm_of_one_rank_stops_all_with_its_text(tmp_path: Path) -> None:
    """Of metrics that only this rank has."""
    logs: dict[int, list[str]] = {}

    def train(world: ThreadWorld) -> None:
        rank = Rank(world)
        usual = rank.update

        def update(state: RunState, step: int) -> dict[str, float]:
            return {**usual(state, step), "lr": 0.0 if world.rank and step >= 2 else 1.0}

        rank.update = update
        try:
            rank.train(12, checkpoint_dir=tmp_path, sentinel=Sentinel())
        finally:
            logs[world.rank] = [row["id"] for row in rank.named("alarm")]
            assert rank.state.step == 5

    zero, other = run_ranks(train)
    assert isinstance(zero, AlarmError) and isinstance(other, AlarmError), (zero, other)
    assert str(zero) == str(other) and "dead-learning-rate" in str(zero)
    assert logs == {0: ["dead-learning-rate"], 1: []} and latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("faulty", [0, 1])
def test_an_alarm_inside_an_update_of_one_rank_stops_all(faulty: int) -> None:
    def train(world: ThreadWorld) -> None:
        rank = Rank(world)
        usual = rank.update

        def update(state: RunState, step: int) -> dict[str, float]:
            metrics = usual(state, step)
            if step == 2 and world.rank == faulty:
                sentinel_module.raise_alarm("nonfinite-loss", 3.0, "prompts [4]")
            return metrics

        rank.update = update
        try:
            rank.train()
        finally:
            assert [row["where"] for row in rank.named("alarm")] == ([] if world.rank else ["prompts [4]"])

    errors = run_ranks(train)
    assert all(isinstance(error, AlarmError) for error in errors), errors
    assert str(errors[0]) == str(errors[1]) and "prompts [4]" in str(errors[0])


class BrokenGradient(torch.autograd.Function):
    """The identity, whose gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0] * float("nan")


@pytest.mark.parametrize(("where", "at_fault"), [("loss", [1]), ("gradient", [0, 1])])
def test_what_is_not_finite_in_one_rank_moves_no_weight_in_any(where: str, at_fault: list[int]) -> None:
    """A loss names the rows of its own rank; of a gradient only the sum is known, so the rows of all are named."""
    before, after, rows = dict[int, torch.Tensor](), dict[int, torch.Tensor](), dict[int, str]()

    def train(world: ThreadWorld) -> None:
        def objective(model: Any, batch: Any) -> Any:
            loss, sums = lm_objective(model, batch)
            if rank.state.step == 2:
                before[world.rank] = rank.weights
                if world.rank == 1:
                    loss = loss * float("nan") if where == "loss" else BrokenGradient.apply(loss)
            return loss, sums

        rank = Rank(world, objective=objective)
        rows[world.rank] = rank.batches(2).describe()
        try:
            rank.train()
        finally:
            after[world.rank] = rank.weights
            assert all(param.grad is None for param in rank.model.parameters())

    zero, other = run_ranks(train)
    assert isinstance(zero, AlarmError) and isinstance(other, AlarmError), (zero, other)
    assert str(zero) == str(other) and zero.alarm_event.alarm.id == f"nonfinite-{where}"
    assert all(torch.equal(weights, before[0]) for weights in (after[0], after[1], before[1]))
    assert zero.alarm_event.where == "; ".join(f"rank {rank}: {rows[rank]}" for rank in at_fault)


def test_a_lost_mask_names_the_rows_of_all_ranks() -> None:
    def train(world: ThreadWorld) -> None:
        rank = Rank(world)
        store = InMemoryTokenDataset(Example(f"x{n}", [1, 2, 3], [1, 1, 1], [False] * 3) for n in range(8))
        batches = Batches(store, EpochOrder(store.digest, 0, store.lengths, 8, False), 2, world=world)
        rank.update = train_update(rank.model, rank.optimizer, batches, build_schedule("constant", 3), world=world)
        rank.train()

    zero, other = run_ranks(train)
    assert isinstance(zero, AlarmError) and str(zero) == str(other)
    assert "no-content" in str(zero) and "rank 0: rows" in str(zero) and "; rank 1: rows" in str(zero)


# ---- signals, errors, evaluation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", [0, 1])
def test_a_ctrl_c_of_one_rank_stops_all_at_the_same_step(tmp_path: Path, main: int) -> None:
    """The signal reaches the main thread, which is one rank; the state is saved once."""

    def train(world: ThreadWorld, signalled: bool) -> Rank:
        rank = Rank(world)
        usual = rank.update

        def update(state: RunState, step: int) -> dict[str, float]:
            if signalled and step == 4 and world.rank == main:
                signal.raise_signal(signal.SIGTERM)
            return usual(state, step)

        rank.update = update
        rank.train(checkpoint_dir=tmp_path)
        return rank

    errors = run_ranks(lambda world: train(world, True), main=main)
    assert all(isinstance(error, Interrupted) for error in errors), errors
    assert {str(error) for error in errors} == {"interrupted at step 5 of 12; the state is saved"}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    one = Rank(Alone())
    one.train()
    for rank in run_ranks(lambda world: train(world, False)):
        assert isinstance(rank, Rank), rank
        torch.testing.assert_close(rank.weights, one.weights, rtol=0, atol=1e-6)


FAILURES = {
    "data": "a shard is gone", "forward": "out of memory", "buffers": "no room for them", "norm": "no room for a norm",
    "sums": "no room for sums", "optimizer": "no room for moments", "update": "a reward failed",
    "progress": "a closed pipe", "log": "a full disk", "evaluation": "no test set",
}  # fmt: skip
BETWEEN_EXCHANGES = {
    "buffers": (data_parallel, "_flat_gradients"), "norm": (update_module, "gradient_norm"),
    "sums": (StepSums, "_values"), "optimizer": (OptimizerSet, "step"),
}  # fmt: skip
"""What an update does in functions of its own, after it has met the others and before it meets them again."""


@pytest.mark.parametrize("place", FAILURES)
def test_an_error_of_one_rank_is_raised_in_all(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes up: nobody waits for ever. Update and evaluation of a caller may exchange, and therefore see to
    the rest themselves."""
    faulty = 0 if place in ("progress", "log") else 1  # what only rank 0 does
    fails = threading.local()  # of this rank
    if place in BETWEEN_EXCHANGES:
        owner, name = BETWEEN_EXCHANGES[place]
        usual_part = getattr(owner, name)

        def part(*args: Any) -> Any:
            fails.here(place)
            return usual_part(*args)

        monkeypatch.setattr(owner, name, part)

    def train(world: ThreadWorld) -> None:
        def fail(where: str, step: int = 2) -> None:
            if (where, world.rank, rank.state.step) == (place, faulty, step):
                raise RuntimeError(FAILURES[place])

        def objective(model: Any, batch: Any) -> Any:
            fail("forward")
            return lm_objective(model, batch)

        def batches(step: int) -> Any:
            fail("data")
            return usual_batches(step)

        def update(state: RunState, step: int) -> dict[str, float]:
            metrics = usual_update(state, step)
            together(world, lambda: fail("update"))
            return metrics

        def log(event: str, **fields: Any) -> None:
            fail("log")

        def evaluate(state: RunState) -> dict[str, float]:
            together(world, lambda: fail("evaluation"))
            return {}

        rank = Rank(world)
        fails.here = fail
        usual_batches = rank.batches
        usual_update = train_update(
            rank.model, rank.optimizer, batches, build_schedule("constant", 9), objective=objective, world=world
        )
        run(
            update, rank.state, 9, log=log, evaluate=evaluate, evaluate_every=2, world=world,
            progress=lambda *_, **__: fail("progress"),
        )  # fmt: skip

    started = time.monotonic()
    errors = run_ranks(train)
    assert time.monotonic() - started < 15, "one waited until its time was over"
    assert isinstance(errors[faulty], RuntimeError) and str(errors[faulty]) == FAILURES[place]
    assert isinstance(errors[1 - faulty], Stopped), errors
    assert str(errors[1 - faulty]) == f"the process of rank {faulty} failed: {FAILURES[place]}"


def test_update_and_evaluation_may_exchange(tmp_path: Path) -> None:
    """Also where one comes later to its exchange, and fails in it like all others."""

    def train(world: ThreadWorld, until: int) -> list[str]:
        def fail() -> None:
            if world.rank and rank.state.step == 5:
                raise RuntimeError("no test set")

        def evaluate(state: RunState) -> dict[str, float]:
            together(world, fail)
            return {"ranks": float(world.sum(torch.ones(1)))}

        rank = Rank(world)
        rank.train(until, evaluate=evaluate, checkpoint_dir=tmp_path)
        return [row["ranks"] for row in rank.named("eval")]

    assert run_ranks(lambda world: train(world, 3)) == [[2.0, 2.0], []]
    assert [str(error) for error in run_ranks(lambda world: train(world, 5))] == [
        "the process of rank 1 failed: no test set",
        "no test set",
    ]


def test_all_ranks_take_part_in_the_state_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold a part of it; one writes."""
    asked: list[bool] = []
    usual = RunState.state_dict

    def state_dict(state: RunState) -> dict[str, Any]:
        asked.append(threading.current_thread() is threading.main_thread())
        return usual(state)

    monkeypatch.setattr(RunState, "state_dict", state_dict)
    run_ranks(lambda world: Rank(world).train(2, checkpoint_dir=tmp_path))
    assert sorted(asked) == [False, True]


def test_what_sharded_models_compute_asks_nobody_else(tmp_path: Path) -> None:
    """Their passes exchange by themselves, so an error is the process's own; that of whole models is everybody's."""

    def child() -> None:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        whole, sharded = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        assert is_sharded(sharded) and not is_sharded(whole)
        world = Echo(0, 2)
        for models, calls in (([whole], ["any"]), ([whole, sharded], [])):
            world.calls.clear()
            assert guarded(world, models, lambda: 3) == 3
            assert world.calls == calls
        distributed.destroy_process_group()

    assert exit_codes(child) == [0]


def test_a_mistake_of_the_users_is_the_same_in_all() -> None:
    def work(world: ThreadWorld) -> None:
        def fail() -> None:
            if world.rank == 1:
                raise UserError("it is not a corpus", where="my.jsonl", expected="text", hint="give text")

        together(world, fail)

    zero, other = run_ranks(work)
    assert isinstance(zero, UserError) and isinstance(other, UserError)
    assert str(zero) == str(other) == "my.jsonl: it is not a corpus\n  expected: text\n  hint: give text"
    assert (zero.where, zero.hint, zero.exit_code) == ("my.jsonl", "give text", 2)


def test_evaluation_is_at_the_same_steps_in_all_and_logged_once() -> None:
    seen: dict[int, list[int]] = {0: [], 1: []}

    def train(world: ThreadWorld) -> Rank:
        rank = Rank(world)
        shown: list[int] = []

        def evaluate(state: RunState) -> dict[str, float]:
            seen[world.rank].append(state.step)
            torch.rand(1 + world.rank)
            return {"loss": float(world.rank)}

        rank.train(7, evaluate=evaluate, evaluate_every=3, progress=lambda done, total, **_: shown.append(done))
        assert shown == ([] if world.rank else list(range(1, 8)))
        return rank

    zero, other = run_ranks(train)
    assert isinstance(zero, Rank) and isinstance(other, Rank), (zero, other)
    assert seen == {0: [0, 3, 6, 7], 1: [0, 3, 6, 7]} and other.events == []
    assert [(row["step"], row["loss"]) for row in zero.named("eval")] == [(0, 0.0), (3, 0.0), (6, 0.0), (7, 0.0)]
    assert torch.equal(zero.weights, other.weights)


def test_a_world_of_one_exchanges_nothing() -> None:
    world = Alone()
    tensor = torch.ones(2)
    assert world.sum(tensor) is tensor and world.gather(3) == [3] and world.agree(4) == 4
    assert [world.any(flag) for flag in (True, False)] == [True, False]
    with pytest.raises(ZeroDivisionError):
        together(world, lambda: 1 / 0)


# ---- real processes -------------------------------------------------------------------------------------------------


def exit_codes(*works: Callable[[], None]) -> list[int]:
    """Return the exit code of each work, done in a process of its own; all run at once."""
    children = []
    for work in works:
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_two_real_processes_train_as_one(tmp_path: Path) -> None:
    """Over gloo; then one of them fails, and both stop."""

    def child(rank: int) -> None:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=rank, world_size=2)
        world = ProcessGroup()
        training = Rank(world)
        training.train(6, checkpoint_dir=tmp_path / "checkpoints")
        torch.save((training.weights, training.state.numbers["last"]), tmp_path / f"{rank}.pt")
        training.update = lambda state, step: together(world, lambda: {"loss": 1.0 / (1 - rank)})
        with pytest.raises((ZeroDivisionError, Stopped), match="division by zero"):
            training.train(8)
        distributed.destroy_process_group()

    assert exit_codes(lambda: child(0), lambda: child(1)) == [0, 0]
    one = Rank(Alone())
    one.train(6)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    torch.testing.assert_close(found[0][0], one.weights, rtol=0, atol=1e-6)
    assert found[0][1] == pytest.approx(one.state.numbers["last"], rel=1e-6)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]
