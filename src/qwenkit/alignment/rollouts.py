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

from qwenkit.alignment.padding import pad_right
from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.rng import derive_seed, permutation


class Prompts:
    """Rendered prompts and the order in which steps ask them: a new permutation every epoch. Prompts longer than
    `max_tokens` are left out and counted in `too_long`."""

    def __init__(self, ids: Sequence[Sequence[int]], per_step: int, seed: int, max_tokens: int | None = None) -> None:
        fits = [row for row, prompt in enumerate(ids) if max_tokens is None or len(prompt) <= max_tokens]
        if not fits:
            raise UserError("there is no prompt to answer", expected=f"at least one of 1 to {max_tokens} tokens")
        self.ids, self.rows, self.too_long = [list(ids[row]) for row in fits], fits, len(ids) - len(fits)
        self.per_step, self.seed = per_step, derive_seed(seed, "prompts")

    def at(self, step: int) -> list[int]:
        """The prompts of a step, as places in `ids` (`rows` maps these to the caller's numbering)."""
        places = range(step * self.per_step, (step + 1) * self.per_step)
        orders = {epoch: permutation(self.seed, len(self.ids), epoch) for epoch in {p // len(self.ids) for p in places}}
        return [int(orders[place // len(self.ids)][place % len(self.ids)]) for place in places]

    def requests(self, step: int) -> list[int]:
        """A number for each prompt of a step that no other step uses: the engine's draws are made from it."""
        return list(range(step * self.per_step, (step + 1) * self.per_step))


@dataclass
class Rollout:
    """Responses of one step. Row b answers prompt `prompts[b]`; the samples of a prompt stand together."""

    ids_BT: Tensor
    starts_B: Tensor
    """Length of each prompt: where its response begins."""
    mask_BR: Tensor
    """True at the response's tokens, `<|im_end|>` included."""
    logprobs_BR: Tensor
    finished_B: Tensor
    """Whether the response ended with `<|im_end|>` and was not cut by the length limit."""
    prompts: list[int]

    @property
    def lengths(self) -> list[int]:
        """Real tokens of each row."""
        return (self.starts_B + self.mask_BR.sum(1)).tolist()

    def select(self, rows: Sequence[int]) -> Rollout:
        """Some rows, cut to the longest of them."""
        at = torch.tensor(rows, device=self.ids_BT.device)
        starts_B, mask_BR = self.starts_B[at], self.mask_BR[at]
        mask_BR = mask_BR[:, : int(mask_BR.sum(1).max())]
        width = int((starts_B + mask_BR.sum(1)).max())
        return Rollout(self.ids_BT[at, :width], starts_B, mask_BR, self.logprobs_BR[at, : mask_BR.shape[1]],
                       self.finished_B[at], [self.prompts[row] for row in rows])  # fmt: skip

    @property
    def positions_BR(self) -> Tensor:
        """Where in a row each response token stands; padded places point at the row's last column."""
        index_R = torch.arange(self.mask_BR.shape[1], device=self.ids_BT.device)
        return (self.starts_B[:, None] + index_R).clamp(max=self.ids_BT.shape[1] - 1)

    @property
    def tokens_N(self) -> Tensor:
        """The response tokens of all rows, one after the other."""
        return self.ids_BT.gather(1, self.positions_BR)[self.mask_BR]

    def preceding_hidden(self, x_BT: Tensor) -> Tensor:
        """What a model read just before each response token, [N, ...]: the state in which the token was chosen."""
        positions_BR = self.positions_BR - 1
        rows_B1 = torch.arange(len(x_BT), device=x_BT.device)[:, None].expand_as(positions_BR)
        return x_BT[rows_B1[self.mask_BR], positions_BR[self.mask_BR]]

    def responses(self) -> list[list[int]]:
        """Response ids of each row, with their end token where there is one."""
        ends = self.lengths
        return [row[start:end] for row, start, end in zip(self.ids_BT.tolist(), self.starts_B.tolist(), ends)]

    def texts(self, im_end_id: int) -> list[list[int]]:
        """Prompt and response of each row, ending with `<|im_end|>` also where the response was cut: what a reward
        model reads."""
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
) -> Rollout:
    """Sample `samples` responses to each prompt of a step."""
    params = SamplingParams.plain(n=samples, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
                                  stop_token_ids=(im_end_id,), seed=derive_seed(prompts.seed, "responses"),
                                  logprobs=True)  # fmt: skip
    chosen = prompts.at(step)
    with torch.inference_mode():
        outputs = engine.generate([prompts.ids[i] for i in chosen], params, requests=prompts.requests(step))
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
