"""All errors of the gateway. An error knows its status, its code and whether another channel is worth trying.

    AntiphonError
    ├── ConfigurationError            cause and fix for a person at a terminal; exit code 78
    ├── ClientGone                    the client has disconnected
    └── GatewayError                  becomes OpenAI's error object
        ├── InvalidRequest       400  the request itself is wrong: no other channel would accept it
        │   └── EndedElsewhere        it was cancelled or deleted while it was being made
        ├── Unauthenticated      401
        ├── NotFound             404
        ├── MethodNotAllowed     405
        ├── RequestTimeout       408
        ├── PayloadTooLarge      413
        ├── UnsupportedMedia     415
        ├── ToolListFailed       424  a tool server does not list its tools
        ├── RateLimited          429  the token has too many requests or tokens in this minute, or requests at once
        ├── QuotaExhausted       429  the token's budget is spent
        ├── UpgradeRequired      426  only a WebSocket is served here, or not this one
        ├── CompactionFailed     502  a requested compaction could not be made
        ├── TurnTimedOut         504  its exchanges and the calls of its tools have taken too long together
        ├── Unavailable          503  try again later, or elsewhere
        │   ├── FormatNotServed       no channel of this model speaks this endpoint's format
        │   ├── TooLargeToStore       the database does not take an answer of this size
        │   ├── ChannelsBusy          all of them are full or in cooldown
        │   ├── ShuttingDown          this worker ends before the stream does
        │   └── StoreUnavailable      the database did not answer
        └── UpstreamError        502  an attempt on one channel failed; `elsewhere` says whether the next one may try
            ├── UpstreamUnreachable   no connection
            ├── UpstreamTimeout  504  it accepted the request and did not answer in time
            ├── UpstreamRefused  4xx  it refused the request itself; never tried elsewhere
            │   └── ContextTooLong    the context exceeds the model's window
            │       └── BodyTooLarge 413  the request has more bytes than the upstream takes
            ├── UpstreamLimited  429  too many requests, or no quota left
            ├── UpstreamDenied        it refuses our key; the channel goes into cooldown
            ├── UpstreamLacksModel 404
            ├── UpstreamFailed        5xx
            │   └── UpstreamLoading  503  its server is up and has not loaded the model yet
            └── UpstreamBroken        its answer cannot be read
                └── UpstreamLacksEndpoint  it answers 404 for the path

The sentences are OpenAI's own where they exist, because clients match them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class AntiphonError(Exception):
    """The root of all errors that are raised on purpose."""


class ConfigurationError(AntiphonError):
    """An error that the operator has to correct. `fix` is one line that says how."""

    exit_code: ClassVar[int] = 78
    """The exit code of a first start that fails with this error."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class ClientGone(AntiphonError):
    """The client has disconnected: no answer can reach it."""


class GatewayError(AntiphonError):
    """An answer in OpenAI's error shape.

    `retry_after` is in seconds and becomes a header; `should_retry` becomes `x-should-retry`, which the SDKs obey.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retry_after: float | None = None
    should_retry: bool | None = None
    headers: Mapping[str, str] = _NO_HEADERS
    """More headers of the answer."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        type: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def retry_headers(self) -> Mapping[str, str]:
        """What tells an SDK whether to send the request again, and when."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
            headers["Retry-After-Ms"] = str(round(self.retry_after * 1000))
        if self.should_retry is not None:
            headers["X-Should-Retry"] = "true" if self.should_retry else "false"
        return headers

    @property
    def name(self) -> str:
        """The name in the log and the row: the code, or the type of an error without a code."""
        return self.code or self.type

    def error(self) -> dict[str, Any]:
        """The inner object `{message, type, param, code}`, always with all four keys."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def event(self) -> dict[str, Any]:
        """The same for an event, where clients expect a string as code."""
        return {**self.error(), "code": self.name}

    def body(self) -> dict[str, Any]:
        return {"error": self.error()}


class InternalError(GatewayError):
    """A bug of the gateway; only the log has the details."""

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request.", code="server_error")


# --- the request is wrong ---------------------------------------------------------------------------------------


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"


class EndedElsewhere(InvalidRequest):
    """The response was cancelled or deleted while it ran; later output is dropped."""

    code = "response_cancelled"

    def __init__(self) -> None:
        super().__init__("The response was cancelled or deleted while it was in progress.")


class Unauthenticated(GatewayError):
    status = 401
    type = "invalid_request_error"


class Forbidden(GatewayError):
    """The token is valid and may not do this."""

    status = 403
    type = "invalid_request_error"
    code: str | None = "permission_denied"


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(GatewayError):
    """An upload that was silent for too long, or too slow."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"

    def __init__(self) -> None:
        super().__init__("The body of the request did not arrive in time.")


class PayloadTooLarge(GatewayError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMedia(GatewayError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class UpgradeRequired(GatewayError):
    status = 426
    type = "invalid_request_error"
    code = "upgrade_required"


class RateLimited(GatewayError):
    """A limit of the client's token, which a later retry may meet."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class QuotaExhausted(GatewayError):
    """A budget of the client's token is spent: a retry helps only in its next period."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False


class ToolListFailed(GatewayError):
    """A tool server does not list its tools. The sentence is OpenAI's, because clients match it."""

    status = 424
    type = "external_connector_error"
    code = "http_error"

    def __init__(
        self,
        label: str,
        server_status: int = 424,
        phrase: str = "Failed Dependency",
        *,
        cause: str = "",
        was_asked: bool = True,
    ) -> None:
        """`server_status`: HTTP's of the server's answer, with its phrase; left out when there is none. `cause`: a
        sentence. `was_asked`: False when the server has failed for an earlier turn, so that this one did not ask."""
        sentence = (
            f"Error retrieving tool list from MCP server: '{label}'. Http status code: {server_status} ({phrase})"
        )
        super().__init__(f"{sentence}. {cause}" if cause else sentence, param="tools")
        self.label = label
        self.was_asked = was_asked


#: How an operator raises the limit of a statement on MySQL.
RAISE_PACKET = "Raise max_allowed_packet on the MySQL server, or send the request with store: false."


# --- no channel or worker can serve it now ----------------------------------------------------------------------


class Unavailable(GatewayError):
    status = 503
    type = "service_unavailable_error"


class Overloaded(Unavailable):
    """The process has no memory left for large requests."""

    code = "server_is_overloaded"
    retry_after = 2.0


class FormatNotServed(Unavailable):
    """The model exists, but none of its channels serves this endpoint: a retry will not help."""

    should_retry = False


class CompactionFailed(GatewayError):
    """A requested compaction has failed; nothing has changed."""

    status = 502
    code = "compaction_failed"
    should_retry = False


class TurnTimedOut(GatewayError):
    """The exchanges of a turn and the calls of its tools have taken too long together."""

    status = 504
    code = "turn_timeout"


class TooLargeToStore(Unavailable):
    """What the database cannot take in one statement. An answer of this size would be paid for again by a retry."""

    code = "too_large_to_store"
    should_retry = False

    def __init__(self, size: int, packet: int) -> None:
        super().__init__(
            f"The response is too large to be stored: {size:,} bytes in one statement, and the database takes "
            f"{packet:,} (max_allowed_packet). {RAISE_PACKET}"
        )


class ChannelsBusy(Unavailable):
    code = "server_is_overloaded"


class ShuttingDown(Unavailable):
    """This worker stops before the response has ended; a retry reaches another worker."""

    code = "server_shutting_down"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("The server is shutting down. Please try again.")


class StoreUnavailable(Unavailable):
    code = "storage_unavailable"
    retry_after = 1.0


# --- an attempt on one channel failed ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an upstream said when it refused a request."""

    status: int
    words: str
    """All sentences of the answer, which may quote the prompt."""
    params: tuple[str, ...] = ()
    """The members of the request that the answer names in members of its own, such as `param` and `loc`."""


class UpstreamError(GatewayError):
    """`elsewhere`: another channel may be tried. `counts`: the failure speaks against the channel, which may go into
    cooldown; `perhaps_input`: the request of this owner may be the cause. `cause` is for the log,
    `upstream_message` for the row.
    """

    status = 502
    type = "server_error"
    code: str | None = "upstream_error"
    elsewhere: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    perhaps_input: bool = False
    should_retry: bool | None = False
    cause: str = ""
    """The status, the upstream's code or the errno: words for the log, never a sentence."""
    upstream_message: str | None = None
    """The upstream's own message, which may quote the prompt."""
    refusal: Refusal | None = None
    """The refusal as a remedy reads it; None when the request itself was not refused."""


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """The upstream has the request and may work on it: another channel could do the work twice."""

    status = 504
    code = "upstream_timeout"
    elsewhere = False


class UpstreamStalled(UpstreamTimeout):
    """An accepted stream without any output that timed out: another channel loses nothing."""

    code = "upstream_idle_timeout"
    elsewhere = True


class UpstreamRefused(UpstreamError):
    """The upstream refused the request itself; its message is for the client."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None
    elsewhere = False
    counts = False


class ContextTooLong(UpstreamRefused):
    """The context exceeds the model's window. `window`: its size in tokens, if the upstream named it."""

    code = "context_length_exceeded"

    def __init__(self, message: str, window: int | None = None) -> None:
        super().__init__(message, param="input")
        self.window = window

    def with_advice(self, advice: str) -> ContextTooLong:
        """This refusal, with a sentence for the client behind the upstream's words."""
        said = self.message if self.message.endswith((".", "!", "?")) else f"{self.message}."
        self.message = f"{said} {advice}"
        return self


class BodyTooLarge(ContextTooLong):
    """The request has more bytes than the upstream, or a proxy before it, takes. A shorter context has fewer."""

    status = 413
    code = "request_too_large"


class UpstreamLimited(UpstreamError):
    """429. `retry_after` comes from the upstream; `exhausted` when waiting will not help."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry_after: float | None = 1.0
    should_retry: bool | None = None
    exhausted = False


class UpstreamDenied(UpstreamError):
    """401 or 403: the channel's key is wrong. Only the operator gets the details."""

    code = "upstream_denied"


class UpstreamLacksModel(UpstreamError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    counts = False


class UpstreamFailed(UpstreamError):
    """A 5xx, or an error event before the first output."""

    perhaps_input = True


class UpstreamLoading(UpstreamFailed):
    """The upstream still loads the model: the request is retried, and the channel does not count as failed."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"
    counts = False
    retry_after = 1.0
    should_retry: bool | None = None

    def __init__(self) -> None:
        super().__init__("The model's server is still loading the model. Please try again in a moment.")


class UpstreamBroken(UpstreamError):
    """HTML, half an event, garbage, or an end without a terminal event."""

    code = "upstream_protocol_error"


class UpstreamLacksEndpoint(UpstreamBroken):
    """404 for the path itself."""


def request_too_large_to_store(packet: int) -> PayloadTooLarge:
    """A request that the database cannot take, although it is small enough to be answered."""
    return PayloadTooLarge(
        f"This request is too large to be stored: the database takes {packet:,} bytes in one statement "
        f"(max_allowed_packet), and the input takes more. {RAISE_PACKET}",
        param="input",
    )


# --- messages that clients match --------------------------------------------------------------------------------


def missing_parameter(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def nested_too_deep(param: str | None, levels: int) -> InvalidRequest:
    what = f"'{param}'" if param else "request body"
    return InvalidRequest(
        f"Invalid {what}: nested too deep. The body of a request may have at most {levels} levels.",
        code="invalid_value",
        param=param,
    )


def response_not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id}' not found.")


def conversation_not_found(conversation_id: str) -> NotFound:
    return NotFound(f"Conversation with id '{conversation_id}' not found.")


def unknown_after(item_id: str) -> InvalidRequest:
    """The cursor of a page is not in the list."""
    return InvalidRequest(f"Item with id '{item_id[:64]}' not found.", code="invalid_value", param="after")


def unknown_model(model: str, nearest: str | None = None) -> InvalidRequest:
    """The answer for an unknown model, and for a model that the token may not use."""
    hint = f" Did you mean '{nearest}'?" if nearest else ""
    return InvalidRequest(
        f"The requested model '{model}' does not exist.{hint} GET /v1/models lists yours.",
        code="model_not_found",
        param="model",
    )


def unknown_passthrough_model(model: str) -> InvalidRequest:
    """The same at endpoints of passthrough, where clients match another status and sentence."""
    return InvalidRequest(
        f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found", status=404
    )


def item_not_found(item_id: str) -> NotFound:
    return NotFound(f"Item with id '{item_id}' not found.", param="input")
