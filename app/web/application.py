"""The Flask application: what happens to every request before its view and after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from flask import Flask, Request, Response, g, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import MapAdapter

from app.errors import ClientGone, GatewayError, Unavailable
from app.gateway import Gateway
from app.relay.request_context import ResponseFacts
from app.web.access_log import AccessRecord, log_access
from app.web.current_request import CurrentRequest, this_request
from app.web.error_responses import client_gone, gateway_error, http_error, internal_error
from app.web.responses import START, Start


class _NoSessions(SessionInterface):
    """No view has a session, so that no request looks for a cookie."""

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return _NO_SESSION


_NO_SESSION = NullSession()


class Application(Flask):
    """Authentication before every view that is not public, errors in OpenAI's shape, headers on every answer.

    It leaves out the steps of Flask that no view needs and every request pays for: signals, sessions, coroutines,
    functions of blueprints, routes that depend on the host.
    """

    session_interface = _NoSessions()

    def __init__(self, name: str, gateway: Gateway) -> None:
        super().__init__(name, static_folder=None)
        self._gateway = gateway
        self.extensions["antiphon"] = gateway
        self.config["MAX_CONTENT_LENGTH"] = gateway.settings.max_body
        self.register_error_handler(GatewayError, gateway_error)
        self.register_error_handler(ClientGone, client_gone)
        self.register_error_handler(InternalServerError, internal_error)
        self.register_error_handler(HTTPException, http_error)

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[START] = start = Start(start_response)
        return super().wsgi_app(environ, start)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Finds the view of a request by its path and method alone. WebSockets and redirects need Flask's own."""
        if request is None or "HTTP_UPGRADE" in request.environ or "//" in request.environ["PATH_INFO"]:
            return super().create_url_adapter(request)
        return MapAdapter(self.url_map, "", "/", "", "http", request.path, request.method)

    def full_dispatch_request(self) -> Response:
        try:
            self._admit(cast(Any, request)._get_current_object())
            response = cast(Response, self.dispatch_request())
        except Exception as error:
            response = self.make_response(self.handle_user_exception(error))
        return self.process_response(response)

    # --- before the view and after it

    def _admit(self, incoming: Request) -> None:
        """Raises GatewayError for a request that may not reach its view."""
        view = self.view_functions.get(incoming.endpoint or "")
        g.current_request = current = CurrentRequest(
            self._gateway, incoming.environ, incoming.path, view, incoming.endpoint or ""
        )
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

    def process_response(self, response: Response) -> Response:
        current = this_request()
        current.environ[START].more_headers = current.headers()
        if not current.body_read:
            self._gateway.bodies.discard(current.environ)
        # Successful probes and pages get no line in the log.
        reads = current.environ["REQUEST_METHOD"] in ("GET", "HEAD")
        worth_a_line = response.status_code >= 500 or not (current.public and reads)
        response.call_on_close(partial(self._finished, current, response.status_code, worth_a_line))
        return response

    def _finished(self, current: CurrentRequest, code: int, worth_a_line: bool) -> None:
        if current.admitted:
            self._gateway.in_flight.leave()
        if current.share is not None:
            current.share.close()
        self._gateway.measures.http_answered(current.route, code)
        if worth_a_line:
            log_access(_access_record(current, code), (current.facts or ResponseFacts()))


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
