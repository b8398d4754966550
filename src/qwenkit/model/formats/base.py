"""What a format is: a table of tensor names, and two functions between `config.json` and `ModelConfig`.

One rule covers every difference between tensors: *a tensor of the folder is parameters of the model, stacked by rows*.
A fused matrix is three parameters on top of each other; a block of experts [E, rows, columns] is E of them after its
first two axes are joined; a renamed tensor is a stack of one. So a table of names is all that reading and writing need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwenkit.errors import UserError, nearest
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats.keys import refuse_unknown


class TensorMapping(NamedTuple):
    """A tensor of the folder, and the parameters of the model that it holds, stacked by rows."""

    hf_name: str
    param_names: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """How one family spells config.json and its tensors."""

    model_type: str
    architecture: str
    """The class name in Hugging Face's style, without its head: `Qwen2` of `Qwen2ForCausalLM`."""
    read_config: Callable[[dict[str, Any]], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    """Raises a `UserError` for a model that this format cannot express."""
    map_names: Callable[[Iterable[str], frozenset[str]], list[TensorMapping]]
    """The table for parameter names, and for what is present in the folder (there may be two spellings)."""
    keys: frozenset[str]
    """The keys of `config.json` that the reader reads; `keys.py` decides on all others."""
    ignored: tuple[str, ...] = ()
    """Endings of tensor names in old folders that are not needed: buffers that can be computed."""

    def config_of(self, config_json: dict[str, Any], accept_unknown: Iterable[str] = ()) -> ModelConfig:
        """Return the configuration that a `config.json` describes.

        Raises a `UserError` for keys that are neither known nor accepted."""
        config = self.read_config(config_json)
        refuse_unknown(config_json, self.keys, self.model_type, accept_unknown)
        return config

    @property
    def scalar(self) -> bool:
        """Return whether the family has a sequence-classification class, which reward models need."""
        return self.model_type != "qwen"

    def head(self, scalar: bool) -> str:
        """Return the class name for `architectures`: the language model, or the one for sequence classification."""
        if self.model_type == "qwen":
            return "QWenLMHeadModel"
        return self.architecture + ("ForSequenceClassification" if scalar else "ForCausalLM")


def same_names(param_names: Iterable[str], present: frozenset[str]) -> list[TensorMapping]:
    """Return the table of a format whose tensors have the names of the parameters."""
    return [TensorMapping(name, (name,)) for name in param_names]


def pick(config_json: Mapping[str, Any], names: Mapping[str, str], needed: Iterable[str]) -> dict[str, Any]:
    """Return values of `config.json` by the fields of `ModelConfig`: `names` maps keys to fields, null is absent.

    Raises a `UserError` where a field of `needed` is missing, or a value means nothing."""
    values = {field: config_json[key] for key, field in names.items() if config_json.get(key) is not None}
    spelled = {field: key for key, field in names.items()}
    if missing := [spelled[name] for name in needed if name not in values]:
        raise UserError(f"missing: {', '.join(missing)}", nearest=nearest(missing[0], config_json))
    for name in ("bos_token_id", "eos_token_id"):  # several ends stay several
        several = values[name] if isinstance(values.get(name), list) else [values[name]] if name in values else []
        if odd := [id for id in several if not is_integer(id)]:
            raise UserError(f"{spelled[name]}: {odd[0]!r}", expected="a token id, or a list of them")
        ids = tuple(several)
        values[name] = ids[0] if len(ids) == 1 else (ids or None)
    if "tie_word_embeddings" in values:
        values["tie_word_embeddings"] = flag(config_json, "tie_word_embeddings")
    return values


def flag(config_json: Mapping[str, object], name: str, default: bool = False) -> bool:
    """Return a switch of `config.json`; raises a `UserError` for anything but true and false."""
    value = config_json.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UserError(f"{name} = {value!r}", expected="true or false")
    return value


def is_integer(value: object) -> bool:
    """Return whether a value of `config.json` is an integer (and not a boolean)."""
    return isinstance(value, int) and not isinstance(value, bool)


def agree(config_json: Mapping[str, Any], names: Iterable[str], meaning: str) -> Any:
    """Return the one value of several keys that mean the same, or None; raises a `UserError` where they differ."""
    values = {name: value for name in names if (value := config_json.get(name)) is not None}
    distinct = list(values.values())
    if any(value != distinct[0] for value in distinct):
        both = " and ".join(f"{name} = {value!r:.80}" for name, value in values.items())
        raise UserError(f"{both} disagree on {meaning}", expected="one of them, or the same in both")
    return distinct[0] if distinct else None


def refuse(config_json: Mapping[str, Any], wrong: Mapping[str, bool]) -> None:
    """Raise a `UserError` that names the settings that are true here: they would change what is computed."""
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise UserError(f"not supported here: {', '.join(names)}", expected="what the released models have")


def unsupported(form: str, reasons: Mapping[str, bool]) -> None:
    """Raise a `UserError` for a model that a folder of this format cannot express."""
    if names := [reason for reason, holds in reasons.items() if holds]:
        raise UserError(
            f"a {form} folder cannot hold {', '.join(names)}",
            where="the format to save in",
            expected="a format that computes the same",
        )
