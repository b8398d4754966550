"""`pretrain`: a base model from a corpus (report §2.3, §2.4): shuffle and merge documents, cut to the context length,
predict the next token.

The artifact is a Hugging Face folder (`Qwen2ForCausalLM`) with the tokenizer inside. A small part of the documents is
held out, chosen by a draw for each, and its loss is measured by source.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from qwenkit.config import content, edge, runtime
from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.stages.base import Input, Result, StageContext, told
from qwenkit.stages.corpus import RUNNER
from qwenkit.stages.documents import documents, split
from qwenkit.stages.models import save_tokenizer
from qwenkit.stages.tokens import MEASURED, UNNAMED, tokenize
from qwenkit.stages.training_config import TrainingConfig, precision_warnings, train

if TYPE_CHECKING:
    from qwenkit.model import ModelConfig

VERSION = 4  # 4: the artifact keeps the index of its tokens; 3: documents are told apart by their whole id
PRODUCES = ("model", "tokenizer")
INDEX = "tokens.parquet"  # of each document where it came from and how long it is: with it the order can be told again


class Config(TrainingConfig):
    """The model's shape (defaults: Table 1, 7B), and how long it is trained."""

    corpus: str = edge(doc="the corpus to learn", accepts="documents")
    tokenizer: str = edge(doc="the tokenizer of the whole family", accepts="tokenizer", hub="tokenizer")
    tokens: float = content(2.4e12, doc="training tokens", gt=0, le=1e18)
    hidden_size: int = content(4096, doc="width", ge=8)
    num_hidden_layers: int = content(32, doc="blocks", ge=1)
    num_attention_heads: int = content(32, doc="attention heads", ge=1)
    num_key_value_heads: int = content(0, doc="key/value heads; 0: as many as heads, as in the report", ge=0)
    intermediate_size: int = content(11008, doc="width of the feed-forward layer, about 8/3 of hidden_size", ge=8)
    tie_word_embeddings: bool = content(False, doc="share input and output embeddings (the report: no)")
    rope_theta: float = content(10000.0, doc="base of the rotary frequencies", gt=0)
    rms_norm_eps: float = content(1e-6, doc="of RMSNorm", gt=0)
    validation_share: float = content(
        0.01, doc="share of documents kept aside to measure the loss (ours)", ge=0, lt=0.5
    )
    runner: Literal["local", "ray"] = runtime("local", doc=RUNNER)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        """A shape that cannot be built is refused with the recipe, not after all that comes before."""
        try:
            shape(self, vocab_rows=1, eot_id=0)
        except UserError as error:
            raise ValueError(error.what) from None
        return self


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Tokenize into shards, train, measure, publish."""
    import torch

    from qwenkit.chat import load_tokenizer
    from qwenkit.data.tokens.order import Order
    from qwenkit.model import Transformer, init_weights, save_model
    from qwenkit.training import Batches

    tok = load_tokenizer(inputs["tokenizer"].path)
    store, aside, counted = tokenize(
        inputs["corpus"], inputs["tokenizer"], config.validation_share, context.seed_for("held-out"), context.scratch,
        workers=context.threads, runner=config.runner, progress=context.progress,
    )  # fmt: skip
    order = Order(store.digest, context.seed, store.lengths, config.seq_length, split=True)
    steps = max(1, round(config.tokens / (config.batch_size * config.seq_length)))
    model = init_weights(Transformer(shape(config, tok.vocab_size, tok.eot_id)), context.seed_for("init")).to(
        context.device
    )
    batches = Batches(store, order, config.batch_size, min(config.micro_batch_size, config.batch_size))
    groups = held_out_batches(tok, aside, config.seq_length)
    last = train(
        config, context, model, batches, steps, evaluate=lambda _: losses(model, groups), vocab_size=tok.vocab_size
    )
    save_model(model.to(torch.float32), context.out)
    save_tokenizer(tok, inputs["tokenizer"].path, context.out)
    shutil.copyfile(store.index, context.out / INDEX)
    found = losses(model, groups)
    metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * config.batch_size * config.seq_length,
        "corpus_tokens": int(store.lengths.sum()),
        "corpus_digest": store.digest,
        **{f"tokens_by_{key}": rows for key, rows in counted.items()},
        "epochs": round(order.epoch_of(steps, config.batch_size), 3),
        "train_loss": last.get("loss"),
        "heldout_loss": found,
    }
    words = ", ".join(f"{name} {loss:.3f}" for name, loss in found.items())
    return Result(
        metrics,
        f"{metrics['parameters'] / 1e6:.2f} M weights, {metrics['tokens'] / 1e6:.1f} M tokens"
        + told("held-out loss", words),
        precision_warnings(config.precision, context.device),
    )


def shape(config: Config, vocab_rows: int, eot_id: int) -> ModelConfig:
    """The model's shape, once the tokenizer has said how many rows the embedding has."""
    from qwenkit.model import ModelConfig

    return ModelConfig(
        vocab_size=vocab_rows,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        max_position_embeddings=config.seq_length,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=eot_id,
        eos_token_id=eot_id,
    )


def parameters(config: Config, vocab_rows: int) -> int:
    """How many weights that shape has, counted without torch: a plan must not wait for it."""
    return shape(config, vocab_rows, 0).parameters


def corpus_split(corpus: Input, share: float, context: StageContext) -> tuple[list[Row], list[Row]]:
    """(documents to learn from, documents that only measure). One rule for every stage that reads a corpus: with the
    seed and the share of the base model, what it never saw is never seen later either."""
    return split(list(documents(corpus.path)), share, context.seed_for("held-out"))


def held_out_batches(tok: Any, rows: list[Row], row: int, limit: int = MEASURED) -> dict[str, list[Any]]:
    """Held-out documents as batches, by source (`text` where none is named); at most `limit` documents each."""
    from qwenkit.data.tokens.shards import Example, Examples
    from qwenkit.training import validation_batches

    found = {}
    sources = [str(r.get("source") or UNNAMED) for r in rows]
    for source in sorted(set(sources)):
        mine = [r for r, name in zip(rows, sources) if name == source][:limit]
        ids = [[*tok.encode(r["text"]), tok.eot_id] for r in mine]
        found[source] = validation_batches(
            Examples(Example(r["id"], i, [1.0] * len(i)) for r, i in zip(mine, ids)), row, 8, True
        )
    return found


def losses(model: Any, groups: dict[str, list[Any]]) -> dict[str, float]:
    """Held-out loss of each group, in nats per token."""
    from qwenkit.training import mean_loss

    return {name: round(mean_loss(model, batches)["loss"], 5) for name, batches in groups.items()}
