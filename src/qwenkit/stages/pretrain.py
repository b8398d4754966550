"""`pretrain`: a base model from a corpus (report §2.3, §2.4): shuffle and merge documents, cut to the context length,
predict the next token.

The artifact is a Hugging Face folder (`Qwen2ForCausalLM`) with the tokenizer inside. A small part of the documents is
held out, chosen by a draw for each, and its loss is measured by source.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from qwenkit.config import content, edge
from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.stages.base import Input, Result, Work
from qwenkit.stages.corpus import documents
from qwenkit.stages.keys import TrainingKeys, train
from qwenkit.stages.tokenizer import split

if TYPE_CHECKING:
    from qwenkit.model import ModelConfig

VERSION = 1
GIVES = ("model", "tokenizer")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Config(TrainingKeys):
    """The model's shape (defaults: Table 1, 7B), and how long it is trained."""

    corpus: str = edge(doc="the corpus to learn", wants="documents")
    tokenizer: str = edge(doc="the tokenizer of the whole family", wants="tokenizer", hub="tokenizer")
    tokens: float = content(2.4e12, doc="training tokens", gt=0, le=1e18)
    hidden_size: int = content(4096, doc="width", ge=8)
    layers: int = content(32, doc="blocks", ge=1)
    heads: int = content(32, doc="attention heads", ge=1)
    kv_heads: int = content(0, doc="key/value heads; 0: as many as heads, as in the report", ge=0)
    intermediate_size: int = content(11008, doc="width of the feed-forward layer, about 8/3 of hidden_size", ge=8)
    tie_embeddings: bool = content(False, doc="share input and output embeddings (the report: no)")
    rope_theta: float = content(10000.0, doc="base of the rotary frequencies", gt=0)
    rms_norm_eps: float = content(1e-6, doc="of RMSNorm", gt=0)
    held_out: float = content(0.01, doc="share of documents kept aside to measure the loss", ge=0, lt=0.5)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        """A shape that cannot be built is refused with the recipe, not after all that comes before."""
        try:
            shape(self, vocab_rows=1, eot_id=0)
        except UserError as error:
            raise ValueError(error.what) from None
        return self


def run(config: Config, inputs: dict[str, Input], work: Work) -> Result:
    """Tokenize into shards, train, measure, publish."""
    import torch

    from qwenkit.chat import load_tokenizer
    from qwenkit.data.order import Order
    from qwenkit.data.shards import Shards
    from qwenkit.model import Transformer, init_weights, save_model
    from qwenkit.training import Batches

    tok = load_tokenizer(inputs["tokenizer"].path)
    kept, aside = split(documents(inputs["corpus"].path), config.held_out, work.stream("held-out"))
    shards = work.phase("tokens", lambda out: tokenize(tok, kept, out))
    store = Shards(work.scratch / "tokens")
    order = Order(store.digest, work.seed, store.lengths, config.row, split=True)
    steps = max(1, round(config.tokens / (config.batch_rows * config.row)))
    model = init_weights(Transformer(shape(config, tok.vocab_size, tok.eot_id)), work.stream("init")).to(work.device)
    batches = Batches(store, order, config.batch_rows, min(config.micro_rows, config.batch_rows))
    groups = held_out_batches(tok, aside, config.row)
    last = train(
        config, work, model, batches, steps, evaluate=lambda _: losses(model, groups), vocab_size=tok.vocab_size
    )
    save_model(model.to(torch.float32), work.out)
    copy_tokenizer(inputs["tokenizer"].path, work.out)
    found = losses(model, groups)
    metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * config.batch_rows * config.row,
        "corpus_tokens": shards["tokens"],
        "epochs": round(order.epoch_of(steps, config.batch_rows), 3),
        "train_loss": last.get("loss"),
        "heldout_loss": found,
    }
    words = ", ".join(f"{name} {loss:.3f}" for name, loss in found.items())
    return Result(
        metrics,
        f"{metrics['parameters'] / 1e6:.2f} M weights, {metrics['tokens'] / 1e6:.1f} M tokens; held-out loss {words}",
    )


def shape(config: Config, vocab_rows: int, eot_id: int) -> ModelConfig:
    """The model's shape, once the tokenizer has said how many rows the embedding has."""
    from qwenkit.model import ModelConfig

    return ModelConfig(
        vocab_size=vocab_rows,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads or config.heads,
        max_position_embeddings=config.row,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=eot_id,
        eos_token_id=eot_id,
    )


def parameters(config: Config, vocab_rows: int) -> int:
    """How many weights that shape has, counted without torch: a plan must not wait for it."""
    width, kv_width = config.hidden_size, config.hidden_size // config.heads * (config.kv_heads or config.heads)
    attention = 2 * width * width + 2 * width * kv_width + width + 2 * kv_width
    block = attention + 3 * width * config.intermediate_size + 2 * width
    tables = 1 if config.tie_embeddings else 2
    return config.layers * block + width + tables * vocab_rows * width


def tokenize(tok: Any, rows: list[Row], out: Path) -> dict[str, Any]:
    """Documents to uint32 shards, in the corpus's order."""
    from qwenkit.data.shards import write_shards

    texts = tok.encode_batch([row["text"] for row in rows])
    return write_shards(((row["id"], ids) for row, ids in zip(rows, texts)), out, tok.eot_id)


def held_out_batches(tok: Any, rows: list[Row], row: int, limit: int = 200) -> dict[str, list[Any]]:
    """Held-out documents as batches, by source; at most `limit` documents each."""
    from qwenkit.data.shards import Example, Examples
    from qwenkit.training import held_out

    found = {}
    for source in sorted({r["source"] for r in rows if "source" in r}):
        mine = [r for r in rows if r["source"] == source][:limit]
        ids = [[*tok.encode(r["text"]), tok.eot_id] for r in mine]
        found[source] = held_out(Examples(Example(r["id"], i, [1.0] * len(i)) for r, i in zip(mine, ids)), row, 8, True)
    return found


def losses(model: Any, groups: dict[str, list[Any]]) -> dict[str, float]:
    """Held-out loss of each group, in nats per token."""
    from qwenkit.training import mean_loss

    return {name: round(mean_loss(model, batches)["loss"], 5) for name, batches in groups.items()}


def save_chat_model(model: Any, tok: Any, tokenizer: Path, out: Path) -> None:
    """A chat model's folder: it stops at the end of its turn, and at the end of a text, in every engine."""
    from dataclasses import replace

    from qwenkit.model import save_model
    from qwenkit.records import read_json, write_json

    model.config = replace(model.config, dropout=0.0, eos_token_id=tok.im_end_id)
    save_model(model, out)
    defaults = read_json(out / "generation_config.json")
    write_json(out / "generation_config.json", {**defaults, "eos_token_id": [tok.im_end_id, tok.eot_id]})
    copy_tokenizer(tokenizer, out)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Put the tokenizer's files beside the weights, so that the folder is whole."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)
