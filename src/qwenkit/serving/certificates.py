"""Whether a model still says what its certificate tells: an exported folder carries one (`evaluation/parity.py`).

    check_certificate(folder, model)             # raises a `UserError` for a model that computes something else

A folder without a certificate has nothing to fail: it is served as it is.
"""

from __future__ import annotations

from pathlib import Path

from qwenkit.errors import UserError
from qwenkit.evaluation import parity
from qwenkit.model import Transformer
from qwenkit.records import read_object


def check_certificate(folder: Path, model: Transformer) -> bool:
    """Return whether there is a certificate, after asking the model what it asks.

    Raises a `UserError` where the answers differ by more than the tolerance of the model's dtype."""
    file = (folder.parent if folder.is_file() else folder) / parity.CERTIFICATE
    if not file.exists():
        return False
    certificate = parity.checked(read_object(file), str(file))
    _check_fits(certificate, model, str(file))
    distance = parity.recheck(certificate, parity.observe(model, certificate["prompts"]))
    tolerance = parity.CLOSE[str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")]
    if not distance.max_dlogp <= tolerance:
        raise UserError(
            f"the model is {distance.max_dlogp:.2g} nats away from its certificate",
            where=str(folder),
            expected=f"at most {tolerance:g}",
            hint="export it again; `qwenkit parity` shows how far it is",
        )
    return True


def _check_fits(certificate: dict[str, object], model: Transformer, where: str) -> None:
    """Raise a `UserError` for prompts that the model has no tokens or no positions for."""
    prompts: list[list[int]] = certificate["prompts"]  # type: ignore[assignment]  # `parity.checked` has looked at it
    tops: list[dict[str, list[list[int]]]] = certificate["top"]  # type: ignore[assignment]
    largest = max(id for row in [*prompts, *(ids for top in tops for ids in top["ids"])] for id in row)
    if largest >= model.config.vocab_size or max(map(len, prompts)) > model.config.max_length:
        raise UserError("this is the certificate of another model", where=where, hint="export the model again")
