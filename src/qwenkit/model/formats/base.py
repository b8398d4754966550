"""What a format is: a table of tensor names, and two functions between `config.json` and `ModelConfig`.

One rule covers every difference between tensors: *theirs is ours, stacked by rows*. A fused matrix is three of ours on
top of each other; a block of experts [E, rows, columns] is E of ours after its first two axes are joined; a renamed
tensor is a stack of one. So a table of names is all that reading and writing need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwenkit.errors import UserError, nearest
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats.keys import refuse_unknown


class Weight(NamedTuple):
    """A tensor of the folder and those of ours that it holds, stacked by rows."""

    theirs: str
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """How one family writes its folders."""

    model_type: str
    architecture: str
    """The class name in Hugging Face's style, without its head: `Qwen2` of `Qwen2ForCausalLM`."""
    read_config: Callable[[dict[str, Any]], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    """Raises a `UserError` that says what this format cannot say of the model."""
    renames: Callable[[Iterable[str], frozenset[str]], list[Weight]]
    """The table for our names, and for what is present in the folder (there may be two spellings)."""
    keys: frozenset[str]
    """The keys of `config.json` that the reader reads; of all others `keys.py` decides."""
    ignored: tuple[str, ...] = ()
    """Ends of names that old folders hold and that say nothing: buffers that can be computed."""

    def config_of(self, found: dict[str, Any], accept_unknown: Iterable[str] = ()) -> ModelConfig:
        """The shape that a `config.json` means; what is known nowhere and not accepted is refused."""
        config = self.read_config(found)
        refuse_unknown(found, self.keys, self.model_type, accept_unknown)
        return config

    @property
    def scalar(self) -> bool:
        """Whether the family has a class for reward models."""
        return self.model_type != "qwen"

    def head(self, scalar: bool) -> str:
        """The name in `architectures`."""
        if self.model_type == "qwen":
            return "QWenLMHeadModel"
        return self.architecture + ("ForSequenceClassification" if scalar else "ForCausalLM")


def identity(ours: Iterable[str], present: frozenset[str]) -> list[Weight]:
    """Their names are ours."""
    return [Weight(name, (name,)) for name in ours]


def pick(found: Mapping[str, Any], names: Mapping[str, str], needed: Iterable[str]) -> dict[str, Any]:
    """Values of `config.json` in our names: `names` maps theirs to ours. A null is as good as absent."""
    values = {ours: found[theirs] for theirs, ours in names.items() if found.get(theirs) is not None}
    spelled = {ours: theirs for theirs, ours in names.items()}
    if missing := [spelled[name] for name in needed if name not in values]:
        raise UserError(f"missing: {', '.join(missing)}", nearest=nearest(missing[0], found))
    for name in ("bos_token_id", "eos_token_id"):  # several ends stay several
        several = values[name] if isinstance(values.get(name), list) else [values[name]] if name in values else []
        if odd := [id for id in several if not is_whole(id)]:
            raise UserError(f"{spelled[name]}: {odd[0]!r}", expected="a token id, or a list of them")
        ids = tuple(several)
        values[name] = ids[0] if len(ids) == 1 else (ids or None)
    if "tie_word_embeddings" in values:
        values["tie_word_embeddings"] = flag(found, "tie_word_embeddings")
    return values


def flag(found: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A switch of `config.json`: "false" in quotes would count as true."""
    value = found.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UserError(f"{name} = {value!r}", expected="true or false")
    return value


def is_whole(value: Any) -> bool:
    """Whether a value of `config.json` is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def agree(found: Mapping[str, Any], names: Iterable[str], meaning: str) -> Any:
    """What several keys say of one thing, or None; where they differ, all of them are named."""
    said = {name: value for name in names if (value := found.get(name)) is not None}
    values = list(said.values())
    if any(value != values[0] for value in values):
        both = " and ".join(f"{name} = {value!r:.80}" for name, value in said.items())
        raise UserError(f"{both} disagree on {meaning}", expected="one of them, or the same in both")
    return values[0] if values else None


def refuse(found: Mapping[str, Any], wrong: Mapping[str, bool]) -> None:
    """Refuse what would be computed differently here."""
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise UserError(f"not supported here: {', '.join(names)}", expected="what the released models have")


def cannot_say(form: str, reasons: Mapping[str, bool]) -> None:
    """Refuse to write a model into a folder that would compute something else."""
    if said := [reason for reason, holds in reasons.items() if holds]:
        raise UserError(
            f"a {form} folder cannot hold {', '.join(said)}",
            where="the format to save in",
            expected="a format that computes the same",
        )
