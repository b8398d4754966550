"""Resume is the same run: bit for bit, through kills, signals and evaluation."""

import os
import signal

import pytest
import torch

from qwenkit.errors import Interrupted, UserError
from qwenkit.training import (
    RunState,
    Sentinel,
    build_optimizer,
    build_schedule,
    load_checkpoint,
    mean_loss,
    run,
    train_update,
)
from qwenkit.training.batches import validation_batches
from tests.training.conftest import VOCAB, Run


def train(training, until=12, **options):
    return run(training.update, training.state, until, log=training.log, sentinel=Sentinel(VOCAB), seed=7, **options)


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    training = Run()
    train(training)
    return training


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_two_runs_are_the_same_bits(optimizer):
    one, two = Run(optimizer=optimizer), Run(optimizer=optimizer)
    train(one, 5)
    torch.rand(100)  # whatever else drew from torch's generator
    train(two, 5)
    assert one.losses == two.losses and torch.equal(one.weights, two.weights)


def test_dropout_and_the_seed_matter(uninterrupted):
    other = Run()
    run(other.update, other.state, 3, log=other.log, seed=8)
    assert other.losses != uninterrupted.losses[:3]


@pytest.mark.parametrize("killed_at", [1, 6, 11])
def test_killed_and_resumed_is_uninterrupted(uninterrupted, tmp_path, killed_at):
    child = os.fork()
    if child == 0:
        training = Run()
        update = training.update

        def dying(state, step):
            if step == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(state, step)

        training.update = dying
        train(training, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    resumed = Run()
    resumed.model.model.embed_tokens.weight.data.zero_()  # nothing of a fresh start may survive
    train(resumed, checkpoint_dir=tmp_path)
    assert resumed.named("resumed") == [{"event": "resumed", "step": killed_at}]
    assert resumed.losses == uninterrupted.losses[killed_at:]
    assert torch.equal(resumed.weights, uninterrupted.weights)
    assert resumed.state.numbers == uninterrupted.state.numbers
    assert (
        resumed.state.tokens == uninterrupted.state.tokens == sum(row["tokens"] for row in uninterrupted.named("step"))
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_rest_is_the_same(uninterrupted, tmp_path, number):
    first = Run()
    update, usual = first.update, signal.getsignal(number)

    def signalled(state, step):
        if step == 4:
            os.kill(os.getpid(), number)
        return update(state, step)

    first.update = signalled
    with pytest.raises(Interrupted, match="step 5 of 12"):
        train(first, checkpoint_dir=tmp_path)
    assert signal.getsignal(number) == usual
    second = Run()
    train(second, checkpoint_dir=tmp_path)
    assert first.losses + second.losses == uninterrupted.losses
    assert torch.equal(second.weights, uninterrupted.weights)


@pytest.mark.parametrize("last", [6, 12])
def test_an_interrupt_loses_no_evaluation(uninterrupted, tmp_path, last):
    """Neither that of its own step nor the last one."""
    options = {"checkpoint_dir": tmp_path, "evaluate": lambda state: {"at": state.step}, "evaluate_every": 3}
    first, second = Run(), Run()
    update = first.update

    def signalled(state, step):
        if step == last - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(state, step)

    first.update = signalled
    with pytest.raises(Interrupted):
        train(first, **options)
    train(second, **options)
    assert [row["at"] for run in (first, second) for row in run.named("eval")] == [0, 3, 6, 9, 12]


@pytest.fixture
def foreground():
    """SIGINT as in a program of the foreground: a shell's background job inherits that it is ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def test_a_second_interrupt_stops_at_once(tmp_path, foreground):
    training = Run()

    def stubborn(state, step):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return {}

    training.update = stubborn
    with pytest.raises(KeyboardInterrupt):
        train(training, checkpoint_dir=tmp_path)


def test_a_finished_run_does_nothing_again(tmp_path):
    first, second = Run(), Run()
    metrics = train(first, checkpoint_dir=tmp_path)
    assert train(second, checkpoint_dir=tmp_path) == metrics and second.losses == []
    assert torch.equal(first.weights, second.weights)


def test_evaluation_leaves_no_trace(uninterrupted):
    training = Run()

    def evaluate(state):
        torch.rand(3)
        state.modules["model"].eval()
        return mean_loss(state.modules["model"], validation_batches(training.store, 32, 8, split_documents=True))

    train(training, evaluate=evaluate, evaluate_every=5)
    assert [row["step"] for row in training.named("eval")] == [0, 5, 10, 12]
    assert training.losses == uninterrupted.losses


def test_events_progress_and_metrics():
    training, seen = Run(), []
    last = train(training, 3, progress=lambda done, total, **metrics: seen.append((done, total, metrics["loss"])))
    steps = training.named("step")
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert {"loss", "grad_norm", "lr", "tokens", "supervised", "tokens_per_second", "seconds"} <= steps[0].keys()
    assert "seconds" not in last and last["loss"] == steps[-1]["loss"]
    assert seen == [(n, 3, row["loss"]) for n, row in enumerate(steps, 1)]


def test_it_learns():
    training = Run(total=60, dropout=0.0, lr=0.03)
    train(training, 60)
    assert training.losses[-1] < 0.5 * training.losses[0]


def test_bf16_autocast_and_micro_batches_follow_float32():
    full, half = Run(dropout=0.0), Run(dropout=0.0, dtype=torch.bfloat16)
    half.batches.micro_batch_size = 4
    train(full, 8)
    train(half, 8)
    assert half.losses == pytest.approx(full.losses, rel=0.01) and half.losses != full.losses


def frozen_run() -> Run:
    """A training of the upper layer alone."""
    training = Run()
    training.model.model.embed_tokens.requires_grad_(False)
    training.model.model.layers[0].requires_grad_(False)
    training.optimizer = build_optimizer(training.model, "muon", 0.01)
    training.state = RunState({"model": training.model}, {"main": training.optimizer})
    training.update = train_update(
        training.model, training.optimizer, training.batches, build_schedule("cosine", 12, warmup=2)
    )
    return training


def test_frozen_layers_are_in_no_checkpoint_and_resume_is_the_same_run(tmp_path):
    whole, first, second = frozen_run(), frozen_run(), frozen_run()
    train(whole)
    train(first, 5, checkpoint_dir=tmp_path)
    saved = load_checkpoint(tmp_path / "step-00000005")["run"]
    trained = {name for name, parameter in first.model.named_parameters() if parameter.requires_grad}
    assert 0 < len(trained) < len(first.model.state_dict())
    assert saved["modules"]["model"].keys() == trained == saved["optimizers"]["main"]["state"].keys()
    assert len(first.optimizer.parameters) == len(trained)
    train(second, checkpoint_dir=tmp_path)
    assert second.losses == whole.losses[5:] and torch.equal(second.weights, whole.weights)
    start = frozen_run().model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(second.model.model.layers[0].mlp.up_proj.weight, start)


def test_a_checkpoint_of_other_trained_parts_is_refused_by_name(tmp_path):
    train(frozen_run(), 2, checkpoint_dir=tmp_path)
    with pytest.raises(UserError) as caught:
        train(Run(), 4, checkpoint_dir=tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: nothing is saved for model.embed_tokens.weight, model.layers.0.")
    assert "of the module `model`" in str(caught.value) and "hint: train the same parameters" in str(caught.value)


def test_tokens_and_skipped_steps_are_counted_and_resumed(tmp_path):
    def update(state, step):
        return {"loss": 1.0, "tokens": 10 + step, **({"skipped": 1} if step % 3 == 1 else {})}

    first, second = Run(), Run()
    for training, until in ((first, 5), (second, 8)):
        run(update, training.state, until, log=training.log, checkpoint_dir=tmp_path)
    assert (first.state.tokens, first.state.skipped_steps) == (60, 2)
    assert (second.state.tokens, second.state.skipped_steps) == (60 + 15 + 16 + 17, 3)
