"""Flask's edge: authentication, request bodies, and the way that answers, streams and errors leave."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, cast

import orjson
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.exceptions import NotFound as UnknownPath

from app import errors, ids, nesting
from app.bodies import Bodies
from app.channels.catalog import Catalog
from app.channels.choice import Channels
from app.errors import (
    ClientGone,
    GatewayError,
    InvalidRequest,
    RequestTimeout,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
    UpgradeRequired,
)
from app.memory import Budget, Share
from app.queue import RedisQueue, SqlQueue
from app.records import Token
from app.relay import Asked, Background, Client, Drain, Keeper, Mover, Relay, chunked, unframed
from app.relay.chat import ChatRelay
from app.relay.conversations import Conversations
from app.relay.journal import Entry, Visit
from app.relay.responses import StoredResponses
from app.relay.turn_run import TurnParts
from app.settings import Settings
from app.store import Store

log = logging.getLogger(__name__)

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

#: How the server frames an answer without a Content-Length.
_FRAMINGS = {"HTTP/1.1": chunked, "HTTP/1.0": unframed}
#: Headers of the refusal of a request that had to be an upgrade.
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}

#: The client's own request id, a WSGI name. It is echoed and never used as a key.
_CLIENT_REQUEST_ID = "HTTP_X_CLIENT_REQUEST_ID"

#: Headers in which clients name their conversation, as WSGI names.
_SESSION = ("HTTP_SESSION_ID", "HTTP_THREAD_ID", "HTTP_CONVERSATION_ID", "HTTP_X_OPENWEBUI_CHAT_ID")


class InFlight:
    """Counts the running requests. The limit leaves some threads free to refuse further ones."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._lock = threading.Lock()

    def enter(self) -> bool:
        with self._lock:
            if self.count >= self.limit:
                return False
            self.count += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self.count -= 1


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one process, as `build` makes them."""

    settings: Settings
    store: Store
    channels: Channels
    catalog: Catalog
    turns: TurnParts
    relay: Relay
    responses: StoredResponses
    conversations: Conversations
    chat: ChatRelay
    background: Background
    queue: SqlQueue | RedisQueue
    mover: Mover
    keeper: Keeper
    drain: Drain
    budget: Budget
    bodies: Bodies
    in_flight: InFlight = field(default_factory=lambda: InFlight(1))
    sockets: InFlight = field(default_factory=lambda: InFlight(1))

    def start(self) -> None:
        """Starts the threads beside the requests. Call it in a serving process, after the fork."""
        self.mover.start()
        self.keeper.start()
        self.catalog.warm()
        log.info("streams are moved by the %s", self.settings.mover)

    def close(self) -> None:
        self.mover.close()
        self.keeper.close()
        self.channels.close()
        self.store.close()


#: The key of a request's `Start` in its WSGI environment.
_START = "antiphon.start_response"


class Start:
    """WSGI's `start_response`, which a stream may call before its view returns; the second call changes nothing."""

    __slots__ = ("_start_response", "write")

    def __init__(self, start_response: Any) -> None:
        self._start_response = start_response
        self.write: Callable[[bytes], object] | None = None

    def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        if self.write is None:
            self.write = self._start_response(status, headers, exc_info)
        return self.write


class Application(Flask):
    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[_START] = start = Start(start_response)
        return super().wsgi_app(environ, start)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine. Flask would check that for every function of every request."""
        return func


def attach(app: Flask, gateway: Gateway) -> None:
    """Authentication before every view that is not public, errors in OpenAI's shape, headers on everything."""
    app.extensions["antiphon"] = gateway
    app.config["MAX_CONTENT_LENGTH"] = gateway.settings.max_body
    border = Border(app, gateway)
    app.before_request(border.arrive)
    app.after_request(border.leave)
    app.register_error_handler(GatewayError, _gateway_error)
    app.register_error_handler(ClientGone, _client_gone)
    app.register_error_handler(InternalServerError, _internal_error)
    app.register_error_handler(HTTPException, _http_error)


def public(view: Any) -> Any:
    """Marks a view that needs no token. All other views need one."""
    view.is_public = True
    return view


# --- for views --------------------------------------------------------------------------------------------------


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions["antiphon"])


def token() -> Token:
    """The token of this request."""
    found = _arrival().token
    assert found is not None
    return found


def body() -> object:
    """The value of the JSON body; the content type is ignored. Raises InvalidRequest."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMedia(f"Content-Encoding '{encoding}' is not supported. Send the body uncompressed.")
    arrival = _arrival()
    try:
        return _parsed(arrival, gateway())
    except nesting.TooDeep as deep:
        raise errors.nested_too_deep(deep.member, nesting.FROM_CLIENTS) from None
    except ValueError:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
        ) from None


def _parsed(arrival: Arrival, gateway: Gateway) -> object:
    """The value of the body. The request's share holds its memory; the bytes are freed. Raises ValueError."""
    bodies = gateway.bodies
    arrival.share = share = Share(gateway.budget)
    try:
        raw = bodies.read(arrival.environ, share)
    except (RequestTimeout, InvalidRequest):
        # The client sends no more bytes.
        arrival.body_read = True
        raise
    arrival.body_read, arrival.size = True, len(raw)
    return bodies.parse(raw, share)


def listed_argument(name: str) -> list[str]:
    """The values of a query argument that may occur several times, with or without brackets."""
    return [*request.args.getlist(f"{name}[]"), *request.args.getlist(name)]


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


# --- answers ----------------------------------------------------------------------------------------------------


def answer(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type=JSON)


def event_stream(events: Iterable[bytes]) -> Response:
    """A stream that proxies neither buffer nor compress. Closing the response closes `events`."""
    response = Response(events, content_type=EVENT_STREAM)
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _say(arrival: Arrival, events: bytes) -> None:
    """Sends the header, then events, of a stream whose view has not returned yet. Raises ClientGone."""
    start = arrival.environ[_START]
    response = event_stream(iter(()))
    response.headers.extend(_told(arrival))
    try:
        start(response.status, response.headers.to_wsgi_list())(events)
    except OSError:
        raise ClientGone from None


# --- before and after -------------------------------------------------------------------------------------------


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


class Border:
    """The steps before and after the view of every request."""

    def __init__(self, app: Flask, gateway: Gateway) -> None:
        self._views = app.view_functions
        self._in_flight = gateway.in_flight
        self._bodies = gateway.bodies

    def arrive(self) -> None:
        incoming = cast(Any, request)._get_current_object()
        view = self._views.get(incoming.endpoint or "")
        g.arrival = arrival = Arrival(incoming.environ, incoming.path, view)
        if view is None or arrival.public:
            return
        arrival.token = token_of(secret())
        if not self._in_flight.enter():
            raise Unavailable(
                "This server has as many requests at work as it can hold. Please try again.",
                code="server_is_overloaded",
                retry_after=1,
            )
        arrival.admitted = True

    def leave(self, response: Response) -> Response:
        arrival = _arrival()
        response.headers.extend(_told(arrival))
        if not arrival.body_read:
            self._bodies.discard(arrival.environ)
        # Successful probes get no line in the log.
        worth_a_line = response.status_code >= 500 or not arrival.public
        response.call_on_close(partial(self._left, arrival, response.status_code if worth_a_line else None))
        return response

    def _left(self, arrival: Arrival, status: int | None) -> None:
        if arrival.admitted:
            self._in_flight.leave()
        if arrival.share is not None:
            arrival.share.close()
        if status is not None:
            (arrival.entry or Entry()).write(_visit(arrival, status))


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


def _visit(arrival: Arrival, status: int) -> Visit:
    return Visit(
        request_id=arrival.request_id,
        began=arrival.began,
        method=arrival.environ["REQUEST_METHOD"],
        path=arrival.path,
        status=status,
        token=arrival.token,
        error=arrival.error,
    )


def secret() -> str:
    """The secret of the Authorization header. Raises Unauthenticated without one."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Unauthenticated("Missing bearer or basic authentication in header")
    return given.strip()


def token_of(secret: str) -> Token:
    """The token of a secret. Raises Unauthenticated when it is unknown, revoked or expired."""
    found = gateway().store.tokens.check(secret)
    if found is None:
        raise Unauthenticated(
            f"Incorrect API key provided: {_masked(secret)}. `antiphon tokens create NAME` makes a token.",
            code="invalid_api_key",
        )
    return found


def _masked(secret: str) -> str:
    shown = secret[:3] if secret.isascii() and secret[:3].isprintable() else ""
    return f"{shown}***"


# --- errors -----------------------------------------------------------------------------------------------------


def _gateway_error(error: GatewayError) -> Response:
    _arrival().error = error.code or error.type
    response = answer(error.body(), error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
        response.headers["Retry-After-Ms"] = str(round(error.retry_after * 1000))
    if error.should_retry is not None:
        response.headers["X-Should-Retry"] = "true" if error.should_retry else "false"
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UpgradeRequired):
        response.headers.update(_UPGRADE)
    return response


def _client_gone(_: ClientGone) -> Response:
    """No client receives it. 499 is nginx's status for a client that has disconnected."""
    return Response(status=499)


def _internal_error(_: InternalServerError) -> Response:
    return _gateway_error(errors.InternalError())


def _http_error(error: HTTPException) -> Response:
    base = f"{request.host_url.rstrip('/')}/v1"
    if isinstance(error, UnknownPath):
        return _gateway_error(
            errors.NotFound(
                f"Unknown request URL: {request.method} {request.path}. The base URL of this gateway is {base}",
                code="unknown_url",
            )
        )
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        response = _gateway_error(
            errors.MethodNotAllowed(f"{request.method} is not allowed for {request.path}. It takes {allowed}.")
        )
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, RequestEntityTooLarge):
        limit = gateway().settings.max_body
        return _gateway_error(errors.PayloadTooLarge(f"The body of the request is larger than {limit} bytes."))
    status = error.code or 500
    return _gateway_error(InvalidRequest(error.description or error.name, status=status if status >= 400 else 400))
