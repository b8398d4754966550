"""A tokenizer, a tiny model's folder in any dtype, and the means of a stage: one stage runs alone, in-process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwenkit.model import ModelConfig, ScalarModel, Transformer, init_weights, save_model, save_scalar
from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input, StageContext
from qwenkit.tokenizer import Tokenizer, save_tokenizer, train_bpe
from qwenkit.tokenizer.patterns import special_names

TEXTS = [f"The river {n} flows past a garden of stone. 河流{n}流过石头花园。" for n in range(60)]
QUESTIONS = ["river?", "河流呢？", "garden, please", "stone and river", "石头？", "flows?", "past 3", "花园 7"]


def make_folder(
    out: Path, dtype: torch.dtype = torch.float32, scalar: bool = False, positions: int = 512,
    visible: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """A model that knows nothing, with a tokenizer of 300 tokens and of marks (`visible`), such as <think>."""
    tok = train_bpe(TEXTS, 300, special=(*special_names(1), *visible), multiple=8)
    tok = Tokenizer(tok.ranks, tok.special, tok.pattern, multiple=8, visible=visible)
    save_tokenizer(tok, out)
    shape = ModelConfig(
        vocab_size=tok.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True, bos_token_id=tok.eot_id, eos_token_id=tok.eot_id, max_position_embeddings=positions,
    )  # fmt: skip
    model = init_weights(Transformer(shape), seed=1)
    if scalar:
        save_scalar(ScalarModel(model, seed=1).to(dtype), out)
    else:
        save_model(model.to(dtype), out)
    return out


def chat_rows() -> list[dict[str, Any]]:
    return [
        {
            "id": f"c{n}",
            "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"It flows. {n}"}],
        }
        for n, q in enumerate(QUESTIONS * 4)
    ]


def pair_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"p{n}/{k}", "messages": [{"role": "user", "content": f"{q} {n}"}], "chosen": "river " * (k + 1),
         "rejected": "石头"} for n, q in enumerate(QUESTIONS) for k in range(3)
    ]  # fmt: skip


class Desk:
    """Files, inputs and the work of one stage."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, self.events = tmp, list[dict[str, Any]]()

    def rows(self, name: str, rows: list[dict[str, Any]]) -> Path:
        write_jsonl(self.tmp / name, rows)
        return self.tmp / name

    def context(self, seed: int = 1) -> StageContext:
        number = len(list(self.tmp.glob("work-*")))
        scratch = self.tmp / f"work-{number}"
        (scratch / "out").mkdir(parents=True)
        return StageContext("node", self.tmp, scratch, scratch / "out", seed, 1, "cpu", self._log, lambda *a, **k: None)

    def _log(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def run(self, stage: Any, edges: dict[str, Path], **keys: Any) -> SimpleNamespace:
        """Run a stage; its result, and the folder that it would publish."""
        context = self.context()
        config = stage.Config(**{name: str(path) for name, path in edges.items()}, **keys)
        inputs = {name: Input(name, path, "") for name, path in edges.items()}
        result = stage.run(config, inputs, context)
        return SimpleNamespace(**vars(result), out=context.out)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "model", **given: Any) -> Path:
        return make_folder(tmp_path / name, **given)

    return make
