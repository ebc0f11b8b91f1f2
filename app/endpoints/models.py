"""/v1/models: the models that the token may use."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from app.endpoints import API
from app.errors import NotFound
from app.web.current_request import this_request
from app.web.responses import json_response

PREFIXES = API
blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
def list_models() -> Response:
    models = _models()
    listing: dict[str, Any] = {"object": "list", "data": models}
    if "client_version" in request.args:
        # Codex reads this key. With an empty list it keeps its built-in facts about models.
        listing["models"] = []
    response = json_response(listing)
    response.add_etag()
    response.make_conditional(request)
    return response


@blueprint.get("/models/<path:model>")
def retrieve_model(model: str) -> Response:
    for found in _models():
        if found["id"] == model:
            return json_response(found)
    raise NotFound(f"The model '{model}' does not exist", code="model_not_found", param="model")


def _models() -> list[dict[str, Any]]:
    current = this_request()
    return [model for model in current.gateway.model_list.models() if current.token.may_use(model["id"])]
