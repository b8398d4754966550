"""`pretrain`: a base model from a corpus (report §2.3, §2.4): shuffle and merge documents, cut to the context length,
predict the next token.

The artifact is a Hugging Face folder (`Qwen2ForCausalLM`) with the tokenizer inside. A small part of the documents is
the validation split, chosen by a draw for each, and its loss is measured by source.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import model_validator

from qwenkit.chat.publish import save_tokenizer
from qwenkit.config import content, edge, runtime, stage_config
from qwenkit.data.tokens.tokenize import tokenize
from qwenkit.errors import UserError
from qwenkit.model.config import ModelConfig
from qwenkit.settings import filled
from qwenkit.stages.base import RUNNER, Input, Result, StageContext, summary_part
from qwenkit.stages.claims import Claim, learning_claims
from qwenkit.stages.results import Estimate, Metrics, NodeResults, loss_number
from qwenkit.stages.training_config import PackedTrainingConfig
from qwenkit.training.settings import state_bytes
from qwenkit.training.trainer import precision_warnings, train_packed

SUMMARY = "train a base model on a corpus"
EXAMPLE = "--corpus runs/nano/corpus --tokenizer runs/nano/tokenizer --tokens 4e6 --hidden-size 128"
ORDER = 60
VERSION = 5  # 5: one head, whose gradient is made in the forward pass; fused AdamW
PRODUCES = ("model", "tokenizer")
SEED_METRICS = ("heldout_loss.*",)
card_number = loss_number
INDEX = "tokens.parquet"  # of each document where it came from and how long it is: with it the order can be told again


class Config(stage_config(ModelConfig), PackedTrainingConfig):  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """The model's shape (defaults: Table 1, 7B), and how long it is trained."""

    corpus: str = edge(doc="the corpus to learn", accepts="documents", before="hidden_size")
    tokenizer: str = edge(
        doc="the tokenizer of the whole family", accepts="tokenizer", hub="tokenizer", before="hidden_size"
    )
    tokens: float = content(2.4e12, doc="training tokens", gt=0, le=1e18, before="hidden_size")
    validation_share: float = content(
        0.01, doc="share of documents in the validation split, which measures the loss (ours)", ge=0, lt=0.5
    )
    runner: Literal["local", "ray"] = runtime("local", doc=RUNNER)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        """A shape that cannot be built is refused with the recipe, not after all that comes before."""
        try:
            model_config_of(self, vocab_size=1, eot_id=0)
        except UserError as error:
            raise ValueError(error.what) from None
        return self


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Tokenize into shards, train, measure, publish."""
    import torch

    from qwenkit.chat import load_tokenizer
    from qwenkit.data.tokens.order import EpochOrder
    from qwenkit.model import Transformer, init_weights, save_model
    from qwenkit.training import validation_losses, validation_sets

    tok = load_tokenizer(inputs["tokenizer"].path)
    corpus = tokenize(
        inputs["corpus"], inputs["tokenizer"], config.validation_share, context.seed_for("held-out"), context.scratch,
        workers=context.threads, runner=config.runner, progress=context.progress,
    )  # fmt: skip
    dataset = corpus.dataset
    order = EpochOrder(dataset.digest, context.seed, dataset.lengths, config.seq_length, split_documents=True)
    steps = max(1, round(config.tokens / (config.batch_size * config.seq_length)))
    model = init_weights(Transformer(model_config_of(config, tok.vocab_size, tok.eot_id)), context.seed_for("init")).to(
        context.device
    )
    validation = validation_sets(tok, corpus.validation, config.seq_length)
    training = train_packed(
        config, model, dataset, order, steps, validation, vocab_size=tok.vocab_size, **context.training()
    )
    save_model(model.to(torch.float32), context.out)
    validation_loss = validation_losses(model, validation)
    save_tokenizer(tok, inputs["tokenizer"].path, context.out)
    shutil.copyfile(dataset.index, context.out / INDEX)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    metrics = {
        "parameters": parameters, "steps": steps, "tokens": training.tokens,
        "corpus_tokens": int(dataset.lengths.sum()), "corpus_digest": dataset.digest,
        **{f"tokens_by_{key}": rows for key, rows in corpus.counts.items()},
        "epochs": training.epochs, "train_loss": training.train_loss, "heldout_loss": validation_loss,
    }  # fmt: skip
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in validation_loss.items())
    sizes = f"{parameters / 1e6:.2f} M parameters, {training.tokens / 1e6:.1f} M tokens"
    summary = f"{sizes}{summary_part('held-out loss', losses)}"
    return Result(metrics, summary, precision_warnings(config.precision, context.device))


def model_config_of(config: Config, vocab_size: int, eot_id: int) -> ModelConfig:
    """Return the model's shape, once the tokenizer has said how many rows the embedding has."""
    return filled(
        ModelConfig, config, vocab_size=vocab_size, max_position_embeddings=config.seq_length, bos_token_id=eot_id,
        eos_token_id=eot_id,
    )  # fmt: skip


def estimate(config: Config, vocab_rows: int) -> Estimate:
    """Return parameters, tokens, FLOPs and memory of the training, without torch: a plan must not wait for it.

    The memory is a floor: parameters, gradients and the moments of the optimizer in float32. Activations come on top:
    what is refused could never run, what is not refused may still be too large.
    """
    parameters = model_config_of(config, vocab_rows, 0).parameters
    flops = 6 * parameters * config.tokens
    return Estimate(parameters, config.tokens, flops, state_bytes(config.optimizer, config.moments) * parameters)


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set whether the model learnt: its validation loss fell."""
    return learning_claims(nodes)
