"""The Flask application: what happens to every request before its view and after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, InternalServerError

from app.errors import ClientGone, GatewayError, Unavailable
from app.gateway import Gateway
from app.relay.request_context import Entry
from app.web.access_log import Visit, write
from app.web.authentication import secret, token_of
from app.web.current_request import Arrival, _arrival, _told
from app.web.error_responses import _client_gone, _gateway_error, _http_error, _internal_error
from app.web.response_start import _START, Start


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
            write(_visit(arrival, status), (arrival.entry or Entry()))


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
