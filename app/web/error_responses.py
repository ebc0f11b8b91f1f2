"""Errors in OpenAI's shape."""

from __future__ import annotations

from flask import Response, request
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.exceptions import NotFound as UnknownPath

from app import errors
from app.errors import ClientGone, GatewayError, InvalidRequest, Unauthenticated, UpgradeRequired
from app.web.bodies import answer
from app.web.current_request import _arrival, gateway

#: Headers of the refusal of a request that had to be an upgrade.
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


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
