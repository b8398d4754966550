"""The paths that generate nothing: models by their names, texts as token ids and back, vectors."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from qwenkit.errors import UserError
from qwenkit.inference import SamplingParams
from qwenkit.serving.answering import Services, check_length, client_of, hold_model
from qwenkit.serving.faces import embeddings, messages, models, tokenize
from qwenkit.serving.reading import fields_of, new_id, no_such_path, parsed
from qwenkit.serving.refusals import Refusal, Refused, refusal_of
from qwenkit.serving.request import Reply, TextRequest

if TYPE_CHECKING:
    from qwenkit.model import Transformer
    from qwenkit.serving.models import Entry
    from qwenkit.serving.served_model import ServedModel
    from qwenkit.serving.visit import Visit

NO_ANSWER = SamplingParams(max_tokens=0)


def add_routes(app: FastAPI, services: Services) -> None:
    """Add the paths to an application."""
    own = _Routes(services)
    app.add_api_route("/v1/models", own.list_models, methods=["GET", "HEAD"])
    app.add_api_route("/v1/models/{name:path}", own.show_model, methods=["GET", "HEAD"])
    for path, route in (
        ("/tokenize", own.tokenize),
        ("/v1/messages/count_tokens", own.count_tokens),
        ("/detokenize", own.detokenize),
        ("/v1/embeddings", own.embed),
    ):
        app.add_api_route(path, route, methods=["POST"])


class _Routes:
    def __init__(self, services: Services) -> None:
        self.services, self.started = services, int(time.time())

    # ---- models -----------------------------------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Response:
        """Return the models that this client may ask, by all their names."""
        allowed, catalog = client_of(request.state.visit).models, self.services.catalog
        names = [name for name in catalog.names if allowed is None or name in allowed]
        return JSONResponse(models.listed([self._model(name, catalog.find(name)) for name in names]))

    async def show_model(self, request: Request, name: str) -> Response:
        """Return one of them."""
        if not name:
            raise no_such_path(request)
        entry = self.services.catalog.find(name, client_of(request.state.visit).models)
        return JSONResponse(models.shown(self._model(name, entry)))

    def _model(self, name: str, entry: Entry) -> models.Model:
        length = None if entry.model is None else entry.model.max_length
        parent = entry.name if name in entry.adapters else None
        root = entry.name if parent is None else name
        return models.Model(id=name, created=self.started, max_model_len=length, root=root, parent=parent)

    # ---- texts and token ids ----------------------------------------------------------------------------------------

    async def tokenize(self, request: Request) -> Response:
        """Return the ids of a text or of a conversation."""
        visit: Visit = request.state.visit
        asked: TextRequest = await parsed(tokenize.parse, visit.body)
        model = await hold_model(asked.model, visit, self.services)
        ids = await asyncio.to_thread(model.count, asked)
        body = tokenize.tokenized(asked, ids, model.tok, model.max_length)
        return JSONResponse(body, headers=fields_of(asked.ignored))

    async def count_tokens(self, request: Request) -> Response:
        """Return how many tokens a conversation of Anthropic's form has."""
        visit: Visit = request.state.visit
        asked: TextRequest = await parsed(messages.parse_count, visit.body)
        model = await hold_model(asked.model, visit, self.services)
        ids = await asyncio.to_thread(model.count, asked)
        return JSONResponse(messages.counted(len(ids)), headers=fields_of(asked.ignored))

    async def detokenize(self, request: Request) -> Response:
        """Return the text of ids."""
        visit: Visit = request.state.visit
        name, ids = await parsed(tokenize.parse_detokenize, visit.body)
        model = await hold_model(name, visit, self.services)
        return JSONResponse(tokenize.detokenized(ids, model.tok))

    # ---- vectors ----------------------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """Return a vector for each input."""
        visit: Visit = request.state.visit
        asked = await parsed(embeddings.parse, visit.body)
        model = await hold_model(asked.model, visit, self.services)
        if model.adapter is not None:
            what = f"{model.adapter} is an adapter, which has no vectors of its own"
            raise Refused(Refusal("invalid", what, "model", "the name of its model", code="unsupported_model"))
        rows = [await asyncio.to_thread(_ids, model, text, number) for number, text in enumerate(asked.inputs)]
        visit.prompt_tokens = sum(map(len, rows))
        check_length(max(map(len, rows)), client_of(visit).allowance)
        self.services.usage.charge(client_of(visit), visit.prompt_tokens)
        vectors = [await self._vector(model, list(ids), visit) for ids in rows]
        reply = Reply(id=new_id(visit), created=int(time.time()), model=model.name)
        return JSONResponse(
            embeddings.response(asked, reply, vectors, visit.prompt_tokens), headers=fields_of(asked.ignored)
        )

    async def _vector(self, model: ServedModel, ids: list[int], visit: Visit) -> list[float]:
        left = max(1.0, self.services.settings.limits.request_seconds - visit.seconds)
        return await model.loop.acall(lambda: mean_hidden(model.engine.model, ids), timeout=left)


def _ids(model: ServedModel, text: str | tuple[int, ...], number: int) -> tuple[int, ...]:
    """Return the ids of one of the inputs, which may fill all positions; raises `Refused` with its place."""
    try:
        return model.encode(text, NO_ANSWER)[0].ids
    except UserError as error:
        raise Refused(replace(refusal_of(error), param=f"input[{number}]")) from None


@torch.inference_mode()
def mean_hidden(model: Transformer, ids: list[int]) -> list[float]:
    """Return the mean of a text's hidden states after the final norm, at length 1: one vector [D], of a model that was
    not trained for it."""
    device = model.model.embed_tokens.weight.device
    hidden_TD = model.hidden(torch.tensor([ids], device=device))[0].float()
    vector_D = torch.nn.functional.normalize(hidden_TD.mean(0), dim=0)
    return [float(number) for number in vector_D.cpu()]
