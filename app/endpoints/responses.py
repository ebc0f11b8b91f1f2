"""/v1/responses: create (also over a WebSocket), retrieve, delete, cancel, list what it was given."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app import web, web_socket
from app.endpoints import API
from app.errors import InvalidRequest, UpgradeRequired
from app.schemas.create import read_compact, read_create, read_include
from app.schemas.listing import read_page

PREFIXES = API
blueprint = Blueprint("responses", __name__)


@blueprint.post("/responses")
def create() -> Response:
    asked = read_create(web.body())
    relay, token = web.gateway().relay, web.token()
    if asked.get("stream"):
        return web.event_stream(relay.stream(token, asked, web.asked()))
    return web.answer(relay.create(token, asked, web.asked()))


@blueprint.post("/responses/compact")
def compact() -> Response:
    wanted = read_compact(web.body())
    request, relay, token = wanted.request, web.gateway().relay, web.token()
    if not relay.answers(wanted):
        if request.get("stream"):
            raise InvalidRequest(
                "A compaction window cannot be streamed. Give 'previous_response_id' together with 'input' to get an "
                "answer over the compacted history, which can.",
                code="unsupported_value",
                param="stream",
            )
        return web.answer(relay.window(token, request, web.asked()))
    if request.get("stream"):
        return web.event_stream(relay.compact_stream(token, request, web.asked()))
    return web.answer(relay.compact(token, request, web.asked()))


@blueprint.route("/responses", websocket=True, endpoint="connect")
def connect() -> Response:
    return web_socket.serve()


@blueprint.get("/responses")
def not_connected() -> Response:
    raise UpgradeRequired("GET /v1/responses is for WebSockets. Send POST /v1/responses, or ask for an upgrade.")


@blueprint.get("/responses/<response_id>")
def retrieve(response_id: str) -> Response:
    include = read_include(web.listed_argument("include"))
    response = web.gateway().relay.retrieve(web.token(), response_id, include)
    if incoming.args.get("stream", "").lower() == "true":
        raise InvalidRequest(
            "Only a background response can be streamed again. Leave out 'stream'.",
            code="unsupported_value",
            param="stream",
        )
    return web.answer(response)


@blueprint.delete("/responses/<response_id>")
def delete(response_id: str) -> Response:
    return web.answer(web.gateway().relay.delete(web.token(), response_id))


@blueprint.get("/responses/<response_id>/input_items")
def input_items(response_id: str) -> Response:
    wanted, include = read_page(incoming.args), read_include(web.listed_argument("include"))
    return web.answer(web.gateway().relay.input_items(web.token(), response_id, wanted, include))


@blueprint.post("/responses/<response_id>/cancel")
def cancel(response_id: str) -> Response:
    return web.answer(web.gateway().relay.cancel(web.token(), response_id))
