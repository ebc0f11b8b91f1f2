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
    asked = read_chat(bodies.body())
    chat, token = current_request.gateway().chat, current_request.token()
    if asked.get("stream"):
        return event_streams.event_stream(chat.stream(ENDPOINT, token, asked, current_request.asked()))
    return bodies.answer(orjson.Fragment(chat.create(ENDPOINT, token, asked, current_request.asked())))
