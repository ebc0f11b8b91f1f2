"""JSON bodies of requests and answers."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response, request

from app import errors, nesting
from app.errors import InvalidRequest, RequestTimeout, UnsupportedMedia
from app.gateway import Gateway
from app.memory import Share
from app.web.current_request import CurrentRequest, gateway, this_request

JSON = "application/json"


def read_json() -> object:
    """The value of the JSON body; the content type is ignored. Raises InvalidRequest."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMedia(f"Content-Encoding '{encoding}' is not supported. Send the body uncompressed.")
    current = this_request()
    try:
        return _parsed(current, gateway())
    except nesting.TooDeep as deep:
        raise errors.nested_too_deep(deep.member, nesting.FROM_CLIENTS) from None
    except ValueError:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
        ) from None


def _parsed(current: CurrentRequest, gateway: Gateway) -> object:
    """The value of the body. The request's share holds its memory; the bytes are freed. Raises ValueError."""
    bodies = gateway.bodies
    current.share = share = Share(gateway.budget)
    try:
        raw = bodies.read(current.environ, share)
    except (RequestTimeout, InvalidRequest):
        # The client sends no more bytes.
        current.body_read = True
        raise
    current.body_read, current.size = True, len(raw)
    return bodies.parse(raw, share)


def list_argument(name: str) -> list[str]:
    """The values of a query argument that may occur several times, with or without brackets."""
    return [*request.args.getlist(f"{name}[]"), *request.args.getlist(name)]


def json_response(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type=JSON)
