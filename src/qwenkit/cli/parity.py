"""The work of `qwenkit parity`: load one model after another, give all the same prompts, compare the outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.errors import UserError
from qwenkit.records import Row, read_object

if TYPE_CHECKING:
    from qwenkit.evaluation.parity import Observed
    from qwenkit.model import Transformer


def check(folders: Sequence[Path], dtype: str, tolerance: float | None) -> list[Row]:
    """Return a row for each folder: its distance from the first model, and whether its own certificate holds."""
    from qwenkit.chat.publish import find_tokenizer
    from qwenkit.evaluation import parity
    from qwenkit.evaluation.parity import CERTIFICATE, CLOSE
    from qwenkit.model import load_model

    files = [(path.parent if path.is_file() else path) / CERTIFICATE for path in folders]
    if len(folders) < 2 and not files[0].exists():
        raise UserError("one model, and no certificate in it", expected="two models or more, or an exported one")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UserError(f"{tolerance:g}", where="--tolerance", expected="a number from 0 on")
    certificates = [parity.checked(read_object(file), str(file)) if file.exists() else None for file in files]
    known = next((certificate for certificate in certificates if certificate is not None), None)
    rows, reference, prompts = [], None, known["prompts"] if known else []
    for folder, certificate in zip(folders, certificates):
        model = load_model(folder, dtype=dtype)
        if not prompts:
            prompts = parity.prompts_of(
                find_tokenizer(folder), model.config.vocab_size, min(512, model.config.max_length)
            )
        asked = [*prompts, *(certificate["prompts"] if certificate else [])]
        longest = max(map(len, asked))
        if longest > model.config.max_length:
            raise UserError(f"it reads {model.config.max_length} tokens", where=str(folder),
                            expected=f"room for the longest prompt, {longest} tokens",
                            hint="put the model with the fewest positions first")  # fmt: skip
        tops = [row for top in certificate["top"] for row in top["ids"]] if certificate else []
        largest = max(id for row in [*asked, *tops] for id in row)
        if largest >= model.config.vocab_size:
            raise UserError(f"it has {model.config.vocab_size} tokens", where=str(folder),
                            expected=f"the vocabulary of the prompts, which hold token {largest}")  # fmt: skip
        observed = parity.observe(model, prompts)
        reference = reference or observed
        kind = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
        rows.append({
            "model": str(folder), "dtype": kind, "length": model.config.max_length,
            "parity": parity.compare(reference, observed)._asdict() if observed is not reference else None,
            "certificate": _against_certificate(
                certificate, model, prompts, observed, CLOSE[kind] if tolerance is None else tolerance
            ),
        })  # fmt: skip
    return rows


def _against_certificate(
    certificate: Row | None, model: Transformer, prompts: list[list[int]], observed: Observed, tolerance: float
) -> Row | None:
    """Return the comparison of a folder's certificate with the model's present outputs, or None without one."""
    from qwenkit.evaluation import parity

    if certificate is None:
        return None
    if certificate["prompts"] != prompts:
        observed = parity.observe(model, certificate["prompts"])
    distance = parity.recheck(certificate, observed)
    return {"max_dlogp": distance.max_dlogp, "greedy_agreement": distance.greedy_agreement, "tolerance": tolerance,
            "holds": distance.max_dlogp <= tolerance, "reason": certificate.get("reason")}  # fmt: skip


def show(rows: Sequence[Row]) -> str:
    """Return the table for people, one line for each model."""
    lines = [["model", "type", "tokens", "max |dlogp|", "mean KL", "max KL", "greedy", "certificate"]]
    for row in rows:
        distance, certificate = row["parity"], row["certificate"]
        numbers = ["reference", "", "", ""]
        if distance is not None:
            numbers = [f"{distance[name]:.2g}" for name in ("max_dlogp", "mean_kl", "max_kl")]
            numbers.append(f"{distance['greedy_agreement']:.0%}")
        verdict = ""
        if certificate is not None:
            verdict = f"{'holds' if certificate['holds'] else 'DOES NOT HOLD'} ({certificate['max_dlogp']:.2g})"
        lines.append([row["model"], row["dtype"], str(row["length"]), *numbers, verdict])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
