"""Adapters loaded and unloaded over HTTP, as vLLM's server does it: `/v1/load_lora_adapter`, `/v1/unload_lora_adapter`.

    {"lora_name": "legal", "lora_path": "legal-2"}       # a folder inside of the one that --adapters-from names
    {"lora_name": "legal"}                               # gone for new requests; those that have it end with it

The paths are there only where the server was started with that folder, and answer only keys that may
(`load_adapters`). A path of a client leads nowhere else: links are followed before it is compared.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from qwenkit.errors import UserError
from qwenkit.inference.adapters import NAME
from qwenkit.serving.answering import Services, client_of
from qwenkit.serving.fields import TEXT, Table, refused
from qwenkit.serving.json_body import read_body
from qwenkit.serving.reading import fields_of, parsed
from qwenkit.serving.refusals import ENDING, Refusal, Refused
from qwenkit.serving.visit import Visit

LOAD = Table({"lora_name": TEXT, "lora_path": TEXT, "model": TEXT}, required=("lora_name", "lora_path"))
UNLOAD = Table({"lora_name": TEXT}, required=("lora_name",), ignored=("lora_int_id",))


def add_adapter_routes(app: FastAPI, services: Services, folder: Path) -> None:
    """Add both paths to an application; adapters come from this folder alone."""

    async def load(request: Request) -> Response:
        visit = _allowed(request, services)
        asked = await parsed(lambda body: LOAD.read(read_body(body)), visit.body)
        if not NAME.fullmatch(asked["lora_name"]):
            raise refused("lora_name", "is not a name", "1 to 200 letters, digits or . : @ / + - _")
        place = inside(folder, asked["lora_path"])
        entry = services.catalog.find(asked.get("model"), client_of(visit).models)
        try:
            await services.catalog.load_adapter(entry, asked["lora_name"], place, services.settings.limits.load_seconds)
        except UserError as error:
            raise Refused(_without_place(error)) from None
        return JSONResponse({"loaded": asked["lora_name"], "parent": entry.name})

    async def unload(request: Request) -> Response:
        visit = _allowed(request, services)
        asked = await parsed(lambda body: UNLOAD.read(read_body(body)), visit.body)
        await services.catalog.unload_adapter(asked["lora_name"])
        services.metrics.forget(asked["lora_name"])
        return JSONResponse({"unloaded": asked["lora_name"]}, headers=fields_of(asked.ignored))

    app.add_api_route("/v1/load_lora_adapter", load, methods=["POST"])
    app.add_api_route("/v1/unload_lora_adapter", unload, methods=["POST"])


def inside(folder: Path, asked: str) -> str:
    """Return the path of a folder inside of another one; raises `Refused` for any other path, and where it is not
    there, in the same words."""
    try:
        root = folder.resolve()
        place = (root / asked).resolve()
        if place != root and place.is_relative_to(root) and place.is_dir():
            return str(place)
    except (OSError, ValueError):
        pass
    raise refused("lora_path", "is not a folder of adapters here", "a folder inside of the one that the server names")


def _allowed(request: Request, services: Services) -> Visit:
    """Return the visit of a client who may load adapters."""
    visit: Visit = request.state.visit
    if not client_of(visit).load_adapters:
        raise Refused(Refusal("forbidden", "this key may not load adapters", code="not_allowed",
                              hint="load_adapters = true in the key file"))  # fmt: skip
    if services.catalog.draining:
        raise Refused(ENDING)
    return visit


def _without_place(error: UserError) -> Refusal:
    """Return what is wrong with an adapter, without paths of the server."""
    return Refusal("invalid", error.what, "lora_path", error.expected, error.hint, "adapter_refused")
