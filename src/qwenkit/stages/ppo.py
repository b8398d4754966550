"""`ppo`: reinforcement learning from a reward model (report §3.2.2), with the pretraining-gradient term that keeps it
from costing what the base model knows.

The reward model alone drives the training, unless the recipe names rewards of its own beside it or in its place. Where
prompts carry a rubric, the gold score by it is measured beside and logged, so that one sees whether the learned reward
means what it should; no gradient ever sees it. With a corpus the loss on validation documents is measured before and
after, with or without the pretraining term: what RLHF costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from qwenkit.alignment.ppo_config import PPOConfig
from qwenkit.alignment.reward_worker import check_reward_weights, find_rewards
from qwenkit.chat.publish import STYLE, Style, chat_tokenizer, prompt_ids
from qwenkit.config import content, edge, runtime, stage_config
from qwenkit.data.chats.datasets import notes, write_quarantine
from qwenkit.data.documents import iter_documents, train_validation_split
from qwenkit.data.tokens.tokenize import tokenize
from qwenkit.errors import UserError
from qwenkit.evaluation.chat_answers import greedy_rubric
from qwenkit.evaluation.questions import prompt_check, read_prompts, split_prompts
from qwenkit.json_values import mapping, number
from qwenkit.records import Quarantine, Row
from qwenkit.settings import chosen
from qwenkit.stages.base import PROMPTS, Input, Result, StageContext, max_bad, sources
from qwenkit.stages.claims import DID_NOT_WORK, WORKED, Claim, trend
from qwenkit.stages.results import Metrics, NodeResults, curve
from qwenkit.stages.training_config import AdapterConfig
from qwenkit.training.trainer import precision_warnings, usable_precision

if TYPE_CHECKING:
    from qwenkit.alignment import PPO, Rewards
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.tokens.shards import Shards
    from qwenkit.model import ScalarModel, Transformer

SUMMARY = "reinforcement learning from a reward model, with the pretraining-gradient term"
EXAMPLE = "--model runs/nano/chat --reward-model runs/nano/reward --prompts runs/nano/world --corpus runs/nano/corpus"
ORDER = 100
CHAT_MODEL = True
VERSION = 6  # 6: the engine computes by native code; 5: as pretrain; one stop rule; 4: whole ids tell documents apart
PRODUCES = ("model", "tokenizer")
ROW_CHECKS = {"prompts": prompt_check("rl", False)}
SEED_METRICS = (
    "rubric_before.total", "rubric_after.total", "rubric_before.right", "rubric_after.right", "last.kl",
)  # fmt: skip
RUBRIC = tuple(f"rubric_{name}" for name in ("right", "complete", "concise", "mannered", "system"))
CURVES = (
    ("Learned reward", "reward model's score", ("reward",)),
    ("True rubric of the samples", "score, 0 to 1", ("rubric",)),
    ("Rubric by component", "score, 0 to 1", RUBRIC),
    ("KL to the reference", "nats", ("kl",)),
    ("Answer length", "tokens", ("length",)),
    ("Entropy", "nats per token", ("entropy",)),
    ("Policy and value loss", "loss", ("policy_loss", "value_loss")),
    ("Pretraining loss mixed in", "nats per token", ("ptx_loss",)),
    ("Clipped ratios", "share", ("clip_fraction",)),
)


class Config(stage_config(PPOConfig), AdapterConfig):  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """Defaults are the report's; what it does not give is marked ours."""

    model: str = edge(doc="the chat model: policy and reference start from it", accepts="model", hub="model")
    reward_model: str | None = edge(
        None, doc="the reward model; the value model starts from it too (ours)", accepts="scorer", hub="model"
    )
    prompts: str = edge(doc=f"{PROMPTS}; with a rubric or without", accepts="prompts", several=True)
    corpus: str | None = edge(None, doc="the corpus of the pretraining-gradient term", accepts="documents")
    steps: int = content(500, doc="steps, value warm-up included (ours)", ge=1, before="prompts_per_step")
    max_tokens: int = content(512, doc="longest response (ours)", ge=1, before="temperature")
    reward: dict[str, float] = content(
        {"model": 1.0},
        doc="weights of the rewards that are summed: `model`, and functions of yours, `module:function` or"
        " `file.py:function`; a string is `reward_model`",
        added=True,
        before="kl_coef",
    )
    reward_seconds: float = runtime(
        60,
        doc="seconds that a reward of your own may take for the answers of a step; longer ends the node",
        gt=0,
        le=86400,
    )
    style: Style = content("own", doc=STYLE, before="ptx_coef")
    ptx_rows: int = content(8, doc="packed rows of pretraining text in each update (ours)", ge=1)
    seq_length: int = content(2048, doc="tokens in a packed row, and longest prompt with its response", ge=8)
    validation_share: float = content(
        0.2, doc="share of prompts with a rubric that only measure it, before and after (ours)", ge=0, lt=0.9
    )
    corpus_validation: float = content(
        0.01,
        doc="share of documents that only measure their loss; as `validation_share` of the base model (ours)",
        ge=0,
        lt=0.5,
    )
    max_bad: float = max_bad()
    checkpoint_seconds: float = runtime(300, doc="seconds between checkpoints", gt=0)

    @model_validator(mode="after")
    def _given(self) -> Config:
        if self.ptx_coef and not self.corpus:
            hint = "name a corpus, or set ptx_coef = 0"
            raise ValueError(f"`ptx_coef` is {self.ptx_coef:g}, but there is no `corpus`: {hint}")
        return self

    @model_validator(mode="after")
    def _rewards(self) -> Config:
        """Refuse an empty table of rewards, names that do not exist, and `model` without a reward model."""
        try:
            check_reward_weights(self.reward, self.reward_model is not None)
        except UserError as error:
            raise ValueError(error.text()) from None
        return self

    def identity(self) -> dict[str, Any]:
        """Return the content keys; rewards of your own count by the SHA-256 of their files too."""
        identity = super().identity()
        if "reward" in identity:
            digests = {name: function.digest for name, function in find_rewards(self.reward).items()}
            weights = self.reward.items()
            identity["reward"] = {n: [weight, digests[n]] if n in digests else weight for n, weight in weights}
        return identity


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Measure, train, measure, publish."""
    from qwenkit.alignment.ppo_models import load_policy_and_reference, load_rewards, load_value_model
    from qwenkit.model.adapted import Trunks, tell_plan, trained_part
    from qwenkit.model.publish import save_chat_model
    from qwenkit.training import Sentinel, loop, validation_losses, validation_sets

    folder = inputs["model"].path
    tok = chat_tokenizer(folder, config.style)
    bad = Quarantine()
    read = read_prompts(sources(inputs, "prompts"), "rl", bad=bad, most=config.max_bad)
    prompts, measuring = split_prompts(read, config.validation_share, context.seed_for("held-out"))
    trunks, bf16 = Trunks(context.device), usable_precision(config.precision, context.device) == "bf16"
    policy, reference = load_policy_and_reference(folder, trunks, config.lora, context.seed_for("adapter"), bf16=bf16)
    tell_plan(policy, folder)
    dataset, documents = corpus_texts(config, inputs, context)
    reward_model = inputs["reward_model"].path if "reward_model" in inputs else None
    value = load_value_model(reward_model or folder, trunks, config.lora, context.seed_for("value"), bf16=bf16)
    rewards = load_rewards(
        config.reward, value, reward_model, tok.im_end_id, seconds=config.reward_seconds, device=context.device,
        share_weights=config.lora is not None,
    )  # fmt: skip
    trainer = make_trainer(config, context, tok, prompts, dataset, policy, value, reference, rewards)
    groups = validation_sets(tok, documents, config.seq_length)
    before = context.run_once("before", lambda _: greedy_rubric(reference, tok, measuring, config.max_tokens))
    last = loop.run(
        trainer.update,
        trainer.state(),
        config.steps,
        log=context.log,
        checkpoint_dir=context.scratch / "checkpoints",
        checkpoint_seconds=config.checkpoint_seconds,
        sentinel=Sentinel(overrides=trainer.config.alarm_limits),
        progress=lambda done, total, **m: context.progress(done, total, reward=m["reward"], kl=m["kl"]),
        seed=context.seed,
    )
    save_chat_model(policy, tok, folder, context.out, context.base_of(inputs["model"]))
    write_quarantine(bad.rows, context.out)
    after = greedy_rubric(policy, tok, measuring, config.max_tokens)
    metrics = {"steps": config.steps, "prompts": len(prompts), "quarantined": len(bad),
               "prompts_too_long": trainer.prompts.too_long, "rubric_before": before, "rubric_after": after,
               "heldout_loss": validation_losses(policy, groups),
               "heldout_loss_before": validation_losses(reference, groups),
               **trained_part(policy),
               "last": {k: last[k] for k in ("reward", "kl", "length", "entropy") if k in last}}  # fmt: skip
    warnings = (*precision_warnings(config.precision, context.device), *notes(sources(inputs, "prompts"), "prompts"))
    return Result(metrics, summary(metrics), warnings)


def corpus_texts(config: Config, inputs: dict[str, Input], context: StageContext) -> tuple[Shards | None, list[Row]]:
    """Return the tokens of the pretraining term, where it has weight, and the documents that only measure."""
    if "corpus" not in inputs:
        return None, []
    seed = context.seed_for("held-out")
    if not config.ptx_coef:
        documents = list(iter_documents(inputs["corpus"].path))
        return None, train_validation_split(documents, config.corpus_validation, seed)[1]
    dataset, validation, _ = tokenize(
        inputs["corpus"], inputs["model"], config.corpus_validation, seed, context.scratch,
        workers=context.threads, progress=context.progress,
    )  # fmt: skip
    return dataset, validation


def make_trainer(
    config: Config, context: StageContext, tok: ChatTokenizer, rows: list[Row], dataset: Shards | None,
    policy: Transformer, value: ScalarModel, reference: Transformer, rewards: Rewards,
) -> PPO:  # fmt: skip
    """Return PPO with its prompts, its batches of pretraining documents, and the gold rubric as an observer."""
    from qwenkit import Engine
    from qwenkit.alignment import PPO, Prompts, SingleTurn, rubric_metrics
    from qwenkit.alignment.collect import longest_prompt
    from qwenkit.chat import stop_token_ids
    from qwenkit.training import document_batches

    settings = PPOConfig(
        **{**chosen(PPOConfig, config), "precision": usable_precision(config.precision, context.device)},
        max_response_tokens=config.max_tokens,
        seed=context.seed_for("ppo"),
    )
    ids = [prompt_ids(tok, row) for row in rows]
    most = longest_prompt(ids, config.seq_length, config.max_tokens)
    prompts = Prompts(ids, config.prompts_per_step, context.seed, max_tokens=most, rows=rows)
    sampler = Engine(policy, None, max_batch=config.prompts_per_step * config.samples_per_prompt,
                     vocabulary=tok.n_tokens)  # fmt: skip
    collect = SingleTurn(
        im_end_id=tok.im_end_id, stop_token_ids=stop_token_ids(tok), samples=config.samples_per_prompt,
        max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p,
        decode=partial(tok.decode, skip_special_tokens=True),
    )  # fmt: skip
    ptx = None
    if dataset is not None:
        ptx = document_batches(dataset, context.seed_for("ptx"), config.seq_length, config.ptx_rows)
    return PPO(
        policy, value, reference, rewards, prompts, settings,
        sampler=sampler, collect=collect, ptx=ptx, observe=rubric_metrics,
    )  # fmt: skip


def summary(metrics: Metrics) -> str:
    """Return the line for people: the rubric before and after, the divergence, and prompts that were not used."""
    before, after = mapping(metrics["rubric_before"]), mapping(metrics["rubric_after"])
    parts = (("gold rubric", "total"), ("correct", "right")) if before else ()
    rubric = [f"{name} {before.get(key, 0):.3f} -> {after.get(key, 0):.3f}, " for name, key in parts]
    unusable = f"; {metrics['quarantined']} prompts not usable and put aside" if metrics["quarantined"] else ""
    too_long = f"; {metrics['prompts_too_long']} prompts too long and left out" if metrics["prompts_too_long"] else ""
    return f"{''.join(rubric)}KL {mapping(metrics['last']).get('kl', 0):.2f}{unusable}{too_long}"


def card_number(metrics: Metrics) -> str:
    """Return the gold rubric before and after."""
    before, after = (number(mapping(metrics.get(f"rubric_{when}")).get("total")) for when in ("before", "after"))
    return "" if before is None or after is None else f"gold rubric {before:.3f} → {after:.3f}"


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield whether the learned reward and the gold rubric rose, and whether the one rose while the other fell."""
    for node in nodes:
        changes = {name: trend(curve(node.steps, name, most=10**9)[1]) for name in ("reward", "rubric")}
        for name, label in (("reward", "the learned reward"), ("rubric", "the gold rubric")):
            if change := changes[name]:
                outcome, evidence = change
                yield Claim(outcome, f"{node.name} raised {label} of its own samples", evidence)
        if [change and change[0] for change in changes.values()] == [WORKED, DID_NOT_WORK]:
            text = f"{node.name} did not game its reward model"
            yield Claim(DID_NOT_WORK, text, "the learned reward rose while the gold rubric fell")
