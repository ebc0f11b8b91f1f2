"""Clients that leave: the upstream is closed at once, the output is stored, and no request can continue from it.

The gateway's heart beats rarely here, so a hang-up during silence is noticed by watching or not at all.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from tests.gateway import Gateway, reset
from tests.relay.conftest import (
    PROMPTLY,
    SHORT_IDLE,
    SOME_TEXT,
    ChannelPair,
    eventually,
    on_both_transports,
    read_until,
    response_id_in,
    text_of,
)
from tests.response_contract import check_error, check_response
from tests.upstream import (
    HOLD,
    Answer,
    Exchange,
    Pause,
    Piece,
    Script,
    ScriptedUpstream,
    event_bytes,
    silent,
    slammed,
    stalled,
    wire,
)

pytestmark = on_both_transports

#: Deltas of 4 KB: twice as much and more as the buffers between an upstream and a client can hold.
MANY = 10_000

LEAVINGS: dict[str, Callable[[socket.socket], None]] = {
    "FIN": lambda sock: sock.close(),
    "RST": reset,
    "half closed": lambda sock: sock.shutdown(socket.SHUT_WR),
}


def talking(pause: float = 0.005, size: int = 10) -> Script:
    """Never stops talking."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        *head, _ = itertools.islice(answer.pieces, SOME_TEXT)
        return Answer(answer.status, answer.headers, itertools.chain(head, _deltas(pause, size)), answer.framing)

    return script


def _deltas(pause: float, size: int) -> Iterator[Piece]:
    for number in itertools.count(5):
        yield delta(number, "x" * size)
        if pause:
            yield Pause(pause)


def delta(number: int, text: str, **members: str) -> bytes:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    event = {"type": "response.output_text.delta", "sequence_number": number, **place, "delta": text}
    return event_bytes({**event, **members})


def check_cancelled(channel_pair: ChannelPair, response_id: str) -> None:
    stored = eventually(
        lambda: (found := channel_pair.stored(response_id))["status"] != "in_progress" and found, "the row to be closed"
    )
    check_response(stored, status="cancelled")
    answer = channel_pair.post(previous_response_id=response_id)
    check_error(answer, 400, "previous_response_failed", "previous_response_id")


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_while_the_upstream_is_silent(channel_pair: ChannelPair, leaving: str) -> None:
    channel_pair.first.enqueue(stalled(SOME_TEXT))
    with channel_pair.dial(stream=True) as sock:
        received = read_until(sock, b'"delta":" said:"')
        LEAVINGS[leaving](sock)
        channel_pair.first.wait_hangup(timeout=PROMPTLY)
    response_id = response_id_in(received)
    check_cancelled(channel_pair, response_id)
    assert text_of(channel_pair.stored(response_id)) == "You said:"
    assert channel_pair.second.requests == []


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_while_the_upstream_speaks(channel_pair: ChannelPair, leaving: str) -> None:
    channel_pair.first.enqueue(talking())
    with channel_pair.dial(stream=True) as sock:
        received = read_until(sock, b"xxxxxxxxxx")
        LEAVINGS[leaving](sock)
        channel_pair.first.wait_hangup(timeout=PROMPTLY)
    check_cancelled(channel_pair, response_id_in(received))


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_after_the_head_and_before_any_output(channel_pair: ChannelPair, leaving: str) -> None:
    channel_pair.first.enqueue(stalled(1))
    with channel_pair.dial(stream=True) as sock:
        received = read_until(sock, b"response.in_progress")
        LEAVINGS[leaving](sock)
        channel_pair.first.wait_hangup(timeout=PROMPTLY)
    check_cancelled(channel_pair, response_id_in(received))


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_before_the_upstream_has_answered(channel_pair: ChannelPair, leaving: str, streamed: bool) -> None:
    channel_pair.first.enqueue(silent())
    with channel_pair.dial(stream=streamed) as sock:
        channel_pair.first.wait_for_request()
        LEAVINGS[leaving](sock)
        channel_pair.first.wait_hangup(timeout=PROMPTLY)
    assert channel_pair.second.requests == []


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_in_the_middle_of_an_unstreamed_answer(channel_pair: ChannelPair, leaving: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    channel_pair.first.enqueue(wire(head + b'{"id":', HOLD))
    with channel_pair.dial() as sock:
        channel_pair.first.wait_for_request()
        LEAVINGS[leaving](sock)
        channel_pair.first.wait_hangup(timeout=PROMPTLY)
    assert channel_pair.second.requests == []


def test_leaving_while_another_channel_is_tried(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(slammed())
    channel_pair.second.enqueue(silent())
    with channel_pair.dial(stream=True):
        channel_pair.second.wait_for_request()
    channel_pair.second.wait_hangup(timeout=PROMPTLY)


def test_leaving_after_the_end_changes_nothing(channel_pair: ChannelPair) -> None:
    with channel_pair.dial(stream=True) as sock:
        received = read_until(sock, b"[DONE]")
        reset(sock)
    response_id = response_id_in(received)
    check_response(channel_pair.stored(response_id), status="completed")
    assert channel_pair.post(previous_response_id=response_id).status_code == 200


def test_a_client_that_never_reads_slows_its_own_upstream_alone(channel_pair: ChannelPair) -> None:
    pieces = Counted(MANY)
    channel_pair.first.enqueue(pieces.script)
    with channel_pair.gateway.dial(channel_pair.body(stream=True), receive_buffer=2048) as sock:
        channel_pair.first.wait_for_request()
        settled(lambda: pieces.count)
        for _ in range(20):
            assert channel_pair.post().status_code == 200
        assert pieces.count < MANY / 2, "the buffers hold less than half of it"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        response_id = response_id_in(read_until(sock, b"response.in_progress"))
        assert b"data: [DONE]" in last_of(sock)
        assert pieces.count == MANY
    assert channel_pair.stored(response_id)["status"] == "completed"


def test_a_client_that_rests_for_longer_than_the_upstream_may_gets_all(steady_pair: ChannelPair) -> None:
    """The upstream is held back by the client, and its silence is not its own."""
    short_idle = steady_pair.on("short-idle")
    pieces = Counted(MANY)
    short_idle.first.enqueue(pieces.script)
    with short_idle.gateway.dial(short_idle.body(stream=True), receive_buffer=2048) as sock:
        short_idle.first.wait_for_request()
        settled(lambda: pieces.count)
        until = monotonic() + 3 * SHORT_IDLE["idle"]
        eventually(lambda: monotonic() > until, "more than the upstream may be silent for")
        assert pieces.count < MANY / 2, "the buffers hold less than half of it"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        response_id = response_id_in(read_until(sock, b"response.in_progress"))
        assert b"data: [DONE]" in last_of(sock)
    assert pieces.count == MANY
    assert short_idle.stored(response_id)["status"] == "completed"


def test_a_client_that_takes_nothing_is_given_up(
    tmp_path: Path, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], transport: str
) -> None:
    upstream, _ = upstreams
    upstream.reset()
    upstream.enqueue(talking(pause=0, size=4000))
    with Gateway(tmp_path, [upstream.channel()], stall=1, mover=transport) as gateway:
        body = {"model": "m", "input": "Say something", "stream": True}
        with gateway.dial(body, receive_buffer=2048) as sock:
            upstream.wait_hangup()
            response_id = response_id_in(read_until(sock, b"response.in_progress"))
        stored = eventually(
            lambda: (found := gateway.get(f"/responses/{response_id}").json())["status"] != "in_progress" and found,
            "the row to be closed",
        )
        check_response(stored, status="cancelled")


class Counted:
    """An upstream that sends so many deltas of 4 KB, and how many of them it could. Nearly all of it is obfuscation,
    which is relayed and not stored.
    """

    def __init__(self, deltas: int) -> None:
        self.count = 0
        self._count = deltas

    def script(self, exchange: Exchange, answer: Answer) -> Answer:
        *head, terminal = (*itertools.islice(answer.pieces, 4), tuple(answer.pieces)[-1])
        return replace(answer, pieces=itertools.chain(head, self._deltas(), (terminal,)))

    def _deltas(self) -> Iterator[Piece]:
        for number in range(self._count):
            yield delta(4 + number, "x", obfuscation="o" * 4000)
            self.count += 1


def last_of(sock: socket.socket) -> bytes:
    """The end of a stream that is too long to hold."""
    last = b""
    while not last.endswith(b"\r\n0\r\n\r\n"):
        last = last[-100_000:] + sock.recv(1 << 20)
    return last


def settled(look: Callable[[], int]) -> None:
    """Waits until a number has not changed for many looks."""
    seen = [look()]

    def still() -> bool:
        seen.append(look())
        return seen[-1] > 0 and len(set(seen[-50:])) == 1 and len(seen) > 50

    eventually(still, "the number to stop changing", within=2 * PROMPTLY)


def test_many_that_leave_at_once_are_all_let_go(channel_pair: ChannelPair) -> None:
    channel_pair.first.always(stalled(SOME_TEXT))
    socks = [channel_pair.dial(stream=True) for _ in range(30)]
    response_ids = [response_id_in(read_until(sock, b"output_text.delta")) for sock in socks]
    for sock in socks:
        sock.close()
    channel_pair.first.wait_hangup(30, timeout=2 * PROMPTLY)
    for response_id in response_ids:
        eventually(lambda rid=response_id: channel_pair.stored(rid)["status"] == "cancelled", "the row to be cancelled")
