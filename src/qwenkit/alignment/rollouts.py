"""Rollouts: prompts in, sampled responses out, as padded tensors (report §3.2.2: two responses a query, top-p 0.9).

    prompts = Prompts(ids_lists, per_step=64, seed=0)          # the prompts of step s: a pure function of (seed, s)
    batch = rollout(engine, prompts, step, samples=2, max_tokens=40, top_p=0.9, temperature=1.0, im_end_id=im_end_id)

Draws depend on (seed, step, place of the prompt in the step, sample, position) and on nothing else, so a resumed run
samples what the uninterrupted one would have. Tokens go in and come out as ids: a response is never decoded and encoded
again between sampling and learning.

`logprobs_BR` are the model's own, at temperature 1 and without truncation, although the tokens were drawn from the
truncated distribution: the ratio of PPO is taken between full distributions, as everywhere in the field.

Legend: B responses, T tokens (prompt and response, right-padded), R response tokens (padded right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwenkit.data.order import ShuffledOrder
from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model.batching import pad_right
from qwenkit.rng import derive_seed


class Prompts:
    """Rendered prompts as ids, and which of them each step asks: every prompt once an epoch (`ShuffledOrder`). Prompts
    longer than `max_tokens` are left out and counted in `too_long`."""

    def __init__(self, ids: Sequence[Sequence[int]], per_step: int, seed: int, max_tokens: int | None = None) -> None:
        """Keep the prompts that fit; raises a `UserError` where none does."""
        fits = [row for row, prompt in enumerate(ids) if max_tokens is None or len(prompt) <= max_tokens]
        if not fits:
            raise UserError("there is no prompt to answer", expected=f"at least one of 1 to {max_tokens} tokens")
        self.ids, self.rows, self.too_long = [list(ids[row]) for row in fits], fits, len(ids) - len(fits)
        self.per_step, self.seed = per_step, derive_seed(seed, "prompts")
        self.order = ShuffledOrder(len(self.ids), self.seed)

    def at(self, step: int) -> list[int]:
        """Return the prompts of a step as indices of `ids` (`rows` maps these to the caller's numbering)."""
        return self.order.at(step, self.per_step)

    def rng_ids(self, step: int) -> list[int]:
        """Return a number for each prompt of a step that no other step uses: the random draws are made from it."""
        return list(range(step * self.per_step, (step + 1) * self.per_step))


@dataclass
class Rollout:
    """Responses of one step. Row b answers prompt `prompts[b]`; the samples of a prompt stand together.

    Three shapes hold the same tokens: [B, T] rows as the models read them, [B, R] responses alone, left-aligned, and
    [N] the real response tokens, row after row. For two prompts (p, q) with responses of 2 and 3 tokens:

        ids_BT        p p p a b .        starts_B      3        mask_BR       1 1 0
                      q q c d e .                      2                      1 1 1
        positions_BR  3 4 5              tokens_N      a b c d e
                      2 3 4              preceding_hidden(x_BT)    x at positions 2 3 | 1 2 3

    A model chooses the token at position t from its state at t - 1: hence `preceding_hidden`.
    """

    ids_BT: Tensor
    """Prompt and response of each row, right-padded."""
    starts_B: Tensor
    """Length of each prompt: the position at which its response begins."""
    mask_BR: Tensor
    """True at the tokens of the response, its end token included; a row is a run of true, then false."""
    logprobs_BR: Tensor
    """The sampler's log-probability of each response token, in nats."""
    finished_B: Tensor
    """[B], true where the response ended with `<|im_end|>`: not at the length limit, nor with another stop token."""
    prompts: list[int]
    """The index of each row's prompt in `Prompts.ids`."""

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each row, without padding."""
        return (self.starts_B + self.mask_BR.sum(1)).tolist()

    def select(self, rows: Sequence[int]) -> Rollout:
        """Return some rows, in the order given, cut to the longest of them."""
        at = torch.tensor(rows, device=self.ids_BT.device)
        starts_B, mask_BR = self.starts_B[at], self.mask_BR[at]
        mask_BR = mask_BR[:, : int(mask_BR.sum(1).max())]
        width = int((starts_B + mask_BR.sum(1)).max())
        return Rollout(self.ids_BT[at, :width], starts_B, mask_BR, self.logprobs_BR[at, : mask_BR.shape[1]],
                       self.finished_B[at], [self.prompts[row] for row in rows])  # fmt: skip

    @property
    def positions_BR(self) -> Tensor:
        """Return the position [B, R] of each response token in its row; padding points at the last column."""
        index_R = torch.arange(self.mask_BR.shape[1], device=self.ids_BT.device)
        return (self.starts_B[:, None] + index_R).clamp(max=self.ids_BT.shape[1] - 1)

    @property
    def tokens_N(self) -> Tensor:
        """Return the response tokens [N] of all rows, row after row."""
        return self.ids_BT.gather(1, self.positions_BR)[self.mask_BR]

    def preceding_hidden(self, x_BT: Tensor) -> Tensor:
        """Return x [N, ...] at the position before each response token: the state that chose the token."""
        previous_BR = self.positions_BR - 1
        rows_B1 = torch.arange(len(x_BT), device=x_BT.device)[:, None].expand_as(previous_BR)
        return x_BT[rows_B1[self.mask_BR], previous_BR[self.mask_BR]]

    def responses(self) -> list[list[int]]:
        """Return the ids of each response, with its end token where there is one."""
        ends = self.lengths
        return [row[start:end] for row, start, end in zip(self.ids_BT.tolist(), self.starts_B.tolist(), ends)]

    def texts(self, im_end_id: int) -> list[list[int]]:
        """Return the prompt and response of each row as a reward model reads them: ending with `<|im_end|>`, also where
        the response did not."""
        rows = [row[:end] for row, end in zip(self.ids_BT.tolist(), self.lengths)]
        return [row if done else [*row, im_end_id] for row, done in zip(rows, self.finished_B.tolist())]


def rollout(
    engine: Engine,
    prompts: Prompts,
    step: int,
    *,
    samples: int,
    max_tokens: int,
    top_p: float,
    temperature: float,
    im_end_id: int,
    stop_token_ids: Sequence[int] = (),
) -> Rollout:
    """Sample `samples` responses to each prompt of a step; they end at `im_end_id` or any of `stop_token_ids`."""
    params = SamplingParams.plain(n=samples, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
                                  stop_token_ids=(im_end_id, *stop_token_ids), logprobs=True,
                                  seed=derive_seed(prompts.seed, "responses"))  # fmt: skip
    chosen = prompts.at(step)
    with torch.inference_mode():
        outputs = engine.generate([prompts.ids[i] for i in chosen], params, rng_ids=prompts.rng_ids(step))
    answers = [(i, output.prompt_ids, sample) for i, output in zip(chosen, outputs) for sample in output.samples]
    device = next(engine.model.parameters()).device
    ids_BT, _ = pad_right([[*prompt, *sample.ids] for _, prompt, sample in answers], device)
    lengths_B = torch.tensor([len(sample.ids) for _, _, sample in answers], device=device)
    mask_BR = torch.arange(int(lengths_B.max()), device=device) < lengths_B[:, None]
    logprobs_BR = torch.zeros(mask_BR.shape, device=device)
    logprobs_BR[mask_BR] = torch.tensor([x for _, _, sample in answers for x in sample.logprobs or ()], device=device)
    return Rollout(
        ids_BT=ids_BT,
        starts_B=torch.tensor([len(prompt) for _, prompt, _ in answers], device=device),
        mask_BR=mask_BR,
        logprobs_BR=logprobs_BR,
        finished_B=torch.tensor([sample.ids[-1] == im_end_id for _, _, sample in answers], device=device),
        prompts=[i for i, _, _ in answers],
    )
