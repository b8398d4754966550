"""Collecting: the prompts of a step in, trajectories out (report §3.2.2: two responses a query, top-p 0.9).

    prompts = Prompts(ids_lists, per_step=64, seed=0, rows=rows)       # which are asked in step s is a pure function
    collect = SingleTurn(im_end_id=im_end_id, samples=2, max_tokens=40, top_p=0.9, temperature=1.0)
    batch = collect(engine, prompts, step)

`Collector` is the seam: whoever turns prompts into trajectories, whether by one answer each (`SingleTurn`) or by a loop
of calls and results that samples several turns. Tokens go in and come out as ids: what was sampled is never decoded and
encoded again between sampling and learning.

Draws depend on (seed, step, place of the prompt in the step, sample, position) and on nothing else, so a resumed run
samples what the uninterrupted one would have. Log-probabilities are the model's own, at temperature 1 and without
truncation, although the tokens were drawn from the truncated distribution: the ratio of PPO is taken between full
distributions, as everywhere in the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from qwenkit.alignment.trajectories import Trajectories
from qwenkit.alignment.trajectory import Trajectory
from qwenkit.data.shuffled_order import ShuffledOrder, step_numbers
from qwenkit.errors import UserError
from qwenkit.inference import SamplingParams
from qwenkit.inference.outputs import Output, Sample
from qwenkit.records import Row
from qwenkit.rng import derive_seed


class Prompts:
    """Rendered prompts as ids, their rows of data, and which of them each step asks: every prompt once an epoch
    (`data.shuffled_order.ShuffledOrder`). Prompts longer than `max_tokens` are left out and counted in `too_long`."""

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        per_step: int,
        seed: int,
        max_tokens: int | None = None,
        rows: Sequence[Row] | None = None,
    ) -> None:
        """Keep the prompts that fit; raises a `UserError` where none does."""
        fits = [number for number, prompt in enumerate(ids) if max_tokens is None or len(prompt) <= max_tokens]
        if not fits:
            raise UserError("there is no prompt to answer", expected=f"at least one of 1 to {max_tokens} tokens")
        self.ids, self.numbers, self.too_long = [list(ids[number]) for number in fits], fits, len(ids) - len(fits)
        self.rows: list[Row] = [{} if rows is None else rows[number] for number in fits]
        self.per_step, self.seed = per_step, derive_seed(seed, "prompts")
        self.order = ShuffledOrder(len(self.ids), self.seed)

    def at(self, step: int) -> list[int]:
        """Return the prompts of a step as indices of `ids` and `rows` (`numbers` maps these to the caller's
        numbering)."""
        return self.order.at(step, self.per_step)

    def rng_ids(self, step: int) -> list[int]:
        """Return a number for each prompt of a step that no other step uses: the random draws are made from it."""
        return list(step_numbers(step, self.per_step))


def longest_prompt(ids: Sequence[Sequence[int]], seq_length: int, max_tokens: int) -> int:
    """Return how many tokens a prompt may have so that it fits into `seq_length` tokens with an answer of `max_tokens`;
    raises a `UserError` where no prompt is that short."""
    most, shortest = seq_length - max_tokens, min(map(len, ids), default=0)
    if shortest > most:
        raise UserError(
            f"no prompt fits: the shortest has {shortest} tokens, `seq_length` = {seq_length} less "
            f"`max_tokens` = {max_tokens} leaves {max(0, most)}",
            hint="raise `seq_length`, or lower `max_tokens`",
        )
    return most


class RolloutEngine(Protocol):
    """What samples for a policy: `inference.Engine` is one."""

    def update_weights(self) -> None:
        """Take over the policy's present weights; later outputs carry a new version."""
        ...

    def release_cache(self) -> None:
        """Give back what memory only sampling needs, until the next call."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, rng_ids: Sequence[int], /
    ) -> Sequence[Output]:
        """Return the samples of each prompt with their log-probabilities."""
        ...


class Collector(Protocol):
    """What turns the prompts of a step into trajectories: one answer each, or several turns with tools between."""

    def __call__(self, sampler: RolloutEngine, prompts: Prompts, step: int, /) -> Trajectories:
        """Return the trajectories of a step, those of a prompt together; a pure function of weights, seed and step."""
        ...


@dataclass(frozen=True, kw_only=True)
class SingleTurn:
    """The collector of one answer a sample: it ends at `im_end_id`, or any of `stop_token_ids`, or the limit.

    `decode` gives rewards the text of what was sampled; it must leave special tokens out."""

    im_end_id: int
    samples: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None

    def __call__(self, sampler: RolloutEngine, prompts: Prompts, step: int, /) -> Trajectories:
        """Return `samples` answers to each prompt of a step."""
        params = SamplingParams.plain(n=self.samples, max_tokens=self.max_tokens, temperature=self.temperature,
                                      top_p=self.top_p, stop_token_ids=(self.im_end_id, *self.stop_token_ids),
                                      logprobs=True, seed=derive_seed(prompts.seed, "responses"))  # fmt: skip
        chosen = prompts.at(step)
        with torch.inference_mode():
            outputs = sampler.generate([prompts.ids[i] for i in chosen], params, prompts.rng_ids(step))
        return Trajectories.of([
            self._trajectory(prompts, i, output, sample, number)
            for i, output in zip(chosen, outputs, strict=True)
            for number, sample in enumerate(output.samples)
        ])  # fmt: skip

    def _trajectory(self, prompts: Prompts, i: int, output: Output, sample: Sample, number: int) -> Trajectory:
        before, count = len(output.prompt_ids), len(sample.ids)
        return Trajectory(
            ids=(*output.prompt_ids, *sample.ids),
            sampled=(False,) * before + (True,) * count,
            logprobs=tuple(sample.logprobs or ()),
            weight_versions=(output.version,) * count,
            finish_reason=sample.finish_reason,
            ended=sample.ids[-1:] == [self.im_end_id],
            row=prompts.rows[i],
            prompt=prompts.numbers[i],
            sample=number,
            turns=(self.decode(sample.ids),) if self.decode else (),
        )
