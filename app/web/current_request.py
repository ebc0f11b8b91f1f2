"""The request at work in this thread: its token, its client's connection, the gateway."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any, cast

from flask import current_app, g

from app import ids
from app.contract.records import Token
from app.errors import ClientGone
from app.gateway import Gateway
from app.memory import Share
from app.relay.request_context import RequestContext, ResponseFacts
from app.relay.streaming.client_connection import ClientConnection, chunked, unframed
from app.web.event_streams import sse_response
from app.web.response_start import START

#: How the server frames an answer without a Content-Length.
_FRAMINGS = {"HTTP/1.1": chunked, "HTTP/1.0": unframed}

#: The client's own request id, a WSGI name. It is echoed and never used as a key.
_CLIENT_REQUEST_ID = "HTTP_X_CLIENT_REQUEST_ID"

#: Headers in which clients name their conversation, as WSGI names.
_SESSION_HEADERS = ("HTTP_SESSION_ID", "HTTP_THREAD_ID", "HTTP_CONVERSATION_ID", "HTTP_X_OPENWEBUI_CHAT_ID")


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions["antiphon"])


def token() -> Token:
    """The token of this request."""
    found = this_request().token
    assert found is not None
    return found


def request_context() -> RequestContext:
    """The context of this request. With the client's socket, a disconnect is detected also while no bytes are sent."""
    current = this_request()
    environ = current.environ
    sock = environ.get("gunicorn.socket")
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    session = next(filter(None, map(environ.get, _SESSION_HEADERS)), None)
    say = partial(_send_early, current)
    if sock is None:
        found = RequestContext(current.request_id, None, None, key, session, say, current.share, current.size)
    else:
        # A multiplexed connection, or TLS that the server ends: only the server can write to it.
        frame = None if isinstance(sock, ssl.SSLSocket) else _FRAMINGS.get(environ["SERVER_PROTOCOL"])
        connection = ClientConnection(sock, frame) if frame else None
        found = RequestContext(
            current.request_id, sock.fileno(), connection, key, session, say, current.share, current.size
        )
    # Not `found` itself, which refers to the arrival: such a cycle, and the body with it, would stay in memory until
    # the collector runs.
    current.facts, current.response_headers = found.facts, found.response_headers
    return found


def _send_early(current: CurrentRequest, events: bytes) -> None:
    """Sends the header, then events, of a stream whose view has not returned yet. Raises ClientGone."""
    start = current.environ[START]
    response = sse_response(iter(()))
    response.headers.extend(standard_headers(current))
    try:
        start(response.status, response.headers.to_wsgi_list())(events)
    except OSError:
        raise ClientGone from None


class CurrentRequest:
    """The facts of one request, read once: each access to Flask's context costs more than the fact itself."""

    __slots__ = (
        "admitted",
        "body_read",
        "environ",
        "error",
        "facts",
        "path",
        "public",
        "request_id",
        "response_headers",
        "share",
        "size",
        "started_at",
        "token",
    )

    def __init__(self, environ: Mapping[str, Any], path: str, view: object) -> None:
        self.environ = environ
        self.path = path
        self.public = getattr(view, "is_public", False)
        self.request_id = ids.new_request_id()
        self.started_at = monotonic()
        self.token: Token | None = None
        self.facts: ResponseFacts | None = None
        """The facts for the request log; set when a view calls `request_context`."""
        self.response_headers: Mapping[str, str] = {}
        """Headers that the relay adds to the answer."""
        self.error: str | None = None
        """Code of the refusal."""
        self.admitted = False
        """The request counts as in flight."""
        self.body_read = False
        self.share: Share | None = None
        """Its share of the memory for large bodies."""
        self.size = 0
        """Bytes of its body."""


def this_request() -> CurrentRequest:
    return cast(CurrentRequest, g.current_request)


def standard_headers(current: CurrentRequest) -> dict[str, str]:
    """The headers of every answer."""
    headers = {
        "X-Request-Id": current.request_id,
        "OpenAI-Processing-Ms": str(round((monotonic() - current.started_at) * 1000)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    headers.update(current.response_headers)
    client_request_id = current.environ.get(_CLIENT_REQUEST_ID, "")
    if 0 < len(client_request_id) <= 512 and client_request_id.isascii() and client_request_id.isprintable():
        headers["X-Client-Request-Id"] = client_request_id
    return headers
