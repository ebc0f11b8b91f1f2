"""The last events of a stored response, and a stored response as a stream."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app import sse
from app.contract.response import Echo
from app.relay.streaming.lifecycle_events import replayed_events, terminal_events

ERROR = {"code": "server_error", "message": "Broken."}


def _response(status: str, **outcome: Any) -> dict[str, Any]:
    identity = {"id": "resp_1", "created_at": 1, "model": "m", "previous_response_id": None}
    return Echo.of({}, store=True).response(**identity, status=status, **outcome)


def _events(data: bytes) -> list[dict[str, Any]]:
    *events, done = data.removesuffix(b"\n\n").split(b"\n\n")
    assert done + b"\n\n" == sse.DONE
    return [orjson.loads(sse.parse(event)[1] or b"") for event in events]


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_an_answer_ends_with_its_own_event(status: str) -> None:
    (last,) = _events(terminal_events(_response(status), 7))
    assert (last["type"], last["sequence_number"], last["response"]["status"]) == (f"response.{status}", 7, status)


def test_a_failure_ends_with_an_error_and_the_failed_response() -> None:
    error, last = _events(terminal_events(_response("failed", error=ERROR), 7))
    assert error == {"type": "error", "sequence_number": 7, "error": {**ERROR, "type": "server_error", "param": None}}
    assert (last["type"], last["sequence_number"], last["response"]["error"]) == ("response.failed", 8, ERROR)


def test_the_error_event_says_more_than_the_response_where_it_is_known() -> None:
    known = {**ERROR, "type": "invalid_request_error", "param": "model"}
    error, _ = _events(terminal_events(_response("failed", error=ERROR), 7, error=known))
    assert error["error"] == known


@pytest.mark.parametrize("status", ["cancelled", "in_progress", "queued"])
def test_a_response_that_no_event_can_end_is_streamed_as_failed(status: str) -> None:
    """It was cancelled, or deleted before its end."""
    error, last = _events(terminal_events(_response(status), 3))
    assert error["error"]["code"] == last["response"]["error"]["code"] == "response_cancelled"
    assert last["response"]["status"] == "failed"


def test_events_that_the_client_has_are_skipped() -> None:
    (last,) = _events(terminal_events(_response("failed", error=ERROR), 7, after=7))
    assert last["type"] == "response.failed"


def test_a_stored_response_is_streamed_from_its_beginning() -> None:
    ended = _response("incomplete", completed_at=2, incomplete_details={"reason": "max_output_tokens"})
    created, begun, last = _events(b"".join(replayed_events(ended)))
    assert created["response"] == begun["response"] == _response("in_progress")
    assert [event["sequence_number"] for event in (created, begun, last)] == [0, 1, 2]
    assert last["response"] == ended
