"""`/v1/models`: which models are served, as OpenAI's clients list them, with vLLM's `max_model_len`.

    listed([Model("chat", created=0, max_model_len=2048)])
    unknown_model("caht", ["chat"])          # a `Refused` with the nearest name

A model that is not loaded has no `max_model_len` yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwenkit.errors import nearest
from qwenkit.serving.refusals import Refusal, Refused


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is served under this name."""

    id: str
    created: int
    """Seconds since 1970."""
    max_model_len: int | None
    """Tokens that a prompt and its answer may have together; None where that is not known yet."""
    root: str | None = None
    """The name of its folder, where `id` is another name of it."""
    parent: str | None = None
    """The model that an adapter is on."""


def shown(model: Model) -> dict[str, Any]:
    """Return one model."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "qwenkit",
        "root": model.root or model.id,
        "parent": model.parent,
        "max_model_len": model.max_model_len,
    }


def listed(models: Sequence[Model]) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [shown(model) for model in models]}


def unknown_model(name: str, known: Sequence[str]) -> Refused:
    """Return the refusal of a name that no model has."""
    close = nearest(name[:200], known)
    hint = f"did you mean {close}?" if close else None
    what = f"no model is called {name[:200]!r}"
    return Refused(Refusal("not_found", what, "model", ", ".join(known[:20]), hint, "model_not_found"))
