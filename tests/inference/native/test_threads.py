"""The threads of native code: one arithmetic in all of them, none too many, and children that have their own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.native import decoder as decoder_module
from qwenkit.inference.native.matrices import product, weights

from .conftest import Pages, make, needs_compiler, random_ids

pytestmark = needs_compiler
PARAMS = SamplingParams.plain(temperature=0, max_tokens=3, ignore_eos=True)


def threads_of_this_process() -> int:
    return len(os.listdir("/proc/self/task"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list threads")


@pytest.fixture
def flushing() -> Iterator[None]:
    """This thread takes small numbers for zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush small numbers")
    yield
    torch.set_flush_denormal(False)


def small_products(threads: int) -> torch.Tensor:
    """Products of about 1e-40, of many chunks."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 4096, bias=False)
    layer.weight.data.mul_(1e-20)
    return product(weights(layer), 1e-20 * torch.randn(3, 64), threads)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_small_numbers_are_kept_by_every_thread(threads: int) -> None:
    """Also by threads that one that flushes has made, and its own mode is left as it was."""
    wanted = small_products(1)
    assert (wanted != 0).float().mean() > 0.9 and wanted.abs().max() < 1e-37

    def flushed(found: list[torch.Tensor]) -> None:
        torch.set_flush_denormal(True)
        found.extend(small_products(threads) for _ in range(20))
        found.append(torch.tensor([1e-40]) * 0.5)  # by this thread of torch's

    found: list[torch.Tensor] = []
    thread = threading.Thread(target=flushed, args=(found,))
    thread.start()
    thread.join(60)
    assert len(found) == 21 and float(found.pop()) == 0
    assert all(torch.equal(one, wanted) for one in found)


@pytest.mark.usefixtures("flushing")
def test_a_step_does_not_depend_on_the_mode_of_its_caller() -> None:
    model, ids_T = make("qwen3"), random_ids(30)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e-39)
    flushed = Pages(model, threads=2).read(ids_T, [30])
    torch.set_flush_denormal(False)
    assert torch.equal(flushed, Pages(model, threads=1).read(ids_T, [30]))


def test_not_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "free_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    pages = Pages(make(), threads=None)  # pyright: ignore[reportArgumentType]
    assert pages.decoder.thread_count == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert pages.decoder.thread_count == 2
    assert Pages(make(), threads=5).decoder.thread_count == 5


@needs_proc
def test_engines_that_come_and_go_leave_no_threads() -> None:
    model = make("qwen2")
    Engine(model, None, kv_tokens=64).generate([[1, 2, 3]], PARAMS)
    before, answers = threads_of_this_process(), set()
    for _ in range(50):
        answers.add(tuple(Engine(model, None, kv_tokens=64).generate([[1, 2, 3]], PARAMS)[0].ids))
        gc.collect()
    assert len(answers) == 1 and threads_of_this_process() <= before


def test_engines_that_go_while_another_computes() -> None:
    """Steps of both take turns; the memory of one that is gone is not read."""
    pages, ids_T = Pages(make(), threads=2), random_ids(40)
    table, stop, wrong = pages.table(40), threading.Event(), []
    wanted = pages.read(ids_T, [40], table)

    def compute() -> None:
        while not stop.is_set():
            if not torch.equal(pages.read(ids_T, [40], table), wanted):
                wrong.append(1)

    thread = threading.Thread(target=compute)
    thread.start()
    for _ in range(30):
        other = Pages(make("qwen3"), threads=2)
        other.read(ids_T, [17, 23])
        del other
        gc.collect()
    stop.set()
    thread.join(60)
    assert not thread.is_alive() and not wrong


def run_python(program: str, *before: str, **environment: str) -> str:
    """What a program prints; it is killed after two minutes."""
    done = subprocess.run([*before, sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKED = """
import os, threading, time, torch
from tests.inference.native.conftest import Pages, make, random_ids
torch.set_num_threads(1)
pages = Pages(make(), threads=2)
table, ids, stop = pages.table(200), random_ids(200), threading.Event()
before = pages.read(ids, [200], table)

def compute():
    while not stop.is_set():
        pages.read(ids, [200], table)

thread = threading.Thread(target=compute)
thread.start()
for number in range(20):
    time.sleep(0.003 * (number % 4))
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(pages.read(ids, [200], table), before) else 1)
    end = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < end or os.kill(child, 9), "a child hangs"
        time.sleep(0.001)
    assert os.waitstatus_to_exitcode(done[1]) == 0
stop.set()
thread.join()
print("all")
"""


def test_children_of_a_fork_while_a_step_runs() -> None:
    assert run_python(FORKED) == "all\n"


POOL = """
import multiprocessing, torch
from tests.inference.native.conftest import Pages, make, random_ids
torch.set_num_threads(1)
pages = Pages(make(), threads=2)
table, ids = pages.table(40), random_ids(40)

def read(_):
    return pages.read(ids, [40], table).tolist()

before = read(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(read, range(4)).get(timeout=60) == [before] * 4
print("all")
"""


def test_a_pool_of_forked_processes() -> None:
    assert run_python(POOL) == "all\n"


ONE_CORE = """
import os, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tests.inference.native.conftest import Pages, make, random_ids
ids = random_ids(60)
alone = Pages(make(), threads=1).read(ids, [30, *[1] * 30])
assert torch.equal(Pages(make(), threads=16).read(ids, [30, *[1] * 30]), alone)
torch.set_num_threads(8)
print(Pages(make(), threads=None).decoder.thread_count)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not bind processes to cores")
def test_sixteen_threads_on_one_core() -> None:
    assert run_python(ONE_CORE) == "1\n"
