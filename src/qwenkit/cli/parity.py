"""The work of `qwenkit parity`: load one model after another, ask all the same, lay the answers beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError
from qwenkit.records import read_object

CLOSE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""How far a certificate's log-probabilities may be off on another machine, by the type that was computed in."""


def check(folders: Sequence[Path], dtype: str, tolerance: float | None) -> list[dict[str, Any]]:
    """A row for each folder: its distance from the first, and whether its own certificate holds."""
    from qwenkit.chat.publish import find_tokenizer
    from qwenkit.evaluation import parity
    from qwenkit.evaluation.parity import CERTIFICATE
    from qwenkit.model import load_model

    if len(folders) < 2 and not (folders[0] / CERTIFICATE).exists():
        raise UserError("one model, and no certificate in it", expected="two models or more, or an exported one")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UserError(f"{tolerance:g}", where="--tolerance", expected="a number from 0 on")
    files = [folder / CERTIFICATE for folder in folders]
    held = [parity.checked(read_object(file), str(file)) if file.exists() else None for file in files]
    known = next((found for found in held if found is not None), None)
    rows, reference, prompts = [], None, known["prompts"] if known else []
    for folder, own in zip(folders, held):
        model = load_model(folder, dtype=dtype)
        if not prompts:
            prompts = parity.prompts_of(
                find_tokenizer(folder), model.config.vocab_size, min(512, model.config.max_length)
            )
        asked = [*prompts, *(own["prompts"] if own else [])]
        longest = max(map(len, asked))
        if longest > model.config.max_length:
            raise UserError(f"it reads {model.config.max_length} tokens", where=str(folder),
                            expected=f"room for the longest prompt, {longest} tokens",
                            hint="put the model with the fewest positions first")  # fmt: skip
        tops = [row for top in own["top"] for row in top["ids"]] if own else []
        largest = max(id for row in [*asked, *tops] for id in row)
        if largest >= model.config.vocab_size:
            raise UserError(f"it has {model.config.vocab_size} tokens", where=str(folder),
                            expected=f"the vocabulary of the prompts, which hold token {largest}")  # fmt: skip
        seen = parity.observe(model, prompts)
        reference = reference or seen
        kind = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
        rows.append({
            "model": str(folder), "dtype": kind, "length": model.config.max_length,
            "parity": parity.compare(reference, seen)._asdict() if seen is not reference else None,
            "certificate": _held(own, model, prompts, seen, CLOSE[kind] if tolerance is None else tolerance),
        })  # fmt: skip
    return rows


def _held(
    own: Mapping[str, Any] | None, model: Any, prompts: Any, seen: Any, tolerance: float
) -> dict[str, Any] | None:
    """A folder's certificate against what the model says now."""
    from qwenkit.evaluation import parity

    if own is None:
        return None
    found = parity.recheck(own, seen if own["prompts"] == prompts else parity.observe(model, own["prompts"]))
    return {"max_dlogp": found.max_dlogp, "greedy_agreement": found.greedy_agreement, "tolerance": tolerance,
            "holds": found.max_dlogp <= tolerance, "reason": own.get("reason")}  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people, one line for each model."""
    lines = [["model", "type", "tokens", "max |dlogp|", "mean KL", "max KL", "greedy", "certificate"]]
    for row in rows:
        found, own = row["parity"], row["certificate"]
        numbers = ["reference", "", "", ""]
        if found is not None:
            numbers = [f"{found[name]:.2g}" for name in ("max_dlogp", "mean_kl", "max_kl")]
            numbers.append(f"{found['greedy_agreement']:.0%}")
        said = "" if own is None else f"{'holds' if own['holds'] else 'DOES NOT HOLD'} ({own['max_dlogp']:.2g})"
        lines.append([row["model"], row["dtype"], str(row["length"]), *numbers, said])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
