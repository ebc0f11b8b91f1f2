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
from app.formats import messages


def failure(status: int, message: str, kind: str = "invalid_request_error") -> UpstreamError:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return messages.decode_error(status, {"retry-after": "7"}, orjson.dumps(body))


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210031 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
    ],
)
def test_a_context_that_is_too_long_has_the_code_for_it(message: str) -> None:
    error = failure(400, message)
    assert isinstance(error, UpstreamRefused)
    assert (error.code, error.param, error.message) == ("context_length_exceeded", "input", message)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (402, "Payment required."),
        (400, "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."),
        (400, "You have reached your specified API usage limits. You will regain access on 2026-12-01."),
    ],
)
def test_no_money_left_is_no_refusal(status: int, message: str) -> None:
    error = failure(status, message)
    assert isinstance(error, UpstreamLimited)
    assert error.exhausted
    assert error.code == "insufficient_quota"
    assert error.message == message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UpstreamRefused),
        (401, UpstreamDenied),
        (403, UpstreamDenied),
        (404, UpstreamLacksModel),
        (413, UpstreamRefused),
        (429, UpstreamLimited),
        (500, UpstreamFailed),
        (529, UpstreamFailed),
    ],
)
def test_other_failures_are_what_their_status_says(status: int, kind: type[UpstreamError]) -> None:
    error = failure(status, "model: claude-9 is not there")
    assert isinstance(error, kind)
    assert error.elsewhere is (status not in (400, 413))


def test_an_overloaded_server_says_so_and_how_long_to_wait() -> None:
    error = failure(529, "Overloaded", "overloaded_error")
    assert (error.status, error.code, error.retry_after) == (503, "server_is_overloaded", 7.0)
