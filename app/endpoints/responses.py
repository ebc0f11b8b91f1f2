"""/v1/responses: create (also over a WebSocket), retrieve, delete, cancel, list the input items."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app.endpoints import API
from app.errors import InvalidRequest, UpgradeRequired
from app.relay.runs import compacted_run, compaction_window, run_of_request
from app.relay.token_counting import count_request
from app.relay.turn_run import TurnRun
from app.schemas.create import read_compact, read_count, read_create, read_include
from app.schemas.listing import read_page, read_starting_after
from app.web import websockets
from app.web.current_request import list_argument, this_request
from app.web.responses import json_response, sse_response

PREFIXES = API
blueprint = Blueprint("responses", __name__)


@blueprint.post("/responses")
def create() -> Response:
    current = this_request()
    request, gateway = read_create(current.json()), current.gateway
    if request.get("background"):
        if request.get("stream"):
            return sse_response(gateway.background.stream(current.token, request, current.context()))
        return json_response(gateway.background.create(current.token, request, current.context()))
    return _answer(run_of_request(gateway.turns, current.token, request, current.context()))


def _answer(run: TurnRun) -> Response:
    """The events of the response, or the response."""
    return sse_response(run.stream()) if run.turn.stream else json_response(run.create())


@blueprint.post("/responses/compact")
def compact() -> Response:
    current = this_request()
    compact_request, turns = read_compact(current.json()), current.gateway.turns
    request = compact_request.request
    if turns.compaction.wants_answer(compact_request):
        return _answer(compacted_run(turns, current.token, request, current.context()))
    if request.get("stream"):
        raise InvalidRequest(
            "A compaction window cannot be streamed. Give 'previous_response_id' together with 'input' to get an "
            "answer over the compacted history, which can.",
            code="unsupported_value",
            param="stream",
        )
    return json_response(compaction_window(turns, current.token, request, current.context()))


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    current = this_request()
    request = read_count(current.json())
    return json_response(count_request(current.gateway.turns, current.token, request, current.context()))


@blueprint.route("/responses", websocket=True, endpoint="connect")
def connect() -> Response:
    return websockets.serve()


@blueprint.get("/responses")
def not_connected() -> Response:
    raise UpgradeRequired("GET /v1/responses is for WebSockets. Send POST /v1/responses, or request an upgrade.")


@blueprint.get("/responses/<response_id>")
def retrieve(response_id: str) -> Response:
    current, include = this_request(), read_include(list_argument("include"))
    if incoming.args.get("stream", "").lower() == "true":
        after, client_fd = read_starting_after(incoming.args), current.context().client_fd
        return sse_response(
            current.gateway.background.events_after(current.token, response_id, after, client_fd, include)
        )
    return json_response(current.gateway.responses.retrieve(current.token, response_id, include))


@blueprint.delete("/responses/<response_id>")
def delete(response_id: str) -> Response:
    current = this_request()
    return json_response(current.gateway.responses.delete(current.token, response_id))


@blueprint.get("/responses/<response_id>/input_items")
def input_items(response_id: str) -> Response:
    current, page, include = this_request(), read_page(incoming.args), read_include(list_argument("include"))
    return json_response(current.gateway.responses.input_items(current.token, response_id, page, include))


@blueprint.post("/responses/<response_id>/cancel")
def cancel(response_id: str) -> Response:
    current = this_request()
    return json_response(current.gateway.background.cancel(current.token, response_id))
