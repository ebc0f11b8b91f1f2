"""/v1/responses: create (also over a WebSocket), retrieve, delete, cancel, list the input items."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app import web, web_socket
from app.endpoints import API
from app.errors import InvalidRequest, UpgradeRequired
from app.schemas.create import read_compact, read_count, read_create, read_include
from app.schemas.listing import read_page, read_starting_after

PREFIXES = API
blueprint = Blueprint("responses", __name__)


@blueprint.post("/responses")
def create() -> Response:
    request = read_create(web.body())
    relay, background, token, asked = web.gateway().relay, web.gateway().background, web.token(), web.asked()
    if request.get("background"):
        if request.get("stream"):
            return web.event_stream(background.stream(token, request, asked))
        return web.answer(background.create(token, request, asked))
    if request.get("stream"):
        return web.event_stream(relay.stream(token, request, asked))
    return web.answer(relay.create(token, request, asked))


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


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    asked = read_count(web.body())
    return web.answer(web.gateway().relay.count(web.token(), asked, web.asked()))


@blueprint.route("/responses", websocket=True, endpoint="connect")
def connect() -> Response:
    return web_socket.serve()


@blueprint.get("/responses")
def not_connected() -> Response:
    raise UpgradeRequired("GET /v1/responses is for WebSockets. Send POST /v1/responses, or request an upgrade.")


@blueprint.get("/responses/<response_id>")
def retrieve(response_id: str) -> Response:
    include = read_include(web.listed_argument("include"))
    if incoming.args.get("stream", "").lower() == "true":
        after, client = read_starting_after(incoming.args), web.asked().client
        return web.event_stream(web.gateway().background.follow(web.token(), response_id, after, client, include))
    return web.answer(web.gateway().responses.retrieve(web.token(), response_id, include))


@blueprint.delete("/responses/<response_id>")
def delete(response_id: str) -> Response:
    return web.answer(web.gateway().responses.delete(web.token(), response_id))


@blueprint.get("/responses/<response_id>/input_items")
def input_items(response_id: str) -> Response:
    wanted, include = read_page(incoming.args), read_include(web.listed_argument("include"))
    return web.answer(web.gateway().responses.input_items(web.token(), response_id, wanted, include))


@blueprint.post("/responses/<response_id>/cancel")
def cancel(response_id: str) -> Response:
    return web.answer(web.gateway().background.cancel(web.token(), response_id))
