"""/v1/conversations: create, retrieve, update, delete, and their items."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app.endpoints import API
from app.schemas.conversations import read_added_items, read_conversation, read_metadata
from app.schemas.create import read_include
from app.schemas.listing import read_page
from app.web import bodies, current_request

PREFIXES = API
blueprint = Blueprint("conversations", __name__)


@blueprint.post("/conversations")
def create() -> Response:
    body = read_conversation(bodies.read_json())
    return bodies.json_response(
        current_request.gateway().conversations.create(current_request.token(), body["items"], body["metadata"])
    )


@blueprint.get("/conversations/<conversation_id>")
def retrieve(conversation_id: str) -> Response:
    return bodies.json_response(
        current_request.gateway().conversations.retrieve(current_request.token(), conversation_id)
    )


@blueprint.post("/conversations/<conversation_id>")
def update(conversation_id: str) -> Response:
    metadata = read_metadata(bodies.read_json())
    return bodies.json_response(
        current_request.gateway().conversations.update(current_request.token(), conversation_id, metadata)
    )


@blueprint.delete("/conversations/<conversation_id>")
def delete(conversation_id: str) -> Response:
    return bodies.json_response(
        current_request.gateway().conversations.delete(current_request.token(), conversation_id)
    )


@blueprint.post("/conversations/<conversation_id>/items")
def add(conversation_id: str) -> Response:
    items, include = read_added_items(bodies.read_json()), read_include(bodies.list_argument("include"))
    return bodies.json_response(
        current_request.gateway().conversations.add(current_request.token(), conversation_id, items, include)
    )


@blueprint.get("/conversations/<conversation_id>/items")
def items(conversation_id: str) -> Response:
    page, include = read_page(incoming.args), read_include(bodies.list_argument("include"))
    return bodies.json_response(
        current_request.gateway().conversations.items(current_request.token(), conversation_id, page, include)
    )


@blueprint.get("/conversations/<conversation_id>/items/<item_id>")
def item(conversation_id: str, item_id: str) -> Response:
    include = read_include(bodies.list_argument("include"))
    return bodies.json_response(
        current_request.gateway().conversations.item(current_request.token(), conversation_id, item_id, include)
    )


@blueprint.delete("/conversations/<conversation_id>/items/<item_id>")
def delete_item(conversation_id: str, item_id: str) -> Response:
    return bodies.json_response(
        current_request.gateway().conversations.delete_item(current_request.token(), conversation_id, item_id)
    )
