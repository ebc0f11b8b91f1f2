"""/console/live: the stream that tells a page what has changed."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from app.console.access import Visitor, signed_in
from app.console.answers import secured
from app.console.live import LIVE, Live, PageStream, topics_of
from app.web.responses import sse_response

blueprint = Blueprint("live", __name__)


@blueprint.get("/live")
@signed_in
def live(visitor: Visitor) -> Response:
    gateway = visitor.gateway
    pages: Live = current_app.extensions[LIVE]
    topics = topics_of(request.args.get("topics", ""))
    page = pages.enter(topics, visitor.owner, visitor.role, visitor.scope, visitor.session)
    sock = request.environ.get("gunicorn.socket")
    stream = PageStream(
        pages, page, sock.fileno() if sock is not None else None, gateway.drain, gateway.settings.heartbeat
    )
    return secured(sse_response(stream))
