"""/v1/chat/completions: relayed without translation to channels of this format."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response

from app.endpoints import API
from app.formats import PASSTHROUGH
from app.formats.chat_completions import passthrough as codec
from app.schemas.chat import read_chat
from app.web.current_request import this_request
from app.web.responses import json_response, sse_response

PREFIXES = API
blueprint = Blueprint("chat_completions", __name__)


ENDPOINT = PASSTHROUGH["/chat/completions"]


@blueprint.post(ENDPOINT.path)
def create() -> Response:
    current = this_request()
    body, passthrough = read_chat(current.json()), current.gateway.passthrough
    if body.get("stream"):
        return sse_response(passthrough.stream(ENDPOINT, codec, current.token, body, current.context()))
    return json_response(orjson.Fragment(passthrough.create(ENDPOINT, codec, current.token, body, current.context())))
