"""Errors in OpenAI's shape."""

from __future__ import annotations

from flask import Response, request
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.exceptions import NotFound as UnknownPath

from app import errors
from app.errors import ClientGone, GatewayError, InvalidRequest, Unauthenticated, UpgradeRequired
from app.web.current_request import BEARER, this_request
from app.web.responses import json_response

#: Headers of the refusal of a request that had to be an upgrade.
_UPGRADE_HEADERS = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


def gateway_error(error: GatewayError) -> Response:
    this_request().error = error.code or error.type
    response = json_response(error.body(), error.status)
    response.headers.update(error.retry_headers)
    if isinstance(error, Unauthenticated) and this_request().credentials is BEARER:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UpgradeRequired):
        response.headers.update(_UPGRADE_HEADERS)
    return response


def client_gone(_: ClientGone) -> Response:
    """No client receives it. 499 is nginx's status for a client that has disconnected."""
    return Response(status=499)


def internal_error(_: InternalServerError) -> Response:
    return gateway_error(errors.InternalError())


def http_error(error: HTTPException) -> Response:
    base = f"{request.host_url.rstrip('/')}/v1"
    if isinstance(error, UnknownPath):
        return gateway_error(
            errors.NotFound(
                f"Unknown request URL: {request.method} {request.path}. The base URL of this gateway is {base}",
                code="unknown_url",
            )
        )
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        response = gateway_error(
            errors.MethodNotAllowed(f"{request.method} is not allowed for {request.path}. It takes {allowed}.")
        )
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, RequestEntityTooLarge):
        limit = this_request().gateway.settings.max_body
        return gateway_error(errors.PayloadTooLarge(f"The body of the request is larger than {limit} bytes."))
    status = error.code or 500
    return gateway_error(InvalidRequest(error.description or error.name, status=status if status >= 400 else 400))
