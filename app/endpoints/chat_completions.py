"""/v1/chat/completions: relayed without translation to channels of this format."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response

from app.endpoints import API
from app.formats import PASSTHROUGH
from app.schemas.chat import read_chat
from app.web import bodies, current_request, event_streams

PREFIXES = API
blueprint = Blueprint("chat_completions", __name__)


ENDPOINT = PASSTHROUGH["/chat/completions"]


@blueprint.post(ENDPOINT.path)
def create() -> Response:
    body = read_chat(bodies.read_json())
    passthrough, token = current_request.gateway().passthrough, current_request.token()
    if body.get("stream"):
        return event_streams.sse_response(passthrough.stream(ENDPOINT, token, body, current_request.request_context()))
    return bodies.json_response(
        orjson.Fragment(passthrough.create(ENDPOINT, token, body, current_request.request_context()))
    )
