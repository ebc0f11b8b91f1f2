"""/v1/conversations: create, retrieve, update, delete, and their items."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app import web
from app.endpoints import API
from app.schemas.conversations import read_added_items, read_conversation, read_metadata
from app.schemas.create import read_include
from app.schemas.listing import read_page

PREFIXES = API
blueprint = Blueprint("conversations", __name__)


@blueprint.post("/conversations")
def create() -> Response:
    asked = read_conversation(web.body())
    return web.answer(web.gateway().conversations.create(web.token(), asked["items"], asked["metadata"]))


@blueprint.get("/conversations/<conversation_id>")
def retrieve(conversation_id: str) -> Response:
    return web.answer(web.gateway().conversations.retrieve(web.token(), conversation_id))


@blueprint.post("/conversations/<conversation_id>")
def update(conversation_id: str) -> Response:
    metadata = read_metadata(web.body())
    return web.answer(web.gateway().conversations.update(web.token(), conversation_id, metadata))


@blueprint.delete("/conversations/<conversation_id>")
def delete(conversation_id: str) -> Response:
    return web.answer(web.gateway().conversations.delete(web.token(), conversation_id))


@blueprint.post("/conversations/<conversation_id>/items")
def add(conversation_id: str) -> Response:
    items, include = read_added_items(web.body()), read_include(web.listed_argument("include"))
    return web.answer(web.gateway().conversations.add(web.token(), conversation_id, items, include))


@blueprint.get("/conversations/<conversation_id>/items")
def items(conversation_id: str) -> Response:
    wanted, include = read_page(incoming.args), read_include(web.listed_argument("include"))
    return web.answer(web.gateway().conversations.items(web.token(), conversation_id, wanted, include))


@blueprint.get("/conversations/<conversation_id>/items/<item_id>")
def item(conversation_id: str, item_id: str) -> Response:
    include = read_include(web.listed_argument("include"))
    return web.answer(web.gateway().conversations.item(web.token(), conversation_id, item_id, include))


@blueprint.delete("/conversations/<conversation_id>/items/<item_id>")
def delete_item(conversation_id: str, item_id: str) -> Response:
    return web.answer(web.gateway().conversations.delete_item(web.token(), conversation_id, item_id))
