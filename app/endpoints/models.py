"""/v1/models: the models that the token may use, for every client and as the catalogue of Codex."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Response, request

from app.contract import codex_catalogue
from app.endpoints import API
from app.errors import NotFound
from app.gateway import Gateway
from app.web.current_request import this_request
from app.web.responses import json_response

PREFIXES = API
blueprint = Blueprint("models", __name__)

#: The parameter with which Codex asks for its catalogue.
_CLIENT_VERSION = "client_version"


@blueprint.get("/models")
def list_models() -> Response:
    models = _models()
    listing: dict[str, Any] = {"object": "list", "data": models}
    if _CLIENT_VERSION in request.args:
        names = (model["id"] for model in models)
        listing["models"] = _catalogue(this_request().gateway, names, request.args[_CLIENT_VERSION])
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
    token = current.token
    return [model for model in current.gateway.model_list.models(token.limits.tags) if token.may_use(model["id"])]


def _catalogue(gateway: Gateway, names: Iterable[str], version: str) -> list[dict[str, Any]]:
    """Codex keeps its own facts about models that are left out."""
    table = gateway.channels.table
    known = ((name, gateway.model_facts.facts(name), table.facts(name).context_window is not None) for name in names)
    listed = [(name, facts) for name, facts, stated in known if codex_catalogue.is_listed(name, facts, stated)]
    return [codex_catalogue.entry(name, facts, place, version) for place, (name, facts) in enumerate(listed, 1)]
