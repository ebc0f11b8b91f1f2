"""The Flask application: what happens to every request before its view and after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from flask import Flask, Request, Response, g, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import HTTPException, InternalServerError

from app.errors import ClientGone, GatewayError, Unavailable
from app.gateway import Gateway
from app.relay.request_context import ResponseFacts
from app.web.access_log import AccessRecord, log_access
from app.web.current_request import CurrentRequest, this_request
from app.web.error_responses import client_gone, gateway_error, http_error, internal_error
from app.web.responses import START, Start


class NoSessions(SessionInterface):
    """No view has a session, so that no request looks for a cookie."""

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return _NO_SESSION


_NO_SESSION = NullSession()


class Application(Flask):
    session_interface = NoSessions()

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[START] = start = Start(start_response)
        return super().wsgi_app(environ, start)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine. Flask would check that for every function of every request."""
        return func


def attach(app: Flask, gateway: Gateway) -> None:
    """Authentication before every view that is not public, errors in OpenAI's shape, headers on everything."""
    app.extensions["antiphon"] = gateway
    app.config["MAX_CONTENT_LENGTH"] = gateway.settings.max_body
    hooks = RequestHooks(app, gateway)
    app.before_request(hooks.before_request)
    app.after_request(hooks.after_request)
    app.register_error_handler(GatewayError, gateway_error)
    app.register_error_handler(ClientGone, client_gone)
    app.register_error_handler(InternalServerError, internal_error)
    app.register_error_handler(HTTPException, http_error)


class RequestHooks:
    """The steps before and after the view of every request."""

    def __init__(self, app: Flask, gateway: Gateway) -> None:
        self._views = app.view_functions
        self._gateway = gateway

    def before_request(self) -> None:
        incoming = cast(Any, request)._get_current_object()
        view = self._views.get(incoming.endpoint or "")
        g.current_request = current = CurrentRequest(self._gateway, incoming.environ, incoming.path, view)
        if view is None or current.public:
            return
        current.authenticate()
        if not self._gateway.in_flight.enter():
            raise Unavailable(
                "This server has as many requests at work as it can hold. Please try again.",
                code="server_is_overloaded",
                retry_after=1,
            )
        current.admitted = True

    def after_request(self, response: Response) -> Response:
        current = this_request()
        current.environ[START].more_headers = current.headers()
        if not current.body_read:
            self._gateway.bodies.discard(current.environ)
        # Successful probes get no line in the log.
        worth_a_line = response.status_code >= 500 or not current.public
        response.call_on_close(partial(self._finished, current, response.status_code if worth_a_line else None))
        return response

    def _finished(self, current: CurrentRequest, status: int | None) -> None:
        if current.admitted:
            self._gateway.in_flight.leave()
        if current.share is not None:
            current.share.close()
        if status is not None:
            log_access(_access_record(current, status), (current.facts or ResponseFacts()))


def _access_record(current: CurrentRequest, status: int) -> AccessRecord:
    return AccessRecord(
        request_id=current.request_id,
        started_at=current.started_at,
        method=current.environ["REQUEST_METHOD"],
        path=current.path,
        status=status,
        token=current.known_token,
        error=current.error,
    )
