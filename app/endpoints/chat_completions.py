"""/v1/chat/completions: relayed without translation to channels of this format."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response

from app import web
from app.endpoints import API
from app.formats import PASSTHROUGH
from app.schemas.chat import read_chat

PREFIXES = API
blueprint = Blueprint("chat_completions", __name__)


ENDPOINT = PASSTHROUGH["/chat/completions"]


@blueprint.post(ENDPOINT.path)
def create() -> Response:
    asked = read_chat(web.body())
    chat, token = web.gateway().chat, web.token()
    if asked.get("stream"):
        return web.event_stream(chat.stream(ENDPOINT, token, asked, web.asked()))
    return web.answer(orjson.Fragment(chat.create(ENDPOINT, token, asked, web.asked())))
