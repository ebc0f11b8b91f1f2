"""Why a tool server has not done what it should, as values: the error, its words, and whether to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from app.contract.tools import ListedTool, ToolOutcome

#: JSON-RPC's codes.
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

_UNREACHABLE = 502
_LATE = 504
_CANCELLED = 499
#: Statuses of a server that wants to be left alone for a while, beside 500 and more.
_LASTING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class Repeat(Enum):
    """Whether a failed request may be sent a second time."""

    NEVER = auto()
    ALWAYS = auto()
    """The server has not run it."""
    IF_HARMLESS = auto()
    """The server may have run it."""

    def allows(self, tool: ListedTool) -> bool:
        return self is Repeat.ALWAYS or (self is Repeat.IF_HARMLESS and (tool.read_only or tool.idempotent))


@dataclass(frozen=True, slots=True)
class Failure:
    error: Mapping[str, Any]
    """One of the three forms of an `mcp_call`'s error. Source: the API's types."""
    words: str
    """The same for a model, and for a log."""
    repeat: Repeat = Repeat.NEVER
    other_protocol: bool = False
    """The server no longer speaks the protocol that was remembered."""
    status: int | None = None
    """HTTP's, when the server has answered with an error of HTTP."""

    @property
    def is_lasting(self) -> bool:
        """Whether the next request is likely to fail in the same way. A refusal such as 401 or 403 is none of these:
        it arrives at once, so that to ask again costs little, and users expect that a mended permission counts at once.
        """
        return self.status is None or self.status in _LASTING or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    def outcome(self) -> ToolOutcome:
        return ToolOutcome(error=self.error, text_for_model=self.words)


class Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.words)
        self.failure = failure


# --- errors of MCP ----------------------------------------------------------------------------------------------


def protocol_error(code: int, message: str, *, other_protocol: bool = False) -> Failure:
    error = {"type": "mcp_protocol_error", "code": code, "message": message}
    return Failure(error, message, other_protocol=other_protocol)


def invalid_arguments() -> Failure:
    return protocol_error(INVALID_PARAMS, "The arguments are not a JSON object.")


def input_required() -> Failure:
    return protocol_error(INTERNAL_ERROR, "The tool asks for more input, which the gateway cannot give.")


def uncallable() -> Failure:
    return protocol_error(INTERNAL_ERROR, "The tool could not be called.")


# --- errors of HTTP, and no answer at all -----------------------------------------------------------------------


def refused(status: int, *, other_protocol: bool = False) -> Failure:
    """The server has answered with this status."""
    message = phrase(status)
    words = f"The tool server answered with HTTP status {status} ({message})."
    return _http_error(status, message, words, status=status, other_protocol=other_protocol)


def redirected(status: int) -> Failure:
    words = "The tool server redirects to another address, which is not followed."
    return _http_error(status, words, words, status=status)


def session_unknown(status: int) -> Failure:
    words = "The tool server does not know the session any more."
    return _http_error(status, words, words, Repeat.ALWAYS, status=status)


def not_public() -> Failure:
    words = "The tool server's address is not public."
    return _http_error(_UNREACHABLE, words, words)


def unreachable(cause: str) -> Failure:
    words = f"The tool server cannot be reached: {cause}."
    return _http_error(_UNREACHABLE, words, words, Repeat.ALWAYS)


def lost() -> Failure:
    words = "The connection to the tool server was lost during the call, which may have run."
    return _http_error(_UNREACHABLE, words, words, Repeat.IF_HARMLESS)


def timed_out(seconds: float) -> Failure:
    return _late(f"The tool did not answer within {seconds:g} s.")


def not_listed_in_time(seconds: float) -> Failure:
    return _late(f"The tool server did not list its tools within {seconds:g} s.")


def not_opened_in_time(seconds: float) -> Failure:
    return _late(f"The tool server did not open a session within {seconds:g} s.")


def _late(words: str) -> Failure:
    return _http_error(_LATE, words, words)


def cancelled() -> Failure:
    words = "The call was cancelled."
    return _http_error(_CANCELLED, words, words)


def phrase(status: int) -> str:
    """HTTP's words for a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _http_error(
    code: int,
    message: str,
    words: str,
    repeat: Repeat = Repeat.NEVER,
    *,
    other_protocol: bool = False,
    status: int | None = None,
) -> Failure:
    return Failure({"type": "http_error", "code": code, "message": message}, words, repeat, other_protocol, status)
