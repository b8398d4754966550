"""Read what a model folder says of generation: defaults of sampling, stop tokens, the bound on a chat's history.

    settings = read_generation_config(model, tok, folder)
    settings.defaults, settings.eos_ids, settings.max_window

Every setting of generation_config.json that has a name in `SamplingParams` is used; one that would change the answers
and has none is refused, with the value that would be neutral. Caveat: without `do_sample` transformers is greedy and we
sample, as vLLM does; without `top_k` transformers keeps 50 tokens and we keep all.

A GGUF file may say it too, under `general.sampling`, where llama.cpp's converter writes a folder's generation_config.
Caveat: the repetition penalty is for all tokens, as in that folder; llama.cpp's is for the last 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit.adapter_files import described_at, is_adapter
from qwenkit.chat import stop_token_ids
from qwenkit.errors import UserError, listed, nearest, notice, within
from qwenkit.gguf_file import GGUFFile, read_gguf
from qwenkit.inference.argument_checks import integer, shown, token_ids
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.sampling_params import NEUTRAL, VALIDATORS, SamplingParams
from qwenkit.model import Transformer
from qwenkit.records import read_object
from qwenkit.tokenizer import ENDOFTEXT

_OTHER_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("bad_words_ids", "begin_suppress_tokens", "constraints", "force_words_ids", "sequence_bias",
                     "stop_strings", "suppress_tokens"), ([], {})),
    **dict.fromkeys(("dola_layers", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
                     "max_length", "max_time", "watermarking_config"), ()),
    **dict.fromkeys(("diversity_penalty", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff", "min_length",
                     "min_new_tokens", "no_repeat_ngram_size", "penalty_alpha", "token_healing"), (0,)),
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale", "num_beam_groups", "num_beams",
                     "num_return_sequences", "top_h", "typical_p"), (1,)),
}  # fmt: skip
"""Settings of transformers that change the answers and are not supported, with the values that, like null, do not."""

_WITHOUT_EFFECT = frozenset(
    "assistant_confidence_threshold assistant_early_exit assistant_lookbehind bos_token_id cache_config "
    "cache_implementation compile_config custom_text decoder_start_token_id disable_compile is_assistant low_memory "
    "max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule output_attentions output_hidden_states "
    "output_logits output_scores pad_token_id prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values "
    "renormalize_logits return_dict_in_generate return_legacy_cache target_lookbehind transformers_version "
    "trust_remote_code use_cache use_model_defaults continuous_batching_config".split()
)
"""Settings that do not change an answer: they say how it is computed, or which program wrote the file."""

_GGUF = "general.sampling."
_GGUF_NUMBERS = {"temp": "temperature", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty"}
_GGUF_OFF = {"xtc_probability": "xtc", "mirostat": "mirostat"}
"""Ways to sample that are not supported; 0 turns them off."""
_GGUF_KEYS = {*_GGUF_NUMBERS, *_GGUF_OFF, "top_k", "penalty_last_n", "sequence", "xtc_threshold", "mirostat_tau",
              "mirostat_eta"}  # fmt: skip

_SUPPORTED = {"do_sample", "max_new_tokens", "eos_token_id", "chat_format", "max_window_size", *NEUTRAL} - {
    "max_tokens"
}


class GenerationConfig(NamedTuple):
    """The generation settings of a model folder."""

    defaults: dict[str, Any]
    """Sampling parameters by name, for those that a request leaves None."""
    eos_ids: tuple[int, ...]
    """Tokens that end an answer, the folder's own first."""
    max_window: int | None
    """The bound on the history of a chat, in tokens (the first Qwen's `max_window_size`)."""


def read_generation_config(model: Transformer, tok: TextTokenizer | None, folder: Path | None) -> GenerationConfig:
    """Return the generation settings of a folder or a GGUF file; without one, those that model and tokenizer have by
    themselves.

    Raises a `UserError` for settings that are not supported or have no meaning."""
    if folder is not None and folder.is_file():
        with within(str(folder)):
            defaults = gguf_sampling_defaults(read_gguf(folder))
        return GenerationConfig(defaults, tuple(_eos_ids(model, tok, {}, {})), None)
    file = None if folder is None else folder / "generation_config.json"
    adapts = folder is not None and is_adapter(folder)
    if folder is not None and adapts and not (folder / "generation_config.json").exists():
        return read_generation_config(model, tok, described_at(folder))
    settings = read_object(file) if file is not None and file.exists() else {}
    config = {} if file is None or adapts else read_object(file.with_name("config.json"))
    with within(str(file)):
        defaults = sampling_defaults(settings)
        eos_ids = _eos_ids(model, tok, settings, config)
        return GenerationConfig(defaults, tuple(eos_ids), _max_window(settings))


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a generation_config.json under the names of `SamplingParams`.

    Raises a `UserError` for settings that would change the answers and are not supported."""
    _refuse(generation_config)
    values = {**generation_config, "max_tokens": generation_config.get("max_new_tokens")}
    defaults = {name: values[name] for name in NEUTRAL if values.get(name) is not None}
    if generation_config.get("do_sample") is False:
        defaults["temperature"] = 0.0
    SamplingParams(**defaults)  # refuses values that mean nothing
    return defaults


def gguf_sampling_defaults(file: GGUFFile) -> dict[str, Any]:
    """Return the settings of a GGUF file's `general.sampling` under the names of `SamplingParams`.

    Raises a `UserError` for settings that would change the answers and are not supported."""
    keys = [key.removeprefix(_GGUF) for key in file if key.startswith(_GGUF)]
    for key in _GGUF_OFF:
        if key in keys and (value := file.number(_GGUF + key)):
            raise UserError(f"{_GGUF}{key} = {value:g} is not supported", expected="0, or none",
                            hint=f"gguf-new-metadata --remove-metadata {_GGUF}{key} takes it out")  # fmt: skip
    defaults: dict[str, Any] = {name: file.number(_GGUF + key) for key, name in _GGUF_NUMBERS.items() if key in keys}
    if "top_k" in keys:
        defaults["top_k"] = max(0, file.integer(f"{_GGUF}top_k"))
    last = file.integer(f"{_GGUF}penalty_last_n", -1)
    if last == 0:
        defaults.pop("repetition_penalty", None)
    elif last > 0 and defaults.get("repetition_penalty", 1.0) != 1.0:
        notice(
            f"{_GGUF}penalty_last_n = {last}: here the repetition penalty is for all tokens, not for the last {last}"
        )
    if "sequence" in keys:
        notice(f"{_GGUF}sequence: here the order is penalties, temperature, top-k, top-p, min-p")
    if odd := [key for key in keys if key not in _GGUF_KEYS]:
        notice(f"{_GGUF}*: not known here, and passed over: {listed(odd)}")
    SamplingParams(**defaults)  # refuses values that mean nothing
    return defaults


def _refuse(settings: Mapping[str, Any]) -> None:
    """Raise a `UserError` for what would change the answers and is not supported, and for misspelt names of what is."""
    for name, value in settings.items():
        neutral = _OTHER_NEUTRAL.get(name, (value,))
        overruled = name == "max_length" and settings.get("max_new_tokens") is not None
        if value is not None and value not in neutral and not overruled:
            raise UserError(f"{name} = {shown(value)} is not supported",
                            expected=" or ".join([*map(shown, neutral[:1]), "null"]),
                            hint="take it out, or write what is expected")  # fmt: skip
        close = nearest(name, _SUPPORTED)
        if name not in (*_SUPPORTED, "bos_token_id") and close and SequenceMatcher(None, name, close).ratio() > 0.87:
            raise UserError(f"unknown setting {name}", nearest=close)
    known = {*_SUPPORTED, *_OTHER_NEUTRAL, *_WITHOUT_EFFECT, *VALIDATORS, "early_stopping", "length_penalty"}
    odd = [name for name, value in settings.items() if value is not None and name not in known and name[:1] != "_"]
    if odd:
        notice(f"generation_config.json: not known here, and passed over: {listed(odd)}")


def _eos_ids(
    model: Transformer, tok: TextTokenizer | None, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> list[int]:
    """Return the tokens that end an answer: those of generation_config.json, of config.json (of several a model keeps
    the first), the tokenizer's end of text. The first Qwen names no end of a turn there but says that the folder is for
    ChatML, so the stop tokens of a chat are added."""
    vocab_size, is_chat = model.config.vocab_size, _is_chat(settings)
    named = token_ids(_as_ids(settings.get("eos_token_id")), vocab_size, where="eos_token_id")
    others = [*_as_ids(model.config.eos_token_id), *_as_ids(config.get("eos_token_id"))]
    others += _as_ids(getattr(tok, "special", {}).get(ENDOFTEXT))
    others += getattr(tok, "end_ids", ())
    others += stop_token_ids(tok) if is_chat and tok is not None else ()
    return list(dict.fromkeys([*named, *(id for id in others if id < vocab_size)]))


def _as_ids(value: Any) -> list[Any]:
    """Return one id, several or none as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _is_chat(settings: Mapping[str, Any]) -> bool:
    """Return whether the first Qwen's `chat_format` says ChatML."""
    chat_format = settings.get("chat_format")
    if chat_format not in (None, "raw", "chatml"):
        raise UserError(f"chat_format = {shown(chat_format)}", expected="raw or chatml")
    return chat_format == "chatml"


def _max_window(settings: Mapping[str, Any]) -> int | None:
    max_window = settings.get("max_window_size")
    return None if max_window is None else integer(1).parse(max_window, "max_window_size")
