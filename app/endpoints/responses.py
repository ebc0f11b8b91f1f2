"""/v1/responses: create (also over a WebSocket), retrieve, delete, cancel, list the input items."""

from __future__ import annotations

from flask import Blueprint, Response
from flask import request as incoming

from app.endpoints import API
from app.errors import InvalidRequest, UpgradeRequired
from app.relay.token_counting import count_request
from app.relay.turn_run import TurnRun, compacted_run, compaction_window, run_of_request
from app.schemas.create import read_compact, read_count, read_create, read_include
from app.schemas.listing import read_page, read_starting_after
from app.web import bodies, current_request, event_streams, websockets

PREFIXES = API
blueprint = Blueprint("responses", __name__)


@blueprint.post("/responses")
def create() -> Response:
    request = read_create(bodies.read_json())
    gateway, token, context = (
        current_request.gateway(),
        current_request.token(),
        current_request.request_context(),
    )
    if request.get("background"):
        if request.get("stream"):
            return event_streams.sse_response(gateway.background.stream(token, request, context))
        return bodies.json_response(gateway.background.create(token, request, context))
    return _answer(run_of_request(gateway.turns, token, request, context))


def _answer(run: TurnRun) -> Response:
    """The events of the response, or the response."""
    return event_streams.sse_response(run.stream()) if run.turn.stream else bodies.json_response(run.create())


@blueprint.post("/responses/compact")
def compact() -> Response:
    compact_request = read_compact(bodies.read_json())
    request, turns, token = compact_request.request, current_request.gateway().turns, current_request.token()
    if not turns.compaction.wants_answer(compact_request):
        if request.get("stream"):
            raise InvalidRequest(
                "A compaction window cannot be streamed. Give 'previous_response_id' together with 'input' to get an "
                "answer over the compacted history, which can.",
                code="unsupported_value",
                param="stream",
            )
        return bodies.json_response(compaction_window(turns, token, request, current_request.request_context()))
    return _answer(compacted_run(turns, token, request, current_request.request_context()))


@blueprint.post("/responses/input_tokens")
def input_tokens() -> Response:
    body = read_count(bodies.read_json())
    return bodies.json_response(
        count_request(current_request.gateway().turns, current_request.token(), body, current_request.request_context())
    )


@blueprint.route("/responses", websocket=True, endpoint="connect")
def connect() -> Response:
    return websockets.serve()


@blueprint.get("/responses")
def not_connected() -> Response:
    raise UpgradeRequired("GET /v1/responses is for WebSockets. Send POST /v1/responses, or request an upgrade.")


@blueprint.get("/responses/<response_id>")
def retrieve(response_id: str) -> Response:
    include = read_include(bodies.list_argument("include"))
    if incoming.args.get("stream", "").lower() == "true":
        after, client_fd = read_starting_after(incoming.args), current_request.request_context().client_fd
        return event_streams.sse_response(
            current_request.gateway().background.events_after(
                current_request.token(), response_id, after, client_fd, include
            )
        )
    return bodies.json_response(
        current_request.gateway().responses.retrieve(current_request.token(), response_id, include)
    )


@blueprint.delete("/responses/<response_id>")
def delete(response_id: str) -> Response:
    return bodies.json_response(current_request.gateway().responses.delete(current_request.token(), response_id))


@blueprint.get("/responses/<response_id>/input_items")
def input_items(response_id: str) -> Response:
    page, include = read_page(incoming.args), read_include(bodies.list_argument("include"))
    return bodies.json_response(
        current_request.gateway().responses.input_items(current_request.token(), response_id, page, include)
    )


@blueprint.post("/responses/<response_id>/cancel")
def cancel(response_id: str) -> Response:
    return bodies.json_response(current_request.gateway().background.cancel(current_request.token(), response_id))
