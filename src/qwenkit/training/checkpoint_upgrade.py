"""Run states of earlier versions, in the present form.

Schema 1 kept every tensor of a module, the states of parameters by their position in the optimizer, and the tokens read
among the numbers. Schema 2 keeps what is trained, by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qwenkit.errors import UserError

SCHEMA = 2
Names = Sequence[Sequence[Sequence[str]]]
"""Of each optimizer of a set, of each of its groups: the names of its parameters, in order."""


def upgrade(
    state: Mapping[str, Any], frozen: Mapping[str, Collection[str]], names: Mapping[str, Names]
) -> Mapping[str, Any]:
    """Return a run state in the present form; `frozen` are the tensors of each module that are not trained, `names`
    the parameters of each optimizer.

    Raises a `UserError` for the state of a newer version, and where the optimizers have other parameters."""
    schema = state.get("schema", 1)
    if schema > SCHEMA:
        raise UserError(
            f"the checkpoint was written by a newer version (schema {schema})",
            expected=f"schema {SCHEMA} or an older one",
            hint="continue with the version that wrote it, or remove the checkpoints",
        )
    return state if schema == SCHEMA else _from_1(state, frozen, names)


def _from_1(
    state: Mapping[str, Any], frozen: Mapping[str, Collection[str]], names: Mapping[str, Names]
) -> dict[str, Any]:
    numbers = dict(state["numbers"])
    modules = {
        name: {key: tensor for key, tensor in tensors.items() if key not in frozen.get(name, ())}
        for name, tensors in state["modules"].items()
    }
    return {
        "schema": SCHEMA,
        "modules": modules,
        "optimizers": {name: by_name(state["optimizers"][name], names[name]) for name in names},
        "tokens": numbers.pop("tokens", 0),
        "skipped_steps": 0,
        "numbers": numbers,
        "step": state["step"],
    }


def by_name(saved: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return the state of an `OptimizerSet` with names in place of positions.

    Its optimizers and groups, and how many parameters each has, must be those of `names`."""
    sizes = [[len(group["params"]) for group in each["param_groups"]] for each in saved["optimizers"]]
    if sizes != [[len(group) for group in groups] for groups in names]:
        raise UserError(
            "the checkpoint is of an earlier version, and its optimizer has other parameters",
            expected=f"{sum(len(group) for groups in names for group in groups)} of them",
            hint="finish the training with the version that began it, or remove the checkpoints",
        )
    groups: list[dict[str, Any]] = []
    states: dict[str, Any] = {}
    for each, group_names in zip(saved["optimizers"], names, strict=True):
        for group, own in zip(each["param_groups"], group_names, strict=True):
            options = {key: value for key, value in group.items() if key != "params"}
            groups.append({"kind": "adamw" if "betas" in options else "muon", "names": list(own), **options})
            states |= {
                name: each["state"].get(position, {}) for name, position in zip(own, group["params"], strict=True)
            }
    return {"groups": groups, "state": states}
