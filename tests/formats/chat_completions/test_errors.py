import orjson
import pytest

from app.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLimited,
    UpstreamRefused,
)
from app.formats import chat_completions

TOO_LONG = [
    (400, {"message": "This model's maximum context length is 8192 tokens. However, you requested 9000.", "code": 400}),
    (400, {"message": "the request exceeds the available context size, try increasing it", "code": 400}),
    (400, {"message": "No.", "type": "exceed_context_size_error", "n_ctx": 256}),
    (500, {"message": "Context size has been exceeded.", "type": "server_error"}),
    (400, {"message": "The prompt is too long: 9000", "type": "invalid_request_error"}),
]


@pytest.mark.parametrize(("status", "error"), TOO_LONG)
def test_a_context_that_is_too_long_is_known_in_every_dialect(status: int, error: dict[str, object]) -> None:
    failure = chat_completions.decode_error(status, {}, orjson.dumps({"error": error}))
    assert isinstance(failure, UpstreamRefused)
    assert (failure.status, failure.code, failure.param) == (400, "context_length_exceeded", "input")
    assert failure.message == error["message"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"object":"error","message":"Bad.","type":"BadRequestError","code":400}', UpstreamRefused),
        (404, b'{"error":{"message":"model \\"x\\" not found, try pulling it first"}}', UpstreamLacksModel),
        (429, b"slow down", UpstreamLimited),
        (401, b'{"error":{"message":"prompt is too long"}}', UpstreamDenied),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', UpstreamFailed),
    ],
)
def test_other_refusals_are_what_their_status_says(status: int, body: bytes, kind: type[UpstreamError]) -> None:
    assert isinstance(chat_completions.decode_error(status, {}, body), kind)
