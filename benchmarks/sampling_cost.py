"""What sampling a token costs, at Qwen's full vocabulary: milliseconds beside those of one decode step.

    python benchmarks/sampling_cost.py [--threads 2] [--rows 1,32] [--step-ms 45]

Random logits in two forms: peaked as a language model's (a few words hold most of the probability), rounded to bf16 as
the head gives them, and flat. `--step-ms` is the decode step of one row that the cost is compared with: 45 ms are
Qwen2-0.5B's in bf16, 1 GB of weights at 22 GB/s. The last line is the highest share of the peaked rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from qwenkit.inference import SamplingParams
from qwenkit.inference.sampler import Sampler
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.inference.token_counts import TokenCounts
from qwenkit.prompt import Prompt

VOCABULARY, WORDS = 151_936, 151_851
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logprobs": False},
    "greedy, log-probability": {"temperature": 0},
    "temperature 1": {},
    "top-k 20, top-p 0.8": {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
    "the same, repetition 1.05": {"top_k": 20, "top_p": 0.8, "temperature": 0.7, "repetition_penalty": 1.05},
    "top-p 0.95": {"top_p": 0.95},
    "min-p 0.05": {"min_p": 0.05},
    "frequency 0.5, presence 0.5": {"frequency_penalty": 0.5, "presence_penalty": 0.5},
    "top 20 log-probabilities": {"temperature": 0, "logprobs": 20},
}
REPEATS = 15


def peaked(rows: int, seed: int) -> Tensor:
    """Logits of bf16: normal ones, and a head that falls like one over the rank."""
    generator = torch.Generator().manual_seed(seed)
    logits_BV = torch.randn(rows, VOCABULARY, generator=generator) * 2
    places = torch.randint(0, WORDS, (rows, 200), generator=generator)
    head_BN = (24 - 2.2 * torch.arange(1, 201).log()).expand(rows, -1)
    return logits_BV.scatter(1, places, head_BN).bfloat16().float()


def flat(rows: int, seed: int) -> Tensor:
    """Logits of a model that knows nothing."""
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def sequences(rows: int, params: SamplingParams) -> list[Sequence]:
    """Requests with a prompt of 1,000 tokens and an answer of 200."""
    made: list[Sequence] = []
    for row in range(rows):
        prompt = Prompt(tuple(i * 37 % WORDS for i in range(1000)))
        request = Request(row, f"prompt {row}", prompt, params, 10**6, frozenset())
        penalized = params.repetition_penalty != 1 or params.frequency_penalty
        sequence = Sequence(request, 0, None, TokenCounts(prompt.ids) if penalized else None)
        for i in range(200):
            sequence.append(i * 91 % WORDS, 0.0)
        made.append(sequence)
    return made


def milliseconds(logits_BV: Tensor, params: SamplingParams) -> tuple[float, float, float]:
    """The lowest, the median and the highest of several steps."""
    sampler, batch, times = Sampler(WORDS), sequences(len(logits_BV), params), []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        sampler.append_tokens(batch, logits_BV)
        times.append(1000 * (time.perf_counter() - start))
    return min(times[2:]), statistics.median(times[2:]), max(times[2:])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="1,32")
    parser.add_argument("--step-ms", type=float, default=45.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shares: list[float] = []
    print(f"torch {torch.__version__}, {given.threads} threads, {VOCABULARY:,} logits a row\n")
    print("| rows | logits | case | lowest ms | median ms | highest ms | share of a step of one row |")
    print("|---|---|---|---|---|---|---|")
    for rows in map(int, given.rows.split(",")):
        for logits in (peaked, flat):
            logits_BV = logits(rows, seed=0)
            for name, values in CASES.items():
                lowest, median, highest = milliseconds(logits_BV, SamplingParams.plain(seed=0, **values))
                share = median / given.step_ms
                shares += [share] if rows == 1 and logits is peaked else []
                times = f"{lowest:.2f} | {median:.2f} | {highest:.2f}"
                print(f"| {rows} | {logits.__name__} | {name} | {times} | {share:.1%} |", flush=True)
    print(f"\nhighest share, one row, peaked: {max(shares, default=float('nan')):.1%} of {given.step_ms:g} ms")


if __name__ == "__main__":
    main()
