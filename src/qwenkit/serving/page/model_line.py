"""The line that says which model answers: its name, its size in parameters, its dtype, and whether it is a toy."""

from __future__ import annotations

from typing import NamedTuple

from qwenkit.serving.models import Entry
from qwenkit.serving.page.texts import Language, text

TOY = 50_000_000
"""Models with fewer parameters are called toys."""


class Size(NamedTuple):
    """What a model in memory is."""

    parameters: int
    dtype: str


def size_of(entry: Entry) -> Size | None:
    """Return the size of a model, None for one that is not in memory. Weights that two layers share count once."""
    if entry.model is None:
        return None
    tensors = list(entry.model.engine.model.parameters())
    dtype = max(tensors, key=lambda tensor: tensor.numel()).dtype if tensors else None
    return Size(sum(tensor.numel() for tensor in tensors), str(dtype).removeprefix("torch."))


def model_line(name: str, size: Size | None, language: Language) -> str:
    """Return the line of one model."""
    if size is None:
        return f"{name} · {text('not_loaded', language)}"
    parts = [name, text("parameters", language, count=rounded(size.parameters)), size.dtype]
    return " · ".join(parts + ([text("toy", language)] if size.parameters < TOY else []))


def rounded(count: int) -> str:
    """Return a number of parameters with three digits: 135 M, 1.54 B, 9.6 k."""
    for factor, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g}{unit}"
    return str(count)
