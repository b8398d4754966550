"""The settings of a tokenizer's folder beside its vocabulary: chat templates, names of special tokens.

    read_templates(folder)      # {"default": "...", "tool_use": "..."}
    read_names(folder)          # {"eos_token": "<|im_end|>", ...}: what a template may call by these names
    remarks(folder)             # what the folder asks for and is not done here, in words

Two places that say the same thing agree or are refused: which of them another program would take is anybody's guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError
from qwenkit.files import read_text
from qwenkit.records import Row, json_kind, read_object
from qwenkit.tokenizer.patterns import ENDOFTEXT
from qwenkit.tokenizer.publish import CONFIG, TEMPLATE, TEMPLATES

DEFAULT, TOOL_USE = "default", "tool_use"
ADDED, SPECIAL_MAP = "added_tokens.json", "special_tokens_map.json"


def read_config(folder: Path) -> Row:
    """Return the tokenizer_config.json of a folder, or an empty dict."""
    return read_optional(folder / CONFIG)


def read_optional(path: Path) -> Row:
    """Return the JSON object of a file, or an empty dict where there is no file."""
    return read_object(path) if path.exists() else {}


# ---- chat templates -------------------------------------------------------------------------------------------------


def read_template(folder: Path) -> str | None:
    """Return the folder's default chat template, from its own file or from tokenizer_config.json, or None."""
    return read_templates(folder).get(DEFAULT)


def read_templates(folder: Path) -> dict[str, str]:
    """Return the folder's chat templates by name; raises a `UserError` where two of one name differ."""
    in_config, files = _config_templates(folder), _template_files(folder)
    for name in in_config.keys() & files.keys():
        if _body(in_config[name]) != _body(files[name]):
            raise UserError(
                f"two chat templates called {name}, and they differ: one in {CONFIG}, one in a file of its own",
                where=str(folder),
                expected="one, or the same twice",
                hint=f"remove `chat_template` from {CONFIG}: other programs take the file",
            )
    if files and (lost := sorted(in_config.keys() - files.keys() - {DEFAULT})):
        raise UserError(
            f"the chat template {lost[0]} stands only in {CONFIG}, the others in files of their own",
            where=str(folder),
            expected=f"every template in a file: other programs pass over those in {CONFIG} then",
            hint=f"write it to {TEMPLATES}/{lost[0]}.jinja",
        )
    templates = {**in_config, **files}
    if templates and DEFAULT not in templates:
        raise UserError(
            f"chat templates {', '.join(sorted(templates))}, and none for a plain chat",
            where=str(folder),
            expected=f"one called {DEFAULT}",
        )
    return templates


def _body(template: str) -> str:
    """Return a template without its last newline, which has no meaning."""
    return template.replace("\r\n", "\n").removesuffix("\n")


def _config_templates(folder: Path) -> dict[str, str]:
    """Return the templates of tokenizer_config.json: one text, or a list with names."""
    value = read_config(folder).get("chat_template")
    where, expected = str(folder / CONFIG), 'a template, or a list of {"name": ..., "template": ...}'
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, dict):
        value = [{"name": name, "template": text} for name, text in value.items()]
    if not isinstance(value, list):
        raise UserError(f"chat_template is {json_kind(value)}", where=where, expected=expected)
    templates: dict[str, str] = {}
    for entry in value:
        name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError("an entry of chat_template is not a template with its name", where=where, expected=expected)
        if templates.get(name, text) != text:
            raise UserError(f"two chat templates called {name}, and they differ", where=where, expected="one")
        templates[name] = text
    return templates


def _template_files(folder: Path) -> dict[str, str]:
    files = {DEFAULT: folder / TEMPLATE}
    files |= {file.name.removesuffix(".jinja"): file for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    templates: dict[str, str] = {}
    for name, file in files.items():
        if file.exists():
            templates[name] = read_text(file, expected="a chat template")
    return templates


# ---- names of special tokens ----------------------------------------------------------------------------------------


def read_names(folder: Path) -> Row:
    """Return the names by which a chat template may call special tokens, as in transformers.

    `eos_token` and similar keys are strings, `additional_special_tokens` is a list of them."""
    config = read_config(folder)
    if "added_tokens_decoder" not in config:
        config = {**config, **read_optional(folder / SPECIAL_MAP)}
    if str(config.get("tokenizer_class")).startswith("Qwen2Tokenizer"):
        config = {**dict.fromkeys(("unk_token", "eos_token", "pad_token"), ENDOFTEXT), **config}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    own = extra if isinstance(extra, dict) else {}
    named = {key: _content(value) for key, value in {**config, **own}.items() if key.endswith("_token") or key in own}
    names = {key: name for key, name in named.items() if name is not None}
    listed = [name for value in (extra if isinstance(extra, list) else []) if (name := _content(value)) is not None]
    return {**names, **({"additional_special_tokens": listed} if listed else {})}


def _content(value: Any) -> str | None:
    """Return a token's text, given bare or with its rules."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


# ---- settings that are not followed ---------------------------------------------------------------------------------

_READ = frozenset(
    "added_tokens_decoder additional_special_tokens chat_style chat_template extra_special_tokens model_vocab_size nfc "
    "pattern tokenizer_class model_specific_special_tokens".split()
)
_HARMLESS = frozenset(
    "auto_map backend fast_tokenizer_files from_slow init_inputs is_local legacy local_files_only max_length "
    "model_input_names model_max_length name_or_path pad_to_multiple_of pad_token_type_id padding_side processor_class "
    "response_schema return_token_type_ids revision special_tokens_map_file stride tokenizer_file tokenizer_type "
    "tokenize_chinese_chars transformers_version truncation_side truncation_strategy trust_remote_code use_fast "
    "use_default_system_prompt verbose vocab_file merges_file max_len sp_model_kwargs".split()
)
"""Settings of truncation and padding, and stamps of programs; the ids are the same."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_bos_token": (False, None),
    "add_eos_token": (False, None),
    "add_prefix_space": (False, None),
    "clean_up_tokenization_spaces": (False, None),
    "do_lower_case": (False, None),
    "errors": ("replace", None),
    "fix_mistral_regex": (False, None, True),
    "split_special_tokens": (False, None),
    "spaces_between_special_tokens": (False, None),
    "trim_offsets": (False, True, None),
    "unk_id": (None,),
}
"""Settings with the value that is assumed here."""


def remarks(folder: Path) -> tuple[str, ...]:
    """Return remarks about settings of tokenizer_config.json that are not followed, or not known here."""
    return tuple(_remarks(read_config(folder), read_templates(folder)))


def _remarks(config: Mapping[str, Any], templates: Mapping[str, str]) -> Iterator[str]:
    for key, value in config.items():
        if key in _NEUTRAL:
            if value not in _NEUTRAL[key]:
                yield f"{CONFIG}: {key} = {str(value)[:40]} is not done here"
        elif not (key in _READ or key in _HARMLESS or key.startswith("_") or _is_stamp(key)):
            yield f"{CONFIG}: {key[:60]} is not known here, and passed over"
    for name in sorted(templates.keys() - {DEFAULT, TOOL_USE}):
        yield f"the chat template {name[:60]} is not used here"


def _is_stamp(key: str) -> bool:
    """Return whether a key names a token, or is only the stamp of a program."""
    return key.endswith(("_token", "_version", "_class", "_fixed", "_token_id"))
