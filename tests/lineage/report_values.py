"""Every value of the report that is a key of a recipe. The table of docs/recipes.md is made of it, and
`test_recipes.py` holds the full-size recipes to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

FULL_SIZE = ("qwen-1.8b", "qwen-7b", "qwen-14b")
PARAMETERS = {"qwen-1.8b": 1_836_828_672, "qwen-7b": 7_721_324_544, "qwen-14b": 14_167_290_880}
"""Of the released checkpoints, without any buffer."""


class Value(NamedTuple):
    """What a source says about one key; `values` are those of the three sizes, or one for all."""

    source: str
    what: str
    node: str
    key: str
    values: tuple[Any, ...]

    def of(self, recipe: str) -> Any:
        """The value at one size."""
        return self.values[FULL_SIZE.index(recipe)] if len(self.values) > 1 else self.values[0]


def _all(source: str, node: str, *rows: tuple[str, str, Any]) -> list[Value]:
    """Values that are the same at every size: (what, key, value)."""
    return [Value(source, what, node, key, (value,)) for what, key, value in rows]


def _adamw(source: str, node: str) -> list[Value]:
    return _all(
        source,
        node,
        ("optimizer", "optimizer", "adamw"),
        ("beta 1", "beta1", 0.9),
        ("beta 2", "beta2", 0.95),
        ("epsilon", "eps", 1e-8),
    )


def _pairs(node: str) -> list[Value]:
    return _all(
        "§3.2.1",
        node,
        ("learning rate", "lr", 3e-6),
        ("its schedule", "schedule", "constant"),
        ("batch, in pairs", "batch_size", 64),
        ("sequence length", "seq_length", 2048),
        ("epochs", "epochs", 1.0),
    )


MEMO, RELEASE = "memo of the first release", "released checkpoints"
VALUES = [
    *_all(RELEASE, "tokenizer", ("regular tokens", "vocab_size", 151643), ("tokens besides ChatML's", "extras", 205)),
    *_all("§2.2", "tokenizer", ("numbers as single digits", "pattern", "qwen")),
    Value(RELEASE, "rows of the embedding, a multiple of", "tokenizer", "pad_to", (128, 128, 256)),
    Value("Table 1", "hidden size", "base", "hidden_size", (2048, 4096, 5120)),
    Value("Table 1", "num_attention_heads", "base", "num_attention_heads", (16, 32, 40)),
    Value("Table 1", "num_hidden_layers", "base", "num_hidden_layers", (24, 32, 40)),
    Value("Table 1", "training tokens", "base", "tokens", (2.2e12, 2.4e12, 3.0e12)),
    *_all("Table 1", "base", ("peak learning rate", "lr", 3e-4), ("batch of 4M tokens, in rows", "batch_size", 2048)),
    Value(RELEASE, "feed-forward width, about 8/3 of hidden", "base", "intermediate_size", (5504, 11008, 13696)),
    *_all(
        "§2.3",
        "base",
        ("untied embeddings", "tie_word_embeddings", False),
        ("as many key heads as heads", "num_key_value_heads", 0),
    ),
    *_all(RELEASE, "base", ("rotary base", "rope_theta", 10000.0), ("RMSNorm epsilon", "rms_norm_eps", 1e-6)),
    *_all("§2.4", "base", ("context length", "seq_length", 2048)),
    *_adamw("§2.4", "base"),
    *_all("§2.4", "base", ("decay", "schedule", "cosine"), ("to this share of the peak", "min_lr_ratio", 0.1)),
    *_all("§2.4", "base", ("mixed precision", "precision", "bf16")),
    *_all(MEMO, "base", ("warm-up steps", "warmup_steps", 2000), ("weight decay", "weight_decay", 0.1)),
    *_all(MEMO, "base", ("gradient clipping", "max_grad_norm", 1.0)),
    *_adamw("§3.1.2", "chat"),
    *_all(
        "§3.1.2",
        "chat",
        ("sequence length", "seq_length", 2048),
        ("batch", "batch_size", 128),
        ("steps", "steps", 4000),
        ("warm-up steps", "warmup_steps", 1430),
        ("peak learning rate", "lr", 2e-6),
        ("weight decay", "weight_decay", 0.1),
        ("dropout", "dropout", 0.1),
        ("gradient clipping", "max_grad_norm", 1.0),
    ),
    *_all("the authors' training code", "chat", ("loss mask", "mask", "qwen")),
    *_pairs("pmp"),
    *_pairs("reward"),
    *_all(
        "§3.2.2",
        "chat-rlhf",
        ("responses to a query", "samples_per_prompt", 2),
        ("top-p of the policy", "top_p", 0.9),
        ("KL coefficient", "kl_coef", 0.04),
        ("rewards less their running mean", "reward_norm", "mean"),
        ("value warm-up steps", "value_warmup_steps", 50),
        ("learning rate of the policy", "policy_lr", 1e-6),
        ("learning rate of the value model", "value_lr", 5e-6),
        ("value clipping", "value_clip", 0.15),
    ),
]
