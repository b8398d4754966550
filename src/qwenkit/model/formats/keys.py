"""Keys of a `config.json` that no reader here knows: what may be passed over, and what is refused by its name.

    refuse_unknown(config_json, READ["qwen2"], "qwen2", accepted=("is_causal",))
    with accepting(("is_causal",)): ...                       # the same for everything that is loaded inside

A key is *read* (by its family's reader, which refuses values that it does not support), *ignored* (it does not affect
what is computed here: stamps of the programs that wrote it, settings of training or sampling), or *neutral* (its value
describes what is computed anyway). A null counts as absent, and names that begin with `_` are private to whoever wrote
them. Any other key may change what is computed, such as attention that looks ahead or a scaled logit. It is refused
until the user accepts it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from qwenkit.errors import UserError, listed, notice

GENERAL = frozenset({"model_type", "architectures", "dtype", "torch_dtype", "quantization_config"})
"""Keys that are read in every family."""

_GENERATION = (
    "bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size "
    "exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length "
    "max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores "
    "remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p"
).split()
_TRAINING = (
    "attention_dropout attn_dropout_prob attn_pdrop bias_dropout_fusion classifier_dropout emb_dropout_prob embd_pdrop "
    "embedding_dropout gradient_checkpointing hidden_dropout output_router_logits resid_dropout resid_pdrop "
    "router_aux_loss_coef use_gradient_checkpointing"
).split()
_STAMPS = (
    "attn_implementation decoder_start_token_id experts_implementation finetuning_task id2label is_decoder label2id "
    "name_or_path num_labels onnx_safe output_attentions output_hidden_states pad_token_id params_dtype prefix "
    "problem_type return_dict sep_token_id task_specific_params tf_legacy_loss tie_last_hidden_states tokenizer_class "
    "tokenizer_type torchscript transformers.js_config trust_remote_code use_bfloat16 use_cache use_return_dict"
).split()
PASSED_OVER = frozenset({*_GENERATION, *_TRAINING, *_STAMPS})
"""These have no effect on what is computed here, whatever their values. transformers, too, takes the settings of
generation out of a config.json; dropout is a setting of the training run."""
_STAMPED = ("_", "unsloth_")
"""Beginnings of names that are only for whoever wrote them."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "partial_rotary_factor": (1.0,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "tie_encoder_decoder": (False,),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
}
"""Values that say what every model here computes anyway."""

FAMILY_NEUTRAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "qwen": {"activation": ("swiglu",), "apply_residual_connection_post_layernorm": (False,), "pos_emb": ("rotary",)},
    "qwen2": {"qkv_bias": (True,), "use_qk_norm": (False,)},
    "qwen3": {"qkv_bias": (False,), "use_qk_norm": (True,)},
    "llama": {"qkv_bias": (False,), "use_qk_norm": (False,)},
    "qwen2_moe": {"use_qk_norm": (False,)},
    "qwen3_moe": {"qkv_bias": (False,), "use_qk_norm": (True,), "shared_expert_intermediate_size": (0,)},
}
"""What a family computes anyway."""

_ACCEPTED: ContextVar[tuple[str, ...]] = ContextVar("accepted", default=())


@contextlib.contextmanager
def accepting(names: Iterable[str]) -> Iterator[None]:
    """Ignore these unknown keys of config.json inside the `with` block."""
    before = _ACCEPTED.set((*_ACCEPTED.get(), *names))
    try:
        yield
    finally:
        _ACCEPTED.reset(before)


def accepted(names: Iterable[str] = ()) -> frozenset[str]:
    """Return the unknown keys that the user accepts: these, and those of the enclosing `accepting` blocks."""
    if isinstance(names, str):
        raise UserError(f"accept_unknown = {names!r}", expected='a list of keys, such as ["is_causal"]')
    return frozenset((*_ACCEPTED.get(), *names))


def refuse_unknown(
    config_json: Mapping[str, object], read: Iterable[str], family: str, names: Iterable[str] = ()
) -> None:
    """Raise a `UserError` for keys of a config.json that nothing here reads and that may change what is computed."""
    known, agreed = GENERAL | frozenset(read), accepted(names)
    neutral = {**NEUTRAL, **FAMILY_NEUTRAL.get(family, {})}
    odd = [key for key, value in config_json.items() if key not in known and not _harmless(key, value, neutral, family)]
    if passed := [key for key in odd if key in agreed]:
        notice(f"not known here, and passed over as you say: {listed(passed)}", "config.json")
    if odd := [key for key in odd if key not in agreed]:
        shown = listed([f"{key} = {json.dumps(config_json[key]):.60}" for key in odd])
        raise UserError(
            f"this may change what is computed and is not supported here: {shown}",
            expected="what the released models have",
            hint=f"if it changes nothing: accept_unknown = {_list(odd)} in load_model and in a recipe, "
            f"--accept-unknown {','.join(odd[:5]):.200} on the command line",
        )


def _list(names: list[str]) -> str:
    return "[" + ", ".join(f'"{name:.40}"' for name in names[:5]) + "]"


def _harmless(key: str, value: Any, neutral: Mapping[str, tuple[Any, ...]], family: str) -> bool:
    if value is None or key in PASSED_OVER or key.startswith(_STAMPED) or key.endswith("_version"):
        return True
    if key == "auto_map":
        return family == "qwen" or not _computes(value)  # the first Qwen's own code is what is written here
    return any(type(value) in _alike(one) and value == one for one in neutral.get(key, ()))


def _computes(auto_map: Any) -> bool:
    """Return whether a folder brings its own code for the model, not only for its tokenizer."""
    return not isinstance(auto_map, Mapping) or any(str(name).startswith("AutoModel") for name in auto_map)


def _alike(value: Any) -> tuple[type, ...]:
    """Return the types that may stand for a value: 1 for 1.0, but not true."""
    return (int, float) if isinstance(value, float) else (type(value),)
