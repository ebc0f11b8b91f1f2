"""A response that another worker cancels: its client, its upstream, its row, and what was used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.relay.cancellation import cancel
from app.relay.lease_keeper import RunningStreams
from app.store.store import Store
from tests.gateway import portions
from tests.relay.conftest import (
    SOME_TEXT,
    ChannelPair,
    check_failed_stream,
    eventually,
    on_both_transports,
    response_id_in,
    text_of,
)
from tests.response_contract import check_error
from tests.stored_data import select
from tests.upstream import dropped, stalled
from tests.websocket_client import CREATE, Socket

pytestmark = on_both_transports

JSON = dict[str, Any]
USED = (
    "SELECT SUM(requests) AS requests, SUM(failed) AS failed, SUM(output_tokens) AS output FROM usage_day"
    " WHERE model = ?"
)


@pytest.fixture
def elsewhere(channel_pair: ChannelPair) -> Iterator[Store]:
    """The store of another process."""
    store = Store(channel_pair.gateway.database_url, peppers=[b"p"])
    yield store
    store.close()


def channel_of(store: Store, response_id: str) -> str | None:
    """Of a response in flight."""
    return next((one.channel for one in store.in_flight.read(None)[0] if one.id == response_id), None)


def check_cancelled(channel_pair: ChannelPair, response_id: str) -> None:
    """The upstream is closed, the row has the output so far, and the use of tokens is counted once."""
    channel_pair.first.wait_hangup()

    def used() -> JSON | None:
        (sums,) = select(channel_pair.gateway.database_url, USED, (channel_pair.model,))
        return sums if sums["requests"] else None

    sums = eventually(used, "the sums")
    assert (int(sums["requests"]), int(sums["failed"])) == (1, 0)
    assert int(sums["output"]) > 0
    stored = channel_pair.stored(response_id)
    assert (stored["status"], stored["error"]) == ("cancelled", None)
    assert text_of(stored)
    check_error(channel_pair.post(previous_response_id=response_id), 400, "previous_response_failed")


def test_a_silent_stream_ends_with_its_terminal_event(channel_pair: ChannelPair, elsewhere: Store) -> None:
    channel_pair.first.enqueue(stalled(SOME_TEXT))
    pieces, head = portions(channel_pair.stream()), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    assert channel_of(elsewhere, response_id) == f"{channel_pair.model}-first"
    assert cancel(None, elsewhere, RunningStreams(), response_id) is not None
    check_failed_stream(head + b"".join(pieces), "response_cancelled")
    check_cancelled(channel_pair, response_id)
    assert channel_of(elsewhere, response_id) is None


def test_a_turn_of_a_websocket_ends_in_one_frame(channel_pair: ChannelPair, elsewhere: Store) -> None:
    channel_pair.first.enqueue(stalled(SOME_TEXT))
    with Socket(channel_pair.gateway) as socket:
        socket.send({**CREATE, "model": channel_pair.model})
        events = [socket.receive()]
        while events[-1]["type"] != "response.output_text.delta":
            events.append(socket.receive())
        response_id = events[0]["response"]["id"]
        assert cancel(None, elsewhere, RunningStreams(), response_id) is not None
        while events[-1]["type"] != "response.failed":
            events.append(socket.receive())
        assert events[-1]["response"]["error"]["code"] == "response_cancelled"
        assert "error" not in {event["type"] for event in events}
        check_cancelled(channel_pair, response_id)
        # The socket goes on.
        assert socket.turn(model=channel_pair.model)[-1]["type"] == "response.completed"


def test_the_channel_that_goes_on_is_noted(channel_pair: ChannelPair, elsewhere: Store) -> None:
    channel_pair.first.enqueue(dropped(2))
    channel_pair.second.enqueue(stalled(SOME_TEXT))
    pieces, head = portions(channel_pair.stream()), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    eventually(lambda: channel_of(elsewhere, response_id) == f"{channel_pair.model}-second", "the second channel")
    channel_pair.second.release()
    assert b"response.completed" in b"".join(pieces)
