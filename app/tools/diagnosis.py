"""Reads why a request to a tool server has failed from the SDK's error and from what has happened on the wire.

The SDK answers 401, 403 and 500 with one and the same error, and reports a lost connection like an error of the server.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import httpx2
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
)

from app.tools import failure
from app.tools.failure import Failure, protocol_error
from app.tools.wire import Wire, cause_of

#: Most characters of a server's words in an error.
_MOST_WORDS = 2000
#: Statuses that say what is wrong, whatever the body says.
_TELLING = frozenset({401, 403, 429})
#: What the SDK says in place of an answer that is no JSON-RPC.
_STAND_INS = frozenset(
    {
        (INTERNAL_ERROR, "Server returned an error response"),
        (METHOD_NOT_FOUND, "Not Found"),
        (INVALID_REQUEST, "Session terminated"),
    }
)
#: How the SDK's errors about a lost connection begin.
_LOST = ("Connection closed", "SSE stream")


def diagnose(error: BaseException, wire: Wire, redact: Callable[[str], str]) -> Failure:
    """What the SDK's error means, after what the wire has seen. A group of errors counts as its first."""
    cause = _first(error)
    return _of_the_wire(cause, wire) or _of_the_protocol(cause, redact)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _of_the_wire(error: BaseException, wire: Wire) -> Failure | None:
    post = wire.last
    if wire.not_public:
        return failure.not_public()
    if post is not None and post.too_large:
        return protocol_error(INTERNAL_ERROR, "The tool server's answer is too large to be read.")
    if post is not None and post.encoded:
        return protocol_error(INTERNAL_ERROR, "The tool server has compressed its answer, unasked.")
    if post is not None and post.status is not None and post.status >= HTTPStatus.MULTIPLE_CHOICES:
        return _of_the_status(post.status, error, with_session=post.with_session)
    if _is_lost(error) or isinstance(error, httpx2.TransportError | OSError):
        return _of_the_connection(error, wire)
    return None


def _of_the_status(status: int, error: BaseException, with_session: bool) -> Failure | None:
    if status < HTTPStatus.BAD_REQUEST:
        return failure.redirected(status)
    if status == HTTPStatus.NOT_FOUND and with_session:
        return failure.session_unknown(status)
    if status in _TELLING or status >= HTTPStatus.INTERNAL_SERVER_ERROR or not isinstance(error, MCPError):
        return failure.refused(status)
    if (error.code, error.message) in _STAND_INS:
        return failure.refused(status, other_protocol=True)
    return None


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, MCPError) and error.code == CONNECTION_CLOSED and error.message.startswith(_LOST)


def _of_the_connection(error: BaseException, wire: Wire) -> Failure:
    if wire.unsent:
        return failure.unreachable(cause_of((wire.last and wire.last.failure) or error))
    return failure.lost()


def _of_the_protocol(error: BaseException, redact: Callable[[str], str]) -> Failure:
    if isinstance(error, MCPError) and error.code == PARSE_ERROR:
        # The SDK's words quote the answer.
        return protocol_error(PARSE_ERROR, "The tool server's answer is not JSON-RPC.")
    if isinstance(error, MCPError):
        words = redact(error.message)[:_MOST_WORDS] or "The tool server has refused the call."
        return protocol_error(error.code, words, other_protocol=error.code == UNSUPPORTED_PROTOCOL_VERSION)
    if isinstance(error, ValueError):
        return protocol_error(INTERNAL_ERROR, "The tool server's answer does not have the form that MCP prescribes.")
    return failure.uncallable()
