"""/v1/conversations: create, retrieve, update, delete, and their items."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app.endpoints import API
from app.schemas.conversations import read_added_items, read_conversation, read_metadata
from app.schemas.create import read_include
from app.schemas.listing import read_page
from app.web.current_request import list_argument, this_request
from app.web.responses import json_response

PREFIXES = API
blueprint = Blueprint("conversations", __name__)


@blueprint.post("/conversations")
def create() -> Response:
    current = this_request()
    body = read_conversation(current.json())
    return json_response(current.gateway.conversations.create(current.token, body["items"], body["metadata"]))


@blueprint.get("/conversations/<conversation_id>")
def retrieve(conversation_id: str) -> Response:
    current = this_request()
    return json_response(current.gateway.conversations.retrieve(current.token, conversation_id))


@blueprint.post("/conversations/<conversation_id>")
def update(conversation_id: str) -> Response:
    current = this_request()
    metadata = read_metadata(current.json())
    return json_response(current.gateway.conversations.update(current.token, conversation_id, metadata))


@blueprint.delete("/conversations/<conversation_id>")
def delete(conversation_id: str) -> Response:
    current = this_request()
    return json_response(current.gateway.conversations.delete(current.token, conversation_id))


@blueprint.post("/conversations/<conversation_id>/items")
def add(conversation_id: str) -> Response:
    current = this_request()
    items, include = read_added_items(current.json()), read_include(list_argument("include"))
    return json_response(current.gateway.conversations.add(current.token, conversation_id, items, include))


@blueprint.get("/conversations/<conversation_id>/items")
def items(conversation_id: str) -> Response:
    current, page, include = this_request(), read_page(incoming.args), read_include(list_argument("include"))
    return json_response(current.gateway.conversations.items(current.token, conversation_id, page, include))


@blueprint.get("/conversations/<conversation_id>/items/<item_id>")
def item(conversation_id: str, item_id: str) -> Response:
    current, include = this_request(), read_include(list_argument("include"))
    return json_response(current.gateway.conversations.item(current.token, conversation_id, item_id, include))


@blueprint.delete("/conversations/<conversation_id>/items/<item_id>")
def delete_item(conversation_id: str, item_id: str) -> Response:
    current = this_request()
    return json_response(current.gateway.conversations.delete_item(current.token, conversation_id, item_id))
