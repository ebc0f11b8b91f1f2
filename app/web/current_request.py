"""The request at work in this thread: its token, its body, its client's connection, and the gateway that serves it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from time import monotonic
from typing import Any, cast

from flask import Response, g
from flask import request as incoming

from app import errors, ids, nesting, trace_context
from app.contract.records import Token
from app.errors import (
    ClientGone,
    InvalidRequest,
    RequestTimeout,
    StoreUnavailable,
    Unauthenticated,
    UnsupportedMedia,
)
from app.gateway import Gateway
from app.limits.rate_headers import RATES
from app.memory import Share
from app.relay import client_thread
from app.relay.request_context import RequestContext, ResponseFacts
from app.relay.streaming.client_connection import ClientConnection, chunked, unframed
from app.web.client_names import client_name
from app.web.responses import START, Headers, sse_response

#: How the server frames an answer without a Content-Length.
_FRAMINGS = {"HTTP/1.1": chunked, "HTTP/1.0": unframed}

#: The client's own request id, a WSGI name. It is echoed and never used as a key.
_CLIENT_REQUEST_ID = "HTTP_X_CLIENT_REQUEST_ID"

#: The headers of W3C Trace Context, by WSGI name.
TRACE, TRACE_STATE = "HTTP_TRACEPARENT", "HTTP_TRACESTATE"

#: The headers in which clients name their session and thread, by WSGI name.
_THREAD_HEADERS = {f"HTTP_{name.upper().replace('-', '_')}": name for name in client_thread.HEADERS}


def this_request() -> CurrentRequest:
    return cast(CurrentRequest, g.current_request)


def public(view: Any) -> Any:
    """Marks a view that needs no token. All other views need one, as a bearer token or as `accepting` says."""
    view.is_public = True
    return view


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the requests of a view prove their token with."""

    token: Callable[[CurrentRequest], Token]
    """The token of a request. Raises GatewayError for a request without one."""
    client: str | None = None
    """The program that sends these requests; None for the one that the User-Agent names."""


View = Callable[..., Response]


def accepting(credentials: Credentials, view: View) -> View:
    """The same view for requests that come with these credentials, and with no others."""

    @wraps(view)
    def accepted(**arguments: Any) -> Response:
        return view(**arguments)

    accepted.credentials = credentials  # type: ignore[attr-defined]
    return accepted


class CurrentRequest:
    """The facts of one request, read once: each access to Flask's context costs more than the fact itself."""

    __slots__ = (
        "admitted",
        "body_read",
        "cache_control",
        "credentials",
        "environ",
        "error",
        "facts",
        "gateway",
        "known_token",
        "path",
        "public",
        "request_id",
        "response_headers",
        "route",
        "share",
        "size",
        "started_at",
    )

    def __init__(self, gateway: Gateway, environ: Mapping[str, Any], path: str, view: object, endpoint: str) -> None:
        self.gateway = gateway
        self.environ = environ
        self.path = path
        self.route = endpoint
        """The name of its view; empty for an unknown path."""
        self.public = getattr(view, "is_public", False)
        self.credentials: Credentials = getattr(view, "credentials", BEARER)
        self.request_id = ids.new_request_id()
        self.started_at = monotonic()
        trace_context.enter(gateway.turns.read_trace(environ.get(TRACE), environ.get(TRACE_STATE)))
        self.known_token: Token | None = None
        """None before `authenticate`."""
        self.facts: ResponseFacts | None = None
        """The facts for the request log; set when a view calls `context`."""
        self.response_headers: Mapping[str, str] = {}
        """Headers that the relay adds to the answer."""
        self.error: str | None = None
        """Code of the refusal."""
        self.cache_control = "no-store"
        self.admitted = False
        """The request counts as in flight."""
        self.body_read = not (environ.get("CONTENT_LENGTH") or environ.get("HTTP_TRANSFER_ENCODING"))
        """Nothing of the body is left in the connection."""
        self.share: Share | None = None
        """Its share of the memory for large bodies."""
        self.size = 0
        """Bytes of its body."""

    # --- its token

    def authenticate(self) -> None:
        """Raises Unauthenticated, and what other credentials than a bearer token raise."""
        self.known_token = self.credentials.token(self)

    @property
    def token(self) -> Token:
        assert self.known_token is not None
        return self.known_token

    # --- its body

    def json(self) -> object:
        """The value of the JSON body; the content type is ignored. Raises InvalidRequest."""
        encoding = self.environ.get("HTTP_CONTENT_ENCODING", "identity").lower()
        if encoding != "identity":
            raise UnsupportedMedia(f"Content-Encoding '{encoding}' is not supported. Send the body uncompressed.")
        try:
            return self._parsed()
        except nesting.TooDeep as deep:
            raise errors.nested_too_deep(deep.member, nesting.FROM_CLIENTS) from None
        except ValueError:
            raise InvalidRequest(
                "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
                "library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
            ) from None

    def _parsed(self) -> object:
        """The value of the body. The request's share holds its memory; the bytes are freed. Raises ValueError."""
        bodies = self.gateway.bodies
        self.share = share = Share(self.gateway.budget)
        try:
            raw = bodies.read(self.environ, share)
        except (RequestTimeout, InvalidRequest):
            # The client sends no more bytes.
            self.body_read = True
            raise
        self.body_read, self.size = True, len(raw)
        return bodies.parse(raw, share)

    # --- its client

    def context(self) -> RequestContext:
        """The context of this request. With the client's socket, a disconnect is detected also while no bytes are
        sent."""
        environ = self.environ
        sock = environ.get("gunicorn.socket")
        context = RequestContext(
            self.request_id,
            client_fd=sock.fileno() if sock is not None else None,
            connection=_connection(sock, environ["SERVER_PROTOCOL"]),
            idempotency_key=environ.get("HTTP_IDEMPOTENCY_KEY"),
            client=self.credentials.client or client_name(environ.get("HTTP_USER_AGENT")),
            thread_headers={name: environ[key] for key, name in _THREAD_HEADERS.items() if key in environ},
            send_early=self._send_early,
            share=self.share,
            size=self.size,
        )
        # Not `context` itself, which refers to this request: such a cycle, and the body with it, would stay in memory
        # until the collector runs.
        self.facts, self.response_headers = context.facts, context.response_headers
        return context

    def _send_early(self, events: bytes) -> None:
        """Sends the header, then events, of a stream whose view has not returned yet. Raises ClientGone."""
        start = self.environ[START]
        start.more_headers = self.headers()
        response = sse_response(iter(()))
        try:
            start(response.status, response.headers.to_wsgi_list())(events)
        except OSError:
            raise ClientGone from None

    def headers(self) -> Headers:
        """The headers of every answer to this request."""
        headers = [
            ("X-Request-Id", self.request_id),
            ("OpenAI-Processing-Ms", str(round((monotonic() - self.started_at) * 1000))),
            ("Cache-Control", self.cache_control),
            ("X-Content-Type-Options", "nosniff"),
            *self.response_headers.items(),
            *self._rate_headers(),
        ]
        client_request_id = self.environ.get(_CLIENT_REQUEST_ID, "")
        if 0 < len(client_request_id) <= 512 and client_request_id.isascii() and client_request_id.isprintable():
            headers.append(("X-Client-Request-Id", client_request_id))
        return headers

    def _rate_headers(self) -> Iterable[tuple[str, str]]:
        """The rates of the token's limits, for an answer that no turn has made."""
        if self.known_token is None or self.public or not RATES.isdisjoint(self.response_headers):
            return ()
        if self.error == StoreUnavailable.code:
            # The client has waited for the database once.
            return ()
        return self.gateway.limiter.headers(self.known_token).items()


def _connection(sock: Any, protocol: str) -> ClientConnection | None:
    """The client's connection, if it can be written to directly. Only the server can write to a multiplexed connection,
    or through TLS that it ends itself."""
    frame = None if sock is None or isinstance(sock, ssl.SSLSocket) else _FRAMINGS.get(protocol)
    return ClientConnection(sock, frame) if frame else None


def list_argument(name: str) -> list[str]:
    """The values of a query argument that may occur several times, with or without brackets."""
    return [*incoming.args.getlist(f"{name}[]"), *incoming.args.getlist(name)]


# --- authentication ---------------------------------------------------------------------------------------------


def bearer_secret(environ: Mapping[str, Any]) -> str:
    """The secret of the Authorization header. Raises Unauthenticated without one."""
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise Unauthenticated("Missing bearer or basic authentication in header")
    return str(credentials.strip())


def token_of(gateway: Gateway, secret: str, client: str = "") -> Token:
    """The token of a secret. Raises Unauthenticated when it is unknown, revoked or expired."""
    found = gateway.store.tokens.check(secret, client)
    if found is None:
        raise Unauthenticated(
            f"Incorrect API key provided: {_masked(secret)}. `antiphon tokens create NAME` makes a token.",
            code="invalid_api_key",
        )
    return found.under(gateway.channels.table.limits)


def _bearer_token(current: CurrentRequest) -> Token:
    environ = current.environ
    return token_of(current.gateway, bearer_secret(environ), client_name(environ.get("HTTP_USER_AGENT")))


#: The credentials of every view that names no others.
BEARER = Credentials(_bearer_token)


def _masked(secret: str) -> str:
    shown = secret[:3] if secret.isascii() and secret[:3].isprintable() else ""
    return f"{shown}***"
