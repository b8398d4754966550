"""Model folders and test sets that do not fit."""

from __future__ import annotations

import numpy as np

from tests.errors.cases.case import PPO, TRAIN, Case, foreign, tensors
from tests.errors.desk import chats, prompts

CASES = [
    Case(
        "model that is none",
        lambda d: d.rows("chat.jsonl", *chats()).write("mine/letter", "dear"),
        f"sft --model mine --data chat.jsonl {TRAIN}",
        """\
error: qwenkit sft, mine: no tokenizer in this folder
  expected: tokenizer.json, or one .tiktoken file, or vocab.json with merges.txt
""",
        started=True,
    ),
    Case(
        "missing tensor",
        tensors(lambda t: t.pop("model.norm.weight")),
        "chat model -p hi",
        """\
error: model: the tensors do not fit config.json: missing: model.norm.weight
""",
    ),
    Case(
        "misshaped tensor",
        tensors(lambda t: t.update({"model.norm.weight": np.ones(3, np.float32)})),
        "chat model -p hi",
        """\
error: model: the tensors do not fit config.json: wrong shape: model.norm.weight is [3], not [16]
""",
    ),
    Case(
        "damaged weights",
        lambda d: foreign(d).cut("model/model.safetensors"),
        "chat model -p hi",
        """\
error: model/model.safetensors: the weights are corrupted
  hint: fetch or make them again
""",
    ),
    Case(
        "no weights",
        lambda d: foreign(d).remove("model/model.safetensors"),
        "chat model -p hi",
        """\
error: model: weights are missing: model.safetensors
  expected: model.safetensors, or shards with their index
""",
    ),
    Case(
        "unsupported model",
        lambda d: foreign(d).edit("model/config.json", model_type="gpt2"),
        "chat model -p hi",
        """\
error: model/config.json: model_type 'gpt2' is not supported
  expected: qwen, qwen2, qwen3, llama, qwen2_moe, qwen3_moe
""",
    ),
    Case(
        "model without a tokenizer",
        lambda d: foreign(d).remove("model/tokenizer.json"),
        "chat model -p hi",
        """\
error: model: no tokenizer in this folder
  expected: tokenizer.json, or one .tiktoken file, or vocab.json with merges.txt
""",
    ),
    Case(
        "width that is not a multiple of heads",
        lambda d: d.family(),
        "run family.toml --only base --set base.hidden_size=18 --set base.num_attention_heads=4",
        """\
error: family.toml, line 10: `base`: hidden_size = 18 does not divide into 4 heads
""",
    ),
    Case(
        "language model for a reward model",
        lambda d: foreign(d).rows("bad.jsonl", *prompts()),
        PPO.replace("runs/family/pmp", "model") + " --seq-length 64 --max-tokens 8",
        """\
error: qwenkit ppo, model: this folder holds a language model, not one that scores
  expected: a reward or preference model
  hint: a node of kind `reward` makes one
""",
        started=True,
    ),
    Case(
        "test rows without prompts",
        lambda d: d.family().rows("tests/base.jsonl", {"id": "x"}),
        "evaluate --models runs/family/base --tests tests --threads 1 --out runs/o",
        """\
error: qwenkit evaluate, tests/base.jsonl, row 1: missing key `task`
  expected: id, task, prompt
""",
        started=True,
    ),
    Case(
        "two models of one name",
        lambda d: d.family().rows("tests/base.jsonl", {"id": "x", "task": "t", "prompt": "so", "answer": "yes"}),
        "evaluate --models runs/family/base,runs/../runs/family/base --tests tests --threads 1 --out runs/o",
        """\
error: qwenkit evaluate: two models have one name
  expected: names that differ
  hint: rename one of the folders
""",
        started=True,
    ),
    Case(
        "two test sets of one name",
        lambda d: d.rows("a/t.jsonl", {"prompt": "so"}).rows("b/t.jsonl", {"prompt": "so"}),
        "testsets --extra a/t.jsonl,b/t.jsonl --threads 1 --out runs/o",
        """\
error: qwenkit testsets, b/t.jsonl: two test sets are named `t`
  hint: rename one of the files
""",
        started=True,
    ),
]
