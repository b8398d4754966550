"""Stages: one short file per kind, each a `Config`, a `VERSION` and one function `run(config, inputs, context)`.

A stage is wiring: it reads its inputs, calls packages with plain values and writes into `context.out`. This is the only
place where packages meet. `PRODUCES` are the nouns that its artifact may be read as: the edge of another stage accepts
one of them. Modules are loaded when their kind is used, so the command line starts without torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from qwenkit.errors import UserError, nearest

KINDS = {
    "world": "invent the nano world: pages, chats, comparisons, tests",
    "testsets": "gather test sets, kept apart from all training text",
    "corpus": "raw pages and text -> clean, deduplicated, decontaminated documents",
    "tokenizer": "train a byte-level BPE tokenizer on a corpus",
    "extend": "add merges to a vocabulary, and rows to a model's embeddings",
    "pretrain": "train a base model on a corpus",
    "sft": "teach a base model to chat (supervised fine-tuning)",
    "preference": "preference-model pretraining on many noisy comparisons (PMP)",
    "reward": "fine-tune a reward model on comparisons of a policy's own answers",
    "ppo": "reinforcement learning from a reward model, with the pretraining-gradient term",
    "evaluate": "examine models on the test sets, with intervals and paired comparisons",
    "quantize": "weights of 4 or 8 bits, as a GPTQ folder, and what that costs",
    "export": "a model in another form (Hugging Face, the first Qwen's, GGUF), with a certificate",
    "report": "write the report card of the run",
}


def produces(kind: str | None) -> tuple[str, ...]:
    """What the artifact of a kind may be read as; nothing is known of a kind that is none of ours."""
    return getattr(load_stage(kind), "PRODUCES", ()) if kind in KINDS else ()


def load_stage(kind: str, where: str | None = None) -> ModuleType:
    """The module of a kind; an unknown kind is a `UserError` with the nearest name."""
    if kind not in KINDS:
        raise UserError(
            f"unknown kind `{kind}`", where=where, expected="one of " + ", ".join(KINDS), nearest=nearest(kind, KINDS)
        )
    return importlib.import_module(f"qwenkit.stages.{kind}")
