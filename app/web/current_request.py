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
from app.relay.request_context import Asked, Entry
from app.relay.streaming.client_connection import Client, chunked, unframed
from app.web.event_streams import event_stream
from app.web.response_start import _START

#: How the server frames an answer without a Content-Length.
_FRAMINGS = {"HTTP/1.1": chunked, "HTTP/1.0": unframed}

#: The client's own request id, a WSGI name. It is echoed and never used as a key.
_CLIENT_REQUEST_ID = "HTTP_X_CLIENT_REQUEST_ID"

#: Headers in which clients name their conversation, as WSGI names.
_SESSION = ("HTTP_SESSION_ID", "HTTP_THREAD_ID", "HTTP_CONVERSATION_ID", "HTTP_X_OPENWEBUI_CHAT_ID")


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions["antiphon"])


def token() -> Token:
    """The token of this request."""
    found = _arrival().token
    assert found is not None
    return found


def asked() -> Asked:
    """The context of this request. With the client's socket, a disconnect is detected also while no bytes are sent."""
    arrival = _arrival()
    environ = arrival.environ
    sock = environ.get("gunicorn.socket")
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    session = next(filter(None, map(environ.get, _SESSION)), None)
    say = partial(_say, arrival)
    if sock is None:
        found = Asked(arrival.request_id, None, None, key, session, say, arrival.share, arrival.size)
    else:
        # A multiplexed connection, or TLS that the server ends: only the server can write to it.
        frame = None if isinstance(sock, ssl.SSLSocket) else _FRAMINGS.get(environ["SERVER_PROTOCOL"])
        client = Client(sock, frame) if frame else None
        found = Asked(arrival.request_id, sock.fileno(), client, key, session, say, arrival.share, arrival.size)
    # Not `found` itself, which refers to the arrival: such a cycle, and the body with it, would stay in memory until
    # the collector runs.
    arrival.entry, arrival.told = found.entry, found.told
    return found


def _say(arrival: Arrival, events: bytes) -> None:
    """Sends the header, then events, of a stream whose view has not returned yet. Raises ClientGone."""
    start = arrival.environ[_START]
    response = event_stream(iter(()))
    response.headers.extend(_told(arrival))
    try:
        start(response.status, response.headers.to_wsgi_list())(events)
    except OSError:
        raise ClientGone from None


class Arrival:
    """The facts of one request, read once: each access to Flask's context costs more than the fact itself."""

    __slots__ = (
        "admitted",
        "began",
        "body_read",
        "entry",
        "environ",
        "error",
        "path",
        "public",
        "request_id",
        "share",
        "size",
        "token",
        "told",
    )

    def __init__(self, environ: Mapping[str, Any], path: str, view: object) -> None:
        self.environ = environ
        self.path = path
        self.public = getattr(view, "is_public", False)
        self.request_id = ids.new_request_id()
        self.began = monotonic()
        self.token: Token | None = None
        self.entry: Entry | None = None
        """The facts for the request log; set when a view calls `asked`."""
        self.told: Mapping[str, str] = {}
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


def _arrival() -> Arrival:
    return cast(Arrival, g.arrival)


def _told(arrival: Arrival) -> dict[str, str]:
    """The headers of every answer."""
    told = {
        "X-Request-Id": arrival.request_id,
        "OpenAI-Processing-Ms": str(round((monotonic() - arrival.began) * 1000)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    told.update(arrival.told)
    theirs = arrival.environ.get(_CLIENT_REQUEST_ID, "")
    if 0 < len(theirs) <= 512 and theirs.isascii() and theirs.isprintable():
        told["X-Client-Request-Id"] = theirs
    return told
