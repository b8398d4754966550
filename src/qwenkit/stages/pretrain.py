"""`pretrain`: a base model from a corpus (report §2.3, §2.4): shuffle and merge documents, cut to the context length,
predict the next token.

The artifact is a Hugging Face folder (`Qwen2ForCausalLM`) with the tokenizer inside. A small part of the documents is
held out, chosen by a draw for each, and its loss is measured by source.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from qwenkit.chat.publish import save_tokenizer
from qwenkit.config import content, edge, runtime
from qwenkit.data.tokens.tokenize import tokenize
from qwenkit.errors import UserError
from qwenkit.stages.base import RUNNER, Input, Result, StageContext, told
from qwenkit.stages.results import Claim, Estimate, Metrics, NodeResults, learning_claims, loss_number
from qwenkit.stages.training_config import PackedTrainingConfig
from qwenkit.training.trainer import precision_warnings

if TYPE_CHECKING:
    from qwenkit.model import ModelConfig

SUMMARY = "train a base model on a corpus"
EXAMPLE = "--corpus runs/nano/corpus --tokenizer runs/nano/tokenizer --tokens 4e6 --hidden-size 128"
ORDER = 60
VERSION = 4  # 4: the artifact keeps the index of its tokens; 3: documents are told apart by their whole id
PRODUCES = ("model", "tokenizer")
SEED_METRICS = ("heldout_loss.*",)
card_number = loss_number
INDEX = "tokens.parquet"  # of each document where it came from and how long it is: with it the order can be told again


BYTES = {"adamw": 16, "muon": 12}  # of float32 for each parameter: itself, its gradient, and two moments or one


class Config(PackedTrainingConfig):
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
    from qwenkit.data.tokens.order import EpochOrder
    from qwenkit.model import Transformer, init_weights, save_model
    from qwenkit.training import Batches, train, validation_losses, validation_sets

    tok = load_tokenizer(inputs["tokenizer"].path)
    store, aside, counted = tokenize(
        inputs["corpus"], inputs["tokenizer"], config.validation_share, context.seed_for("held-out"), context.scratch,
        workers=context.threads, runner=config.runner, progress=context.progress,
    )  # fmt: skip
    order = EpochOrder(store.digest, context.seed, store.lengths, config.seq_length, split=True)
    steps = max(1, round(config.tokens / (config.batch_size * config.seq_length)))
    model = init_weights(Transformer(shape(config, tok.vocab_size, tok.eot_id)), context.seed_for("init")).to(
        context.device
    )
    batches = Batches(store, order, config.batch_size, config.rows_per_pass)
    groups = validation_sets(tok, aside, config.seq_length)
    last = train(
        config,
        model,
        batches,
        steps,
        **context.training(),
        evaluate=lambda _: validation_losses(model, groups),
        vocab_size=tok.vocab_size,
    )
    save_model(model.to(torch.float32), context.out)
    save_tokenizer(tok, inputs["tokenizer"].path, context.out)
    shutil.copyfile(store.index, context.out / INDEX)
    final_losses = validation_losses(model, groups)
    metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * config.batch_size * config.seq_length,
        "corpus_tokens": int(store.lengths.sum()),
        "corpus_digest": store.digest,
        **{f"tokens_by_{key}": rows for key, rows in counted.items()},
        "epochs": round(order.epoch_of(steps, config.batch_size), 3),
        "train_loss": last.get("loss"),
        "heldout_loss": final_losses,
    }
    words = ", ".join(f"{name} {loss:.3f}" for name, loss in final_losses.items())
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


def estimate(config: Config, vocab_rows: int) -> Estimate:
    """Return parameters, tokens, FLOPs and memory of the training, without torch: a plan must not wait for it.

    The memory is a floor: parameters, gradients and the moments of the optimizer in float32. Activations come on top:
    what is refused could never run, what is not refused may still be too large.
    """
    parameters = shape(config, vocab_rows, 0).parameters
    flops = 6 * parameters * config.tokens
    return Estimate(parameters, config.tokens, flops, BYTES[config.optimizer] * parameters)


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set whether the model learnt: its validation loss fell."""
    return learning_claims(nodes)
