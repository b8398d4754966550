"""Comparisons of a policy's own answers (report §3.2.1): sample answers by several strategies, score them as annotators
would, and form pairs. Here the rubric of each prompt is the annotator.

    rows = annotate(engine, prompts, temperatures=[0.7, 1.0], samples=4, max_tokens=512, seed=1)
    pairs, counts = choose_pairs(rows, most=800, strategy="adjacent", min_margin=0.05, pairs_per_prompt=2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qwenkit.alignment.comparisons import make_pairs
from qwenkit.errors import UserError
from qwenkit.evaluation.chat_answers import answers
from qwenkit.evaluation.rubric import ScoredAnswer, scored_answer
from qwenkit.records import Row
from qwenkit.rng import derive_seed, permutation

if TYPE_CHECKING:
    from qwenkit.inference import Engine

BLOCK = 64
"""Prompts that are answered by one call of the engine."""


def draw_prompts(prompts: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return at most `count` prompts, in the order of a draw."""
    return [prompts[number] for number in permutation(derive_seed(seed, "prompts"), len(prompts))[:count]]


def annotate(
    engine: Engine,
    prompts: Sequence[Row],
    *,
    temperatures: Sequence[float],
    samples: int,
    max_tokens: int,
    others: bool = True,
    seed: int = 0,
    progress: Callable[..., None] = lambda *_, **__: None,
) -> list[Row]:
    """Return the prompts with their `answers`: `samples` at each temperature, each scored by the prompt's rubric.

    With `others` the answers of other policies that a prompt carries (`candidates`) are scored too.
    """
    scored = _sampled(engine, prompts, temperatures, samples, max_tokens, seed, progress)
    for row, of_prompt in zip(prompts, scored):
        candidates = row.get("candidates", []) if others else []
        of_prompt += [scored_answer(row, other["text"], other["policy"]) for other in candidates]
    return [{**row, "answers": of_prompt} for row, of_prompt in zip(prompts, scored)]


def _sampled(
    engine: Engine,
    prompts: Sequence[Row],
    temperatures: Sequence[float],
    samples: int,
    max_tokens: int,
    seed: int,
    progress: Callable[..., None],
) -> list[list[ScoredAnswer]]:
    """Return the scored answers of each prompt, all temperatures one after the other."""
    from qwenkit import SamplingParams

    scored: list[list[ScoredAnswer]] = [[] for _ in prompts]
    for number, temperature in enumerate(temperatures):
        params = SamplingParams.plain(
            n=samples, temperature=temperature, max_tokens=max_tokens, seed=derive_seed(seed, "answers", number)
        )
        for start in range(0, len(prompts), BLOCK):
            progress(number * len(prompts) + start, len(temperatures) * len(prompts), phase="annotate")
            block = prompts[start : start + BLOCK]
            outputs = answers(engine, block, params, rng_ids=list(range(start, start + len(block))))
            for row, of_prompt, output in zip(block, scored[start:], outputs):
                of_prompt += [scored_answer(row, each.text or "", f"T={temperature}") for each in output.samples]
    return scored


def choose_pairs(
    rows: Sequence[Row], *, most: int, strategy: str, min_margin: float, pairs_per_prompt: int
) -> tuple[list[Row], dict[str, int]]:
    """Return the first `most` pairs of annotated prompts, and the counts of `make_pairs`.

    Raises a `UserError` where no two answers make a pair.
    """
    pairs, counts = make_pairs(rows, strategy=strategy, min_margin=min_margin, max_pairs=pairs_per_prompt)
    if not pairs:
        raise UserError(
            f"no pair can be formed from {counts['prompts']} prompts",
            expected=f"two answers whose scores differ by more than {min_margin}",
            hint="a policy that answers some prompts rightly, more prompts, or a smaller min_margin",
        )
    return pairs[:most], counts
