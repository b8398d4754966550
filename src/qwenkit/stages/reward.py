"""`reward`: the reward model (report §3.2.1): sample answers of a policy by several strategies, let the rubric score
them as annotators would, form pairs, and go on from the preference model.

`comparisons.jsonl` in the artifact holds the pairs with their scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from qwenkit.chat.publish import chat_tokenizer
from qwenkit.config import content, edge
from qwenkit.data.chats.datasets import check_flipped, rows
from qwenkit.evaluation.questions import prompt_check, read_prompts
from qwenkit.records import Quarantine, write_jsonl
from qwenkit.stages.base import PAIRS, PROMPTS, Input, Result, StageContext, sources
from qwenkit.stages.claims import Claim, ranking_claims
from qwenkit.stages.pair_config import PairConfig, train_scorer
from qwenkit.stages.results import PAIR_CURVES, Metrics, NodeResults, mean_scores, percent

SUMMARY = "fine-tune a reward model on comparisons of a policy's own answers"
EXAMPLE = "--model runs/nano/pmp --policy runs/nano/chat --prompts runs/nano/world"
ORDER = 90
VERSION = 7  # 7: the engine computes by native code; 6: as pretrain; one stop rule; 5: pairs keep the tools
COMPARISONS = "comparisons.jsonl"
PRODUCES = ("scorer", "tokenizer")
ROW_CHECKS = {"prompts": prompt_check("reward", True)}
CURVES = PAIR_CURVES


class Config(PairConfig):
    """Where the pairs come from: a policy's answers to prompts with a rubric, or a file of comparisons."""

    model: str = edge(
        doc="the preference model (or a base model, to do without PMP)", accepts=("model", "scorer"), hub="model"
    )
    policy: str | None = edge(None, doc="the model whose answers are compared", accepts="model", hub="model")
    prompts: str | None = edge(None, doc=f"{PROMPTS}; each with a rubric", accepts="prompts", several=True)
    data: str | None = edge(
        None, doc=f"instead of policy and prompts ready {PAIRS}", accepts="comparisons", several=True
    )
    tests: str | None = edge(None, doc="test sets with pairs.jsonl", accepts="tests")
    pairs: int = content(800, doc="pairs to form (ours)", ge=1)
    prompt_count: int = content(600, doc="prompts to sample answers for (ours)", ge=1)
    answers: int = content(4, doc="answers for each prompt and temperature (ours)", ge=1)
    temperatures: list[Annotated[float, Field(ge=0, le=100)]] = content(
        [0.7, 1.0], doc="sampling strategies (ours)", min_length=1
    )
    max_tokens: int = content(512, doc="longest answer (ours)", ge=1)
    others: bool = content(True, doc="also compare the answers of other policies that the prompts carry (ours)")
    pairs_per_prompt: int = content(2, doc="pairs of one prompt at most, the widest first (ours)", ge=1)
    strategy: Literal["best_worst", "adjacent", "all"] = content("adjacent", doc="which answers to compare (ours)")
    min_margin: float = content(0.05, doc="smallest difference in score that makes a pair (ours)", ge=0)

    @model_validator(mode="after")
    def _given(self) -> Config:
        if not (self.data or (self.policy and self.prompts)):
            raise ValueError("no comparisons: neither `data` nor both `policy` and `prompts`")
        return self


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Form the pairs, or read them; then train as the preference model was."""
    if not sources(inputs, "data"):
        context.run_once("comparisons", lambda out: form_comparisons(config, inputs, context, out))
        formed = context.scratch / "comparisons" / COMPARISONS
        inputs = {**inputs, "data": Input("data", formed, digest="formed here")}
    write_jsonl(context.out / COMPARISONS, rows(sources(inputs, "data"), "pairs", Quarantine(), check_flipped))
    return train_scorer(config, inputs, context)


def form_comparisons(config: Config, inputs: dict[str, Input], context: StageContext, out: Path) -> dict[str, Any]:
    """Write the comparisons of a policy's answers into `out`; return their number and what was not compared."""
    from qwenkit import Engine, load_model
    from qwenkit.alignment.annotation import annotate, choose_pairs, draw_prompts

    prompts = read_prompts(sources(inputs, "prompts"), "reward", True, Quarantine(), config.max_bad)
    folder = inputs["policy"].path
    engine = Engine(load_model(folder, device=context.device), chat_tokenizer(folder, config.style))
    annotated = annotate(
        engine, draw_prompts(prompts, config.prompt_count, context.seed), temperatures=config.temperatures,
        samples=config.answers, max_tokens=config.max_tokens, others=config.others, seed=context.seed,
        progress=context.progress,
    )  # fmt: skip
    pairs, counts = choose_pairs(
        annotated, most=config.pairs, strategy=config.strategy, min_margin=config.min_margin,
        pairs_per_prompt=config.pairs_per_prompt,
    )  # fmt: skip
    write_jsonl(out / COMPARISONS, pairs)
    return {"counts": counts, "pairs": len(pairs)}


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set of pairs whether the model ranks them better than chance."""
    return ranking_claims(nodes, seeds)


def card_number(metrics: Metrics) -> str:
    """Return the accuracy on each set of pairs."""
    return percent(mean_scores(metrics.get("accuracy")))
