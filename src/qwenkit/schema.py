"""The names of recipe keys over time: schema 1 is read for one release, and a node's identity keeps its names for ever.

Schema 2 took the field's words (`row` became `seq_length`). A recipe of schema 1 is read under the new names, with a
warning that names both. The identity of a node, and with it the `config` of its manifest, keeps the names of schema 1:
a renamed key changes no result, so that no artifact has to be made again.

A key may also have come to mean two things by the type of its value: `reward = "PATH"` of PPO names its reward model,
which is `reward_model = "PATH"`, and `reward = {model = 1.0}` weighs rewards. Both spellings are valid, without a
warning; identities and manifests keep the first name for the edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
SCHEMA = 2
"""The schema of recipes that this version writes."""

_EVERY_KIND = {"minutes": "planned_minutes", "memory_mb": "planned_memory_mb"}
_TRAINING = {
    "row": "seq_length", "batch_rows": "batch_size", "micro_rows": "micro_batch_size", "clip": "max_grad_norm",
    "final_ratio": "min_lr_ratio", "held_out": "validation_share",
}  # fmt: skip
_MODEL = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
          "tie_embeddings": "tie_word_embeddings"}  # fmt: skip
_CORPUS_SHARE = {"corpus_held_out": "corpus_validation"}
_RENAMED: dict[str, dict[str, str]] = {
    "pretrain": {**_TRAINING, **_MODEL},
    "sft": {**_TRAINING, **_CORPUS_SHARE},
    "preference": _TRAINING,
    "reward": _TRAINING,
    "ppo": {"row": "seq_length", "lam": "gae_lambda", "held_out": "validation_share", **_CORPUS_SHARE},
    "tokenizer": {"held_out": "validation_share"},
    "extend": {"held_out": "validation_share"},
    "quantize": {"row": "seq_length"},
}


def renamed_keys(kind: str) -> dict[str, str]:
    """Return the keys of a kind that schema 2 renamed: name in schema 1 -> present name."""
    return {**_EVERY_KIND, **_RENAMED.get(kind, {})}


def frozen_names(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's settings under the names of schema 1, in which identities and manifests are written."""
    old = {new: old for old, new in renamed_keys(kind).items()}
    return {old.get(key, key): value for key, value in config.items()}


def current_names(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings from a manifest under the present names of recipe keys."""
    new = renamed_keys(kind)
    return {new.get(key, key): value for key, value in config.items()}


def old_keys(kind: str, keys: Iterable[str]) -> dict[str, str]:
    """Return those of the keys that are names of schema 1, in their order: old -> present name."""
    new = renamed_keys(kind)
    return {key: new[key] for key in keys if key in new}


_EDGE_OF_STRING = {"ppo": {"reward": "reward_model"}}
"""For each kind the keys whose value may be a string, and the edge that the string is for."""


def meant_key(kind: str, key: str, value: object) -> str:
    """Return the key that a value is for: the key itself, or the edge that a string under it names."""
    return _EDGE_OF_STRING.get(kind, {}).get(key, key) if isinstance(value, str) else key


def frozen_inputs(kind: str, inputs: Mapping[str, T]) -> dict[str, T]:
    """Return a node's inputs under the names that identities and manifests have for them."""
    old = {edge: key for key, edge in _EDGE_OF_STRING.get(kind, {}).items()}
    return {old.get(name, name): value for name, value in inputs.items()}
