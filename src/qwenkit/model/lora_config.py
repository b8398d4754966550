"""The settings of an adapter (LoRA; Hu et al., 2021). No torch here: a recipe is checked without it.

    config = LoRAConfig(rank=16, targets=("q_proj", "v_proj"))
    config = read_settings({"rank": 16, "targets": "all-linear"})      # a table of a recipe

Defaults are ours: the report trains all weights. Rank 16 on all linear layers and a learning rate ten times that of a
full training are what Schulman et al. (2025, "LoRA Without Regret") and peft's users arrived at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from qwenkit.errors import UserError, nearest

ALL_LINEAR = "all-linear"
MOST_RANK = 4096
"""A higher rank is a mistake: the matrices of the published models have no more rows."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """An adapter: every target W becomes W + scale * B A, with A [rank, K] and B [N, rank]; only those are trained.

    `scale` is alpha / rank, or alpha / sqrt(rank) with `rslora` (Kalajdzievski, 2023). `dora` also learns the norm of
    every row (Liu et al., 2024). Raises a `UserError` for values that mean nothing."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Dropout on the input of A, in training."""
    targets: str | tuple[str, ...] = ALL_LINEAR
    """Names of linear layers, one regular expression for their whole names, or `all-linear`: all but head and
    routers."""
    rslora: bool = False
    dora: bool = False
    modules_to_save: tuple[str, ...] | None = None
    """Modules that are trained whole and saved with the adapter, such as `embed_tokens`. None: none, but where a base
    model learns to chat, its embeddings and head."""
    lr_scale: float = 10.0
    """The learning rate of A, B and the norms over that of everything else that is trained."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    alpha_pattern: Mapping[str, float] = field(default_factory=dict[str, float])
    """Ranks and alphas of some layers, by regular expressions for the ends of their names, as in peft."""
    tied: bool = True
    """Where embedding and head are one table, whether they stay one when it is trained. peft has both."""

    def __post_init__(self) -> None:
        """Check every value."""
        ranks = {"rank": self.rank, **{f"rank_pattern `{name}`": rank for name, rank in self.rank_pattern.items()}}
        for name, rank in ranks.items():
            if not _is_integer(rank) or not 1 <= rank <= MOST_RANK:
                raise UserError(f"{name} = {rank!r}", where="adapter", expected=f"an integer from 1 to {MOST_RANK}")
        numbers = {"alpha": self.alpha, "lr_scale": self.lr_scale}
        numbers |= {f"alpha_pattern `{name}`": alpha for name, alpha in self.alpha_pattern.items()}
        for name, number in numbers.items():
            if not _is_number(number) or not 0 < number < 1e6:
                raise UserError(f"{name} = {number!r}", where="adapter", expected="a number above 0")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise UserError(f"dropout = {self.dropout!r}", where="adapter", expected="a number from 0 to below 1")
        for name in ("rslora", "dora"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} = {getattr(self, name)!r}", where="adapter", expected="true or false")
        self._check_names()

    def _check_names(self) -> None:
        if not self.targets or not (isinstance(self.targets, str) or _are_names(self.targets)):
            raise UserError(f"targets = {_shown(self.targets)}", where="adapter",
                            expected=f'"{ALL_LINEAR}", a list of names, or one regular expression')  # fmt: skip
        if isinstance(self.targets, str):
            refuse_bad_pattern(self.targets, "targets")
        for name in (*self.rank_pattern, *self.alpha_pattern):
            refuse_bad_pattern(name, "a pattern")
        if self.modules_to_save is not None and not _are_names(self.modules_to_save):
            raise UserError(f"modules_to_save = {_shown(self.modules_to_save)}", where="adapter",
                            expected='a list of names, such as ["embed_tokens", "lm_head"]')  # fmt: skip

    def rank_of(self, layer: str) -> int:
        """Return the rank of a layer."""
        return _by_pattern(self.rank_pattern, layer, self.rank)

    def scale_of(self, layer: str) -> float:
        """Return by what B A is multiplied in a layer."""
        alpha, rank = _by_pattern(self.alpha_pattern, layer, self.alpha), self.rank_of(layer)
        return alpha / rank**0.5 if self.rslora else alpha / rank


KEYS = ("rank", "alpha", "dropout", "targets", "rslora", "dora", "modules_to_save", "lr_scale")
"""The fields that a recipe may set, in its table `adapter`."""


def read_settings(table: Mapping[str, Any]) -> LoRAConfig:
    """Return the settings in a table of a recipe; raises a `UserError` for an unknown key or a value without a
    meaning."""
    if unknown := [name for name in table if name not in KEYS]:
        raise UserError(f"unknown key `{unknown[0]}`", where="adapter", expected="one of " + ", ".join(KEYS),
                        nearest=nearest(unknown[0], KEYS))  # fmt: skip
    return LoRAConfig(**{name: _tuple(value) for name, value in table.items()})


def settings_table(config: LoRAConfig) -> dict[str, Any]:
    """Return the settings as a recipe has them, defaults included: what identifies an adapter's training."""
    table = {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.name in KEYS}
    return {name: list(cast("tuple[str, ...]", x)) if isinstance(x, tuple) else x for name, x in table.items()}


def refuse_bad_pattern(pattern: str, what: str) -> None:
    """Raise a `UserError` for what is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{what} = {pattern!r:.200} is not a regular expression: {error}", where="adapter") from None


def _by_pattern(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    """Return the value of the first pattern that the end of a name fits, as in peft."""
    return next((value for end, value in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{end})", layer)), default)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    names = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (None,)
    return all(isinstance(name, str) and name for name in names)


def _shown(value: object) -> str:
    return repr(list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value)[:200]


def _tuple(value: Any) -> Any:
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value
